// Tests of the values themselves: what a wrong sampler setting, a shift, a fill or other weights do to them.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <utility>

#include "harness/drift/agreement.h"
#include "harness/drift/contrast.h"
#include "harness/drift/quantile.h"
#include "harness/drift/tests.h"

namespace meshparity::drift {
namespace {

// Samples are the clusters; where there are few, blocks of so many tokens.
constexpr std::size_t kBlock = 512;

template <class Each>
void for_each_cluster(const KeptTokens& kept, Each each) {
  const bool blocks = kept.samples.size() < 16;
  for (const KeptSample& sample : kept.samples)
    for (std::size_t begin = sample.begin; begin < sample.end;) {
      const std::size_t end = blocks ? std::min(begin + kBlock, sample.end) : sample.end;
      each(begin, end, sample);
      begin = end;
    }
}

std::string number(const char* format, double value) {
  char text[64];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

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

DriftTest test_top_p(const KeptTokens& kept) {
  DriftTest test = bounded("top-p renormalised", "share of large differences on one side", 0.98);
  std::vector<float> sizes;
  for (const Token& token : kept.tokens) sizes.push_back(std::abs(token.d));
  const double q95 = quantile(sizes, 0.95), q999 = quantile(sizes, 0.999), cut = 0.3 * q95;
  if (q95 <= 0) {
    test.detail = "the two sides are equal";
    return test;
  }
  double below = 0, above = 0, certain_rollout = 0, certain_train = 0;
  for (const Token& token : kept.tokens) {
    if (std::abs(token.d) < cut) continue;
    (token.d < 0 ? below : above) += 1;
    certain_rollout +=
        token.rollout > -1e-5 && token.d<0, certain_train += token.train> - 1e-5 && token.d > 0;
  }
  const double large = below + above, share = std::max(below, above) / std::max(large, 1.0);
  // Under symmetric noise a share this high has probability 2 exp(-2 n (share - 1/2)^2) at most (Hoeffding).
  conclude(test, share, std::min(1.0, 2 * std::exp(-2 * large * (share - 0.5) * (share - 0.5))),
           static_cast<std::uint64_t>(large));
  const double certain = below > above ? certain_rollout : certain_train;
  // The mass that was kept bounds the difference: no tail. Certain tokens (the kept set is one token) are
  // exactly 0.
  const bool bounded = q999 <= 0.75 && q999 <= 4 * q95, saturated = certain >= 30 && certain >= 0.05 * large;
  test.fired = test.fired && bounded && saturated;
  test.detail = std::string(below > above ? "rollout" : "train") + " is higher by at most " +
                number("%.3g", q999) + " (top-p near " + number("%.2f", std::exp(-q999)) +
                "), and exactly 0 for " + number("%.0f", certain) + " tokens where the other is not";
  return test;
}

DriftTest test_fill(const KeptTokens& kept) {
  DriftTest test = bounded("mask", "tokens with exactly 0 on one side and below -0.5 on the other", 4, 1);
  double train = 0, rollout = 0;
  for (const Token& token : kept.tokens) {
    train += token.train == 0 && token.rollout < -0.5f;
    rollout += token.rollout == 0 && token.train < -0.5f;
  }
  // No rounding turns a probability below 0.61 into exactly 1: one such token is no accident, four are a
  // pattern.
  test.effect = train + rollout, test.p = test.effect > 0 ? 0 : 1, test.ran = true,
  test.clusters = kept.tokens.size();
  test.fired = test.effect >= test.effect_bound;
  test.detail =
      "zeros in " + std::string(train > rollout ? "train" : "rollout") + " logprobs where tokens count";
  return test;
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
  test.detail = "train's log-odds are " + number("%.3f", scale) + " times rollout's, which explains " +
                number("%.0f", 100 * test.explained) + " % of the differences";
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
                           "correlation of d between occurrences of a token id in different samples", 0.02);
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

DriftTest test_routing(const KeptTokens& kept) {
  DriftTest test =
      bounded("routing", "mean rank of |d| where the experts differ, minus where not", kRankEffect);
  if (!kept.has_routes) {
    test.detail = "no routes in the dumps";
    return test;
  }
  Contrast contrast;
  double all = 0, in_rerouted = 0;
  std::size_t count = 0;
  for_each_cluster(kept, [&](std::size_t begin, std::size_t end, const KeptSample&) {
    double with = 0, without = 0, n_with = 0, n_without = 0;
    for (std::size_t i = begin; i < end; ++i) {
      const Token& t = kept.tokens[i];
      all += static_cast<double>(std::abs(t.d)),
          in_rerouted += t.rerouted ? static_cast<double>(std::abs(t.d)) : 0, count += t.rerouted;
      (t.rerouted ? with : without) += static_cast<double>(t.rank), (t.rerouted ? n_with : n_without) += 1;
    }
    if (n_with > 0 && n_without > 0) contrast.add(with / n_with - without / n_without);
  });
  conclude(test, contrast.mean(), contrast.p(), contrast.count());
  test.fired = test.fired && test.effect > 0;
  test.explained = all > 0 ? in_rerouted / all : 0;
  test.detail = number("%.2f", 100 * static_cast<double>(count) /
                                   static_cast<double>(std::max<std::size_t>(kept.tokens.size(), 1))) +
                " % of the tokens chose other experts and carry " + number("%.0f", 100 * test.explained) +
                " % of the sum of |d|";
  return test;
}

}  // namespace meshparity::drift
