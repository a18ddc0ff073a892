// How a rollout engine runs the sequences of a batch: the documents, each one on its own, whatever rows they
// are packed into for training. Tokens are given, so that training and rollout speak of the same ones.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "harness/types/batch.h"
#include "harness/types/mesh.h"

namespace meshparity {

struct RolloutSpec {
  // The first tokens of a sequence are prefilled, the rest is decoded one by one. 0: half of them, rounded
  // up. Shorter sequences are prefilled whole.
  std::int64_t prompt = 0;
  std::int64_t chunk = 0;  // most tokens of a sequence that one prefill pass takes; 0: the whole prompt
  std::int64_t batch = 0;  // sequences that a data rank runs together; 0: all that it has
  // Prompts that are prefilled together are padded on the left to the longest; else they lie end to end.
  bool left_pad = false;
  // Sequences that begin with the same so many tokens compute them once and start from copies of the caches.
  // 0: nothing is reused. A prefix is never longer than the prompt.
  std::int64_t prefix = 0;
  bool replay = false;  // every token goes to the experts that training chose for it
  double temperature = 1, top_p = 1;

  // "prompt=3:chunk=2:pad=left:temperature=0.7": what differs from the defaults, in a fixed order; "plain"
  // where nothing does.
  std::string text() const;
  // Reads the parts in any order. Throws InputError naming the part that is unknown, given twice or out of
  // range.
  static RolloutSpec parse(std::string_view text);
  bool operator==(const RolloutSpec&) const = default;

  // Tokens of a sequence of `length` that are prefilled: 1 to length.
  std::int64_t prompt_of(std::int64_t length) const;
};

// Why this model cannot be rolled out on this mesh ("ring2: rollout has the axes pp, dp, tp, ep"), or empty
// if it can.
std::string rollout_refusal(const Mesh& mesh, const RolloutSpec& spec, const ModelConfig& config);

// The batch as rollout sees it: every document a row of its own, all in one micro-batch. Sequence d then
// belongs to data rank d mod dp, by the rule that training has for rows.
Batch rollout_batch(const Batch& batch);

}  // namespace meshparity
