// Proves rotary positions against the oracle for text and for positions that differ per axis.
#include "reference/blocks/rope.h"

#include <catch2/catch.hpp>

#include "reference/blocks/oracle_check.h"
#include "reference/oracle/rope.h"

namespace meshparity::reference::rope_test {
namespace {

struct Layout {
  std::int64_t rotary_dim;
  std::vector<std::int64_t> section;
};
// The tiny models', the published, and one whose tail stays on the time axis.
const std::vector<Layout> kLayouts = {{6, {1, 1, 1}}, {64, {11, 11, 10}}, {12, {3, 2, 1}}};
constexpr double kTheta = 1e4;

at::Tensor test_positions() {
  // An image's positions repeat and fall; a document's do neither.
  return at::tensor({0, 1, 2, 2, 2, 2, 4, 5, 0, 1, 2, 2, 3, 3, 4, 5, 0, 1, 2, 3, 2, 3, 4, 5}, at::kLong)
      .view({3, 8});
}

auto truth(const Layout& layout) {
  return [layout]<class S>(const std::vector<oracle::Matrix<S>>& x) {
    const at::Tensor positions = test_positions();
    oracle::Matrix<S> y = x[0];
    for (Eigen::Index row = 0; row < y.rows(); ++row) {
      const Eigen::Index t = row / 2;  // two heads
      oracle::Position position;
      for (int axis = 0; axis < 3; ++axis) position[axis] = positions[axis][t].item<std::int64_t>();
      y.row(row) =
          oracle::rotated<S>(x[0].row(row).transpose(), position, layout.rotary_dim, kTheta, layout.section)
              .transpose();
    }
    return y;
  };
}

std::vector<at::Tensor> inputs(const Layout& layout) {
  return {random_tensor("x", {8, 2, layout.rotary_dim + 3})};
}

RotaryTable table(const Layout& layout) {
  return rotary_table(test_positions(), layout.rotary_dim, kTheta, layout.section, at::kDouble);
}

}  // namespace

TEST_CASE("rotation is the oracle's on three axes") {
  const Layout layout = GENERATE(from_range(kLayouts));
  const Agreement found =
      agreement([&](auto& x) { return apply_rope(x[0], table(layout)); }, truth(layout), inputs(layout));

  INFO("rotary_dim " << layout.rotary_dim);
  CHECK(found.forward <= kForwardBound);
  CHECK(found.gradient <= kGradientBound);
}

TEST_CASE("wrong rotations are seen") {
  const Layout layout = kLayouts[0];
  const auto neighbours_paired = [&](auto& x) {
    const RotaryTable t = table(layout);
    const at::Tensor pairs = x[0].narrow(-1, 0, 6).reshape({8, 2, 3, 2});
    const at::Tensor a = pairs.select(3, 0), b = pairs.select(3, 1);
    const at::Tensor cos = t.cos.unsqueeze(1), sin = t.sin.unsqueeze(1);
    const at::Tensor turned = at::stack({a * cos - b * sin, b * cos + a * sin}, 3).reshape({8, 2, 6});
    return at::cat({turned, x[0].narrow(-1, 6, 3)}, -1);
  };
  const auto time_only = [&](auto& x) {
    const at::Tensor time = test_positions().narrow(0, 0, 1).expand({3, 8});
    return apply_rope(x[0], rotary_table(time, 6, kTheta, layout.section, at::kDouble));
  };
  const auto axes_reversed = [&](auto& x) {
    return apply_rope(x[0], rotary_table(test_positions().flip(0), 6, kTheta, layout.section, at::kDouble));
  };

  CHECK(agreement(neighbours_paired, truth(layout), inputs(layout)).forward > kFaultFloor);
  CHECK(agreement(time_only, truth(layout), inputs(layout)).forward > kFaultFloor);
  CHECK(agreement(axes_reversed, truth(layout), inputs(layout)).forward > kFaultFloor);
}

}  // namespace meshparity::reference::rope_test
