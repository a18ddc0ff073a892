// Choices of dtype are exchanged one at a time, and their costs come out.
#include "harness/drift/attribution.h"

#include <catch2/catch.hpp>

namespace meshparity::drift::attribution_test {

PrecisionPolicy named(const std::string& name) {
  PrecisionPolicy policy;
  policy.name = name;
  return policy;
}

TEST_CASE("each choice is exchanged alone from both sides, and the largest stands first", "[attribution]") {
  PrecisionPolicy train = named("a"), rollout = named("b");
  train.set(Place::decay_rate, DType::bfloat16), train.set(Place::softmax, DType::bfloat16);
  rollout.set(Place::logits, DType::float32);
  // A drift with a known structure: decay_rate 5, softmax 1, both together 2 more, and 0.5 always.
  std::vector<PrecisionPolicy> asked;
  const auto drift_of = [&](const PrecisionPolicy& p) {
    asked.push_back(p);
    const bool decay = p.at(Place::decay_rate) == DType::bfloat16,
               softmax = p.at(Place::softmax) == DType::bfloat16;
    return 0.5 + 5 * decay + softmax + 2 * (decay && softmax);
  };
  const Attribution a = attribute(train, rollout, drift_of);
  CHECK(a.drift == 8.5);
  CHECK(a.same_policy == 0.5);
  REQUIRE(a.costs.size() == 3);
  CHECK(a.costs[0].place == Place::decay_rate);
  CHECK(a.costs[0].removed == 7);
  CHECK(a.costs[0].added == 5);
  CHECK(a.costs[1].place == Place::softmax);
  CHECK(a.costs[1].removed == 3);
  CHECK(a.costs[1].added == 1);
  CHECK(a.costs[2].place == Place::logits);
  CHECK(a.costs[2].removed == 0);
  CHECK(asked.size() == 2 + 2 * 3);
  CHECK_THAT(a.sentence, Catch::Contains("decay_rate (bfloat16 for float64)"));
  CHECK_THAT(a.sentence, Catch::Contains("takes away 7 and brings 5"));
}

TEST_CASE("equal policies leave nothing to exchange", "[attribution]") {
  const Attribution a = attribute(named("a"), named("b"), [](const PrecisionPolicy&) { return 0.25; });
  CHECK(a.costs.empty());
  CHECK_THAT(a.sentence, Catch::Contains("agree at every place"));
}

TEST_CASE("differences are binned by powers of two of the position", "[attribution]") {
  const auto bins = by_position({1, -3, 2, 2, 8}, {0, 1, 2, 3, 6});
  REQUIRE(bins.size() == 3);
  CHECK(bins[0].label == "1");
  CHECK(bins[1].label == "2-3");
  CHECK(bins[1].mean_abs == 2.5);
  CHECK(bins[1].tokens == 2);
  CHECK(bins[2].label == "4-7");
  CHECK(bins[2].mean_abs == 5);
}

}  // namespace meshparity::drift::attribution_test
