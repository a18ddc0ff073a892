// The tokens among which top-p lets a sampler choose.
#pragma once

#include <ATen/ATen.h>

namespace meshparity::reference {

// The smallest set of most probable tokens that holds top_p of the probability: a token is in it if those
// before it hold less. Of equally probable ones the smaller id comes first. probabilities [N, vocab] -> bool.
at::Tensor support_of(const at::Tensor& probabilities, double top_p);

}  // namespace meshparity::reference
