// A pair of dumps in the making: a model, tokens that its rollout drew, and both sides' runs.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "harness/cli/scenario.h"
#include "harness/types/generator.h"
#include "harness/types/logprob_sample.h"
#include "harness/types/precision.h"
#include "harness/types/rollout.h"
#include "impl/train/program.h"

namespace meshparity::cli {

using Logprobs = std::vector<double>;

// Experts of every token, [N, layers * k], token after token; empty of a dense model.
struct Routes {
  std::vector<std::int64_t> experts;
  std::int64_t width = 0;
};

// What a sampler reports.
struct Sampled {
  Logprobs logprobs;    // [N], with temperature
  Logprobs within_top;  // [N], of the set that top-p kept; empty with top_p 1
  Routes routes;
};

// Draws, spec and weights first, then draw_tokens(), then the sides.
class PairRun {
 public:
  PairRun(const std::string& kind, std::uint64_t seed);

  std::int64_t below(std::int64_t n) { return random_.below(draws_++, n); }
  template <class T>
  T one_of(const std::vector<T>& values) {
    return values[static_cast<std::size_t>(below(static_cast<std::int64_t>(values.size())))];
  }

  CaseSpec& spec() { return spec_; }
  RolloutSpec& rollout() { return rollout_; }
  // Decays so slow that the delta rule's state remembers some 50 to 400 tokens; the generated weights forget
  // within some ten.
  void remember() { remembers_ = true; }
  // Logits four times as far apart: a model that is often certain, as a trained one is.
  void sharpen() { sharp_ = true; }
  // All documents shall begin with the same so many tokens.
  void share_prefix(std::int64_t tokens) { shared_ = tokens; }

  // Rows of `packed` documents of `least` to `most` tokens.
  void draw_tokens(std::int64_t rows, std::int64_t packed, std::int64_t least, std::int64_t most);
  const Batch& batch() const { return batch_; }

  // Logprobs [N] of training on spec().mesh, with spec().fault.
  Logprobs train(const PrecisionPolicy& policy) const;
  // What the sampler on `mesh` reports; `fault` of rollout or empty. `weights`: other ones than the model's.
  Sampled sample(const Mesh& mesh, const PrecisionPolicy& policy, const std::string& fault,
                 const reference::TensorMap* weights = nullptr) const;
  Logprobs sampler(const Mesh& mesh, const PrecisionPolicy& policy, const std::string& fault,
                   const reference::TensorMap* weights = nullptr) const {
    return sample(mesh, policy, fault, weights).logprobs;
  }
  // The experts that the model chooses in exact arithmetic.
  Routes routes() const;
  // The model's weights after an optimizer step of this learning rate on other tokens.
  reference::TensorMap stepped(double lr) const;
  // The two sides as a dump holds them: of every document the tokens behind the first, the prompt's masked.
  std::vector<LogprobSample> samples(const Logprobs& train, const Logprobs& rollout,
                                     const Routes& train_routes = {},
                                     const Routes& rollout_routes = {}) const;

 private:
  impl::RankInputs inputs_of() const;
  impl::Seams seams_under(const PrecisionPolicy& policy, const std::string& fault) const;

  Generator random_;
  std::uint64_t draws_ = 0;
  CaseSpec spec_;
  RolloutSpec rollout_;
  bool remembers_ = false, sharp_ = false;
  std::int64_t shared_ = 0;
  std::shared_ptr<const Scenario> scenario_;
  reference::TensorMap weights_;
  Batch batch_;
};

}  // namespace meshparity::cli
