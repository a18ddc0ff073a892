// The published sizes: what their names promise, and which meshes they take.
#include <catch2/catch.hpp>
#include <cmath>

#include "harness/types/mesh.h"
#include "scenarios/load.h"

namespace meshparity::scenarios::published_models_test {
namespace {

struct Published {
  const char* model;
  double named;  // billions that its name says
};
// Names round, and count the text model: 0.75, 1.88, 4.21, 8.95, 26.9, 34.7, 122.1 and 396.3 billion. Tower
// and multi-token prediction come on top; beside a small text model the tower is large.
constexpr Published kPublished[] = {
    {"qwen3.5-0.8b", 0.8}, {"qwen3.5-2b", 2},       {"qwen3.5-4b", 4},          {"qwen3.5-9b", 9},
    {"qwen3.5-27b", 27},   {"qwen3.5-35b-a3b", 35}, {"qwen3.5-122b-a10b", 122}, {"qwen3.5-397b-a17b", 397}};
constexpr double kTextTolerance = 0.065, kWholeTolerance = 0.17;

// Billions of parameters, the text model's or all; `active`: of the experts only those that a token uses.
double billions(const ModelConfig& c, bool all, bool active = false) {
  double n = 0;
  for (const auto& p : parameters_of(c)) {
    const bool text = p.name.rfind("model.visual.", 0) != 0 && p.name.rfind("mtp.", 0) != 0;
    if (!text && !all) continue;
    const bool experts = p.name.find(".mlp.experts.") != std::string::npos;
    const double share = active && experts
                             ? static_cast<double>(c.num_experts_per_tok) / static_cast<double>(c.num_experts)
                             : 1;
    n += static_cast<double>(shape_numel(p.shape)) * share / 1e9;
  }
  return n;
}

bool divides(std::int64_t a, std::int64_t b) {
  return b % a == 0;
}

// The rules of the design once more, all in one.
bool possible(const Mesh& m, const ModelConfig& c) {
  const int t = m.tp * m.uly;
  const bool heads = divides(t, c.num_attention_heads) &&
                     (divides(t, c.num_key_value_heads) || divides(c.num_key_value_heads, t)) &&
                     divides(m.tp, c.linear_num_key_heads) && divides(m.tp, c.vision.num_heads);
  const bool experts = c.is_moe()
                           ? divides(m.ep * m.expert_tp(), m.expert_group()) && divides(m.ep, c.num_experts)
                           : m.ep == 1 && m.etp == 0;
  return heads && experts && m.pp <= c.num_hidden_layers;
}

}  // namespace

TEST_CASE("the published sizes have the parameters that their names say") {
  for (const auto& published : kPublished) {
    const ModelConfig c = load_model(published.model);
    INFO(published.model << ": text " << billions(c, false) << ", all " << billions(c, true));
    CHECK(std::fabs(billions(c, false) / published.named - 1) < kTextTolerance);
    CHECK(std::fabs(billions(c, true) / published.named - 1) < kWholeTolerance);
    CHECK(billions(c, true) > billions(c, false));
    CHECK(c.has_vision());
    CHECK(c.mtp_num_hidden_layers == 1);
    CHECK(c.rope_theta == 1e7);
    CHECK(c.rotary_dim == 64);
    for (std::size_t i = 0; i < c.full_attention.size(); ++i)
      CHECK(c.full_attention[i] == ((i + 1) % 4 == 0));
  }
  CHECK(load_model("qwen3.5-0.8b").tie_word_embeddings);
  CHECK(!load_model("qwen3.5-9b").tie_word_embeddings);
}

TEST_CASE("the published mixtures of experts use as much of them as their names say") {
  CHECK(std::fabs(billions(load_model("qwen3.5-35b-a3b"), false, true) - 3) < 0.5);
  CHECK(std::fabs(billions(load_model("qwen3.5-122b-a10b"), false, true) - 10) < 0.5);
  CHECK(std::fabs(billions(load_model("qwen3.5-397b-a17b"), false, true) - 17) < 0.5);
}

TEST_CASE(
    "a published size takes exactly the meshes that the rules give it, and a refusal names mesh and field") {
  for (const auto& published : kPublished) {
    const ModelConfig c = load_model(published.model);
    std::int64_t valid = 0, wrong = 0, unexplained = 0;
    for (const int world : {1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 256})
      for (const Mesh& mesh : enumerate_meshes(world)) {
        const std::string reason = refusal(mesh, {}, c);
        if (reason.empty() != possible(mesh, c)) ++wrong;
        if (reason.empty()) {
          ++valid;
          continue;
        }
        const bool named = reason.rfind(mesh.text() + ": ", 0) == 0;
        const bool field = reason.find('=') != std::string::npos ||
                           reason.find("ep*etp must divide") != std::string::npos ||
                           reason.find("mixture-of-experts") != std::string::npos;
        if (!named || !field || reason.find('\n') != std::string::npos) ++unexplained;
      }
    INFO(published.model);
    CHECK(wrong == 0);
    CHECK(unexplained == 0);
    CHECK(valid > 500);
  }
}

TEST_CASE("what bounds the published sizes is named") {
  const auto reason = [](const char* model, const char* mesh) {
    return refusal(Mesh::parse(mesh), {}, load_model(model));
  };
  CHECK(reason("qwen3.5-397b-a17b", "tp32") == "tp32: tp must divide linear_num_key_heads=16");
  CHECK(reason("qwen3.5-27b", "tp16") == "tp16: tp*uly must divide num_attention_heads=24");
  CHECK(reason("qwen3.5-397b-a17b", "fsdp3.ep3") == "fsdp3.ep3: ep must divide num_experts=512");
  CHECK(reason("qwen3.5-397b-a17b", "pp64") == "pp64: pp must not exceed num_hidden_layers=60");
  CHECK(reason("qwen3.5-397b-a17b", "pp4.fsdp64.tp16.ep64").empty());
  CHECK(reason("qwen3.5-0.8b", "tp8").find("vision=tensor needs tp to divide vision_config.num_heads=12") !=
        std::string::npos);
}

}  // namespace meshparity::scenarios::published_models_test
