// Whole cases with one thing planted: the first divergence and the cause must be named, and a right case must
// name nothing.
#include "harness/diagnose/case.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <functional>
#include <map>

#include "harness/layout/layout_fixture.h"
#include "harness/types/generator.h"

namespace meshparity::diagnose {
namespace {

namespace fixture = layout::fixture;

// A case in which all that a run records is right at first. Expected values are random, but logprobs are
// those of the logits and the loss, counts and norm follow from them.
class PlantedCase {
 public:
  explicit PlantedCase(const std::string& mesh, bool sp = false) : map_(make_map(mesh, sp)) {
    const auto& config = map_.config();
    for (const auto& p : map_.placements()) {
      add("trace/weights/" + p.name, p.shape);
      add("grads/" + p.name, p.shape);
      add("step1/weights/" + p.name, p.shape);
      add("step2/weights/" + p.name, p.shape);
      add("trace/step2/grads/" + p.name, p.shape);
    }
    const Shape residual = {map_.batch().tokens(), config.hidden_size};
    for (const char* name :
         {"embed", "layers.0.mixer", "layers.0.ffn", "layers.1.mixer", "layers.1.ffn", "norm"}) {
      add(std::string("activations/") + name, residual);
      add(std::string("trace/step2/activations/") + name, residual);
    }
    add("logits", {map_.batch().tokens(), config.vocab_size});
    add("logprobs", {map_.batch().tokens()});
    for (const char* key : {"denominators/token_mean", "loss/token_mean", "grad_norm"}) add(key, {});
    set("logprobs", [this](std::int64_t t) { return logprob(t, map_.batch().labels[t]); });
    set("denominators/token_mean", [this](std::int64_t) { return valid(); });
    set("loss/token_mean", [this](std::int64_t) { return -sum("logprobs") / valid(); });
    set("grad_norm", [this](std::int64_t) { return std::sqrt(squares([](const auto&) { return true; })); });
  }

  double logprob(std::int64_t t, std::int64_t label) const {
    if (label < 0) return 0;
    const auto& logits = want.at("logits");
    const std::int64_t width = logits.shape[1];
    double total = 0;
    for (std::int64_t v = 0; v < width; ++v) total += std::exp(logits.view().at(t * width + v));
    return logits.view().at(t * width + label) - std::log(total);
  }
  double valid() const {
    double n = 0;
    for (const auto label : map_.batch().labels) n += label >= 0;
    return n;
  }
  double sum(const std::string& key) const {
    double s = 0;
    for (std::int64_t i = 0; i < want.at(key).numel(); ++i) s += want.at(key).view().at(i);
    return s;
  }
  double squares(const std::function<bool(const ParameterPlacement&)>& counts) const {
    double s = 0;
    for (const auto& p : map_.placements()) {
      const auto& g = want.at("grads/" + p.name);
      for (std::int64_t i = 0; counts(p) && i < g.numel(); ++i) s += g.view().at(i) * g.view().at(i);
    }
    return s;
  }

  double* at(const std::string& key) { return got.at(key).as<double>(); }
  const double* right(const std::string& key) { return want.at(key).as<double>(); }
  std::int64_t size(const std::string& key) { return got.at(key).numel(); }
  // What `rank` emits of a key; the others keep their right parts, and the global tensor is put together
  // anew.
  void emit(const std::string& key,
            const std::function<double(int rank, std::int64_t i, double right)>& value) {
    auto parts = fixture::parts_of(map_, key, want.at(key).view());
    for (int rank = 0; rank < map_.world(); ++rank)
      for (std::int64_t i = 0; i < parts.tensors[rank].numel(); ++i) {
        double& x = parts.tensors[rank].as<double>()[i];
        x = value(rank, i, x);
      }
    emitted_[key] = std::move(parts);
    auto& views = emitted_[key];
    for (auto& v : views.views) v.view = views.tensors[v.rank].view();
    got.at(key) = layout::unshard(map_, key, views.views).global;
  }
  // Different in every element, by no rule.
  void spoil(const std::string& key) {
    const Generator noise(5, key);
    for (std::int64_t i = 0; i < size(key); ++i) at(key)[i] += 0.3 * noise.normal(i);
  }

  Diagnosis diagnosis() {
    CaseEvidence evidence;
    evidence.map = &map_, evidence.train = train;
    evidence.placement = placement;
    for (auto& [key, tensor] : want) {
      CaseTensor t;
      t.key = key, t.want = tensor.view(), t.got = got.at(key).view();
      double norm = 0, worst = 0;
      for (std::int64_t i = 0; i < tensor.numel(); ++i) {
        norm += t.want.at(i) * t.want.at(i);
        worst = std::max(worst, std::fabs(t.got.at(i) - t.want.at(i)));
      }
      t.norm_bound = t.element_bound = 1e-11 * std::sqrt(norm);
      t.wrong = worst > t.element_bound;
      if (emitted_.count(key)) {
        t.locals = emitted_.at(key).views;
        const auto gathered = layout::unshard(map_, key, t.locals);
        t.replicas_differ = gathered.replica_differ, t.replicas_where = gathered.replica_where;
      }
      evidence.tensors.push_back(std::move(t));
    }
    return diagnose_case(evidence);
  }
  std::string cause() {
    const auto d = diagnosis();
    return d.causes.empty() ? "nothing" : d.causes[0].name;
  }

