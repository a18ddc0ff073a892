#include "harness/drift/synthetic_series.h"

#include <algorithm>
#include <cmath>

#include "harness/types/generator.h"

namespace meshparity::drift {
namespace {

class SeriesDraws {
 public:
  SeriesDraws(std::uint64_t seed, const std::string& name) : generator_(seed, name) {}
  double uniform() { return generator_.uniform(next_++); }
  double uniform(double low, double high) { return low + (high - low) * uniform(); }
  double log_uniform(double low, double high) { return low * std::pow(high / low, uniform()); }
  std::size_t below(std::size_t n) { return static_cast<std::size_t>(uniform() * static_cast<double>(n)); }
  double exponential() { return -std::log(uniform()); }
  double normal() {
    const double radius = std::sqrt(-2 * std::log(uniform()));
    return radius * std::cos(6.283185307179586 * uniform());
  }
  // Student's t with three degrees of freedom.
  double student() {
    const double a = normal(), b = normal(), c = normal();
    return normal() / std::sqrt((a * a + b * b + c * c) / 3);
  }

 private:
  Generator generator_;
  std::uint64_t next_ = 0;
};

struct SeriesRecipe {
  bool student = false, sample_scale = false, entropy = false;
  double correlation = 0, step_deviation = 0, scale = 0.01;
  std::vector<double> times;        // of every step's differences
  std::vector<std::size_t> spikes;  // sequences of each step that carry twice the others' sum or more
  std::size_t samples = 40;
};

LogprobSample series_sample(const SeriesRecipe& r, SeriesDraws& draws, double scale, double easy,
                            std::size_t length, std::size_t number) {
  LogprobSample sample;
  sample.name = "sequence " + std::to_string(number);
  if (r.sample_scale) scale *= std::exp(0.7 * draws.normal());
  for (std::size_t i = 0; i < length; ++i) {
    // Half of the tokens are all but certain, as in text; what is certain hardly differs.
    const double logprob = -(draws.uniform() < easy ? 0.01 : 1.5) * draws.exponential();
    const double noise = r.student ? draws.student() : draws.normal();
    const double d = scale * noise * -std::expm1(logprob);
    sample.rollout.logprobs.push_back(logprob), sample.train.logprobs.push_back(logprob + d);
    sample.rollout.ids.push_back(static_cast<std::int64_t>(draws.below(5000)));
  }
  sample.train.ids = sample.rollout.ids;
  for (LogprobSide* side : {&sample.train, &sample.rollout})
    side->document_tokens = static_cast<std::int64_t>(length), side->mask.assign(length, 1),
    side->has_mask = true;
  return sample;
}

std::vector<std::shared_ptr<MemorySource>> series_steps(const SeriesRecipe& r, SeriesDraws& draws) {
  std::vector<std::shared_ptr<MemorySource>> steps;
  double wander = 0;
  for (std::size_t t = 0; t < r.times.size(); ++t) {
    const double share = static_cast<double>(t) / static_cast<double>(r.times.size());
    wander = r.correlation * wander + std::sqrt(1 - r.correlation * r.correlation) * draws.normal();
    const double scale = r.scale * r.times[t] * std::exp(r.step_deviation * wander);
    // A policy that grows less certain and answers longer: more drift, none of it a fault.
    const double easy = r.entropy ? 0.8 - 0.6 * share : 0.5, lengthening = r.entropy ? 1 + 2 * share : 1;
    std::vector<LogprobSample> samples;
    for (std::size_t i = 0; i < r.samples; ++i) {
      const auto length = static_cast<std::size_t>(lengthening * draws.uniform(30, 150));
      const bool spike = i < r.spikes[t];
      samples.push_back(series_sample(
          r, draws, scale * (spike ? static_cast<double>(r.samples) * draws.log_uniform(2, 8) : 1), easy,
          length, i));
    }
    steps.push_back(std::make_shared<MemorySource>("step " + std::to_string(t + 1), std::move(samples)));
  }
  return steps;
}

}  // namespace

std::vector<std::string> series_kinds(bool flat) {
  if (flat)
    return {"flat-gaussian", "flat-student-t", "flat-sample-scale", "flat-entropy", "flat-correlated"};
  return {"jump", "growth", "steps-apart", "spikes"};
}

SyntheticSeries make_series(const std::string& kind, std::uint64_t seed) {
  SeriesDraws draws(seed, "drift.series." + kind);
  SyntheticSeries series;
  series.kind = kind;
  SeriesRecipe r;
  const std::size_t steps = 12 + draws.below(40);
  r.times.assign(steps, 1), r.spikes.assign(steps, 0);
  r.samples = 24 + draws.below(40), r.scale = draws.log_uniform(0.001, 0.05);
  r.step_deviation = draws.uniform(0, 0.06);
  const bool flat = kind.rfind("flat", 0) == 0;
  const std::size_t noise = draws.below(4);
  r.student = flat ? kind == "flat-student-t" : noise == 1;
  r.sample_scale = flat ? kind == "flat-sample-scale" : noise == 2;
  r.entropy = kind == "flat-entropy";
  r.correlation = kind == "flat-correlated" || noise == 3 ? 0.6 : 0;
  series.cause = flat ? "flat" : kind == "steps-apart" ? "steps apart" : kind;
  const double times = draws.log_uniform(1.5, 6);
  const std::size_t at = 3 + draws.below(steps - 6);
  series.bad = flat ? 0 : static_cast<std::int64_t>(at) + 1;
  for (std::size_t t = 0; t < steps; ++t) {
    if (kind == "jump" && t >= at) r.times[t] = times;
    // Weights that stay behind add to the noise in quadrature.
    const double share = static_cast<double>(t) / static_cast<double>(steps - 1);
    if (kind == "growth") r.times[t] = std::sqrt(1 + (times * times - 1) * share * share);
    if (kind == "growth" && r.times[t] < 1.25) series.bad = static_cast<std::int64_t>(t) + 2;
  }
  if (kind == "growth") series.within = static_cast<std::int64_t>(steps) / 2;
  if (kind == "steps-apart" || kind == "spikes")
    for (std::size_t t = at; t < steps && t < at + 1 + seed % 3 * 4; t += 4) {
      if (kind == "spikes")
        r.spikes[t] = 1 + draws.below(2);
      else
        r.times[t] = draws.log_uniform(2, 8);
    }
  series.steps = series_steps(r, draws);
  return series;
}

}  // namespace meshparity::drift
