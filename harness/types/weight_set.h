// A set of named weights of any origin, one tensor at a time: what a reader offers and a judge takes.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "harness/types/tensor.h"

namespace meshparity {

class WeightSet {
 public:
  struct Entry {
    std::string name;    // of the parameter (docs/decisions/0005); one expert's where it is stored alone
    std::string stored;  // as the file calls it
    DType dtype = DType::float32;
    Shape shape;
  };
  virtual ~WeightSet() = default;
  // What the user named.
  const std::string& origin() const { return origin_; }
  // In the order of names, no name twice.
  const std::vector<Entry>& entries() const { return entries_; }
  // Where `name` stands among the entries, -1 where it does not.
  std::ptrdiff_t find(const std::string& name) const;
  // Valid as long as the set. Its data need not be aligned.
  virtual TensorView view(std::size_t entry) const = 0;
  // Gives back the memory of what was read so far.
  virtual void forget() const {}

 protected:
  explicit WeightSet(std::string origin) : origin_(std::move(origin)) {}
  // Sorts by name. Throws InputError where two entries have the same one.
  void set_entries(std::vector<Entry> entries);
  std::string origin_;

 private:
  std::vector<Entry> entries_;
};

}  // namespace meshparity
