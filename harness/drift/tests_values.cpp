// Tests of the values themselves: what a wrong sampler setting, a shift, a fill or other weights do to them.
#include <algorithm>
#include <cmath>
#include <utility>

#include "harness/drift/agreement.h"
#include "harness/drift/clusters.h"
#include "harness/drift/contrast.h"
#include "harness/drift/quantile.h"
#include "harness/drift/tests.h"
#include "harness/drift/text.h"

namespace meshparity::drift {
namespace {

// log(p / (1 - p)) of a logprob.
double logit(double logprob) {
  return logprob - std::log(-std::expm1(logprob));
}

}  // namespace

DriftTest bounded(std::string name, std::string unit, double effect_bound, double p_bound) {
  DriftTest test;
  test.name = std::move(name), test.unit = std::move(unit);
  test.effect_bound = effect_bound, test.p_bound = p_bound;
  return test;
}

void conclude(DriftTest& test, double effect, double p, std::uint64_t clusters) {
  test.effect = effect, test.p = p, test.clusters = clusters;
  test.ran = clusters >= Contrast::kFewest;
  if (!test.ran && test.detail.empty()) test.detail = "too little data";
  test.fired = test.ran && std::abs(effect) >= test.effect_bound && p <= test.p_bound;
}

DriftTest test_shift(const KeptTokens& kept) {
  DriftTest best = bounded("token shift", "share of tokens nearer to a neighbour, minus 1/2", 0.25);
  for (const int lag : {-2, -1, 1, 2}) {
    Contrast contrast;
    for_each_cluster(kept, [&](std::size_t begin, std::size_t end, const KeptSample& sample) {
      double nearer = 0, total = 0;
      for (std::size_t i = begin; i < end; ++i) {
        const auto j = static_cast<std::ptrdiff_t>(i) + lag;
        if (j < static_cast<std::ptrdiff_t>(sample.begin) || j >= static_cast<std::ptrdiff_t>(sample.end))
          continue;
        const float here = std::abs(kept.tokens[i].d),
                    there = std::abs(kept.tokens[i].train - kept.tokens[static_cast<std::size_t>(j)].rollout);
        if (here != there) nearer += there < here, total += 1;
      }
      if (total >= 4) contrast.add(nearer / total - 0.5);
    });
    DriftTest test = best;
    conclude(test, contrast.mean(), contrast.p(), contrast.count());
    if (test.effect < 0) test.fired = false;
    test.detail =
        "train's slot t fits rollout's slot t" + std::string(lag > 0 ? "+" : "") + std::to_string(lag);
    if (!best.ran || test.effect > best.effect) best = test;
  }
  return best;
}

DriftTest test_temperature(const KeptTokens& kept) {
  DriftTest test = bounded("temperature", "slope of the log-odds' difference over their mean", 0.02);
  const auto usable = [](const Token& t) {
    return std::max(t.train, t.rollout) < -1e-4f && std::min(t.train, t.rollout) > -12.f;
  };
  double n = 0, sum_m = 0, sum_d = 0;
  for (const Token& t : kept.tokens)
    if (usable(t)) {
      const double a = logit(static_cast<double>(t.train)), b = logit(static_cast<double>(t.rollout));
      n += 1, sum_m += (a + b) / 2, sum_d += std::clamp(a - b, -3.0, 3.0);
    }
  if (n < 100) {
    test.detail = "too little data";
    return test;
  }
  const double mean_m = sum_m / n, mean_d = sum_d / n;
  Contrast slopes;
  double md = 0, mm = 0, dd = 0;
  // One value per cluster: its covariance over the mean variance, so that the mean is the slope over all
  // tokens.
  std::vector<std::pair<double, double>> parts;
  for_each_cluster(kept, [&](std::size_t begin, std::size_t end, const KeptSample&) {
    double part_md = 0, part_mm = 0;
    for (std::size_t i = begin; i < end; ++i) {
      const Token& t = kept.tokens[i];
      if (!usable(t)) continue;
      const double a = logit(static_cast<double>(t.train)), b = logit(static_cast<double>(t.rollout));
      const double m = (a + b) / 2 - mean_m, d = std::clamp(a - b, -3.0, 3.0) - mean_d;
      part_md += m * d, part_mm += m * m, dd += d * d;
    }
    md += part_md, mm += part_mm;
    parts.emplace_back(part_md, part_mm);
  });
  if (mm <= 0 || dd <= 0) {
    test.detail = dd > 0 ? "too little data" : "the two sides are equal";
    return test;
  }
  for (const auto& [part_md, part_mm] : parts) slopes.add(part_md * static_cast<double>(parts.size()) / mm);
  conclude(test, md / mm, slopes.p(), slopes.count());
  test.explained = md * md / (mm * dd);
  // Other weights give differences that do not depend on the mean (equal variances); a temperature explains
  // them.
  test.fired = test.fired && test.explained >= 0.3;
  const double scale = (1 + test.effect / 2) / (1 - test.effect / 2);
  test.detail = "train's log-odds are " + text("%.3f", scale) + " times rollout's, which explains " +
                text("%.0f", 100 * test.explained) + " % of the differences";
  return test;
}

DriftTest test_one_sided(const KeptTokens& kept) {
  DriftTest test = bounded("one-sided", "share of positive differences minus 1/2", 0.2);
  Contrast contrast;
  for_each_cluster(kept, [&](std::size_t begin, std::size_t end, const KeptSample&) {
    double positive = 0, total = 0;
    for (std::size_t i = begin; i < end; ++i)
      if (kept.tokens[i].d != 0) positive += kept.tokens[i].d > 0, total += 1;
    if (total >= 4) contrast.add(positive / total - 0.5);
  });
  conclude(test, contrast.mean(), contrast.p(), contrast.count());
  return test;
}

DriftTest test_size(const KeptTokens& kept) {
  // 0.25 = two logits of magnitude up to 64, each rounded once to bfloat16 (half an ulp: 0.125).
  DriftTest test = bounded("size", "median |d| of tokens below -0.1", 0.25, 1);
  test.p = 0;
  std::vector<float> sizes;
  for (const Token& token : kept.tokens)
    if (token.train + token.rollout < -0.2f) sizes.push_back(std::abs(token.d));
  if (sizes.size() < 32) {
    test.detail = "too little data";
    return test;
  }
  test.effect = quantile(sizes, 0.5), test.ran = true, test.clusters = sizes.size();
  test.fired = test.effect > test.effect_bound;
  test.detail = "no rounding of logits to bfloat16 differs by more";
  return test;
}

DriftTest test_same_token(const KeptTokens& kept) {
  DriftTest test = bounded("same token, same sign",
                           "correlation of d between occurrences of a token id in different samples", 0.002);
  if (!kept.has_ids) {
    test.detail = "no token ids";
    return test;
  }
  TokenAgreement agreement;
  std::vector<std::pair<std::uint32_t, float>> ranks;
  for (const KeptSample& sample : kept.samples) {
    ranks.clear();
    double mean = 0;
    for (std::size_t i = sample.begin; i < sample.end; ++i) {
      ranks.emplace_back(kept.tokens[i].id, kept.tokens[i].signed_rank);
      mean += static_cast<double>(kept.tokens[i].signed_rank);
    }
    mean /= static_cast<double>(std::max<std::size_t>(ranks.size(), 1));
    std::sort(ranks.begin(), ranks.end());
    for (std::size_t i = 0; i < ranks.size();) {
      double sum = 0, count = 0;
      const std::uint32_t id = ranks[i].first;
      // What a whole sample has in common is another test.
      for (; i < ranks.size() && ranks[i].first == id; ++i)
        sum += static_cast<double>(ranks[i].second) - mean, count += 1;
      agreement.add(id, sum, count);
    }
  }
  agreement.conclude(test);
  return test;
}

DriftTest test_same_sample(const KeptTokens& kept) {
  // Rounding is correlated between neighbours at most: 37 tokens apart it is not, and 37 divides no chunk.
  constexpr std::size_t kApart = 37;
  DriftTest test = bounded("same sample, same sign", "correlation of d 37 tokens apart", 0.02);
  Contrast contrast;
  for_each_cluster(kept, [&](std::size_t begin, std::size_t end, const KeptSample&) {
    double sum = 0, count = 0;
    for (std::size_t i = begin; i + kApart < end; ++i)
      sum += 12.0 * static_cast<double>(kept.tokens[i].signed_rank) *
             static_cast<double>(kept.tokens[i + kApart].signed_rank),
          count += 1;
    if (count >= 16) contrast.add(sum / count);
  });
  conclude(test, contrast.mean(), contrast.p(), contrast.count());
  test.fired = test.fired && test.effect > 0;
  return test;
}

}  // namespace meshparity::drift
