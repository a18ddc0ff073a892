#include "harness/drift/metrics.h"

#include <algorithm>
#include <cmath>

namespace meshparity::drift {
namespace {

constexpr std::size_t kWorst = 10;

double correlation(const std::array<double, 5>& m, double n) {
  const double a = m[2] - m[0] * m[0] / n, b = m[3] - m[1] * m[1] / n, ab = m[4] - m[0] * m[1] / n;
  return a > 0 && b > 0 ? std::clamp(ab / std::sqrt(a * b), -1.0, 1.0) : 0;
}

void add_moments(std::array<double, 5>& m, double a, double b) {
  m[0] += a, m[1] += b, m[2] += a * a, m[3] += b * b, m[4] += a * b;
}

}  // namespace

void MagnitudeHistogram::add(double magnitude) {
  if (bins_.empty()) {
    bins_.assign((kHighest - kLowest) * kPerOctave, 0);
    sums_.assign(bins_.size(), 0);
  }
  ++count_;
  if (!(magnitude >= std::ldexp(1.0, kLowest))) {
    ++zeros_;
    return;
  }
  int exponent = 0;
  const double fraction = std::frexp(magnitude, &exponent);  // [1/2, 1)
  const int bin =
      std::min((exponent - 1 - kLowest) * kPerOctave + static_cast<int>((2 * fraction - 1) * kPerOctave),
               static_cast<int>(bins_.size()) - 1);
  ++bins_[static_cast<std::size_t>(bin)];
  sums_[static_cast<std::size_t>(bin)] += magnitude;
}

double MagnitudeHistogram::quantile(double level) const {
  if (count_ == 0) return 0;
  const double wanted = level * static_cast<double>(count_);
  double below = static_cast<double>(zeros_);
  if (below >= wanted) return 0;
  for (std::size_t bin = 0; bin < bins_.size(); ++bin) {
    below += static_cast<double>(bins_[bin]);
    if (below >= wanted) return sums_[bin] / static_cast<double>(bins_[bin]);
  }
  return 0;
}

double MagnitudeHistogram::sum_above_quantile(double level) const {
  double left = (1 - level) * static_cast<double>(count_), sum = 0;
  for (std::size_t bin = bins_.size(); bin-- > 0 && left > 0;) {
    if (bins_[bin] == 0) continue;
    const double taken = std::min(left, static_cast<double>(bins_[bin]));
    sum += taken * sums_[bin] / static_cast<double>(bins_[bin]);
    left -= taken;
  }
  return sum;
}

void MetricsAccumulator::add(const Pair& pair) {
  ++totals_.samples;
  const auto larger = [](const auto& x, const auto& y) { return x.first > y.first; };
  for (std::size_t i = 0; i < pair.train.size(); ++i) {
    const double a = pair.train[i], b = pair.rollout[i], d = a - b, magnitude = std::abs(d);
    // A weight beyond e^30 is no estimate of anything and would hide all others.
    const double weight = std::exp(std::clamp(d, -30.0, 30.0));
    ++totals_.tokens;
    totals_.equal += d == 0, totals_.max_abs = std::max(totals_.max_abs, magnitude);
    sum_abs_ += magnitude, sum_ += d, sum_square_ += d * d,
        sum_k3_ += std::expm1(std::clamp(d, -30.0, 30.0)) - d;
    sum_weight_ += weight, sum_weight_square_ += weight * weight;
    add_moments(logs_, a, b),
        add_moments(probabilities_, std::exp(std::min(a, 0.0)), std::exp(std::min(b, 0.0)));
    magnitudes_.add(magnitude);
    if (worst_.size() == kWorst && magnitude <= worst_.front().first) continue;
    worst_.push_back({magnitude, {pair.name, pair.positions[i], pair.ids.empty() ? -1 : pair.ids[i], a, b}});
    std::push_heap(worst_.begin(), worst_.end(), larger);
    if (worst_.size() > kWorst) std::pop_heap(worst_.begin(), worst_.end(), larger), worst_.pop_back();
  }
}

DriftMetrics MetricsAccumulator::finish() const {
  DriftMetrics m = totals_;
  const double n = static_cast<double>(m.tokens);
  if (m.tokens == 0) return m;
  m.mean_abs = sum_abs_ / n, m.mean = sum_ / n;
  m.k1 = -m.mean, m.k2 = sum_square_ / n / 2, m.k3 = sum_k3_ / n;
  m.mean_ratio = sum_weight_ / n;
  m.chi_square = sum_weight_square_ / n - 1;
  m.effective_samples = sum_weight_ * sum_weight_ / (n * sum_weight_square_);
  m.mean_ratio_error = std::sqrt(std::max(0.0, sum_weight_square_ / n - m.mean_ratio * m.mean_ratio) / n);
  m.perplexity_train = std::exp(-logs_[0] / n), m.perplexity_rollout = std::exp(-logs_[1] / n);
  m.pearson = correlation(logs_, n), m.pearson_probability = correlation(probabilities_, n);
  for (const double level : {0.5, 0.9, 0.99, 0.999, 0.9999})
    m.quantiles.emplace_back(level, magnitudes_.quantile(level));
  m.share_of_worst = sum_abs_ > 0 ? magnitudes_.sum_above_quantile(0.999) / sum_abs_ : 0;
  return m;
}

std::vector<DriftToken> MetricsAccumulator::worst() const {
  auto heap = worst_;
  std::sort(heap.begin(), heap.end(), [](const auto& x, const auto& y) { return x.first > y.first; });
  std::vector<DriftToken> out;
  for (auto& [magnitude, token] : heap) out.push_back(std::move(token));
  return out;
}

}  // namespace meshparity::drift
