// Proves every primitive of the vision tower against the oracle, values and gradients, and that the usual
// mistakes would be seen. The whole tower is held against the oracle in model_test.cpp, against Hugging Face
// on goldens.
#include "reference/blocks/vision.h"

#include <catch2/catch.hpp>

#include "reference/blocks/oracle_check.h"
#include "reference/oracle/norms.h"
#include "reference/oracle/vision.h"

namespace meshparity::reference::vision_test {
namespace {

// A wide image, a video of two frames, one that is smaller and one that is larger than the position table.
const std::vector<Grid> kGrids = {{1, 2, 6}, {2, 4, 2}, {1, 2, 2}};
constexpr std::int64_t kPatches = 12 + 16 + 4, kMerge = 2;

std::vector<oracle::PatchPlace> places() {
  std::vector<oracle::PatchPlace> all;
  for (const Grid& grid : kGrids)
    for (const auto& place : oracle::patch_places(grid, kMerge)) all.push_back(place);
  return all;
}

// `of_row` for every row of the first input.
template <class Function>
auto by_rows(Function of_row) {
  return [of_row]<class S>(const std::vector<oracle::Matrix<S>>& x) {
    oracle::Matrix<S> y = x[0];
    for (Eigen::Index i = 0; i < y.rows(); ++i)
      y.row(i) = of_row(oracle::Vector<S>(x[0].row(i).transpose()), x, i).transpose();
    return y;
  };
}

const auto kNormTruth =
    by_rows([]<class S>(const oracle::Vector<S>& row, const std::vector<oracle::Matrix<S>>& x, Eigen::Index) {
      return oracle::layer_norm<S>(row, x[1].row(0).transpose(), x[2].row(0).transpose(), 1e-6);
    });
std::vector<at::Tensor> norm_inputs() {
  return {random_tensor("x", {3, 8}) + 0.5, random_tensor("weight", {8}), random_tensor("bias", {8})};
}

const auto kTableTruth = []<class S>(const std::vector<oracle::Matrix<S>>& x) {
  oracle::Matrix<S> y(kPatches, x[0].cols());
  const auto all = places();
  for (Eigen::Index p = 0; p < kPatches; ++p) y.row(p) = oracle::position_at<S>(x[0], all[p]).transpose();
  return y;
};
std::vector<at::Tensor> table_inputs() {
  return {random_tensor("table", {9, 3})};
}

// Two heads: rows are patches and heads.
const auto kRopeTruth =
    by_rows([]<class S>(const oracle::Vector<S>& row, const std::vector<oracle::Matrix<S>>&, Eigen::Index i) {
      return oracle::axially_rotated<S>(row, places()[i / 2]);
    });
std::vector<at::Tensor> rope_inputs() {
  return {random_tensor("x", {kPatches, 2, 8})};
}

const auto kAttentionTruth = []<class S>(const std::vector<oracle::Matrix<S>>& x) {
  // Rows are patches and two heads; frames of 12, 8, 8 and 4 patches.
  oracle::Matrix<S> y = x[0];
  Eigen::Index first = 0;
  for (const Eigen::Index patches : {12, 8, 8, 4}) {
    for (Eigen::Index head = 0; head < 2; ++head) {
      std::vector<oracle::Matrix<S>> of_head;
      for (const auto& all : x) {
        oracle::Matrix<S> rows(patches, all.cols());
        for (Eigen::Index p = 0; p < patches; ++p) rows.row(p) = all.row((first + p) * 2 + head);
        of_head.push_back(rows);
      }
      const oracle::Matrix<S> out = oracle::frame_attention<S>(of_head[0], of_head[1], of_head[2]);
      for (Eigen::Index p = 0; p < patches; ++p) y.row((first + p) * 2 + head) = out.row(p);
    }
    first += patches;
  }
  return y;
};
std::vector<at::Tensor> attention_inputs() {
  return {random_tensor("q", {kPatches, 2, 4}), random_tensor("k", {kPatches, 2, 4}),
          random_tensor("v", {kPatches, 2, 4})};
}

at::Tensor rotated(const at::Tensor& x, const at::Tensor& row, const at::Tensor& column) {
  const at::Tensor frequency = at::pow(1e4, at::arange(2, at::kDouble) * -0.5);
  const auto angles = [&](const at::Tensor& place) { return place.to(at::kDouble).unsqueeze(1) * frequency; };
  const at::Tensor angle = at::cat({angles(row), angles(column)}, 1);
  return apply_rope(x, {angle.cos(), angle.sin()});
}

template <class Block, class Truth>
void agrees(const Block& block, const Truth& truth, const std::vector<at::Tensor>& inputs) {
  const Agreement found = agreement(block, truth, inputs);
  CHECK(found.forward <= kForwardBound);
  CHECK(found.gradient <= kGradientBound);
}

}  // namespace

TEST_CASE("patches go block by block, blocks row by row, frames one after another") {
  const PatchPlaces places = patch_places({{2, 2, 4}}, 2);
  const at::Tensor row = at::tensor({0, 0, 1, 1, 0, 0, 1, 1}, at::kLong).repeat({2});
  const at::Tensor column = at::tensor({0, 1, 0, 1, 2, 3, 2, 3}, at::kLong).repeat({2});
  CHECK(at::equal(places.row, row));
  CHECK(at::equal(places.column, column));
}

TEST_CASE("the layer norm and both GELUs are the oracle's") {
  agrees([](auto& x) { return layer_norm(x[0], {x[1], x[2]}); }, kNormTruth, norm_inputs());
  const auto each = [](auto of_one) {
    return [of_one]<class S>(const std::vector<oracle::Matrix<S>>& x) {
      oracle::Matrix<S> y = x[0];
      for (Eigen::Index i = 0; i < y.size(); ++i) y.data()[i] = of_one(y.data()[i]);
      return y;
    };
  };
  const auto exact = each([](const auto& x) { return oracle::exact_gelu(x); });
  const auto tanh = each([](const auto& x) { return oracle::tanh_gelu(x); });
  const std::vector<at::Tensor> inputs = {random_tensor("x", {4, 9}, 2)};
  agrees([](auto& x) { return exact_gelu(x[0]); }, exact, inputs);
  agrees([](auto& x) { return tanh_gelu(x[0]); }, tanh, inputs);
  CHECK(agreement([](auto& x) { return tanh_gelu(x[0]); }, exact, inputs).forward > kFaultFloor);
  CHECK(agreement([](auto& x) { return exact_gelu(x[0]); }, tanh, inputs).forward > kFaultFloor);
  // LibTorch's own, which neither side uses.
  CHECK(at::allclose(exact_gelu(inputs[0]), at::gelu(inputs[0], "none"), 1e-14, 1e-15));
  CHECK(at::allclose(tanh_gelu(inputs[0]), at::gelu(inputs[0], "tanh"), 1e-14, 1e-15));
  const auto unbiased = [](auto& x) {
    const at::Tensor c = x[0] - x[0].mean(-1, true);
    return c * at::rsqrt(c.square().sum(-1, true) / 7 + 1e-6) * x[1] + x[2];
  };
  CHECK(agreement(unbiased, kNormTruth, norm_inputs()).forward > kFaultFloor);
}

TEST_CASE("the position table is stretched as the oracle stretches it") {
  agrees([](auto& x) { return resampled_positions(x[0], kGrids, kMerge); }, kTableTruth, table_inputs());
  // Of an image as large as the table every patch has its own entry.
  const at::Tensor table = random_tensor("table", {16, 3});
  const PatchPlaces place = patch_places({{1, 4, 4}}, 2);
  CHECK(at::allclose(resampled_positions(table, {{1, 4, 4}}, 2),
                     table.index_select(0, place.row * 4 + place.column), 1e-14, 1e-14));
  const auto raster_order = [](auto& x) { return resampled_positions(x[0], kGrids, 1); };
  CHECK(agreement(raster_order, kTableTruth, table_inputs()).forward > kFaultFloor);
}

TEST_CASE("axial rotation is the oracle's") {
  const auto block = [](auto& x) {
    return apply_rope(x[0], axial_rotary_table(kGrids, kMerge, 8, at::kDouble));
  };
  agrees(block, kRopeTruth, rope_inputs());
  const PatchPlaces place = patch_places(kGrids, kMerge);
  const auto axes_exchanged = [&](auto& x) { return rotated(x[0], place.column, place.row); };
  const auto frames_counted = [&](auto& x) {
    const at::Tensor later = (at::arange(kPatches) >= 20).logical_and(at::arange(kPatches) < 28);
    return rotated(x[0], place.row + 4 * later, place.column);
  };
  CHECK(agreement([&](auto& x) { return rotated(x[0], place.row, place.column); }, kRopeTruth, rope_inputs())
            .forward <= kForwardBound);
  CHECK(agreement(axes_exchanged, kRopeTruth, rope_inputs()).forward > kFaultFloor);
  CHECK(agreement(frames_counted, kRopeTruth, rope_inputs()).forward > kFaultFloor);
}

TEST_CASE("attention inside frames is the oracle's") {
  agrees([](auto& x) { return frame_attention(x[0], x[1], x[2], kGrids); }, kAttentionTruth,
         attention_inputs());
  const auto over_the_video = [](auto& x) {
    return frame_attention(x[0], x[1], x[2], {{1, 2, 6}, {1, 4, 4}, {1, 2, 2}});
  };
  const auto over_everything = [](auto& x) { return frame_attention(x[0], x[1], x[2], {{1, 4, 8}}); };
  CHECK(agreement(over_the_video, kAttentionTruth, attention_inputs()).forward > kFaultFloor);
  CHECK(agreement(over_everything, kAttentionTruth, attention_inputs()).forward > kFaultFloor);
}

}  // namespace meshparity::reference::vision_test
