#include "impl/rollout/schedule.h"

#include <algorithm>

namespace meshparity::impl {
namespace {

using Step = RolloutStep;

// One group of sequences after another; what a group leaves behind are the prefixes it kept.
class ScheduleMaker {
 public:
  ScheduleMaker(const std::vector<RolloutSequence>& sequences, const RolloutSpec& spec,
                const std::function<bool(std::int64_t, std::int64_t)>& same_prefix)
      : sequences_(sequences), spec_(spec), same_prefix_(same_prefix) {}

  RolloutSchedule make() {
    const auto n = static_cast<std::int64_t>(sequences_.size());
    const std::int64_t together = spec_.batch > 0 ? std::min(spec_.batch, n) : n;
    schedule_.slots = together;
    for (std::int64_t first = 0; first < n; first += together) {
      group_.clear();
      for (std::int64_t i = first; i < std::min(first + together, n); ++i) {
        group_.push_back({i});
        add(Step::Kind::start, i - first, i, 0);
      }
      if (spec_.prefix > 0) share_prefixes();
      prefill();
      decode();
    }
    return std::move(schedule_);
  }

 private:
  // A sequence of the group at hand; its place in the group is its slot.
  struct Running {
    std::int64_t sequence = 0;
    std::int64_t tokens = 0;                      // done
    std::int64_t cached = 0, padding_cached = 0;  // keys in its cache
  };

  void add(Step::Kind kind, std::int64_t slot, std::int64_t sequence, std::int64_t prefix) {
    schedule_.steps.push_back({kind, slot, sequence, prefix, {}});
  }

  void add_pass(RolloutPass pass) {
    if (pass.rows.empty()) return;
    pass.number = passes_++;
    schedule_.steps.push_back({Step::Kind::pass, 0, 0, 0, std::move(pass)});
  }

  // The next tokens of the sequence in `slot`, up to token `end`, behind so much padding.
  void add_row(RolloutPass& pass, std::int64_t slot, std::int64_t padding, std::int64_t end) {
    Running& r = group_[slot];
    if (padding == 0 && end == r.tokens) return;
    pass.rows.push_back({r.sequence, slot, r.cached, r.padding_cached, padding, {r.tokens, end}});
    r.cached += pass.rows.back().size(), r.padding_cached += padding, r.tokens = end;
    schedule_.capacity = std::max(schedule_.capacity, r.cached);
  }

  std::int64_t chunk(std::int64_t longest) const {
    return std::max<std::int64_t>(spec_.chunk > 0 ? spec_.chunk : longest, 1);
  }

  // Every prefix is prefilled by the first sequence that begins with it.
  void share_prefixes() {
    std::vector<std::int64_t> first, resuming, from;  // slots; prefixes
    for (std::int64_t slot = 0; slot < static_cast<std::int64_t>(group_.size()); ++slot) {
      const std::int64_t i = group_[slot].sequence;
      if (sequences_[i].prompt < spec_.prefix) continue;
      const auto kept = std::find_if(kept_.begin(), kept_.end(),
                                     [&](std::int64_t other) { return same_prefix_(other, i); });
      if (kept != kept_.end()) {
        resuming.push_back(slot), from.push_back(kept - kept_.begin());
      } else {
        first.push_back(slot), kept_.push_back(i);
      }
    }
    for (std::int64_t begin = 0, step = chunk(spec_.prefix); begin < spec_.prefix; begin += step) {
      RolloutPass pass;
      pass.prefix = true;
      for (const std::int64_t slot : first) add_row(pass, slot, 0, std::min(begin + step, spec_.prefix));
      add_pass(std::move(pass));
    }
    std::int64_t number = static_cast<std::int64_t>(kept_.size() - first.size());
    for (const std::int64_t slot : first) add(Step::Kind::keep, slot, group_[slot].sequence, number++);
    for (std::size_t i = 0; i < resuming.size(); ++i) {
      Running& r = group_[resuming[i]];
      add(Step::Kind::resume, resuming[i], r.sequence, from[i]);
      r.tokens = r.cached = spec_.prefix;
      schedule_.capacity = std::max(schedule_.capacity, r.cached);
    }
  }

  // What is left of the prompts, as columns of a block: padded on the left to its width, or as they are.
  void prefill() {
    std::vector<std::int64_t> left;
    for (const Running& r : group_) left.push_back(sequences_[r.sequence].prompt - r.tokens);
    const std::int64_t width = *std::max_element(left.begin(), left.end());
    for (std::int64_t begin = 0, step = chunk(width); begin < width; begin += step) {
      const std::int64_t end = std::min(begin + step, width);
      RolloutPass pass;
      for (std::int64_t slot = 0; slot < static_cast<std::int64_t>(group_.size()); ++slot) {
        if (left[slot] == 0) continue;
        const std::int64_t from = spec_.left_pad ? width - left[slot] : 0;  // its first column
        const std::int64_t padding = std::max<std::int64_t>(std::min(end, from) - begin, 0);
        const std::int64_t before = sequences_[group_[slot].sequence].prompt - left[slot];
        add_row(pass, slot, padding, before + std::clamp<std::int64_t>(end - from, 0, left[slot]));
      }
      add_pass(std::move(pass));
    }
  }

  // Sequences that have ended leave.
  void decode() {
    for (bool more = true; more;) {
      RolloutPass pass;
      pass.decode = true;
      for (std::int64_t slot = 0; slot < static_cast<std::int64_t>(group_.size()); ++slot) {
        const Running& r = group_[slot];
        if (r.tokens < sequences_[r.sequence].length) add_row(pass, slot, 0, r.tokens + 1);
      }
      more = !pass.rows.empty();
      add_pass(std::move(pass));
    }
  }

  const std::vector<RolloutSequence>& sequences_;
  const RolloutSpec& spec_;
  const std::function<bool(std::int64_t, std::int64_t)>& same_prefix_;
  RolloutSchedule schedule_;
  std::vector<Running> group_;
  std::vector<std::int64_t> kept_;  // [prefixes] the sequence that prefilled it
  std::int64_t passes_ = 0;
};

}  // namespace

std::int64_t RolloutPass::size() const {
  std::int64_t total = 0;
  for (const PassRow& row : rows) total += row.size();
  return total;
}

RolloutSchedule make_rollout_schedule(const std::vector<RolloutSequence>& sequences, const RolloutSpec& spec,
                                      const std::function<bool(std::int64_t, std::int64_t)>& same_prefix) {
  if (sequences.empty()) return {};
  return ScheduleMaker(sequences, spec, same_prefix).make();
}

}  // namespace meshparity::impl
