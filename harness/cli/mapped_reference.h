// Weights and results that the reference left in a file (reference_process.h), mapped into memory: pages that
// nobody looks at are never read, and the system takes back what it needs.
#pragma once

#include <ATen/ATen.h>

#include <map>
#include <string>

#include "harness/types/tensor.h"

namespace meshparity::cli {

class MappedReference {
 public:
  // `index`: JSON, {"tensors": [{"path", "dtype", "shape", "offset"}, ...]} with paths weights/<name> and
  // expected/<key>. Throws RunError where the file cannot be mapped or is shorter than the index says.
  MappedReference(const std::string& file, const std::string& index);
  ~MappedReference();
  MappedReference(const MappedReference&) = delete;
  MappedReference& operator=(const MappedReference&) = delete;

  // By path below /expected; valid as long as this.
  const std::map<std::string, TensorView>& expected() const { return expected_; }
  // Mapped on its own for as long as the tensor lives; undefined if there is none of that name.
  at::Tensor weight(const std::string& name) const;

 private:
  struct Place {
    DType dtype = DType::float64;
    Shape shape;
    std::uint64_t offset = 0;
  };
  int file_ = -1;
  std::byte* mapped_ = nullptr;
  std::size_t bytes_ = 0;
  std::map<std::string, TensorView> expected_;
  std::map<std::string, Place> weights_;
};

}  // namespace meshparity::cli
