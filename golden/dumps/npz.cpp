// numpy's archives: a zip of .npy files. Source: numpy/lib/format.py (format versions 1.0 to 3.0).
#include <cstring>
#include <map>

#include "golden/dumps/formats.h"
#include "golden/dumps/zip.h"
#include "harness/types/error.h"

namespace meshparity::dumps {
namespace {

const std::map<std::string, Element>& numpy_types() {
  static const std::map<std::string, Element> table = {
      {"<f8", Element::f64}, {"<f4", Element::f32}, {"<f2", Element::f16}, {"<i8", Element::i64},
      {"<i4", Element::i32}, {"<i2", Element::i16}, {"|i1", Element::i8},  {"<u8", Element::u64},
      {"<u4", Element::u32}, {"<u2", Element::u16}, {"|u1", Element::u8},  {"|b1", Element::boolean}};
  return table;
}

// The text after "'key':" in the header, which is a Python dictionary of three known keys.
std::string header_field(const std::string& header, const std::string& key) {
  const std::size_t at = header.find("'" + key + "':");
  if (at == std::string::npos) return "";
  return header.substr(header.find_first_not_of(' ', at + key.size() + 3));
}

Array npy_array(const std::string& file, const std::string& name, const ZipFile::Content& content) {
  const auto damaged = [&](const std::string& what) { throw InputError(file, name, what); };
  unsigned char start[12] = {};
  if (content.size < 12) damaged("is no .npy array");
  content.bytes->read(content.offset, start, sizeof start);
  if (std::memcmp(start, "\x93NUMPY", 6) != 0 || start[6] < 1 || start[6] > 3) damaged("is no .npy array");
  const std::uint64_t length_at = start[6] == 1 ? 10 : 12;
  const std::uint64_t length = start[6] == 1
                                   ? start[8] + 256u * start[9]
                                   : start[8] + 256u * start[9] + 65536u * start[10] + 16777216u * start[11];
  if (length > 65536 || length > content.size - length_at) damaged("has a header longer than itself");
  std::string header(length, ' ');
  content.bytes->read(content.offset + length_at, header.data(), length);
  const std::string descr = header_field(header, "descr"), order = header_field(header, "fortran_order"),
                    shape = header_field(header, "shape");
  Array array;
  array.bytes = content.bytes, array.offset = content.offset + length_at + length;
  const std::string type =
      descr.size() > 2 && descr[0] == '\'' ? descr.substr(1, descr.find('\'', 1) - 1) : "";
  if (type == "|O")
    damaged(
        "holds pickled Python objects, which are not read; save one array per field (ragged: flat, with "
        "lengths)");
  const auto known = numpy_types().find(type);
  if (known == numpy_types().end()) damaged("has the unsupported type '" + type.substr(0, 20) + "'");
  array.element = known->second;
  if (shape.empty() || shape[0] != '(') damaged("has no shape");
  for (std::size_t at = 1; at < shape.size() && shape[at] != ')';) {
    if (shape[at] == ' ' || shape[at] == ',') {
      ++at;
      continue;
    }
    std::size_t used = 0;
    if (shape[at] < '0' || shape[at] > '9' || array.shape.size() >= 8) damaged("has an impossible shape");
    const std::string digits = shape.substr(at, shape.find_first_not_of("0123456789", at) - at);
    if (digits.size() > 15) damaged("has an impossible shape");
    array.shape.push_back(std::stoll(digits, &used));
    at += used;
  }
  // Sizes first: strides are products of them.
  const auto size = element_size(array.element);
  std::uint64_t numel = 1;
  bool empty = false;
  for (const auto n : array.shape) empty |= n == 0;
  for (const auto n : array.shape) {
    if (empty) break;
    if (numel > content.size / size / static_cast<std::uint64_t>(n)) damaged("is larger than its entry");
    numel *= static_cast<std::uint64_t>(n);
  }
  if (empty) numel = 0;
  if (numel * size != content.size - length_at - length) damaged("has another size than its header says");
  if (empty)
    array.strides.assign(array.shape.size(), 1);
  else
    array.strides = contiguous_strides(array.shape);
  if (!empty && order.rfind("True", 0) == 0)
    for (std::size_t i = 0, stride = 1; i < array.shape.size(); ++i)
      array.strides[i] = static_cast<std::int64_t>(stride),
      stride *= static_cast<std::size_t>(array.shape[i]);
  array.check(name);
  return array;
}

}  // namespace

TreeRef read_npz(const std::string& file) {
  const ZipFile zip(open_bytes(file));
  auto tree = std::make_shared<Tree>(file);
  Value* root = tree->make(Value::Kind::dictionary);
  for (const std::string& name : zip.names()) {
    if (name.size() < 5 || name.compare(name.size() - 4, 4, ".npy") != 0)
      throw InputError(file, name.substr(0, 100), "is no .npy array");
    const std::string key = name.substr(0, name.size() - 4);
    Value* value = tree->make(Value::Kind::array);
    value->array = npy_array(file, key, zip.content(name));
    root->members.emplace_back(key, value);
  }
  tree->root = root;
  return tree;
}

}  // namespace meshparity::dumps
