// What a data rank runs, in which order: which tokens of which sequences go through the model in every pass,
// and when caches start, are kept and are copied. A pure function of the sequences and the specification, the
// same on every rank of a data rank's pipeline and tensor group. Data ranks share no collective in rollout,
// so each runs as many passes as it has.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "harness/types/cut.h"
#include "harness/types/rollout.h"

namespace meshparity::impl {

struct RolloutSequence {
  std::int64_t begin = 0;   // its first token in the stream of the data rank
  std::int64_t length = 0;  // tokens
  std::int64_t prompt = 0;  // tokens that are prefilled
};

// A sequence's part of a pass: padding first, then its next tokens.
struct PassRow {
  std::int64_t sequence = 0;  // number among those of the data rank
  std::int64_t slot = 0;      // of the caches
  std::int64_t cached = 0;    // keys in its cache before the pass, those of padding among them
  std::int64_t padding_cached = 0;
  std::int64_t padding = 0;
  Range tokens;  // of the sequence; may be empty behind padding
  std::int64_t size() const { return padding + tokens.size(); }
};

struct RolloutPass {
  std::int64_t number = 0;  // among all passes of the data rank
  bool decode = false;      // one token of every row, by the recurrent rule; else a chunk of the prompts
  bool prefix = false;      // of what is kept for other sequences to begin with
  std::vector<PassRow> rows;
  std::int64_t size() const;
};

struct RolloutStep {
  enum class Kind { start, pass, keep, resume };
  Kind kind = Kind::pass;
  // start: the slot's caches become those of a sequence of no tokens. keep: what its caches hold becomes
  // prefix number `prefix`. resume: they become copies of that.
  std::int64_t slot = 0, sequence = 0, prefix = 0;
  RolloutPass pass;
};

struct RolloutSchedule {
  std::vector<RolloutStep> steps;
  std::int64_t slots = 0;     // sequences that run together
  std::int64_t capacity = 0;  // most keys that a slot's cache holds
};

// `same_prefix(i, j)`: do sequences i and j begin with the same spec.prefix tokens? Asked for i < j alone, i
// being the one whose prefix is kept.
RolloutSchedule make_rollout_schedule(const std::vector<RolloutSequence>& sequences, const RolloutSpec& spec,
                                      const std::function<bool(std::int64_t, std::int64_t)>& same_prefix);

}  // namespace meshparity::impl
