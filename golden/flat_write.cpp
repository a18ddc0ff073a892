// The writing side of flat.h: what the guard process runs.
#include <unistd.h>

#include <cerrno>

#include "golden/flat.h"

namespace meshparity::golden {
namespace {

constexpr std::size_t kBuffer = std::size_t{1} << 18;

void write_all(int descriptor, const char* data, std::size_t bytes) {
  while (bytes > 0) {
    const ssize_t n = ::write(descriptor, data, bytes);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) throw FlatError("cannot write the stream");
    data += n;
    bytes -= static_cast<std::size_t>(n);
  }
}

}  // namespace

FlatWriter::FlatWriter(int descriptor) : descriptor_(descriptor) {
  put(kMagic, kMagicBytes);
}

void FlatWriter::put(const void* data, std::size_t bytes) {
  if (buffer_.size() + bytes > kBuffer) flush();
  if (bytes >= kBuffer)
    write_all(descriptor_, static_cast<const char*>(data), bytes);
  else
    buffer_.append(static_cast<const char*>(data), bytes);
}

void FlatWriter::flush() {
  write_all(descriptor_, buffer_.data(), buffer_.size());
  buffer_.clear();
}

void FlatWriter::put_text(const std::string& text) {
  const auto bytes = static_cast<std::uint32_t>(text.size());
  put(&bytes, sizeof bytes);
  put(text.data(), text.size());
}

void FlatWriter::begin(char kind) {
  put(&kind, 1);
  ++records_;
}

void FlatWriter::attribute(const std::string& name, const std::string& value) {
  begin('A');
  put_text(name);
  put_text(value);
}

void FlatWriter::text(const std::string& path, const std::string& value, const std::string& sha256) {
  begin('S');
  put_text(path);
  put_text(value);
  put_text(sha256);
}

void FlatWriter::tensor(const std::string& path, HostTensor value, const std::string& sha256) {
  begin('T');
  put_text(path);
  put_text(sha256);
  const std::uint8_t head[2] = {static_cast<std::uint8_t>(value.dtype),
                                static_cast<std::uint8_t>(value.shape.size())};
  put(head, sizeof head);
  put(value.shape.data(), value.shape.size() * sizeof(std::int64_t));
  put(value.bytes.data(), value.bytes.size());
}

void FlatWriter::error(const std::string& message) {
  begin('E');
  put_text(message.substr(0, 4 * Limits::kNameBytes));
  flush();
}

void FlatWriter::end() {
  const std::uint64_t records = records_;
  const char kind = 'Z';
  put(&kind, 1);
  put(&records, sizeof records);
  flush();
}

}  // namespace meshparity::golden
