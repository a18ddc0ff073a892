// Packaged dtype policies load whole, and every wrong entry is named.
#include <catch2/catch.hpp>
#include <filesystem>

#include "harness/types/error.h"
#include "scenarios/fields.h"
#include "scenarios/load.h"
#include "scenarios/temporary_file_fixture.h"

namespace meshparity::scenarios::policy_loader_test {

TEST_CASE("every packaged policy has a dtype at every place, and float64 is the exact one", "[policies]") {
  int policies = 0;
  for (const auto& entry : std::filesystem::directory_iterator(scenarios_dir() / "policies")) {
    if (entry.path().extension() != ".toml") continue;
    CAPTURE(entry.path());
    const PrecisionPolicy policy = load_policy(entry.path().stem().string());
    CHECK(policy.name == entry.path().stem().string());
    CHECK((policy == PrecisionPolicy{}) == (policy.name == "float64"));
    ++policies;
  }
  CHECK(policies >= 8);
  CHECK(load_policy("megatron").at(Place::decay_rate) == DType::bfloat16);
  CHECK(load_policy("vllm").at(Place::decay_rate) == DType::float32);
}

TEST_CASE("a policy that leaves a place open or says something else is refused by name", "[policies]") {
  const std::string whole = read_text((scenarios_dir() / "policies/vllm.toml").string());
  const auto refused = [&](const std::string& from, const std::string& to) {
    std::string text = whole;
    text.replace(text.find(from), from.size(), to);
    const TemporaryFile file(text, ".toml");
    try {
      load_policy(file.path());
    } catch (const InputError& error) {
      CHECK(std::string(error.what()).rfind(file.path() + ": ", 0) == 0);
      return std::string(error.what()).substr(file.path().size() + 2);
    }
    return std::string("accepted");
  };
  CHECK(refused("chunk", "chunk") == "accepted");
  CHECK_THAT(refused("router = \"bfloat16\"\n", ""), Catch::Contains("dtypes.router"));
  CHECK_THAT(refused("router = \"bfloat16\"", "router = \"bf16\""), Catch::Contains("dtypes.router: 'bf16'"));
  CHECK_THAT(refused("router = \"bfloat16\"", "router = \"int64\""), Catch::Contains("no floating dtype"));
  CHECK_THAT(refused("a_log", "alog = \"float32\"\na_log"), Catch::Contains("dtypes.alog"));
  CHECK_THAT(refused("chunk = 64", "chunk = 0"), Catch::Contains("chunk"));
  CHECK_THAT(refused("chunk = 64", "chunks = 64"), Catch::Contains("chunks"));
  CHECK_THROWS_WITH(load_policy("nobody"), Catch::Contains("megatron"));
}

}  // namespace meshparity::scenarios::policy_loader_test
