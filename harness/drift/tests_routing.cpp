// Whether the two sides' experts differ by more than rounding, and whether |d| is large where they do.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "harness/drift/clusters.h"
#include "harness/drift/contrast.h"
#include "harness/drift/tests.h"
#include "harness/drift/text.h"

namespace meshparity::drift {
namespace {

std::string percent(double share) {
  return text("%.2g %%", 100 * share);
}

}  // namespace

DriftTest test_experts(const KeptTokens& kept) {
  // In bfloat16 about one router choice in ten differs (docs/drift-bands.md), by one expert of several.
  DriftTest test = bounded("experts", "share of the experts that were chosen otherwise", 0.25, 1);
  if (!kept.has_routes) {
    test.detail = "no routes in the dumps";
    return test;
  }
  double sum = 0;
  for (const Token& token : kept.tokens) sum += token.rerouted / 255.0;
  test.ran = !kept.tokens.empty(), test.clusters = kept.tokens.size();
  test.effect = sum / static_cast<double>(std::max<std::size_t>(kept.tokens.size(), 1));
  test.p = 0, test.fired = test.effect >= test.effect_bound;
  test.detail = percent(test.effect) + " of the experts differ, of which rounding moves some percent";
  return test;
}

DriftTest test_routing(const KeptTokens& kept) {
  DriftTest test =
      bounded("routing", "mean rank of |d| where the experts differ, minus where not", kRankEffect);
  if (!kept.has_routes) {
    test.detail = "no routes in the dumps";
    return test;
  }
  // Each sample's difference over its standard deviation under equal tokens: samples with more of both count
  // for more.
  Contrast contrast;
  double all = 0, in_rerouted = 0, count = 0, sum = 0, weights = 0;
  for_each_cluster(kept, [&](std::size_t begin, std::size_t end, const KeptSample&) {
    double with = 0, without = 0, n_with = 0, n_without = 0;
    for (std::size_t i = begin; i < end; ++i) {
      const Token& token = kept.tokens[i];
      const double size = static_cast<double>(std::abs(token.d)), rank = static_cast<double>(token.rank);
      all += size, in_rerouted += token.rerouted ? size : 0;
      (token.rerouted ? with : without) += rank, (token.rerouted ? n_with : n_without) += 1;
    }
    count += n_with;
    if (n_without == 0 || n_with == 0) return;
    const double weight = n_with * n_without / (n_with + n_without);
    const double difference = with / n_with - without / n_without;
    contrast.add(difference * std::sqrt(weight)), sum += difference * weight, weights += weight;
  });
  conclude(test, weights > 0 ? sum / weights : 0, contrast.p(), contrast.count());
  test.fired = test.fired && test.effect > 0;
  test.explained = all > 0 ? in_rerouted / all : 0;
  test.detail = percent(count / static_cast<double>(std::max<std::size_t>(kept.tokens.size(), 1))) +
                " of the tokens chose other experts and carry " + percent(test.explained) +
                " of the sum of |d|";
  return test;
}

}  // namespace meshparity::drift
