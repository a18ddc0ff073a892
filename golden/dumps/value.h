// What every format of a dump is read into: a tree of dictionaries, lists, numbers and texts whose arrays
// stay in their file until a row is asked for. Nodes live in the tree, so that no nesting can exhaust the
// stack.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace meshparity::dumps {

// Bytes at an offset, of a file or of memory. Reading past the end throws InputError naming the file.
class Bytes {
 public:
  virtual ~Bytes() = default;
  virtual std::uint64_t size() const = 0;
  virtual void read(std::uint64_t at, void* out, std::size_t bytes) const = 0;
  const std::string& file() const { return file_; }
  // Are these the bytes of the file itself, at their offsets in it?
  virtual bool in_file() const { return false; }

 protected:
  explicit Bytes(std::string file) : file_(std::move(file)) {}
  std::string file_;
};
using BytesRef = std::shared_ptr<const Bytes>;

// Reads by pread: memory does not grow with the file. Throws InputError for what is missing or no regular
// file.
BytesRef open_bytes(const std::string& file);
BytesRef bytes_of(const std::string& file, std::vector<std::byte> content);

enum class Element : std::uint8_t { f64, f32, f16, bf16, i64, i32, i16, i8, u64, u32, u16, u8, boolean };
std::size_t element_size(Element element);

// An array of any layout, not read yet.
struct Array {
  BytesRef bytes;
  std::uint64_t offset = 0;  // of element 0, in bytes
  Element element = Element::f32;
  std::vector<std::int64_t> shape, strides;  // strides in elements
  bool nulls = false;                        // from JSON: NaN means null, not a number that is wrong

  // Throws InputError naming `field` where shape, strides and offset do not lie inside the bytes.
  void check(const std::string& field) const;
  std::int64_t numel() const;
  Array row(std::int64_t index) const;                     // without the first dimension
  Array rows(std::int64_t begin, std::int64_t end) const;  // of the first dimension
  std::vector<double> read() const;                        // all elements in C order
  std::vector<std::int64_t> read_integers() const;
};
std::vector<std::int64_t> contiguous_strides(const std::vector<std::int64_t>& shape);

struct Value {
  enum class Kind : std::uint8_t { null, number, text, list, dictionary, array, opaque };
  Kind kind = Kind::null;
  double number = 0;
  std::string text;             // of a text; the name of an opaque thing
  std::vector<double> numbers;  // a list of nothing but numbers (then `items` is empty); null is NaN
  std::vector<const Value*> items;
  std::vector<std::pair<std::string, const Value*>> members;
  Array array;

  const Value* member(const std::string& name) const;  // nullptr where there is none
};

// Owner of its values.
class Tree {
 public:
  explicit Tree(std::string file) : file_(std::move(file)) {}
  Value* make(Value::Kind kind);  // throws InputError beyond kMostValues: a hostile file, not a dump
  const std::string& file() const { return file_; }
  const Value* root = nullptr;

 private:
  static constexpr std::size_t kMostValues = 2'000'000;
  std::string file_;
  std::deque<Value> values_;
};
using TreeRef = std::shared_ptr<const Tree>;

}  // namespace meshparity::dumps
