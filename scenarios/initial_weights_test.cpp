// The random weights have the properties they were chosen for: decays spread, norms non-zero, one expert
// idle. That they equal the packaged goldens' is tested in harness/cli, which may read goldens.
#include "scenarios/initial_weights.h"

#include <catch2/catch.hpp>
#include <cmath>

#include "harness/types/generator.h"
#include "scenarios/load.h"

namespace meshparity::scenarios {

TEST_CASE("every parameter has weights of its shape, functions of the seed and the name alone") {
  const ModelConfig config = load_model("tiny-moe");
  const auto a = initial_weights(config, 7), b = initial_weights(config, 7), c = initial_weights(config, 8);
  CHECK(a.size() == parameters_of(config).size());
  for (const auto& p : parameters_of(config)) {
    CHECK(a.at(p.name).shape == p.shape);
    CHECK(a.at(p.name).bytes == b.at(p.name).bytes);
    CHECK(a.at(p.name).bytes != c.at(p.name).bytes);
  }
}

TEST_CASE("a weight that threads draw together is the function of its indices") {
  const ModelConfig config = load_model("shape:hidden=64:vocab=70001");  // 4.5 million embeddings
  for (const auto& p : parameters_of(config)) {
    if (p.name != "model.embed_tokens.weight" && p.name != "lm_head.weight") continue;
    const HostTensor drawn = initial_weight(config, p, 7);
    const Generator generator(7, "weights/" + p.name);
    const double scale = p.name == "lm_head.weight" ? 2.0 / 8 : 1;  // of a sum over 64 features
    std::int64_t wrong = 0;
    for (std::int64_t i = 0; i < drawn.numel(); ++i)
      wrong += drawn.as<double>()[i] != generator.normal(static_cast<std::uint64_t>(i)) * scale;
    CHECK(wrong == 0);
  }
}

TEST_CASE("A_log takes one value from every part of its range and no zero-centred norm is zero") {
  const auto weights = initial_weights(load_model("tiny-dense"), 7);
  const HostTensor& a = weights.at("model.layers.0.linear_attn.A_log");
  const double low = std::log(0.002), step = (std::log(2.5) - low) / static_cast<double>(a.numel());
  for (std::int64_t i = 0; i < a.numel(); ++i) {
    CHECK(a.as<double>()[i] >= low + step * static_cast<double>(i));
    CHECK(a.as<double>()[i] <= low + step * static_cast<double>(i + 1));
  }
  for (const auto& [name, tensor] : weights)
    for (std::int64_t i = 0; i < tensor.numel(); ++i) REQUIRE(std::isfinite(tensor.as<double>()[i]));
  CHECK(std::abs(weights.at("model.norm.weight").as<double>()[0]) > 1e-3);
}

TEST_CASE("the last expert loses to three others for any token") {
  const ModelConfig config = load_model("tiny-moe");
  const auto weights = initial_weights(config, 7);
  const double* w = weights.at("model.layers.1.mlp.gate.weight").as<double>();
  const std::int64_t d = config.hidden_size;
  for (std::int64_t pair = 0; pair < 3; ++pair)
    for (std::int64_t k = 0; k < d; ++k) {
      const double up = w[2 * pair * d + k], down = w[(2 * pair + 1) * d + k];
      CHECK(up * down < 0);  // antipodal: one of the two logits is >= 0
      CHECK(std::abs(down / up) > 0.89);
      CHECK(std::abs(down / up) < 1.11);
    }
}

}  // namespace meshparity::scenarios
