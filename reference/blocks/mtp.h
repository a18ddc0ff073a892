// Multi-token prediction: what goes into the one further layer that predicts the token after the next. The
// layer itself is a decoder layer with full attention; model.h puts it together. Legend: T tokens of the
// document, D hidden.
#pragma once

#include <ATen/ATen.h>

namespace meshparity::reference {

struct MtpInputWeights {
  at::Tensor fc;              // [D, 2D]
  at::Tensor norm_embedding;  // [D]
  at::Tensor norm_hidden;     // [D]
};

// Slot t sees token t+1 and everything up to t: fc [norm(embedding of t+1) ; norm(hidden of t)], in this
// order. embeddings [T, D] with images in their places, hidden [T, D] behind the final norm -> [T-1, D].
// Source: qwen35.md 1.9.
at::Tensor mtp_input(const at::Tensor& embeddings, const at::Tensor& hidden, const MtpInputWeights& weights,
                     double eps);

}  // namespace meshparity::reference
