// The right numbers in the wrong places: slices of one dimension permuted, or the two dimensions of a matrix
// exchanged.
#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include "harness/diagnose/error_shape.h"
#include "harness/types/generator.h"

namespace meshparity::diagnose {
namespace {

// Slices of one dimension, gathered as vectors.
std::vector<Values> slices(const Values& values, const Shape& shape, std::size_t dim) {
  std::int64_t inner = 1;
  for (std::size_t d = dim + 1; d < shape.size(); ++d) inner *= shape[d];
  std::vector<Values> list(static_cast<std::size_t>(shape[dim]));
  for (std::size_t i = 0; i < values.size(); ++i)
    list[(static_cast<std::int64_t>(i) / inner) % shape[dim]].push_back(values[i]);
  return list;
}

// One number per slice by which equal slices are found without comparing all pairs.
Values projections(const std::vector<Values>& list) {
  const Generator weights(1, "projection");
  Values result;
  for (const auto& slice : list) {
    double sum = 0;
    for (std::size_t i = 0; i < slice.size(); ++i) sum += slice[i] * (0.5 + weights.uniform(i));
    result.push_back(sum);
  }
  return result;
}

// For each slice of got the slice of want it equals, or -1.
std::vector<std::int64_t> match(const std::vector<Values>& got, const std::vector<Values>& want,
                                double slack) {
  const Values g = projections(got), w = projections(want);
  std::vector<std::size_t> order(w.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return w[a] < w[b]; });
  const double reach = slack * 2 * std::sqrt(static_cast<double>(got.empty() ? 0 : got[0].size()));
  std::vector<std::int64_t> source(got.size(), -1);
  for (std::size_t i = 0; i < got.size(); ++i) {
    // A slice in its own place is not moved, even if another equals it.
    if (distance(got[i], want[i]) <= slack) {
      source[i] = static_cast<std::int64_t>(i);
      continue;
    }
    auto at = std::lower_bound(order.begin(), order.end(), g[i] - reach,
                               [&](std::size_t a, double value) { return w[a] < value; });
    for (; at != order.end() && w[*at] <= g[i] + reach; ++at)
      if (distance(got[i], want[*at]) <= slack) {
        source[i] = static_cast<std::int64_t>(*at);
        break;
      }
  }
  return source;
}

// "blocks of 6: 0 2 1 3" where whole blocks moved, else "7 of 24 moved, first 3 <- 5".
std::string describe(const std::vector<std::int64_t>& source) {
  const auto n = static_cast<std::int64_t>(source.size());
  for (std::int64_t block = n / 2; block >= 1; --block) {
    if (n % block) continue;
    bool whole = true;
    for (std::int64_t i = 0; whole && i < n; ++i)
      whole = source[i] % block == i % block && source[i] / block == source[i - i % block] / block;
    if (!whole || n / block > 16) continue;
    std::string text = "blocks of " + std::to_string(block) + " in order";
    for (std::int64_t i = 0; i < n; i += block) text += " " + std::to_string(source[i] / block);
    return text;
  }
  std::int64_t moved = 0, first = -1;
  for (std::int64_t i = 0; i < n; ++i)
    if (source[i] != i) ++moved, first = first < 0 ? i : first;
  return std::to_string(moved) + " of " + std::to_string(n) + " moved, place " + std::to_string(first) +
         " holds " + std::to_string(source[first]);
}

void find_permutation(const ErrorShape& shape, std::size_t dim, std::vector<Cause>& causes) {
  const Shape& dims = shape.suspect.want.shape;
  if (dims[dim] < 2) return;
  // Scalars per slice match by accident too easily; vectors of a few elements do not.
  if (shape.want.size() / static_cast<std::size_t>(dims[dim]) < 2 && dims.size() > 1) return;
  const auto got = slices(shape.got, dims, dim), want = slices(shape.want, dims, dim);
  const double slack = std::max(shape.suspect.norm_bound, 1e-9 * shape.difference);
  const auto source = match(got, want, slack);
  std::int64_t moved = 0, repeated = 0;
  std::map<std::int64_t, int> used;
  for (std::size_t i = 0; i < source.size(); ++i) {
    if (source[i] < 0) return;
    moved += source[i] != static_cast<std::int64_t>(i);
    repeated += used[source[i]]++ > 0;
  }
  if (moved == 0) return;
  const std::string what = dims.size() == 1 ? "elements"
                           : dim == 0       ? "rows"
                           : dim == 1       ? "columns"
                                            : "slices of dim " + std::to_string(dim);
  if (repeated == 0)
    causes.push_back({what + " permuted", "every one equals one of want's: " + describe(source), 0.95});
  else
    causes.push_back({what + " taken from the wrong place",
                      "every one equals one of want's, " + std::to_string(repeated) +
                          " more than once: " + describe(source),
                      0.9});
}

void find_transposed(const ErrorShape& shape, std::vector<Cause>& causes) {
  const Shape& dims = shape.suspect.want.shape;
  if (dims.size() != 2 || dims[0] < 2 || dims[1] < 2) return;
  // The bytes of the transposed matrix, read in the right shape.
  Values transposed(shape.want.size());
  for (std::int64_t r = 0; r < dims[0]; ++r)
    for (std::int64_t c = 0; c < dims[1]; ++c) transposed[c * dims[0] + r] = shape.want[r * dims[1] + c];
  const double confidence = shape.confidence(distance(shape.got, transposed));
  if (confidence > 0) causes.push_back({"transposed", "got holds want's transpose", confidence});
}

}  // namespace

void find_orders(const ErrorShape& shape, std::vector<Cause>& causes) {
  for (std::size_t dim = 0; dim < shape.suspect.want.shape.size(); ++dim)
    find_permutation(shape, dim, causes);
  find_transposed(shape, causes);
}

}  // namespace meshparity::diagnose
