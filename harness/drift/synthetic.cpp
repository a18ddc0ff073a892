#include "harness/drift/synthetic.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "harness/types/generator.h"

namespace meshparity::drift {

class MemorySource::Batch : public SampleBatch {
 public:
  explicit Batch(std::shared_ptr<const MemorySource> source) : source_(std::move(source)) {}
  std::size_t size() const override { return source_->samples_.size(); }
  LogprobSample sample(std::size_t index) const override { return source_->samples_.at(index); }

 private:
  std::shared_ptr<const MemorySource> source_;
};

std::shared_ptr<const SampleBatch> MemorySource::load(std::size_t) const {
  return std::make_shared<Batch>(shared_from_this());
}

namespace {

constexpr std::size_t kCandidates = 16, kVocabulary = 400;

// Draws in order; a stream, unlike Generator.
class Stream {
 public:
  Stream(std::uint64_t seed, const std::string& name) : generator_(seed, name) {}
  double uniform() { return generator_.uniform(next_++); }
  double uniform(double low, double high) { return low + (high - low) * uniform(); }
  double log_uniform(double low, double high) { return low * std::pow(high / low, uniform()); }
  // Box and Muller's pairs, one after the other.
  double normal() {
    if (has_spare_) {
      has_spare_ = false;
      return spare_;
    }
    const double radius = std::sqrt(-2 * std::log(uniform())), angle = 6.283185307179586 * uniform();
    has_spare_ = true, spare_ = radius * std::sin(angle);
    return radius * std::cos(angle);
  }
  std::size_t below(std::size_t n) { return static_cast<std::size_t>(uniform() * static_cast<double>(n)); }
  // Student's t with three degrees of freedom: finite variance, no fourth moment.
  double student() {
    double sum = 0;
    for (int i = 0; i < 3; ++i) {
      const double x = normal();
      sum += x * x;
    }
    return normal() / std::sqrt(sum / 3);
  }