  std::map<std::string, HostTensor> want, got;
  std::vector<std::pair<std::string, std::string>> placement;
  TrainSpec train;

 private:
  static layout::LayoutMap make_map(const std::string& mesh, bool sp) {
    Batch b = fixture::batch();
    for (std::int64_t d = 0; d < b.documents(); ++d)
      for (std::int64_t t = b.document(d).begin; t < b.document(d).end; ++t) {
        b.token_ids[t] = (5 * t + 3) % 13;
        b.labels[t] = t + 1 < b.document(d).end && t % 7 != 3 ? (5 * t + 8) % 13 : kIgnoreLabel;
      }
    Flags flags;
    flags.sp = sp;
    const ModelConfig config = fixture::model();
    return {config, Mesh::parse(mesh), flags, b, fixture::placements(config)};
  }
  void add(const std::string& key, const Shape& shape) {
    HostTensor t = HostTensor::zeros(DType::float64, shape);
    const Generator generator(2, key);
    for (std::int64_t i = 0; i < t.numel(); ++i) t.as<double>()[i] = generator.normal(i);
    want[key] = got[key] = t;
  }
  void set(const std::string& key, const std::function<double(std::int64_t)>& value) {
    for (std::int64_t i = 0; i < want[key].numel(); ++i) want[key].as<double>()[i] = value(i);
    got[key] = want[key];
  }

