#include "reference/blocks/mtp.h"

#include "reference/blocks/rms_norm.h"

namespace meshparity::reference {

at::Tensor mtp_input(const at::Tensor& embeddings, const at::Tensor& hidden, const MtpInputWeights& weights,
                     double eps) {
  const std::int64_t slots = hidden.size(0) - 1;
  const at::Tensor next = rms_norm(embeddings.narrow(0, 1, slots), weights.norm_embedding, eps);
  const at::Tensor now = rms_norm(hidden.narrow(0, 0, slots), weights.norm_hidden, eps);
  return at::linear(at::cat({next, now}, -1), weights.fc);
}

}  // namespace meshparity::reference
