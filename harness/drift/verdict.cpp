// From checks and tests to one verdict. The order is the argument: what explains every difference by itself
// (wrong values) comes before what explains where they are large, and that before what only says that they
// are not noise.
#include <algorithm>
#include <cmath>

#include "harness/drift/drift.h"
#include "harness/drift/tests.h"
#include "harness/drift/text.h"

namespace meshparity::drift {
namespace {

const DriftTest* fired(const std::vector<DriftTest>& tests, const std::string& name) {
  for (const DriftTest& test : tests)
    if (test.fired && test.name == name) return &test;
  return nullptr;
}

std::string evidence_of(const DriftTest& test) {
  std::string line = test.name + ": " + test.unit + " " + text("%.3g", test.effect) + " (bound " +
                     text("%.3g", test.effect_bound) + "), p " + text("%.1g", test.p);
  if (test.clusters)
    line += " over " + std::to_string(test.clusters) +
            (test.name == "size" || test.name == "mask" ? " tokens" : " clusters");
  if (test.explained > 0) line += ", explains " + text("%.0f", 100 * test.explained) + " %";
  return test.detail.empty() ? line : line + "; " + test.detail;
}

// How far the effect is beyond its bound, on a scale that ends at 0.97: no statistic alone proves a cause.
double confidence_of(const DriftTest& test, double most = 0.97) {
  const double beyond = test.effect_bound > 0 ? std::abs(test.effect) / test.effect_bound - 1 : 1;
  return most - 0.3 * std::exp(-std::max(0.0, beyond) * 2);
}

DriftVerdict blame(const std::string& cause, const DriftTest& test, const std::string& sentence,
                   const std::string& next, double most = 0.97) {
  return {cause, true, confidence_of(test, most), sentence, {evidence_of(test)}, next};
}

std::string average(const DriftMetrics& metrics) {
  return "|d| averages " + text("%.3g", metrics.mean_abs) + " nats over " + std::to_string(metrics.tokens) +
         " tokens";
}

// What explains most of where |d| is large, be it harmless: a small step for good would pass for growth.
const DriftTest* most_explaining(const std::vector<DriftTest>& tests) {
  const DriftTest* best = nullptr;
  for (const DriftTest& test : tests) {
    const bool place = test.name.rfind("edges of ", 0) == 0 || test.name == "document start" ||
                       test.name == "prompt edge" || test.name == "chunk edges (64)" ||
                       test.name == "growth with position";
    if (place && (test.fired || test.harmless) && (!best || test.explained > best->explained)) best = &test;
  }
  return best;
}

DriftVerdict blame_place(const DriftTest& test, const DriftMetrics& metrics) {
  if (test.name.rfind("edges of ", 0) == 0) {
    const std::string cut = test.name.substr(9);
    const bool zigzag = cut.rfind("zigzag", 0) == 0;
    return blame(
        "layout", test,
        "Layout mismatch: |d| jumps where " + cut + " cuts and fades behind the cuts" +
            (zigzag ? ", but not where the zigzag order is whole: zigzag fed as contiguous, " + cut.substr(7)
                    : ": state or halo not passed between shards, " + cut.substr(11)) +
            "; " + average(metrics) + ".",
        "run the trainer once without context parallelism on the same tokens: |d| must fall to its level in "
        "the first shard");
  }
  if (test.name == "document start")
    return blame("boundary leak", test,
                 "Boundary leak: |d| is large at the start of documents and fades, as when state crosses "
                 "from the document before; " +
                     average(metrics) + ".",
                 "run the same documents one per row: |d| at their starts must fall");
  if (test.name == "prompt edge")
    return blame(
        "cache", test,
        "Cache: |d| is large in the first tokens behind a prompt and fades, as when decoding continues "
        "from a convolution window, state, keys or positions that the prompt did not leave; " +
            average(metrics) + ".",
        "prefill the whole sequence in the sampler: |d| behind the prompt must fall");
  if (test.name == "chunk edges (64)")
    return blame(
        "chunk edges", test,
        "|d| jumps at every 64th token, where the delta rule's chunks meet; " + average(metrics) + ".",
        "run one side with another chunk size: the jumps must move");
  return blame(
      "precision growing with position", test,
      "|d| grows with position, as when a state or its decay is kept in too low a precision; " +
          average(metrics) + ".",
      "keep the delta rule's state and decay in float32 on the side that does not: the growth must vanish",
      0.9);
}

DriftVerdict blame_checks(const std::vector<DriftCheck>& checks) {
  DriftVerdict verdict;
  for (const DriftCheck& check : checks) {
    if (!check.fault) continue;
    verdict.evidence.push_back(check.name + ": " + std::to_string(check.count) + " of " +
                               std::to_string(check.of) +
                               (check.detail.empty() ? "" : " (" + check.detail + ")"));
    if (verdict.fault) continue;
    verdict.fault = true, verdict.confidence = 0.97;
    const bool mask =
        check.name.find("mask") != std::string::npos || check.name.find("fill") != std::string::npos;
    const bool support = check.name.find("support") != std::string::npos;
    verdict.cause = mask ? "mask" : support ? "support" : "unfit dumps";
    verdict.sentence = (mask      ? "Mask: "
                        : support ? "Support: "
                                  : "The dumps do not fit together: ") +
                       check.name + ", " + std::to_string(check.count) + " of " + std::to_string(check.of) +
                       (check.detail.empty() ? "" : " (" + check.detail + ")") + ".";
    verdict.next = mask      ? "compare the two sides' loss masks of the first such sample"
                   : support ? "give the trainer the sampler's top-p and top-k, or the sampler none"
                             : "look at the named sample in both files";
  }
  return verdict;
}

// Nothing fired: how much of what could fire was there to be seen.
DriftVerdict rounding(const DriftMetrics& metrics, const std::vector<DriftTest>& tests,
                      const DriftTest* harmless) {
  DriftVerdict verdict;
  verdict.cause = "rounding";
  std::size_t ran = 0;
  std::string blind;
  for (const DriftTest& test : tests) {
    ran += test.ran;
    if (!test.ran && test.name.rfind("edges", 0) != 0) blind += (blind.empty() ? "" : ", ") + test.name;
  }
  const double seen = static_cast<double>(ran) / static_cast<double>(std::max<std::size_t>(tests.size(), 1));
  verdict.confidence =
      metrics.equal == metrics.tokens ? 0.97 : (metrics.tokens >= 5000 ? 0.9 : 0.6) * (0.5 + 0.5 * seen);
  verdict.sentence = metrics.equal == metrics.tokens
                         ? "No drift: all " + std::to_string(metrics.tokens) + " logprobs are equal."
                         : "Rounding: " + average(metrics) + (harmless ? "; " : ", the same everywhere; ") +
                               "no fault shows. Whether that is normal for your stack "
                               "is unknown without a second run of one side (what others see: "
                               "docs/drift-bands.md).";
  verdict.evidence.push_back(std::to_string(ran) + " of " + std::to_string(tests.size()) +
                             " tests of structure ran, none fired");
  if (harmless) verdict.evidence.push_back(evidence_of(*harmless));
  if (!blind.empty()) verdict.evidence.push_back("could not be tested: " + blind);
  verdict.next = "dump one side twice with other batches: that is your noise";
  return verdict;
}

}  // namespace

DriftVerdict decide(const std::vector<DriftCheck>& checks, const DriftMetrics& metrics,
                    const std::vector<DriftTest>& tests) {
  DriftVerdict verdict = blame_checks(checks);
  if (verdict.fault) return verdict;
  if (const auto* test = fired(tests, "top-p renormalised"))
    return blame(
        "top-p", *test,
        "Top-p: one side's logprobs are renormalised over the tokens that top-p kept, the other's are not: " +
            test->detail + ".",
        "record raw logprobs in the sampler, or give the trainer the same top-p");
  if (const auto* test = fired(tests, "mask"))
    return blame("mask", *test,
                 "Mask: " + text("%.0f", test->effect) +
                     " tokens that count hold exactly 0 on one side only; " + average(metrics) + ".",
                 "compare the loss mask with where the zeros stand");
  if (const auto* test = fired(tests, "token shift"))
    return blame("token shift", *test,
                 "Token shift: " + test->detail + "; " + average(metrics) + " as they stand.",
                 "drop or repeat one slot of one side and judge again");
  if (const auto* test = fired(tests, "experts"))
    return blame(
        "routing", *test,
        "Routing: " + test->detail + ": one side takes the experts of other tokens or of another router.",
        "compare both sides' experts token by token: a constant shift is a replay out of step");
  if (const auto* test = fired(tests, "temperature"))
    return blame(
        "temperature", *test,
        "Temperature: " + test->detail + ": one side's logprobs are taken at another temperature.",
        "divide the trainer's logits by the sampling temperature, or record raw logprobs in the sampler");
  if (const auto* test = fired(tests, "routing"); test && test->explained >= 0.1)
    return blame(
        "routing", *test, "Routing: " + test->detail + ".",
        "replay the rollout's experts in the trainer: |d| must fall to the level of the other tokens");
  const DriftTest* place = most_explaining(tests);
  if (place && place->fired) return blame_place(*place, metrics);
  if (const auto* test = fired(tests, "same token, same sign"))
    return blame("stale weights", *test,
                 "Stale or other weights: differences of a token id agree in sign across samples, as "
                 "rounding's do not; " +
                     average(metrics) + ".",
                 "compare the two weight sets, or dump right after a weight sync", 0.9);
  if (const auto* test = fired(tests, "same sample, same sign"))
    return blame("stale weights", *test,
                 "Stale or other weights: differences agree in sign within a sample, as rounding's do not; " +
                     average(metrics) + ".",
                 "compare the two weight sets, or dump right after a weight sync", 0.75);
  for (const char* name : {"one-sided", "size"})
    if (const auto* test = fired(tests, name))
      return blame("unknown", *test,
                   "Unknown: " +
                       std::string(test->name == "size" ? "the differences are too large for rounding"
                                                        : "one side is higher nearly everywhere") +
                       " and fit no known cause; " + average(metrics) + ".",
                   "dump routes, masks and the whole sequence's logprobs of both sides", 0.9);
  return rounding(metrics, tests, place);
}

}  // namespace meshparity::drift
