// For the tests of case diagnosis: a whole case, right at first, in which a test plants one thing.
#pragma once

#include <cmath>
#include <functional>
#include <map>

#include "harness/diagnose/case.h"
#include "harness/layout/layout_fixture.h"
#include "harness/types/generator.h"

namespace meshparity::diagnose {

namespace fixture = layout::fixture;

// A case in which all that a run records is right at first. Expected values are random, but logprobs are
// those of the logits and the loss, counts and norm follow from them.
class PlantedCase {
 public:
  explicit PlantedCase(const std::string& mesh, bool sp = false, bool recompute = false, bool tied = false)
      : map_(make_map(mesh, sp, recompute, tied)) {
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

  // The gradient of the head from the tokens of one micro-batch: (softmax - label) / N on the final norm's
  // output.
  double head_gradient(std::int64_t m, std::int64_t v, std::int64_t d) const {
    const Range tokens = map_.batch().micro_batch_tokens(m);
    const auto& norm = want.at("activations/norm");
    double g = 0;
    for (std::int64_t t = tokens.begin; t < tokens.end; ++t) {
      const std::int64_t label = map_.batch().labels[t];
      if (label < 0) continue;
      g += (std::exp(logprob(t, v)) - (v == label)) / valid() * norm.view().at(t * norm.shape[1] + d);
    }
    return g;
  }

  Diagnosis diagnosis() {
    CaseEvidence evidence;
    evidence.map = &map_, evidence.train = train;
    evidence.placement = placement, evidence.loss = loss;
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
  std::string loss = "token_mean";

 private:
  static layout::LayoutMap make_map(const std::string& mesh, bool sp, bool recompute, bool tied) {
    Batch b = fixture::batch();
    for (std::int64_t d = 0; d < b.documents(); ++d)
      for (std::int64_t t = b.document(d).begin; t < b.document(d).end; ++t) {
        b.token_ids[t] = (5 * t + 3) % 13;
        b.labels[t] = t + 1 < b.document(d).end && t % 7 != 3 ? (5 * t + 8) % 13 : kIgnoreLabel;
      }
    Flags flags;
    flags.sp = sp, flags.recompute = recompute;
    ModelConfig config = fixture::model();
    config.tie_word_embeddings = tied;
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

}  // namespace meshparity::diagnose
