// Rules for gradients that lack micro-batches, and for an embedding that two pipeline stages hold.
#include <cmath>

#include "harness/diagnose/case_view.h"

namespace meshparity::diagnose {
namespace {

// The gradient of the head's table from the tokens of some micro-batches, from right logits and the right
// output of the final norm: sum over tokens of (softmax - label) / N times that output.
Values head_gradient(const CaseView& view, const CaseTensor& logits, const CaseTensor& norm,
                     Range micro_batches) {
  const std::int64_t width = logits.want.shape[1], hidden = norm.want.shape[1];
  double valid = 0;
  for (const auto label : view.batch.labels) valid += label >= 0;
  Values gradient(static_cast<std::size_t>(width * hidden), 0.0);
  for (std::int64_t m = micro_batches.begin; m < micro_batches.end; ++m) {
    const Range tokens = view.batch.micro_batch_tokens(m);
    for (std::int64_t t = tokens.begin; t < tokens.end; ++t) {
      const std::int64_t label = view.batch.labels[static_cast<std::size_t>(t)];
      if (label < 0) continue;
      double max = logits.want.at(t * width), sum = 0;
      for (std::int64_t v = 1; v < width; ++v) max = std::max(max, logits.want.at(t * width + v));
      for (std::int64_t v = 0; v < width; ++v) sum += std::exp(logits.want.at(t * width + v) - max);
      for (std::int64_t v = 0; v < width; ++v) {
        const double p = std::exp(logits.want.at(t * width + v) - max) / sum;
        const double scale = (p - (v == label ? 1 : 0)) / valid;
        for (std::int64_t d = 0; d < hidden; ++d)
          gradient[static_cast<std::size_t>(v * hidden + d)] += scale * norm.want.at(t * hidden + d);
      }
    }
  }
  return gradient;
}

void missing_micro_batches(const CaseView& view, std::vector<Cause>& causes) {
  const CaseTensor *head = view.find("grads/lm_head.weight"), *logits = view.find("logits"),
                   *norm = view.find("activations/norm");
  const std::int64_t count = view.batch.micro_batches();
  if (!head || !head->wrong || !logits || logits->wrong || !norm || norm->wrong || count < 2) return;
  if (view.evidence.loss != "token_mean") return;
  struct Mistake {
    const char* name;
    Range micro_batches;
  };
  for (const Mistake& mistake : {Mistake{"gradients of the last micro-batch alone", {count - 1, count}},
                                 Mistake{"gradients of the first micro-batch alone", {0, 1}},
                                 Mistake{"gradients without the last micro-batch", {0, count - 1}},
                                 Mistake{"gradients without the first micro-batch", {1, count}}})
    if (explains(*head,
                 distance(values_of(head->got), head_gradient(view, *logits, *norm, mistake.micro_batches))))
      causes.push_back({mistake.name,
                        "logits and loss are right; the gradient of lm_head.weight is exactly that of these "
                        "tokens of " +
                            std::to_string(count) + " micro-batches",
                        0.97});
}

}  // namespace

void pipeline_rules(const CaseView& view, std::vector<Cause>& causes) {
  const Moment& moment = view.first->moment;
  if (moment.phase != Phase::backward || moment.step != 1 || !view.first->tensor->invalid.empty()) return;
  missing_micro_batches(view, causes);
  const bool shared = view.config.tie_word_embeddings && view.map.mesh().pp > 1;
  if (shared && moment.name == "model.embed_tokens.weight")
    causes.push_back({"gradients of a tied embedding put together wrongly over its stages",
                      "forward, loss and all other gradients are right; the first and the last stage hold "
                      "this parameter, each with the gradient of its own use",
                      0.7});
}

}  // namespace meshparity::diagnose
