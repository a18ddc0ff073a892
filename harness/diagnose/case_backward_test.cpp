// Whole cases with one thing planted in gradients or the norm: the cause must be named.
#include <catch2/catch.hpp>

#include "harness/diagnose/planted_case.h"

namespace meshparity::diagnose {

TEST_CASE("a missing sum of gradients: of one parameter, or of a block's input") {
  PlantedCase c("tp2");
  const auto share = [](int rank, std::int64_t i, double right) {
    const double first = 0.3 + 0.1 * static_cast<double>(i % 3);
    return right * (rank == 0 ? first : 1 - first);
  };
  SECTION("one parameter") {
    c.emit("grads/model.layers.1.post_attention_layernorm.weight", share);
    CHECK(c.cause() == "gradient all-reduce over tp missing");
    // What goes wrong in later steps only follows from it.
    c.spoil("trace/step2/grads/lm_head.weight");
    const Cause cause = c.diagnosis().causes[0];
    CHECK(cause.evidence.find("wrong are model.layers.*.post_attention_layernorm.weight;") !=
          std::string::npos);
  }
  SECTION("a block's input: everything below is wrong too") {
    c.emit("grads/model.layers.1.post_attention_layernorm.weight", share);
    for (const auto& [key, tensor] : c.want)
      if (key.rfind("grads/model.layers.1.self_attn", 0) == 0 || key.rfind("grads/model.layers.0", 0) == 0 ||
          key == "grads/model.layers.1.input_layernorm.weight" || key == "grads/model.embed_tokens.weight")
        c.spoil(key);
    CHECK(c.cause() == "input-gradient all-reduce over tp missing at layers.1.mlp");
  }
}

TEST_CASE("all gradients times one number") {
  PlantedCase c("fsdp3");
  for (const auto& [key, tensor] : c.want)
    if (key.rfind("grads/", 0) == 0)
      for (std::int64_t i = 0; i < c.size(key); ++i) c.at(key)[i] *= 5;
  CHECK(c.cause() == "all gradients times a constant factor 5");  // 5 is no count of this case
  for (const auto& [key, tensor] : c.want)
    if (key.rfind("grads/", 0) == 0)
      for (std::int64_t i = 0; i < c.size(key); ++i) c.at(key)[i] *= 3.0 / 5;
  CHECK(c.cause().find("all gradients multiplied by fsdp") == 0);
}

TEST_CASE("a gradient that is zero never arrived") {
  PlantedCase c("dp2");
  for (std::int64_t i = 0; i < c.size("grads/model.embed_tokens.weight"); ++i)
    c.at("grads/model.embed_tokens.weight")[i] = 0;
  CHECK(c.cause() == "gradient never arrived");
}

TEST_CASE("a gradient that is wrong from the last router on is blamed on what the loss asks of routers") {
  PlantedCase c("dp2");
  for (const auto& [key, tensor] : c.want)
    if (key == "grads/model.layers.1.mlp.gate.weight" || key.rfind("grads/model.layers.0", 0) == 0)
      c.spoil(key);
  CHECK(c.cause() != "gradient of the router's loss terms wrong");
  c.loss = "token_mean+0.001*aux";
  CHECK(c.cause() == "gradient of the router's loss terms wrong");
  c.spoil("grads/model.layers.1.mlp.experts.down_proj");
  CHECK(c.cause() != "gradient of the router's loss terms wrong");
}

TEST_CASE("gradients of one micro-batch alone are named by the head's") {
  PlantedCase c("dp2");
  const std::string head = "grads/lm_head.weight";
  const std::int64_t hidden = c.want.at(head).shape[1];
  for (const auto& [key, tensor] : c.want)
    if (key.rfind("grads/", 0) == 0) c.spoil(key);
  CHECK(c.cause() == "backward pass wrong from lm_head.weight on");
  const auto set_head = [&](const std::vector<std::int64_t>& micro_batches) {
    for (std::int64_t i = 0; i < c.size(head); ++i) {
      c.at(head)[i] = 0;
      for (const auto m : micro_batches) c.at(head)[i] += c.head_gradient(m, i / hidden, i % hidden);
    }
  };
  set_head({2});
  CHECK(c.cause() == "gradients of the last micro-batch alone");
  set_head({1, 2});
  CHECK(c.cause() == "gradients without the first micro-batch");
}

TEST_CASE("a tied embedding that is not summed over its stages, or summed wrongly") {
  PlantedCase c("pp2", false, false, true);
  const std::string table = "grads/model.embed_tokens.weight";
  c.emit(table, [](int rank, std::int64_t i, double right) {
    const double first = 0.3 + 0.1 * static_cast<double>(i % 3);
    return right * (rank == 0 ? first : 1 - first);
  });
  CHECK(c.cause() == "gradient all-reduce over pp missing");
  PlantedCase other("pp2", false, false, true);
  other.spoil(table);
  CHECK(other.cause() == "gradients of a tied embedding put together wrongly over its stages");
  PlantedCase alone("dp2", false, false, true);
  alone.spoil(table);
  CHECK(alone.cause() == "backward pass wrong from model.embed_tokens.weight on");
}

TEST_CASE("gradients of experts: those of other experts added, or of tokens that went elsewhere") {
  const std::string key = "grads/model.layers.1.mlp.experts.down_proj";
  PlantedCase c("ring5.ep5");
  const std::int64_t inner = c.size(key) / 5;
  for (std::int64_t i = 0; i < c.size(key); ++i) {
    c.at(key)[i] = 0;
    for (std::int64_t e = 0; e < 5; ++e) c.at(key)[i] += c.right(key)[e * inner + i % inner];
  }
  CHECK(c.cause() == "gradients of other experts added");
  for (std::int64_t i = 0; i < c.size(key); ++i) c.at(key)[i] = 5 * c.right(key)[i];
  CHECK(c.cause().starts_with("multiplied by ring or ep"));

  PlantedCase again("dp1", false, true);
  for (std::int64_t i = 0; i < again.size(key); ++i)
    if (i / inner == 1 || i / inner == 4)
      again.at(key)[i] += 0.1 * again.right(key)[(i + 1) % again.size(key)];
  CHECK(again.cause() == "tokens routed to other experts in the backward pass of layer 1");
  CHECK(again.diagnosis().causes[0].evidence.find("of 5 experts only 1, 4 have") != std::string::npos);
}

TEST_CASE("a norm without the experts of other tp ranks is named by what its square lacks") {
  PlantedCase c("tp5.ep5");
  double held = 0;
  for (const char* name : {"gate_up_proj", "down_proj"})
    for (const char* layer : {"0", "1"}) {
      const std::string key = std::string("grads/model.layers.") + layer + ".mlp.experts." + name;
      const std::int64_t inner = c.size(key) / 5;
      for (std::int64_t i = inner; i < c.size(key); ++i) held += c.right(key)[i] * c.right(key)[i];
    }
  const double all = c.squares([](const ParameterPlacement&) { return true; });
  c.at("grad_norm")[0] = std::sqrt(all - held);
  CHECK(c.cause() == "gradient norm counts the experts of tp index 0 only");
}

TEST_CASE("a norm that counts replicas is named by the excess of its square") {
  PlantedCase c("tp2");
  const double replicated = c.squares([](const ParameterPlacement& p) { return p.tp_dim < 0; });
  const double all = c.squares([](const ParameterPlacement&) { return true; });
  c.at("grad_norm")[0] = std::sqrt(all + replicated);
  CHECK(c.cause() == "gradient norm counts parameters replicated over tp 2 times over tp");
}

}  // namespace meshparity::diagnose
