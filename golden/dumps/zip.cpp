#include "golden/dumps/zip.h"

#include <zlib.h>

#include <algorithm>
#include <cstring>

#include "harness/types/error.h"

namespace meshparity::dumps {
namespace {

constexpr std::uint64_t kMostInflated = std::uint64_t{1} << 30;
constexpr std::uint64_t kMostDirectory = std::uint64_t{64} << 20;
constexpr std::uint64_t kEndBytes = 22, kHeaderBytes = 30, kEntryBytes = 46, kLocatorBytes = 20,
                        kEnd64Bytes = 56;

template <class T>
T field(const std::vector<std::byte>& from, std::size_t at) {
  T value;
  std::memcpy(&value, from.data() + at, sizeof value);
  return value;
}

std::vector<std::byte> part(const Bytes& bytes, std::uint64_t at, std::uint64_t size) {
  std::vector<std::byte> out(size);
  bytes.read(at, out.data(), out.size());
  return out;
}

}  // namespace

void ZipFile::damaged(const std::string& what) const {
  throw InputError(bytes_->file() + ": damaged (" + what + ")");
}

ZipFile::ZipFile(BytesRef bytes) : bytes_(std::move(bytes)) {
  const std::uint64_t size = bytes_->size();
  if (size < kEndBytes) damaged("too short for a zip file");
  const std::uint64_t tail_size = std::min<std::uint64_t>(size, kEndBytes + 65535);
  const auto tail = part(*bytes_, size - tail_size, tail_size);
  std::size_t end = tail.size();
  for (std::size_t at = tail.size() - kEndBytes + 1; at-- > 0;)
    if (field<std::uint32_t>(tail, at) == 0x06054b50) {
      end = at;
      break;
    }
  if (end == tail.size()) damaged("its zip directory is missing: cut short?");
  std::uint64_t count = field<std::uint16_t>(tail, end + 10), length = field<std::uint32_t>(tail, end + 12),
                offset = field<std::uint32_t>(tail, end + 16);
  const std::uint64_t end_at = size - tail_size + end;
  if ((count == 0xffff || length == 0xffffffff || offset == 0xffffffff) && end_at >= kLocatorBytes) {
    const auto locator = part(*bytes_, end_at - kLocatorBytes, kLocatorBytes);
    if (field<std::uint32_t>(locator, 0) == 0x07064b50) {
      const auto at = field<std::uint64_t>(locator, 8);
      if (at > size || size - at < kEnd64Bytes) damaged("its zip64 directory lies outside");
      const auto end64 = part(*bytes_, at, kEnd64Bytes);
      if (field<std::uint32_t>(end64, 0) != 0x06064b50) damaged("its zip64 directory is broken");
      count = field<std::uint64_t>(end64, 32), length = field<std::uint64_t>(end64, 40),
      offset = field<std::uint64_t>(end64, 48);
    }
  }
  if (length > kMostDirectory || offset > size || length > size - offset)
    damaged("its zip directory lies outside");
  read_directory(offset, length, count);
}

void ZipFile::read_directory(std::uint64_t at, std::uint64_t bytes, std::uint64_t count) {
  const auto directory = part(*bytes_, at, bytes);
  std::size_t next = 0;
  std::vector<std::pair<std::uint64_t, std::uint64_t>> spans;
  for (std::uint64_t i = 0; i < count; ++i) {
    if (directory.size() - next < kEntryBytes || field<std::uint32_t>(directory, next) != 0x02014b50)
      damaged("its zip directory is broken");
    Entry entry;
    entry.flags = field<std::uint16_t>(directory, next + 8),
    entry.method = field<std::uint16_t>(directory, next + 10);
    entry.crc = field<std::uint32_t>(directory, next + 16);
    entry.packed = field<std::uint32_t>(directory, next + 20),
    entry.size = field<std::uint32_t>(directory, next + 24);
    entry.header = field<std::uint32_t>(directory, next + 42);
    const std::size_t name_bytes = field<std::uint16_t>(directory, next + 28),
                      extra_bytes = field<std::uint16_t>(directory, next + 30),
                      comment_bytes = field<std::uint16_t>(directory, next + 32);
    if (directory.size() - next - kEntryBytes < name_bytes + extra_bytes + comment_bytes)
      damaged("its zip directory is broken");
    const std::string name(reinterpret_cast<const char*>(directory.data()) + next + kEntryBytes, name_bytes);
    std::size_t extra = next + kEntryBytes + name_bytes;
    const std::size_t extra_end = extra + extra_bytes;
    while (extra_end - extra >= 4) {
      const std::size_t size = field<std::uint16_t>(directory, extra + 2);
      if (size > extra_end - extra - 4) damaged("its zip directory is broken");
      if (field<std::uint16_t>(directory, extra) ==
          1) {  // zip64: only the fields that do not fit, in this order
        std::size_t value = extra + 4, left = size / 8;
        for (std::uint64_t* wide : {&entry.size, &entry.packed, &entry.header})
          if (*wide == 0xffffffff && left > 0)
            *wide = field<std::uint64_t>(directory, value), value += 8, --left;
      }
      extra += 4 + size;
    }
    const std::uint64_t whole = bytes_->size();
    if (entry.header > whole || whole - entry.header < kHeaderBytes ||
        entry.packed > whole - entry.header - kHeaderBytes)
      damaged("entry '" + name.substr(0, 100) + "' lies outside the file");
    if (entry.method == 0 && entry.packed != entry.size)
      damaged("entry '" + name.substr(0, 100) + "' has two sizes");
    spans.emplace_back(entry.header, entry.packed);
    if (!entries_.emplace(name, entry).second) damaged("entry '" + name.substr(0, 100) + "' stands twice");
    next += kEntryBytes + name_bytes + extra_bytes + comment_bytes;
  }
  // Overlapping entries are how a small file claims a large content.
  std::sort(spans.begin(), spans.end());
  for (std::size_t i = 1; i < spans.size(); ++i)
    if (spans[i].first < spans[i - 1].first + kHeaderBytes + spans[i - 1].second)
      damaged("its entries overlap");
}

std::vector<std::string> ZipFile::names() const {
  std::vector<std::string> names;
  for (const auto& [name, entry] : entries_) names.push_back(name);
  return names;
}

ZipFile::Content ZipFile::content(const std::string& name) const {
  const auto found = entries_.find(name);
  if (found == entries_.end()) throw InputError(bytes_->file(), name, "is missing");
  const Entry& entry = found->second;
  const std::string shown = "entry '" + name.substr(0, 100) + "' ";
  if (entry.flags & 1) throw InputError(bytes_->file(), name.substr(0, 100), "is encrypted");
  const auto header = part(*bytes_, entry.header, kHeaderBytes);
  if (field<std::uint32_t>(header, 0) != 0x04034b50) damaged(shown + "has no header");
  const std::uint64_t at =
      entry.header + kHeaderBytes + field<std::uint16_t>(header, 26) + field<std::uint16_t>(header, 28);
  if (at > bytes_->size() || entry.packed > bytes_->size() - at) damaged(shown + "lies outside the file");
  if (entry.method == 0) return {bytes_, at, entry.size};
  if (entry.method != 8)
    throw InputError(bytes_->file(), name.substr(0, 100), "is compressed by an unknown method");
  // Deflate gains at most 1032 : 1.
  if (entry.size / 1032 > entry.packed || entry.packed > kMostInflated ||
      entry.size > kMostInflated - std::min(kMostInflated, inflated_))
    throw InputError(bytes_->file(), name.substr(0, 100),
                     "would take " + std::to_string(entry.size) +
                         " bytes uncompressed; all compressed arrays together may take 1 GiB (numpy.savez "
                         "writes uncompressed ones)");
  inflated_ += entry.size;
  const auto packed = part(*bytes_, at, entry.packed);
  std::vector<std::byte> out(entry.size + 1);
  z_stream stream{};
  if (inflateInit2(&stream, -15) != Z_OK) throw RunError("zlib cannot start");
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(packed.data()));
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_in = static_cast<uInt>(packed.size()), stream.avail_out = static_cast<uInt>(out.size());
  const int code = ::inflate(&stream, Z_FINISH);
  const bool whole = code == Z_STREAM_END && stream.total_out == entry.size;
  ::inflateEnd(&stream);
  if (!whole) damaged(shown + "does not decompress");
  out.resize(entry.size);
  if (::crc32_z(0, reinterpret_cast<const Bytef*>(out.data()), out.size()) != entry.crc)
    damaged(shown + "has another checksum than its directory says");
  return {bytes_of(bytes_->file(), std::move(out)), 0, entry.size};
}

}  // namespace meshparity::dumps
