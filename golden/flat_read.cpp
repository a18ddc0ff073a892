// The reading side of flat.h: what the parent of a guard process runs. It trusts no length.
#include <cstring>

#include "golden/flat.h"
#include "harness/types/error.h"

namespace meshparity::golden {
namespace {

constexpr std::size_t kHashDigits = 64;

class Parser {
 public:
  Parser(ByteSource& source, std::uint64_t content_bytes) : source_(source), remaining_(content_bytes) {}

  RawContent parse() {
    char magic[kMagicBytes];
    source_.read(magic, kMagicBytes);
    if (std::memcmp(magic, kMagic, kMagicBytes) != 0) throw FlatError("no stream");
    for (std::uint64_t records = 0;; ++records) {
      const char kind = get<char>();
      if (kind == 'Z') {
        if (get<std::uint64_t>() != records) throw FlatError("wrong number of records");
        if (!source_.at_end()) throw FlatError("data after the end");
        return std::move(content_);
      }
      if (records >= 2 * Limits::kObjects) throw FlatError("too many records");
      switch (kind) {
        case 'A':
          attribute();
          break;
        case 'S':
          text();
          break;
        case 'T':
          tensor();
          break;
        case 'E':
          throw InputError(message());
        default:
          throw FlatError("unknown record");
      }
    }
  }

 private:
  template <class T>
  T get() {
    T value;
    source_.read(&value, sizeof value);
    return value;
  }

  void spend(std::uint64_t bytes) {
    if (bytes > remaining_) throw FlatError("too much data");
    remaining_ -= bytes;
  }

  std::string get_text(std::size_t most) {
    const std::size_t bytes = get<std::uint32_t>();
    if (bytes > most) throw FlatError("a text is too long");
    spend(bytes);
    std::string text(bytes, '\0');
    source_.read(text.data(), bytes);
    return text;
  }

  std::string name() {
    std::string name = get_text(Limits::kNameBytes);
    if (!valid_path(name)) throw FlatError("a name is not valid");
    return name;
  }

  void hash(const std::string& path) {
    std::string digits = get_text(kHashDigits);
    if (digits.empty()) return;
    if (digits.size() != kHashDigits) throw FlatError("a hash is not valid");
    content_.stored.emplace(path, std::move(digits));
  }

  void attribute() {
    std::string key = name();
    if (!content_.store.attributes.emplace(std::move(key), get_text(Limits::kTextBytes)).second)
      throw FlatError("an attribute stands twice");
  }

  void new_path(const std::string& path) const {
    if (content_.store.has(path)) throw FlatError("a dataset stands twice");
  }

  void text() {
    std::string path = name();
    new_path(path);
    std::string value = get_text(Limits::kTextBytes);
    hash(path);
    content_.computed.emplace(path, sha256_hex(value.data(), value.size()));
    content_.store.strings.emplace(std::move(path), std::move(value));
  }

  void tensor() {
    std::string path = name();
    new_path(path);
    hash(path);
    const unsigned dtype = get<std::uint8_t>();
    if (dtype > static_cast<unsigned>(DType::boolean)) throw FlatError("unknown dtype");
    const std::size_t rank = get<std::uint8_t>();
    if (rank > Limits::kRank) throw FlatError("too many dimensions");
    HostTensor value;
    value.dtype = static_cast<DType>(dtype);
    bool empty = false;
    for (std::size_t i = 0; i < rank; ++i) {
      const auto n = get<std::int64_t>();
      if (n < 0 || n > Limits::kDimension) throw FlatError("a dimension is out of range");
      value.shape.push_back(n);
      empty |= n == 0;
    }
    std::uint64_t bytes = empty ? 0 : dtype_size(value.dtype);
    for (std::size_t i = 0; i < rank && !empty; ++i) {
      const auto n = static_cast<std::uint64_t>(value.shape[i]);
      if (bytes > remaining_ / n) throw FlatError("too much data");
      bytes *= n;
    }
    spend(bytes);
    value.bytes.resize(bytes);
    source_.read(value.bytes.data(), bytes);
    content_.computed.emplace(path, sha256_hex(value.bytes.data(), value.bytes.size()));
    content_.store.tensors.emplace(std::move(path), std::move(value));
  }

  // Shown to a person, so nothing in it may steer a terminal.
  std::string message() {
    std::string text = get_text(4 * Limits::kNameBytes);
    for (char& c : text)
      if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
    return text;
  }

  ByteSource& source_;
  std::uint64_t remaining_;
  RawContent content_;
};

}  // namespace

RawContent read_flat(ByteSource& source, std::uint64_t content_bytes) {
  return Parser(source, content_bytes).parse();
}

}  // namespace meshparity::golden
