// A failing tensor as plain vectors, and the question every shape test ends with: does this explain the
// difference?
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "harness/diagnose/diagnose.h"

namespace meshparity::diagnose {

using Values = std::vector<double>;

Values values_of(const TensorView& view);
double norm_of(const Values& values);
// ||a - b||; a and b have equal sizes.
double distance(const Values& a, const Values& b);
std::string short_number(double x);

struct ErrorShape {
  explicit ErrorShape(const Suspect& suspect);

  const Suspect& suspect;
  Values got, want;
  double difference = 0;  // ||got - want||
  double want_norm = 0;
  std::vector<bool> wrong;  // per element: outside the element bound (or, where none is, above half of the
                            // largest difference)
  std::int64_t wrong_count = 0;

  // How sure one may be that an explanation holds which leaves `residual` of the difference over: 0.97 where
  // what is left is within the bound, 0.8 where it is below a hundredth of the difference, else 0.
  double confidence(double residual) const;
};

// One mesh axis with its size and the coordinate of a rank on it; "dp*fsdp" is the data axis.
struct Axis {
  std::string name;
  int size;
  std::function<int(int rank)> index;
};
// The axes of the mesh that are larger than 1.
std::vector<Axis> axes_of(const Mesh& mesh);

// Shape tests, by file.
void find_factors(const ErrorShape& shape, std::vector<Cause>& causes);  // factors.cpp: ratio, offset, sign
void find_reductions(const ErrorShape& shape, std::vector<Cause>& causes);  // reductions.cpp: sums over ranks
void find_orders(const ErrorShape& shape,
                 std::vector<Cause>& causes);  // orders.cpp: permuted slices, transposed
void find_places(const ErrorShape& shape,
                 std::vector<Cause>& causes);  // places.cpp: rank, head, document, micro-batch
void find_values(const ErrorShape& shape,
                 std::vector<Cause>& causes);  // values.cpp: not finite, zero, stale, low precision

}  // namespace meshparity::diagnose
