// What an attribution's reports hold.
#include "reports/attribution.h"

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

namespace meshparity::reports::attribution_test {

Attribution sample() {
  Attribution a;
  a.train = "megatron", a.rollout = "vllm", a.drift = 0.0125, a.same_policy = 0.0031;
  a.costs = {{Place::decay_rate, DType::bfloat16, DType::float32, 0.007, 0.005}};
  a.by_depth = {{"layers.0.mixer", 0.01}};
  a.by_position = {{"2-3", 14, 0.02, 0.015}};
  a.sentence = "megatron against vllm";
  return a;
}

TEST_CASE("what a choice costs stands in all three reports", "[reports][attribution]") {
  for (const std::string& text : {attribution_console(sample()), attribution_markdown(sample())})
    for (const char* part : {"megatron against vllm", "decay_rate", "bfloat16", "float32", "0.007", "0.005",
                             "exp(A_log)", "layers.0.mixer", "2-3", "0.015"})
      CHECK_THAT(text, Catch::Contains(part));
  CHECK(attribution_console(sample()).rfind("megatron against vllm\n", 0) == 0);
  const auto j = nlohmann::json::parse(attribution_json(sample())).at("attribution");
  CHECK(j.at("places")[0].at("place") == "decay_rate");
  CHECK(j.at("places")[0].at("removed") == 0.007);
  CHECK(j.at("by_position")[0].at("tokens") == 14);
}

TEST_CASE("places that were not exchanged have no costs", "[reports][attribution]") {
  Attribution a = sample();
  a.each_place = false;
  CHECK_THAT(attribution_console(a), !Catch::Contains("removed:"));
  CHECK(!nlohmann::json::parse(attribution_json(a)).at("attribution").at("places")[0].contains("removed"));
}

}  // namespace meshparity::reports::attribution_test