  layout::LayoutMap map_;
  std::map<std::string, fixture::Parts> emitted_;
};

const std::string kConv = "model.layers.0.linear_attn.conv1d.weight";

}  // namespace

TEST_CASE("a right case has no first divergence and no cause") {
  PlantedCase c("fsdp2.tp2");
  CHECK(c.diagnosis().first.empty());
  CHECK(c.cause() == "nothing");
}

TEST_CASE("the first wrong tensor in execution order is named with its token") {
  PlantedCase c("fsdp2.tp2");
  for (const char* key : {"logits", "logprobs", "activations/layers.1.ffn", "activations/norm"}) c.spoil(key);
  c.at("activations/layers.1.mixer")[4 * 6 + 2] += 1;
  c.spoil("grads/model.norm.weight");
  const Diagnosis d = c.diagnosis();
  CHECK(d.first_key == "activations/layers.1.mixer");
  CHECK(d.first.find("forward, layers.1.mixer, token 4, position 2 of document 1 (row 0, micro-batch 0)") ==
        0);
  CHECK(d.first.find("tensors before it are within their bounds") != std::string::npos);
  CHECK(d.causes[0].name.find("attention of layer 1") != std::string::npos);
  CHECK(d.causes[0].confidence < 0.8);
}

TEST_CASE("weights loaded in another order are named before what they spoil") {
  PlantedCase c("tp2");
  const std::string key = "trace/weights/" + kConv;
  for (int i = 0; i < 4; ++i) std::swap(c.at(key)[2 * 4 + i], c.at(key)[9 * 4 + i]);
  c.spoil("activations/layers.0.mixer");
  c.spoil("logits");
  CHECK(c.diagnosis().first_key == key);
  CHECK(c.cause() == "weight sharded in the wrong order: rows permuted");
}

TEST_CASE("replicas that start apart are named though the first of them is right") {
  PlantedCase c("dp2");
  c.emit("trace/weights/model.norm.weight",
         [](int rank, std::int64_t, double right) { return right + 0.1 * rank; });
  CHECK(c.cause() == "replicas start from different weights");
}

TEST_CASE("rank-local counts of labels") {
  PlantedCase c("dp2");
  SECTION("scaled by the ranks") {
    c.emit("denominators/token_mean",
           [](int rank, std::int64_t, double right) { return rank == 0 ? 2 * (right - 3) : 6.0; });
    CHECK(c.cause() == "label count not summed over data ranks: a mean of per-rank means");
  }
  SECTION("as they are") {
    c.emit("denominators/token_mean",
           [](int rank, std::int64_t, double right) { return rank == 0 ? right - 3 : 3; });
    CHECK(c.cause() == "label count not summed over data ranks");
  }
}

TEST_CASE("logprobs of other labels are named by those") {
  PlantedCase c("dp1");
  SECTION("a constant is no label") {
    for (int t = 0; t < 20; ++t) c.at("logprobs")[t] -= c.right("logprobs")[t] != 0 ? 0.5 : 0;
    CHECK(c.cause() == "constant offset");
  }
  SECTION("of the token itself") {
    for (int t = 0; t < 20; ++t)
      c.at("logprobs")[t] = c.right("logprobs")[t] != 0 ? c.logprob(t, (5 * t + 3) % 13) : 0;
    CHECK(c.cause() == "labels not shifted");
  }
}

TEST_CASE("a loss that another policy gives is named by it") {
  PlantedCase c("dp1");
  c.at("loss/token_mean")[0] = -c.sum("logprobs");
  CHECK(c.cause() == "loss not divided by the count of labels");
  c.at("loss/token_mean")[0] = -c.sum("logprobs") / 20;
  CHECK(c.cause() == "loss divided by all tokens instead of valid labels");
}

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

TEST_CASE("counts of other tokens are named by the tokens") {
  PlantedCase c("uly2");
  c.at("denominators/token_mean")[0] -= 2;
  const std::int64_t width = c.want.at("activations/embed").shape[1];
  for (std::int64_t i = 0; i < 3 * width; ++i)
    c.at("activations/embed")[5 * width + i] = c.right("activations/embed")[i];
  CHECK(c.cause() == "rows taken from the wrong place in the output of the embedding");
}

TEST_CASE("a wrong loss of one policy is named where that of token_mean is right") {
  PlantedCase c("uly2");
  c.want["loss/micro_batch_mean"] = c.got["loss/micro_batch_mean"] = HostTensor::zeros(DType::float64, {});
  c.want["loss/micro_batch_mean"].as<double>()[0] = 3, c.at("loss/micro_batch_mean")[0] = 6;
  CHECK(c.cause().starts_with("loss micro_batch_mean multiplied by uly"));
}

TEST_CASE("a norm that counts replicas is named by the excess of its square") {
  PlantedCase c("tp2");
  const double replicated = c.squares([](const ParameterPlacement& p) { return p.tp_dim < 0; });
  const double all = c.squares([](const ParameterPlacement&) { return true; });
  c.at("grad_norm")[0] = std::sqrt(all + replicated);
  CHECK(c.cause() == "gradient norm counts parameters replicated over tp 2 times over tp");
}

TEST_CASE("a wrong step on right gradients is named by what it left out") {
  PlantedCase c("dp1");
  const double amount = c.train.lr * c.train.weight_decay;
  SECTION("decay") {
    for (const auto& [key, tensor] : c.want)
      if (key.rfind("step1/weights/", 0) == 0 && tensor.shape.size() >= 2)
        for (std::int64_t i = 0; i < c.size(key); ++i)
          c.at(key)[i] += amount * c.right("trace/" + key.substr(6))[i];
    CHECK(c.cause() == "weight decay not applied");
  }
  SECTION("decay of vectors") {
    for (const auto& [key, tensor] : c.want)
      if (key.rfind("step1/weights/", 0) == 0 && tensor.shape.size() == 1)
        for (std::int64_t i = 0; i < c.size(key); ++i)
          c.at(key)[i] -= amount * c.right("trace/" + key.substr(6))[i];
    CHECK(c.cause() == "weight decay applied to norms and other vectors");
  }
  SECTION("one slice") {
    const std::string name = "weights/model.layers.0.mlp.experts.down_proj";
    for (int i = 0; i < 42; ++i) c.at("step1/" + name)[42 + i] = c.right("trace/" + name)[42 + i];
    CHECK(c.cause() == "part of the weights not updated in step 1");
  }
}

TEST_CASE("gradients wrong from the second step on only") {
  PlantedCase c("dp1");
  for (const auto& [key, tensor] : c.want)
    if (key.rfind("trace/step2/grads/", 0) == 0)
      for (std::int64_t i = 0; i < c.size(key); ++i) c.at(key)[i] += c.right("grads/" + key.substr(18))[i];
  CHECK(c.cause() == "gradients not cleared between steps");
}

TEST_CASE("a forward pass that goes wrong in the second step with right weights used old ones") {
  PlantedCase c("fsdp2");
  c.spoil("trace/step2/activations/layers.1.mixer");
  c.spoil("trace/step2/activations/norm");
  CHECK(c.cause() == "old weights used in step 2");
}

TEST_CASE("an axis that changes no shape is the cause, whatever else is wrong") {
  PlantedCase c("tp2", true);
  c.placement = {{"sp", "changes no local shape"}};
  CHECK(c.cause() == "sp has no effect");
}

TEST_CASE("a cause line is read back") {
  Cause cause;
  REQUIRE(parse_cause_line(cause_line({"stale", "a (b: c) d", 0.97}), cause));
  CHECK(cause.name == "stale");
  CHECK(cause.evidence == "a (b: c) d");
  CHECK(cause.confidence == 0.97);
  CHECK(!parse_cause_line("cause   not found", cause));
}

}  // namespace meshparity::diagnose
