// What a mistake of a rollout leaves behind is named; where several would leave the same, with little
// confidence.
#include "harness/diagnose/rollout.h"

#include <catch2/catch.hpp>
#include <functional>

#include "harness/types/batch_shape.h"

namespace meshparity::diagnose::rollout_test {
namespace {

constexpr std::int64_t kVocabulary = 7;

// Results of a batch of sequences of 6, 4 and 5 tokens, the first and the last of which begin alike, damaged.
struct Planted {
  Batch batch = BatchShape::parse("tokens:6/4/5").batch(kVocabulary);
  RolloutSpec spec;
  Mesh mesh;
  std::map<std::string, std::pair<HostTensor, HostTensor>> tensors;  // got, want

  Planted() {
    for (std::int64_t i = 0; i < 3; ++i) batch.token_ids[10 + i] = batch.token_ids[i];
  }
  // Adds a tensor of values that are all different, damaged element by element.
  void add(const std::string& key, Shape shape, const std::function<double(double, std::int64_t)>& damage) {
    std::vector<double> got, want;
    for (std::int64_t i = 0; i < shape_numel(shape); ++i) {
      want.push_back(-0.3 - static_cast<double>(i * 37 % 101) / 7);
      got.push_back(damage(want.back(), i));
    }
    tensors.emplace(key, std::pair(HostTensor::from(DType::float64, shape, got),
                                   HostTensor::from(DType::float64, shape, want)));
  }
  // Logits that are off at the tokens that `wrong` says.
  void add_logits(const std::function<bool(std::int64_t token)>& wrong) {
    add("rollout/logits", {15, kVocabulary},
        [&](double x, std::int64_t i) { return wrong(i / kVocabulary) ? x * 1.01 : x; });
  }
  std::optional<Cause> cause() const {
    RolloutEvidence evidence{batch, spec, mesh, {}};
    for (const auto& [key, pair] : tensors)
      evidence.tensors.emplace(
          key, RolloutTensor{pair.first.view(), pair.second.view(), pair.first.bytes != pair.second.bytes});
    return rollout_cause(evidence);
  }
  std::string name() const { return cause() ? cause()->name : ""; }
};

}  // namespace

TEST_CASE("weights that are not training's are told apart by what stands in their place") {
  const auto named = [](const std::function<double(double, std::int64_t)>& damage) {
    Planted p;
    p.add("rollout/weights/a", {4, 3}, damage);
    // What follows from wrong weights is not looked at.
    p.add_logits([](std::int64_t) { return true; });
    return p.name();
  };
  CHECK(named([](double x, std::int64_t) { return static_cast<double>(static_cast<int>(x * 64)) / 64; }) ==
        "resharded weight is not training's");
  CHECK(named([](double x, std::int64_t i) { return i < 5 ? 0 : x; }) ==
        "weight of the rollout never written");
  Planted moved;
  moved.add("rollout/weights/a", {4, 3}, [](double x, std::int64_t) { return x; });
  auto& got = moved.tensors.at("rollout/weights/a").first;
  std::rotate(got.as<double>(), got.as<double>() + 6, got.as<double>() + 12);
  CHECK(moved.name() == "shards of a resharded weight swapped");
  Planted rounded;
  rounded.add("rollout/weights/a", {2}, [](double, std::int64_t) { return 0.0; });
  auto& pair = rounded.tensors.at("rollout/weights/a");
  // 1 + 2^-9 rounds to 1, 1 + 3 * 2^-8 lies half-way and goes to the even neighbour 1 + 2^-6.
  pair.second = HostTensor::from(DType::float64, {2}, std::vector<double>{1 + 1.0 / 512, 1 + 3.0 / 256});
  pair.first = HostTensor::from(DType::float64, {2}, std::vector<double>{1, 1 + 4.0 / 256});
  CHECK(rounded.name() == "weight rounded to bfloat16 on its way to the rollout");
}

TEST_CASE("the first wrong tokens say which part of the engine to look at") {
  // Documents begin at 0, 6 and 10; half of each is prefilled, rounded up: 3, 2 and 3 tokens.
  const auto decoded = [](std::int64_t t) { return (t >= 3 && t < 6) || (t >= 8 && t < 10) || t >= 13; };
  const auto first_decoded = [](std::int64_t t) { return t == 3 || t == 8 || t == 13; };
  Planted all, later, chunk, slot, prefix;
  all.add_logits(decoded);
  CHECK(all.name() == "what decoding finds in the caches, or where it stands");
  later.add_logits([&](std::int64_t t) { return decoded(t) && !first_decoded(t); });
  CHECK(later.name() == "what decoding leaves in the caches");
  chunk.spec.chunk = 2;
  chunk.add_logits([&](std::int64_t t) { return t == 2 || t == 12 || decoded(t); });
  CHECK(chunk.name() == "a later chunk of a prompt");
  slot.spec.batch = 1;
  slot.add_logits([](std::int64_t t) { return t >= 6; });
  CHECK(slot.name() == "caches that the slot's last sequence left");
  prefix.spec.prefix = 3;
  prefix.add_logits([](std::int64_t t) { return t >= 13; });
  CHECK(prefix.name() == "caches of a shared prefix");
  // On two data ranks document 1 is alone, and documents 0 and 2 still share.
  prefix.mesh.dp = 2;
  CHECK(prefix.name() == "caches of a shared prefix");
  prefix.mesh.dp = 3;
  CHECK(prefix.name() != "caches of a shared prefix");
  Planted right;
  right.add_logits([](std::int64_t) { return false; });
  CHECK(!right.cause());
}

TEST_CASE("right logits with wrong log-probabilities are the sampler's") {
  Planted p;
  p.spec.top_p = 0.8;
  p.add_logits([](std::int64_t) { return false; });
  p.add("rollout/sampling_logprobs", {15}, [](double x, std::int64_t) { return x; });
  p.add("rollout/logprobs", {15}, [](double x, std::int64_t) { return x; });
  CHECK(!p.cause());
  auto& logprobs = p.tensors.at("rollout/logprobs");
  for (std::int64_t i = 0; i < 15; ++i) logprobs.second.as<double>()[i] -= i % 3 ? 0.2 : 0;
  CHECK(p.name() == "log-probabilities renormalised over the top-p set");
  // Rounding is no difference.
  for (std::int64_t i = 0; i < 15; ++i) logprobs.first.as<double>()[i] *= 1 + 1e-15;
  CHECK(p.name() == "log-probabilities renormalised over the top-p set");
  p.spec.top_p = 1, p.spec.temperature = 0.5;
  CHECK(p.name() == "log-probabilities of another temperature");
}

TEST_CASE("replayed routes that lie one token off are told from routes that are not taken") {
  const auto named = [](bool shifted, bool replay) {
    Planted p;
    p.spec.replay = replay;
    std::vector<std::int64_t> want, got;
    for (std::int64_t i = 0; i < 30; ++i) want.push_back((i * 7 + i * i) % 5);
    for (std::int64_t i = 0; i < 30; ++i)
      got.push_back(shifted ? want[(i + 28) % 30] : i == 11 ? (want[i] + 2) % 5 : want[i]);
    p.tensors.emplace("rollout/routes/layers.0",
                      std::pair(HostTensor::from_int64({15, 2}, got), HostTensor::from_int64({15, 2}, want)));
    return p.name();
  };
  CHECK(named(true, true) == "replayed routes shifted by one token");
  CHECK(named(false, true) == "replayed routes not taken");
  // Whoever routes for himself follows from what he routes.
  CHECK(named(false, false).empty());
}

}  // namespace meshparity::diagnose::rollout_test
