#include "harness/drift/drift.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>

#include "harness/drift/plots.h"
#include "harness/drift/quantile.h"
#include "harness/drift/tests.h"

namespace meshparity::drift {
namespace {

DriftInput input_of(const SampleSource& source, const std::string& side) {
  return {side, source.name(), source.format(), source.notes()};
}

std::string fill_text(double value) {
  char text[64];
  std::snprintf(text, sizeof text, "for example %g", value);
  return text;
}

DriftBin bin_of(const std::string& label, std::vector<float>& sizes) {
  DriftBin bin;
  bin.label = label, bin.tokens = sizes.size();
  if (sizes.empty()) return bin;
  for (const float size : sizes) bin.mean_abs += static_cast<double>(size);
  bin.mean_abs /= static_cast<double>(sizes.size());
  bin.median_abs = quantile(sizes, 0.5);
  return bin;
}

// Bins of |d| by a key in [0, labels.size()); tokens of other keys are in none.
template <class Key>
std::vector<DriftBin> table_by(const KeptTokens& kept, const std::vector<std::string>& labels, Key key) {
  std::vector<std::vector<float>> sizes(labels.size());
  for (const KeptSample& sample : kept.samples)
    for (std::size_t i = sample.begin; i < sample.end; ++i)
      if (const std::size_t bin = key(kept.tokens[i], sample); bin < labels.size())
        sizes[bin].push_back(std::abs(kept.tokens[i].d));
  std::vector<DriftBin> bins;
  for (std::size_t i = 0; i < labels.size(); ++i)
    if (!sizes[i].empty()) bins.push_back(bin_of(labels[i], sizes[i]));
  return bins;
}

}  // namespace

std::vector<std::pair<std::string, std::vector<DriftBin>>> tables_of(const KeptTokens& kept) {
  std::vector<std::pair<std::string, std::vector<DriftBin>>> tables;
  tables.emplace_back(
      "probability",
      table_by(kept, {"p < 0.01", "p < 0.1", "p < 0.5", "p < 0.9", "p < 0.99", "p >= 0.99"},
               [](const Token& t, const KeptSample&) -> std::size_t {
                 const double p = std::exp(static_cast<double>(t.train + t.rollout) / 2);
                 return p < 0.01 ? 0 : p < 0.1 ? 1 : p < 0.5 ? 2 : p < 0.9 ? 3 : p < 0.99 ? 4 : 5;
               }));
  std::vector<std::string> octaves = {"0..15"};
  for (std::int64_t begin = 16; begin < (std::int64_t{1} << 24); begin *= 2)
    octaves.push_back(std::to_string(begin) + ".." + std::to_string(2 * begin - 1));
  tables.emplace_back("position in the document",
                      table_by(kept, octaves, [](const Token& t, const KeptSample&) -> std::size_t {
                        std::size_t octave = 0;
                        for (std::int64_t p = t.position; p >= 16; p /= 2) ++octave;
                        return octave;
                      }));
  std::vector<std::string> eighths;
  for (int i = 0; i < 8; ++i) eighths.push_back(std::to_string(i) + "/8.." + std::to_string(i + 1) + "/8");
  tables.emplace_back("share of the document",
                      table_by(kept, eighths, [](const Token& t, const KeptSample& s) -> std::size_t {
                        return s.document_tokens > 0 ? static_cast<std::size_t>(8 * std::int64_t{t.position} /
                                                                                s.document_tokens)
                                                     : 8;
                      }));
  std::vector<std::string> offsets;
  for (int i = 0; i < 8; ++i) offsets.push_back(std::to_string(8 * i) + ".." + std::to_string(8 * i + 7));
  tables.emplace_back("place in a chunk of 64",
                      table_by(kept, offsets, [](const Token& t, const KeptSample&) -> std::size_t {
                        return static_cast<std::size_t>(t.position % 64 / 8);
                      }));
  if (kept.has_routes)
    tables.emplace_back(
        "routing", table_by(kept, {"same experts", "other experts"},
                            [](const Token& t, const KeptSample&) -> std::size_t { return t.rerouted > 0; }));
  return tables;
}

std::vector<DriftCheck> checks_of(const PairingCounts& c, const DriftMetrics& metrics) {
  std::vector<DriftCheck> checks;
  const auto add = [&](const std::string& name, std::uint64_t count, std::uint64_t of,
                       const std::string& detail, bool fault) {
    if (count > 0) checks.push_back({name, count, of, detail, fault});
  };
  add("samples without a counterpart", c.unmatched, c.samples_train, "", c.unmatched * 2 > c.samples_train);
  add("samples whose lengths do not fit", c.wrong_lengths, c.samples_train, c.wrong_example, true);
  add("samples paired without token ids", c.without_ids, c.paired, "in the order of the files", false);
  add("samples aligned at another slot", c.offset_samples, c.paired,
      "prompt or padding on one side: slot t of train is slot t" +
          std::string(c.offset_example > 0 ? "+" : "") + std::to_string(c.offset_example) +
          " of rollout in one of them",
      false);
  add("slots with other tokens", c.other_tokens, c.tokens + c.other_tokens, "left out",
      c.other_tokens * 100 > c.tokens);
  add("slots masked", c.masked, c.tokens + c.masked, "", false);
  add("slots where the masks differ", c.mask_differs, c.mask_union, "only what both count is compared",
      c.mask_differs * 100 > c.mask_union);
  add("zeros trimmed at the ends", c.trimmed, c.tokens + c.trimmed,
      "no mask in the files: taken as prompt and padding", false);
  add("constant fills in train", c.fill_train, c.tokens, fill_text(c.fill_value), true);
  add("constant fills in rollout", c.fill_rollout, c.tokens, fill_text(c.fill_value), true);
  add("tokens outside train's support", c.minus_infinite_train, c.tokens,
      "-infinity: the trainer's top-p or top-k excludes what was sampled", true);
  add("tokens outside the sampler's support", c.minus_infinite_rollout, c.tokens, "-infinity", true);
  add("positive logprobs", c.positive, c.tokens,
      c.very_positive ? std::to_string(c.very_positive) + " of them above 0.05: not logprobs" : "by rounding",
      c.very_positive > 0);
  add("duplicated samples", c.duplicates, c.paired, "same tokens and logprobs, counted once each time",
      false);
  add("tokens that are equal", metrics.equal, metrics.tokens,
      metrics.equal == metrics.tokens ? "every one: is one file a copy of the other?" : "", false);
  return checks;
}

std::vector<DriftTest> run_tests(const KeptTokens& kept) {
  std::vector<DriftTest> tests = {test_shift(kept),       test_top_p(kept),   test_fill(kept),
                                  test_temperature(kept), test_experts(kept), test_routing(kept)};
  for (DriftTest& test : test_edges(kept)) tests.push_back(std::move(test));
  for (auto* test : {test_start, test_prompt_edge, test_chunk, test_growth, test_same_token, test_same_sample,
                     test_one_sided, test_size})
    tests.push_back(test(kept));
  return tests;
}

DriftResult analyse(const SampleSource& train, const SampleSource* rollout) {
  const auto start = std::chrono::steady_clock::now();
  DriftResult result;
  result.inputs.push_back(input_of(train, rollout ? "train" : "both"));
  if (rollout) result.inputs.push_back(input_of(*rollout, "rollout"));
  MetricsAccumulator metrics;
  KeptTokens kept;
  const PairingCounts counts = for_each_pair(train, rollout, [&](const Pair& pair) {
    metrics.add(pair);
    kept.add(pair);
  });
  kept.rank();
  result.samples_train = counts.samples_train, result.samples_rollout = counts.samples_rollout;
  result.samples_paired = counts.paired, result.tokens_tested = kept.tokens.size();
  result.metrics = metrics.finish(), result.worst = metrics.worst();
  result.checks = checks_of(counts, result.metrics);
  result.tables = tables_of(kept), result.plots = plots_of(kept), result.tests = run_tests(kept);
  result.verdict = decide(result.checks, result.metrics, result.tests);
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

}  // namespace meshparity::drift
