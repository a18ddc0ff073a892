// What a failing dump is told about its cause: dumps made from packaged goldens with the mistakes that
// trainers make.
#include "harness/cli/verb_compare_explain.h"

#include <catch2/catch.hpp>
#include <cmath>

#include "harness/diagnose/diagnose.h"
#include "harness/types/error.h"
#include "scenarios/load.h"

namespace meshparity::cli::verb_compare_explain_test {
namespace {

const std::string kGolden = MESHPARITY_SOURCE_DIR "/golden/data/tiny-dense.packed-odd.h5";

class Trainer {
 public:
  Trainer() : golden_(golden::read(kGolden, golden::Kind::golden)) {
    for (const auto& [path, tensor] : golden_.tensors)
      if (path.rfind("weights/", 0) != 0) dump.tensors.emplace(path, tensor);
    rules_.policy = scenarios::load_tolerance();
    rules_.config = scenarios::parse_model_config(golden_.strings.at("config"), kGolden);
    rules_.train = golden::train_of(golden_);
  }
  HostTensor& expected(const std::string& key) { return dump.tensors.at("expected/" + key); }
  void scale(const std::string& prefix, double factor) {
    for (auto& [path, tensor] : dump.tensors)
      if (path.rfind("expected/" + prefix, 0) == 0)
        for (std::int64_t i = 0; i < tensor.numel(); ++i) tensor.as<double>()[i] *= factor;
  }
  // The cause in the block of the first failing verdict; its place in `first`.
  std::string cause() {
    auto results = judge_dump(dump, golden_, rules_);
    explain_dump(dump, golden_, rules_, results);
    for (const auto& r : results) {
      if (r.state != State::fail && r.state != State::invalid) continue;
      diagnose::Cause cause;
      for (const auto& line : r.detail) {
        if (line.rfind("first   ", 0) == 0) first = line.substr(8);
        if (diagnose::parse_cause_line(line, cause)) return cause.name;
      }
      return "no cause line at " + r.tensor;
    }
    return "nothing failed";
  }

  golden::Store dump;
  std::string first;
  const golden::Store& golden() const { return golden_; }

 private:
  golden::Store golden_;
  CompareRules rules_;
};

}  // namespace

TEST_CASE("a right dump gets no line") {
  Trainer t;
  CHECK(t.cause() == "nothing failed");
}

TEST_CASE("a dump's mistakes are named") {
  Trainer t;
  SECTION("a loss and gradients divided by the world") {
    t.scale("grads/", 0.5);
    t.scale("loss/", 0.5);
    t.scale("grad_norm", 0.5);
    const std::string cause = t.cause();
    INFO(t.first);
    CHECK(cause.find("constant factor 0.5") != std::string::npos);
  }
  SECTION("a gradient that is None") {
    t.scale("grads/model.layers.3.self_attn.k_proj.weight", 0);
    CHECK(t.cause() == "gradient never arrived");
    CHECK(t.first.find("backward, gradient of model.layers.3.self_attn.k_proj.weight") == 0);
  }
  SECTION("a gradient that was not written") {
    t.dump.tensors.erase("expected/grads/model.norm.weight");
    CHECK(t.cause() == "not written: model.norm.weight");
  }
  SECTION("other inputs") {
    t.dump.tensors.at("inputs/token_ids").as<std::int64_t>()[3] += 1;
    CHECK(t.cause() == "computed from other inputs");
    CHECK(t.first.find("inputs, inputs/token_ids") == 0);
  }
  SECTION("logprobs of the tokens themselves") {
    const auto& ids = t.golden().tensors.at("inputs/token_ids");
    const auto& logits = t.golden().tensors.at("expected/logits");
    const std::int64_t width = logits.shape[1];
    HostTensor& logprobs = t.expected("logprobs");
    for (std::int64_t i = 0; i < logprobs.numel(); ++i) {
      if (logprobs.as<double>()[i] == 0) continue;
      double sum = 0;
      for (std::int64_t v = 0; v < width; ++v) sum += std::exp(logits.view().at(i * width + v));
      logprobs.as<double>()[i] = logits.view().at(i * width + ids.as<std::int64_t>()[i]) - std::log(sum);
    }
    CHECK(t.cause() == "labels not shifted");
  }
  SECTION("a loss not divided") {
    const double n = t.expected("denominators/token_mean").view().at(0);
    t.scale("loss/token_mean", n);
    CHECK(t.cause() == "loss not divided by the count of labels");
  }
  SECTION("one gradient with its rows in another order") {
    HostTensor& g = t.expected("grads/model.layers.0.linear_attn.in_proj_qkv.weight");
    for (std::int64_t i = 0; i < g.shape[1]; ++i)
      std::swap(g.as<double>()[i], g.as<double>()[5 * g.shape[1] + i]);
    CHECK(t.cause() == "rows permuted");
  }
}

}  // namespace meshparity::cli::verb_compare_explain_test