 private:
  Generator generator_;
  std::uint64_t next_ = 0;
  double spare_ = 0;
  bool has_spare_ = false;
};

enum class Noise { gaussian, student, laplace, bursts, correlated, sample_scale, stored_bfloat16, none };

struct Recipe {
  Noise noise = Noise::gaussian;
  double scale = 0.01;  // of the noise of a logit, per side
  double temperature = 1, top_p = 1, stale = 0, amplitude = 0;
  bool train_side = false;  // which side the sampler setting is missing or present on
  int shift = 0, cp = 0;
  bool zigzag = false, leak = false, growth = false, chunk = false, cache = false, routing = false,
       mask = false, fill = false;
};

float as_bfloat16(double value) {
  float f = static_cast<float>(value);
  std::uint32_t bits;
  std::memcpy(&bits, &f, sizeof bits);
  bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u;
  std::memcpy(&f, &bits, sizeof f);
  return f;
}

double draw_noise(Noise noise, Stream& stream) {
  switch (noise) {
    case Noise::student:
      return stream.student();
    case Noise::laplace:
      return (stream.uniform() < 0.5 ? -1 : 1) * -std::log(stream.uniform()) / 1.4142;
    case Noise::none:
      return 0;
    default:
      return stream.normal();
  }
}

double log_sum_exp(const std::vector<double>& logits, double temperature) {
  const double most = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const double l : logits) sum += std::exp((l - most) / temperature);
  return most / temperature + std::log(sum);
}

// Which candidates top-p keeps, and the logarithm of their mass.
double kept_mass(const std::vector<double>& logprobs, double top_p, std::vector<char>& keep) {
  std::vector<std::size_t> order(logprobs.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::sort(order.begin(), order.end(),
            [&](std::size_t a, std::size_t b) { return logprobs[a] > logprobs[b]; });
  double mass = 0;
  keep.assign(order.size(), 0);
  for (const std::size_t i : order) {
    if (mass >= top_p) break;
    keep[i] = 1, mass += std::exp(logprobs[i]);
  }
  return std::log(mass);
}

// By how much the fault multiplies the noise of the trainer at a place.
double growth_of(const Recipe& r, std::int64_t place, std::int64_t prompt, std::int64_t length,
                 bool first_in_row) {
  if (r.cache) return 1 + 4 * r.amplitude * std::exp(-static_cast<double>(place - prompt) / 24);
  if (r.growth) return 1 + r.amplitude * static_cast<double>(place) / 200;
  if (r.leak) return first_in_row ? 1 : 1 + 4 * r.amplitude * std::exp(-static_cast<double>(place) / 24);
  if (r.chunk) return place < 64 ? 1 : 1 + 2 * r.amplitude * std::exp(-static_cast<double>(place % 64) / 12);
  if (r.cp == 0) return 1;
  const std::int64_t pieces = r.zigzag ? 2 * r.cp : r.cp;
  const std::int64_t chunk = (length + pieces - 1) / pieces;
  std::int64_t last = -1;
  for (std::int64_t k = 1; k < pieces; ++k) {
    const std::int64_t edge = r.zigzag ? k * chunk : k * length / pieces;
    if (place >= edge && (!r.zigzag || k != r.cp)) last = edge;
  }
  return last < 0 ? 1 : 1 + r.amplitude * (0.3 + 4 * std::exp(-static_cast<double>(place - last) / 20));
}

class Maker {
 public:
  Maker(const Recipe& recipe, Stream& stream) : r_(recipe), stream_(stream), drift_(kVocabulary) {
    for (double& d : drift_) d = stream.normal();
  }

  LogprobSample sample(std::size_t number) {
    LogprobSample sample;
    sample.name = "sample " + std::to_string(number);
    std::int64_t prompt =
        stream_.uniform() < 0.5 || r_.leak ? 0 : static_cast<std::int64_t>(stream_.below(40));
    if (r_.cache) prompt += 4;
    const std::int64_t length = 160 + static_cast<std::int64_t>(stream_.below(500));
    if (r_.leak) sample.document_in_row = static_cast<std::int64_t>(number % 4);
    sample_scale_ = r_.noise == Noise::sample_scale ? std::exp(stream_.normal()) : 1;
    noise_train_.assign(kCandidates, 0), noise_rollout_.assign(kCandidates, 0);
    for (std::int64_t place = prompt; place < length; ++place) token(sample, place, prompt, length);
    for (LogprobSide* side : {&sample.train, &sample.rollout})
      side->first = prompt, side->document_tokens = length, side->mask.assign(side->logprobs.size(), 1),
      side->has_mask = true;
    sample.train.ids = sample.rollout.ids;
    if (r_.routing) sample.train.route_width = sample.rollout.route_width = 2;
    spoil(sample);
    return sample;
  }

 private:
  void advance(std::vector<double>& noise) {
    const double burst = r_.noise == Noise::bursts && stream_.uniform() < 0.01 ? 20 : 1;
    for (double& n : noise) {
      const double fresh = draw_noise(r_.noise, stream_);
      n = r_.noise == Noise::correlated ? 0.7 * n + 0.714 * fresh : fresh * burst;
    }
  }

  void token(LogprobSample& sample, std::int64_t place, std::int64_t prompt, std::int64_t length) {
    // Half of the tokens are easy, as in text: one candidate stands out.
    std::vector<double> logits(kCandidates), train(kCandidates), rollout(kCandidates);
    std::vector<std::size_t> ids(kCandidates);
    for (std::size_t k = 0; k < kCandidates; ++k) {
      logits[k] = 2 * stream_.normal();
      const double u = stream_.uniform();
      ids[k] = static_cast<std::size_t>(u * u * u * kVocabulary);  // a few ids are frequent
    }
    if (stream_.uniform() < 0.5) logits[0] += stream_.uniform(4, 12);
    advance(noise_train_), advance(noise_rollout_);
    const bool rerouted = r_.routing && stream_.uniform() < 0.05;
    const double times =
        growth_of(r_, place, prompt, length, sample.document_in_row == 0) * (rerouted ? r_.amplitude * 8 : 1);
    for (std::size_t k = 0; k < kCandidates; ++k) {
      rollout[k] = logits[k] + r_.scale * sample_scale_ * noise_rollout_[k];
      train[k] = logits[k] + r_.scale * sample_scale_ * times * noise_train_[k];
      // Other weights move a token's logit the same way everywhere, and each place a little its own way.
      if (r_.stale > 0) train[k] += r_.stale * (drift_[ids[k]] + 0.7 * stream_.normal());
    }
    std::vector<double> a(kCandidates), b(kCandidates), drawn(kCandidates);
    const double sum_train = log_sum_exp(train, 1), sum_rollout = log_sum_exp(rollout, 1);
    const double sum_hot_train = log_sum_exp(train, r_.temperature),
                 sum_hot_rollout = log_sum_exp(rollout, r_.temperature);
    for (std::size_t k = 0; k < kCandidates; ++k) {
      a[k] = r_.train_side ? train[k] / r_.temperature - sum_hot_train : train[k] - sum_train;
      b[k] = r_.train_side ? rollout[k] - sum_rollout : rollout[k] / r_.temperature - sum_hot_rollout;
      drawn[k] = rollout[k] / r_.temperature - sum_hot_rollout;
    }
    std::vector<char> keep(kCandidates, 1);
    if (r_.top_p < 1) {
      const double mass = kept_mass(drawn, r_.top_p, keep);
      for (double& value : b) value -= mass;
    }
    std::size_t chosen = 0;
    double left = stream_.uniform(), total = 0;
    for (std::size_t k = 0; k < kCandidates; ++k) total += keep[k] ? std::exp(drawn[k]) : 0;
    for (std::size_t k = 0; k < kCandidates; ++k) {
      if (!keep[k]) continue;
      chosen = k;
      if ((left -= std::exp(drawn[k]) / total) <= 0) break;
    }
    sample.train.logprobs.push_back(stored(a[chosen])),
        sample.rollout.logprobs.push_back(static_cast<double>(static_cast<float>(b[chosen])));
    sample.rollout.ids.push_back(static_cast<std::int64_t>(ids[chosen]));
    if (r_.routing)
      for (LogprobSide* side : {&sample.train, &sample.rollout}) {
        side->routes.push_back(3);
        side->routes.push_back(side == &sample.train && rerouted ? 9 : 5);
      }
  }
  double stored(double value) const {
    return r_.noise == Noise::stored_bfloat16 ? static_cast<double>(as_bfloat16(value))
                                              : static_cast<double>(static_cast<float>(value));
  }

  void spoil(LogprobSample& sample) {
    auto& train = sample.train.logprobs;
    const std::size_t n = train.size();
    if (r_.shift > 0) std::rotate(train.begin(), train.begin() + 1, train.end());
    if (r_.shift < 0) std::rotate(train.begin(), train.end() - 1, train.end());
    if (r_.mask && stream_.uniform() < 0.5)
      std::fill(train.begin(), train.begin() + static_cast<std::ptrdiff_t>(8 + stream_.below(n / 4)), 0.0);
    if (r_.fill && stream_.uniform() < 0.5)
      std::fill(train.end() - static_cast<std::ptrdiff_t>(1 + stream_.below(n / 4)), train.end(), -9999.0);
  }

  const Recipe& r_;
  Stream& stream_;
  std::vector<double> drift_, noise_train_, noise_rollout_;
  double sample_scale_ = 1;
};

const std::vector<std::pair<std::string, Noise>>& benign_kinds() {
  static const std::vector<std::pair<std::string, Noise>> kinds = {
      {"benign-gaussian", Noise::gaussian},
      {"benign-student-t", Noise::student},
      {"benign-laplace", Noise::laplace},
      {"benign-bursts", Noise::bursts},
      {"benign-correlated", Noise::correlated},
      {"benign-sample-scale", Noise::sample_scale},
      {"benign-stored-bfloat16", Noise::stored_bfloat16},
      {"benign-equal", Noise::none}};
  return kinds;
}

}  // namespace

std::vector<std::string> synthetic_kinds(bool benign) {
  std::vector<std::string> kinds;
  if (!benign)
    return {"temperature",   "top-p",         "token-shift",   "mask-zeros",
            "mask-fill",     "stale-weights", "layout-zigzag", "layout-contiguous",
            "boundary-leak", "growth",        "routing",       "chunk-edges",
            "cache"};
  for (const auto& [name, noise] : benign_kinds()) kinds.push_back(name);
  return kinds;
}

SyntheticPair make_synthetic(const std::string& kind, std::uint64_t seed, std::uint64_t run) {
  Stream stream(seed, "drift." + kind);
  SyntheticPair pair;
  pair.kind = kind;
  Recipe r;
  r.scale = stream.log_uniform(0.002, 0.05);
  const Noise noises[] = {Noise::gaussian, Noise::student, Noise::laplace, Noise::bursts};
  r.noise = noises[stream.below(4)], r.train_side = stream.uniform() < 0.5;
  r.amplitude = stream.log_uniform(0.4, 8.0);
  std::size_t samples = 16 + stream.below(60);
  for (const auto& [name, noise] : benign_kinds())
    if (name == kind)
      r.noise = noise, r.scale = stream.log_uniform(1e-6, 0.08), pair.cause = "rounding",
      samples = 8 + stream.below(56);
  const int cps[] = {2, 3, 4, 8};
  if (kind == "temperature")
    r.temperature = stream.uniform() < 0.8 ? stream.uniform(0.5, 0.9) : stream.uniform(1.1, 1.5),
    pair.cause = "temperature";
  if (kind == "top-p")
    r.top_p = stream.uniform(0.75, 0.95), r.scale = stream.log_uniform(1e-4, 0.005), pair.cause = "top-p";
  if (kind == "token-shift") r.shift = stream.uniform() < 0.5 ? 1 : -1, pair.cause = "token shift";
  if (kind == "mask-zeros") r.mask = true, pair.cause = "mask";
  if (kind == "mask-fill") r.fill = true, pair.cause = "mask";
  if (kind == "stale-weights") r.stale = r.scale * stream.log_uniform(0.3, 4), pair.cause = "stale weights";
  if (kind == "layout-zigzag" || kind == "layout-contiguous") {
    r.zigzag = kind == "layout-zigzag", r.cp = cps[stream.below(r.zigzag ? 3 : 4)], pair.cause = "layout";
    pair.detail = std::string(r.zigzag ? "zigzag" : "contiguous") + " cp=" + std::to_string(r.cp);
  }
  if (kind == "boundary-leak") r.leak = true, pair.cause = "boundary leak";
  if (kind == "growth") r.growth = true, pair.cause = "precision growing with position";
  if (kind == "routing") r.routing = true, pair.cause = "routing";
  if (kind == "cache") r.cache = true, pair.cause = "cache";
  if (kind == "chunk-edges") r.chunk = true, pair.cause = "chunk edges";
  Stream draws(mix64(seed) + run, "drift.tokens." + kind);
  Maker maker(r, draws);
  std::vector<LogprobSample> all;
  for (std::size_t i = 0; i < samples; ++i) all.push_back(maker.sample(i));
  pair.source = std::make_shared<MemorySource>(kind + " " + std::to_string(seed), std::move(all));
  return pair;
}

}  // namespace meshparity::drift
