// Named views of weights as a file holds them, and what keeps them alive: the step between a reader of a
// format and a WeightSet.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "harness/types/weight_set.h"

namespace meshparity::golden {

struct WeightViews {
  std::vector<std::pair<std::string, TensorView>> views;  // the name that the file stores
  std::shared_ptr<const void> owner;
  std::function<void()> forget = [] {};  // gives back the memory of what was read; views stay valid
};

// Of a .safetensors file (mapped) or an HDF5 golden or dump (its /weights, read whole). Throws InputError
// naming the file.
WeightViews stored_views(const std::string& path);

// A set of them, called `origin`: names lose the multimodal class's infix, fused experts are taken apart into
// views of one expert each, as open_weights does. Throws InputError where there are none.
std::unique_ptr<WeightSet> weights_of(const std::string& origin, WeightViews views);

// Weights written one after another to a file that has no name and goes when the last view of it does: memory
// does not grow with them.
class WeightSpill {
 public:
  // In the folder of temporary files ($TMPDIR or /tmp). Throws InputError where it cannot be written.
  WeightSpill();
  ~WeightSpill();
  WeightSpill(const WeightSpill&) = delete;
  WeightSpill& operator=(const WeightSpill&) = delete;
  void add(const std::string& name, const TensorView& tensor);
  // All of them, mapped. Call once.
  WeightViews views();

 private:
  struct Place {
    std::string name;
    DType dtype;
    Shape shape;
    std::size_t begin;
  };
  int descriptor_ = -1;
  std::size_t bytes_ = 0;
  std::vector<Place> places_;
};

}  // namespace meshparity::golden
