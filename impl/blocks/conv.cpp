#include "impl/blocks/conv.h"

namespace meshparity::impl {
namespace {

// Rows of x picked by index [T, W], index T reading zeros: [T, W, C].
at::Tensor gather_rows(const at::Tensor& x, const at::Tensor& index) {
  const at::Tensor extended = at::constant_pad_nd(x, {0, 0, 0, 1});
  return extended.index_select(0, index.view(-1)).view({index.size(0), index.size(1), x.size(1)});
}

}  // namespace

Tensors short_conv(const at::Tensor& u, const at::Tensor& weight, const PackedTokens& tokens,
                   std::int64_t split) {
  const at::Tensor targets = tokens.conv_targets;
  at::Tensor taps, kernel, sum;
  Tensors outputs;
  std::vector<std::int64_t> widths{split, u.size(1) - split};
  {
    const BelowAutograd guard;
    taps = gather_rows(u, tokens.conv_sources);
    kernel = weight.squeeze(1).t().contiguous();  // [W, C]
    sum = (taps * kernel).sum(1);
    outputs = at::silu(sum).split_with_sizes(widths, 1);
  }
  return attach("short_conv", {u, weight}, std::move(outputs),
                [taps, kernel, sum, targets](const Tensors& grads) {
                  const at::Tensor ds = at::silu_backward(at::cat(grads, 1), sum);
                  const at::Tensor du = (gather_rows(ds, targets) * kernel).sum(1);
                  const at::Tensor dw = (taps * ds.unsqueeze(1)).sum(0);
                  return Tensors{du, dw.t().contiguous().unsqueeze(1)};
                });
}

}  // namespace meshparity::impl
