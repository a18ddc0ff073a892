#include "harness/compare/projection.h"

#include <cstdio>
#include <cstring>

#include "harness/types/error.h"

namespace meshparity::compare {
namespace {

// Sums of squares of a million elements are good to this; below it two vectors are parallel.
constexpr double kParallel = 1e-9;

}  // namespace

void Projection::add(const TensorView& got, const TensorView& want) {
  if (got.shape != want.shape)
    throw InputError("projection: shapes " + shape_text(got.shape) + " and " + shape_text(want.shape) +
                     " differ");
  const auto of = [](const TensorView& t, std::int64_t i) {
    if (t.dtype != DType::float64) return t.at(i);
    double x;  // copied: a mapped file's data need not be aligned
    std::memcpy(&x, t.data + i * static_cast<std::int64_t>(sizeof x), sizeof x);
    return x;
  };
  double cross = 0, wanted = 0, came = 0;
  for (std::int64_t i = 0; i < want.numel(); ++i) {
    const double g = of(got, i), w = of(want, i);
    cross += g * w, wanted += w * w, came += g * g;
  }
  got_want += cross, want_want += wanted, got_got += came;
}

std::string scale_words(const Projection& gradients) {
  char text[160];
  if (1 - std::fabs(gradients.cosine()) <= kParallel)
    std::snprintf(text, sizeof text, "all gradients together are %.12g times the expected ones",
                  gradients.factor());
  else
    std::snprintf(text, sizeof text,
                  "all gradients together are no multiple of the expected ones: factor %.12g, cosine %.12g",
                  gradients.factor(), gradients.cosine());
  return text;
}

}  // namespace meshparity::compare
