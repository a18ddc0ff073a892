// What a sequence that was rolled out so far leaves behind for its next token. Tensors here are replaced,
// never written into, so that a copy of a Cache is a copy of its content.
// Legend: t tokens so far, G key-value heads, d head_dim, C channels of the convolution, H value heads, K and
// V key and value width.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <vector>

namespace meshparity::reference {

struct LayerCache {
  // Of an attention layer: of every token so far.
  at::Tensor keys;    // [t, G, d] normed and rotated
  at::Tensor values;  // [t, G, d]
  // Of a GatedDeltaNet layer.
  at::Tensor conv_inputs;  // [taps-1, C] of the last tokens, as projected; zeros before the first token
  at::Tensor state;        // [H, K, V] behind the last token
};

struct Cache {
  std::int64_t tokens = 0;
  std::vector<LayerCache> layers;
};

}  // namespace meshparity::reference
