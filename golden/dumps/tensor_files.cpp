// Safetensors and HDF5: the readers of golden/ do the work.
#include <cmath>

#include "golden/dumps/formats.h"
#include "golden/guard.h"
#include "golden/safetensors.h"
#include "harness/types/error.h"

namespace meshparity::dumps {
namespace {

Element element_of(DType dtype) {
  switch (dtype) {
    case DType::float64:
      return Element::f64;
    case DType::float32:
      return Element::f32;
    case DType::float16:
      return Element::f16;
    case DType::bfloat16:
      return Element::bf16;
    case DType::int64:
      return Element::i64;
    case DType::int32:
      return Element::i32;
    case DType::uint8:
      return Element::u8;
    case DType::boolean:
      return Element::boolean;
  }
  return Element::u8;
}

void add_array(Tree& tree, Value* root, const std::string& name, BytesRef bytes, std::uint64_t offset,
               DType dtype, const Shape& shape) {
  Value* value = tree.make(Value::Kind::array);
  value->array = {std::move(bytes), offset, element_of(dtype), shape, contiguous_strides(shape), false};
  value->array.check(name);
  root->members.emplace_back(name, value);
}

}  // namespace

TreeRef read_safetensors(const std::string& file) {
  const golden::SafetensorsFile tensors(file);
  const BytesRef bytes = open_bytes(file);
  auto tree = std::make_shared<Tree>(file);
  Value* root = tree->make(Value::Kind::dictionary);
  for (const std::string& name : tensors.names()) {
    const TensorView view = tensors.view(name);
    add_array(*tree, root, name, bytes, tensors.offset_in_file(name), view.dtype, view.shape);
  }
  tree->root = root;
  return tree;
}

TreeRef read_hdf5(const std::string& file) {
  golden::RawContent content = golden::read_guarded(file);
  for (const auto& [path, hash] : content.stored)
    if (content.computed.count(path) && content.computed.at(path) != hash)
      throw InputError(file, path, "does not have the SHA-256 that the file says");
  auto tree = std::make_shared<Tree>(file);
  Value* root = tree->make(Value::Kind::dictionary);
  for (auto& [path, tensor] : content.store.tensors) {
    const DType dtype = tensor.dtype;
    const Shape shape = tensor.shape;
    add_array(*tree, root, path, bytes_of(file, std::move(tensor.bytes)), 0, dtype, shape);
  }
  tree->root = root;
  return tree;
}

}  // namespace meshparity::dumps
