// Exchanging the places at which two dtype policies differ, one at a time. See attribution.h.
#include "harness/drift/attribution.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>

namespace meshparity::drift {
namespace {

std::string nats(double x) {
  char buffer[32];
  std::snprintf(buffer, sizeof buffer, "%.3g", x);
  return buffer;
}

std::string attribution_sentence(const Attribution& a) {
  std::string text = a.train + " against " + a.rollout + ": mean difference " + nats(a.drift) + " nats; ";
  if (a.costs.empty())
    return text + "the policies agree at every place, so the engines and not the dtypes make it";
  if (!a.each_place)
    return text + "they differ at " + std::to_string(a.costs.size()) + " places, and with equal dtypes " +
           nats(a.same_policy) + " are left";
  const PlaceCost& first = a.costs.front();
  const char* name = kPlaces[static_cast<std::size_t>(first.place)].name;
  text += std::string(name) + " (" + std::string(dtype_name(first.train)) + " for " +
          std::string(dtype_name(first.rollout)) + ") is the largest of " + std::to_string(a.costs.size()) +
          " choices: exchanged alone it takes away " + nats(first.removed) + " and brings " +
          nats(first.added);
  return text + "; with equal dtypes " + nats(a.same_policy) + " are left";
}

}  // namespace

Attribution attribute(const PrecisionPolicy& train, const PrecisionPolicy& rollout,
                      const std::function<double(const PrecisionPolicy& trainer)>& drift_of,
                      bool each_place) {
  Attribution a;
  a.train = train.name, a.rollout = rollout.name;
  a.drift = drift_of(train);
  a.same_policy = drift_of(rollout);
  for (const PlaceInfo& info : kPlaces) {
    const DType mine = train.at(info.place), theirs = rollout.at(info.place);
    if (mine == theirs) continue;
    if (!each_place) {
      a.costs.push_back({info.place, mine, theirs});
      continue;
    }
    PrecisionPolicy nearer = train, farther = rollout;
    nearer.set(info.place, theirs), farther.set(info.place, mine);
    a.costs.push_back(
        {info.place, mine, theirs, a.drift - drift_of(nearer), drift_of(farther) - a.same_policy});
  }
  std::stable_sort(a.costs.begin(), a.costs.end(), [](const PlaceCost& x, const PlaceCost& y) {
    return x.removed + x.added > y.removed + y.added;
  });
  a.each_place = each_place;
  a.sentence = attribution_sentence(a);
  return a;
}

std::vector<DriftBin> by_position(const std::vector<double>& differences,
                                  const std::vector<std::int64_t>& position) {
  std::map<int, std::vector<double>> bins;
  for (std::size_t i = 0; i < differences.size(); ++i)
    bins[std::ilogb(static_cast<double>(position[i] + 1))].push_back(std::fabs(differences[i]));
  std::vector<DriftBin> out;
  for (auto& [power, values] : bins) {
    DriftBin bin;
    const std::int64_t first = std::int64_t{1} << power;
    bin.label = first == 1 ? "1" : std::to_string(first) + "-" + std::to_string(2 * first - 1);
    bin.tokens = values.size();
    for (const double v : values) bin.mean_abs += v / static_cast<double>(values.size());
    std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2),
                     values.end());
    bin.median_abs = values[values.size() / 2];
    out.push_back(bin);
  }
  return out;
}

}  // namespace meshparity::drift
