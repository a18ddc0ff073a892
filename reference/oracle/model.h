// The whole forward of a model for one document, from plain arrays: enough to check a golden's logits without
// LibTorch. Instantiated for double and Dual (exact directional derivatives: seed a weight's slopes, read the
// result's).
#pragma once

#include <map>
#include <string>
#include <vector>

#include "harness/types/batch.h"
#include "harness/types/model_config.h"
#include "harness/types/tensor.h"
#include "reference/oracle/dual.h"

namespace meshparity::oracle {

// Weights by checkpoint name, all dimensions but the last flattened into rows; a vector is one row.
template <class Scalar>
using Weights = std::map<std::string, Matrix<Scalar>>;

// Any floating dtype, widened to double, slopes 0. Throws InputError naming a weight that is missing or
// misshapen.
template <class Scalar>
Weights<Scalar> plain_weights(const ModelConfig& config, const std::map<std::string, HostTensor>& weights);

// The images and videos of one document, in the order of their placeholders.
struct Sights {
  VisionInput images, videos;
};

// token_ids [T]; positions [3*T] (t, h, w) or empty for the index on all three axes -> logits [T, vocab].
template <class Scalar>
Matrix<Scalar> forward(const ModelConfig& config, const Weights<Scalar>& weights,
                       const std::vector<std::int64_t>& token_ids, const std::vector<std::int64_t>& positions,
                       const Sights& sights = {});

// As above, in double.
Matrix<double> forward(const ModelConfig& config, const std::map<std::string, HostTensor>& weights,
                       const std::vector<std::int64_t>& token_ids, const std::vector<std::int64_t>& positions,
                       const Sights& sights = {});

}  // namespace meshparity::oracle
