// Arrays of numpy inside a pickle: bytes, a shape and a type. Source: numpy's array_reduce and array_setstate
// (numpy/_core/src/multiarray/methods.c, 2.x; the same since 1.0).
#include <cstring>
#include <map>

#include "golden/dumps/pickle_objects.h"

namespace meshparity::dumps {
namespace {

const std::map<std::string, Element>& pickled_types() {
  static const std::map<std::string, Element> table = {
      {"f8", Element::f64}, {"f4", Element::f32}, {"f2", Element::f16}, {"i8", Element::i64},
      {"i4", Element::i32}, {"i2", Element::i16}, {"i1", Element::i8},  {"u8", Element::u64},
      {"u4", Element::u32}, {"u2", Element::u16}, {"u1", Element::u8},  {"b1", Element::boolean}};
  return table;
}

}  // namespace

bool numpy_array(const std::string& file, const std::string& type, const std::vector<std::int64_t>& shape,
                 bool fortran, const std::string& content, Array& out) {
  const auto found = pickled_types().find(type);
  if (found == pickled_types().end()) return false;
  const std::uint64_t size = element_size(found->second);
  std::uint64_t numel = 1;
  bool empty = false;
  for (const auto n : shape) empty |= n == 0;
  for (const auto n : shape) {
    if (empty) break;
    // Divided, not multiplied: a product of claims may pass 64 bits.
    if (static_cast<std::uint64_t>(n) > content.size() / size / numel)
      pickle_damaged(file, "has a numpy array that is shorter than its shape");
    numel *= static_cast<std::uint64_t>(n);
  }
  if ((empty ? 0 : numel * size) != content.size())
    pickle_damaged(file, "has a numpy array of another size than its shape says");
  std::vector<std::byte> bytes(content.size());
  if (!bytes.empty()) std::memcpy(bytes.data(), content.data(), content.size());
  out = {bytes_of(file, std::move(bytes)), 0, found->second, shape, {}, false};
  out.strides = empty ? std::vector<std::int64_t>(shape.size(), 1) : contiguous_strides(shape);
  std::int64_t stride = 1;
  if (fortran && !empty)
    for (std::size_t i = 0; i < shape.size(); ++i) out.strides[i] = stride, stride *= shape[i];
  out.check("data.pkl");
  return true;
}

}  // namespace meshparity::dumps
