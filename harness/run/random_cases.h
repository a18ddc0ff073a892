// Random cases: model shapes, batches, meshes, flags, loss and steps drawn from a seed. Case i is a pure
// function of (options, seed, i), so a longer run repeats a shorter one, and its line alone re-runs it.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "harness/run/case_options.h"
#include "harness/types/batch_shape.h"
#include "harness/types/generator.h"
#include "harness/types/model_shape.h"

namespace meshparity::run {

// Numbers drawn one after another; the sequence depends on the seed and the name alone.
class Draw {
 public:
  Draw(std::uint64_t seed, const std::string& name) : generator_(seed, name) {}
  // A whole number in [least, most].
  std::int64_t between(std::int64_t least, std::int64_t most) {
    return least + generator_.below(next_++, most - least + 1);
  }
  bool percent(int chance) { return between(1, 100) <= chance; }
  // One of the values, all as likely; one that stands there twice is twice as likely.
  template <class List>
  auto of(const List& values) {
    return *(std::begin(values) + between(0, static_cast<std::int64_t>(std::size(values)) - 1));
  }
  std::int64_t of(std::initializer_list<std::int64_t> values) {
    return *(values.begin() + between(0, static_cast<std::int64_t>(values.size()) - 1));
  }

 private:
  Generator generator_;
  std::uint64_t next_ = 0;
};

// A text model without multi-token prediction: 1 to 6 layers of any types, odd sizes, key-value heads from 1,
// delta-rule value heads 1 to 3 times the key heads, convolutions of 1 to 5 taps, dense or with 1 to 12
// experts.
ModelShape random_shape(Draw& draw);
// Without images: 1 to 3 micro-batches of 1 to 3 rows; documents of 1 to 40 tokens, many of 1 to 3; labels
// from all to none.
BatchShape random_batch(Draw& draw);

// Case `index`. What `options` say about models, batches, meshes, flags, losses, dtypes, engines, checks,
// tensors, steps and the fault restricts the draw (a list means: one of these); what they leave open is
// drawn, over all axes and flag values that `refusal` takes, up to 8 ranks. Its own seed (of weights) is
// drawn too. Throws InputError where `options` are wrong or leave nothing that a model could take.
CaseSpec random_case(
    const CaseOptions& options, std::uint64_t seed, std::uint64_t index,
    const std::function<ModelConfig(const std::string& model, const std::string& golden)>& config_of);

}  // namespace meshparity::run
