// One step of a series: what is kept of its tokens.
#include <algorithm>
#include <cmath>

#include "harness/drift/metrics.h"
#include "harness/drift/series.h"
#include "harness/types/generator.h"

namespace meshparity::drift {
namespace {

constexpr std::size_t kNamed = 8;

std::size_t probability_bin(double train, double rollout) {
  const double p = std::exp((train + rollout) / 2);
  return p < 0.01 ? 0 : p < 0.1 ? 1 : p < 0.5 ? 2 : p < 0.9 ? 3 : p < 0.99 ? 4 : 5;
}

void add_token(DriftSums& to, std::size_t bin, double magnitude) {
  to.sums[bin] += static_cast<float>(magnitude), ++to.tokens[bin];
}

std::uint64_t tokens_of(const DriftSums& sums) {
  std::uint64_t tokens = 0;
  for (const auto count : sums.tokens) tokens += count;
  return tokens;
}

// An even draw of at most kMostKept of what is offered; says where the offered one went, or nowhere.
class Reservoir {
 public:
  explicit Reservoir(std::vector<DriftSums>& kept) : kept_(kept) {}
  std::ptrdiff_t offer(const DriftSums& sums) {
    if (++seen_ <= StepData::kMostKept) {
      kept_.push_back(sums);
      return static_cast<std::ptrdiff_t>(kept_.size()) - 1;
    }
    const std::uint64_t at = mix64(seen_) % seen_;
    if (at >= kept_.size()) return -1;
    kept_[at] = sums;
    return static_cast<std::ptrdiff_t>(at);
  }

 private:
  std::vector<DriftSums>& kept_;
  std::uint64_t seen_ = 0;
};

double mean_of(const DriftSums& sums) {
  double sum = 0;
  for (const float part : sums.sums) sum += static_cast<double>(part);
  return sum / static_cast<double>(std::max<std::uint64_t>(tokens_of(sums), 1));
}

void keep_largest_names(StepData& step, std::vector<std::string>& names) {
  std::vector<std::size_t> order(step.sequences.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  const std::size_t named = std::min(kNamed, order.size());
  std::partial_sort(
      order.begin(), order.begin() + static_cast<std::ptrdiff_t>(named), order.end(),
      [&](std::size_t a, std::size_t b) { return mean_of(step.sequences[a]) > mean_of(step.sequences[b]); });
  for (std::size_t i = 0; i < named; ++i) {
    step.sequences[order[i]].name = static_cast<std::int32_t>(step.names.size());
    step.names.push_back(std::move(names[order[i]]));
  }
}

}  // namespace

StepData read_step(std::int64_t number, const std::string& name, const SampleSource& train,
                   const SampleSource* rollout) {
  StepData step;
  step.number = number, step.name = name;
  MetricsAccumulator metrics;
  Reservoir sequences(step.sequences), blocks(step.blocks);
  std::vector<std::string> names;
  DriftSums block;
  std::size_t in_block = 0;
  for_each_pair(train, rollout, [&](const Pair& pair) {
    metrics.add(pair);
    DriftSums sequence;
    for (std::size_t i = 0; i < pair.train.size(); ++i) {
      const double magnitude = std::abs(pair.train[i] - pair.rollout[i]);
      const std::size_t bin = probability_bin(pair.train[i], pair.rollout[i]);
      add_token(sequence, bin, magnitude), add_token(block, bin, magnitude);
      if (++in_block == StepData::kBlockTokens) blocks.offer(block), block = {}, in_block = 0;
    }
    const std::ptrdiff_t at = sequences.offer(sequence);
    if (at < 0) return;
    names.resize(std::max(names.size(), static_cast<std::size_t>(at) + 1));
    names[static_cast<std::size_t>(at)] = pair.name;
  });
  // What is left over is a block where there are few others.
  if (in_block > 0 && (step.blocks.empty() || in_block >= StepData::kBlockTokens / 2)) blocks.offer(block);
  step.metrics = metrics.finish();
  keep_largest_names(step, names);
  return step;
}

}  // namespace meshparity::drift
