// Every place of a dtype policy rounds something, and an exact policy rounds nothing.
#include "scenarios/policies/precision.h"

#include <catch2/catch.hpp>

#include "impl/rollout/rollout_fixture.h"
#include "impl/train/program_fixture.h"

namespace meshparity::policies::precision_test {

using namespace impl::program_testing;

PrecisionPolicy only(Place place, DType dtype) {
  PrecisionPolicy policy;
  policy.set(place, dtype), policy.chunk = 2;
  return policy;
}

struct Numbers {
  at::Tensor logprobs, gradients;
};

// What two tp ranks make of the model: logprobs, and all gradients of rank 0 in one vector.
Numbers numbers(const PrecisionPolicy* policy, const ModelConfig& config) {
  Run run;
  run.config = config, run.steps = 0;
  if (policy) plant(*policy, run.seams);
  const Records records = by_key(run.on("tp2", false)[0]);
  Numbers result{records.at("logprobs"), {}};
  impl::Tensors gradients;
  for (const auto& [key, value] : records)
    if (key.starts_with("grads/")) gradients.push_back(value.flatten());
  result.gradients = at::cat(gradients);
  return result;
}

double difference(const at::Tensor& a, const at::Tensor& b) {
  return ((a - b).norm() / b.norm()).item<double>();
}

TEST_CASE("a policy of float64 everywhere is the exact run", "[policies]") {
  for (const auto& config : {dense_config(), moe_config()}) {
    const Numbers exact = numbers(nullptr, config);
    const PrecisionPolicy policy;
    const Numbers same = numbers(&policy, config);
    CHECK(difference(same.logprobs, exact.logprobs) < 1e-13);
    CHECK(difference(same.gradients, exact.gradients) < 1e-12);
  }
}

TEST_CASE("every place rounds something, and a narrower dtype rounds more", "[policies]") {
  const Numbers exact = numbers(nullptr, moe_config());
  for (const PlaceInfo& place : kPlaces) {
    CAPTURE(place.name);
    // A cache of rollout, which training has not.
    if (place.place == Place::conv_state) continue;
    const PrecisionPolicy narrow = only(place.place, DType::bfloat16),
                          wide = only(place.place, DType::float32);
    const Numbers rough = numbers(&narrow, moe_config()), fine = numbers(&wide, moe_config());
    const bool of_gradients = place.place == Place::accumulation;
    const double rough_error = of_gradients ? difference(rough.gradients, exact.gradients)
                                            : difference(rough.logprobs, exact.logprobs);
    const double fine_error = of_gradients ? difference(fine.gradients, exact.gradients)
                                           : difference(fine.logprobs, exact.logprobs);
    CHECK(rough_error > 1e-6);
    CHECK(rough_error < 0.5);
    CHECK(fine_error > 1e-12);
    CHECK(fine_error < 1e-4 * std::max(1.0, rough_error * 100));
    CHECK(fine_error < rough_error);
    if (of_gradients) CHECK(difference(rough.logprobs, exact.logprobs) < 1e-13);
  }
}

// The largest difference of rollout from the exact training forward.
double rollout_drift(const PrecisionPolicy& policy, const ModelConfig& config, const std::string& spec) {
  impl::rollout_testing::Rollout rollout;
  rollout.config = config, rollout.mesh = "tp2", rollout.spec = spec;
  plant(policy, rollout.seams);
  return impl::rollout_testing::drift(rollout);
}

TEST_CASE("in rollout a policy of float64 is exact, and every place but gradients' rounds", "[policies]") {
  for (const char* spec : {"plain", "chunk=2:pad=left:batch=2", "prompt=1"}) {
    CAPTURE(spec);
    CHECK(rollout_drift({}, impl::rollout_testing::moe_config(), spec) < 1e-12);
    for (const PlaceInfo& place : kPlaces) {
      CAPTURE(place.name);
      const double narrow =
          rollout_drift(only(place.place, DType::bfloat16), impl::rollout_testing::moe_config(), spec);
      const double wide =
          rollout_drift(only(place.place, DType::float32), impl::rollout_testing::moe_config(), spec);
      if (place.place == Place::accumulation) {
        CHECK(narrow < 1e-12);
        continue;
      }
      CHECK(narrow > 1e-5);
      CHECK(wide > 1e-11);
      CHECK(wide < narrow);
    }
  }
}

}  // namespace meshparity::policies::precision_test
