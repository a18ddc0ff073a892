#include "reference/blocks/rope.h"

namespace meshparity::reference {

RotaryTable rotary_table(const at::Tensor& positions, std::int64_t rotary_dim, double theta,
                         const std::vector<std::int64_t>& section, const at::TensorOptions& options) {
  const std::int64_t pairs = rotary_dim / 2;
  std::vector<std::int64_t> axis_of_pair(pairs, 0);
  for (std::int64_t i = 0; i < pairs; ++i) {
    for (std::int64_t axis : {1, 2}) {
      if (i % 3 == axis && i < 3 * section.at(axis)) axis_of_pair[i] = axis;
    }
  }
  const at::Tensor frequency = at::pow(theta, at::arange(pairs, options) * (-2.0 / rotary_dim));
  const at::Tensor position = positions.index_select(0, at::tensor(axis_of_pair, at::kLong)).t();  // [T, R/2]
  const at::Tensor angle = position.to(options) * frequency;
  return {angle.cos(), angle.sin()};
}

at::Tensor apply_rope(const at::Tensor& x, const RotaryTable& table) {
  const std::int64_t pairs = table.cos.size(1);
  const at::Tensor cos = table.cos.unsqueeze(1), sin = table.sin.unsqueeze(1);  // [T, 1, R/2]
  const at::Tensor first = x.narrow(-1, 0, pairs), second = x.narrow(-1, pairs, pairs);
  const at::Tensor rest = x.narrow(-1, 2 * pairs, x.size(-1) - 2 * pairs);
  return at::cat({first * cos - second * sin, second * cos + first * sin, rest}, -1);
}

}  // namespace meshparity::reference
