// Generated tokens come from the model's own distribution, and nothing else of the batch changes.
#include "reference/rollout/generate.h"

#include <catch2/catch.hpp>
#include <cmath>

#include "harness/types/error.h"
#include "reference/host_tensor.h"
#include "reference/rollout/rollout.h"
#include "reference/test_models.h"

namespace meshparity::reference::generate_test {

// By how many standard errors the drawn tokens' mean surprise is off the distributions' entropy.
double surprise_off(const TensorMap& weights, const Batch& batch, const RolloutSpec& spec) {
  const at::Tensor logits = rollout(tiny_dense(), weights, batch, spec).at("rollout/logits");
  const at::Tensor all = at::log_softmax(logits / spec.temperature, -1);
  double sum = 0, squares = 0, n = 0;
  for (std::int64_t d = 0; d < batch.documents(); ++d)
    for (std::int64_t t = batch.document(d).begin; t + 1 < batch.document(d).end; ++t) {
      if (t + 1 - batch.document(d).begin < spec.prompt_of(batch.document(d).size())) continue;
      const double entropy = -(all[t].exp() * all[t]).sum().item<double>();
      const double x = -all[t][batch.token_ids[t + 1]].item<double>() - entropy;
      sum += x, squares += x * x, n += 1;
    }
  const double mean = sum / n;
  return std::fabs(mean) / std::sqrt((squares / n - mean * mean) / n);
}

TEST_CASE("generated tokens follow the model's distribution at the temperature", "[rollout]") {
  const TensorMap weights = to_tensors(test_weights(tiny_dense()));
  const Batch prompts = make_batch(tiny_dense(), {60, 50, 40, 70, 60}, {2, 3}, {1, 1});
  RolloutSpec spec;
  spec.prompt = 2, spec.temperature = 0.7;
  const Batch drawn = generate(tiny_dense(), weights, prompts, spec, 7);
  CHECK(surprise_off(weights, drawn, spec) < 4);
  RolloutSpec other = spec;
  other.temperature = 1.4;
  CHECK(surprise_off(weights, drawn, other) > 5);
  CHECK(surprise_off(weights, prompts, spec) > 5);
}

TEST_CASE("generation keeps prompts, masks and offsets, is repeatable, and stays in the top-p set",
          "[rollout]") {
  const TensorMap weights = to_tensors(test_weights(tiny_dense()));
  Batch prompts = make_batch(tiny_dense(), {9, 1, 2, 12}, {2, 2}, {2});
  prompts.labels[5] = kIgnoreLabel;
  RolloutSpec spec;
  spec.prompt = 3, spec.top_p = 0.5;
  const Batch drawn = generate(tiny_dense(), weights, prompts, spec, 1);
  CHECK(drawn.token_ids == generate(tiny_dense(), weights, prompts, spec, 1).token_ids);
  CHECK(drawn.token_ids != generate(tiny_dense(), weights, prompts, spec, 2).token_ids);
  CHECK(drawn.document_offsets == prompts.document_offsets);
  const at::Tensor inside = rollout(tiny_dense(), weights, drawn, spec).at("rollout/in_support");
  for (std::int64_t d = 0; d < prompts.documents(); ++d)
    for (std::int64_t t = prompts.document(d).begin; t < prompts.document(d).end; ++t) {
      CAPTURE(d, t);
      const std::int64_t place = t - prompts.document(d).begin;
      if (place < 3) CHECK(drawn.token_ids[t] == prompts.token_ids[t]);
      CHECK((drawn.labels[t] >= 0) == (prompts.labels[t] >= 0));
      if (drawn.labels[t] < 0) continue;
      CHECK(drawn.labels[t] == drawn.token_ids[t + 1]);
      if (place >= 2) CHECK(inside[t].item<std::int64_t>() == 1);
    }
}

TEST_CASE("generation of a batch with images is refused", "[rollout]") {
  const ModelConfig config = tiny_vl();
  CHECK_THROWS_WITH(
      generate(config, to_tensors(test_weights(config)), make_batch_with_images(config), RolloutSpec{}, 1),
      Catch::Contains("text alone"));
}

}  // namespace meshparity::reference::generate_test
