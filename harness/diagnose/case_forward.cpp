// Rules for what is wrong before any gradient: weights as loaded, counts of labels, the first activation,
// labels and log-sum-exp, the loss of right logprobs, tokens that are not there.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "harness/diagnose/case_view.h"

namespace meshparity::diagnose {
namespace {

constexpr double kExact = 0.97;     // the explanation leaves nothing over
constexpr double kLocated = 0.5;    // where, but not what
constexpr std::int64_t kNone = -1;  // no label

std::string ranks_text(const Values& values) {
  std::string text;
  for (std::size_t i = 0; i < values.size() && i < 8; ++i) text += (i ? ", " : "") + short_number(values[i]);
  return values.size() > 8 ? text + ", ..." : text;
}

double through_bfloat16(double x) {
  const auto f = static_cast<float>(x);
  std::uint32_t bits;
  std::memcpy(&bits, &f, 4);
  bits += 0x7FFF + (bits >> 16 & 1);  // to nearest, ties to even
  bits &= 0xFFFF0000u;
  float rounded;
  std::memcpy(&rounded, &bits, 4);
  return rounded;
}

// "layers.3.mixer" -> "attention of layer 3".
std::string block_words(const CaseView& view, const std::string& name) {
  if (name == "embed") return "the embedding";
  if (name == "visual.patch_embed") return "the patch embedding of the vision tower";
  if (name == "visual.merger") return "the merger of the vision tower";
  if (name.starts_with("visual.blocks.")) return "block " + name.substr(14) + " of the vision tower";
  if (name == "norm") return "the final norm";
  const std::int64_t layer = std::stoll(name.substr(7));
  const std::string of = " of layer " + std::to_string(layer);
  if (name.ends_with(".ffn")) return (view.config.is_moe() ? "mixture of experts" : "FFN") + of;
  return (view.config.full_attention[static_cast<std::size_t>(layer)] ? "attention" : "GatedDeltaNet") + of;
}

// Log-softmax of row t of the logits at `label`, rounding the logits first if asked.
class LogSoftmax {
 public:
  LogSoftmax(const TensorView& logits, bool rounded)
      : logits_(logits), width_(logits.shape[1]), rounded_(rounded) {
    for (std::int64_t t = 0; t < logits.shape[0]; ++t) {
      double max = at(t, 0), sum = 0;
      for (std::int64_t v = 1; v < width_; ++v) max = std::max(max, at(t, v));
      for (std::int64_t v = 0; v < width_; ++v) sum += std::exp(at(t, v) - max);
      lse_.push_back(max + std::log(sum));
    }
  }
  double of(std::int64_t t, std::int64_t label) const {
    return label < 0 || label >= width_ ? 0 : at(t, label) - lse_[static_cast<std::size_t>(t)];
  }

 private:
  double at(std::int64_t t, std::int64_t v) const {
    const double x = logits_.at(t * width_ + v);
    return rounded_ ? through_bfloat16(x) : x;
  }
  TensorView logits_;
  std::int64_t width_;
  bool rounded_;
  Values lse_;
};

struct Labels {
  const char* name;
  const char* evidence;
  std::vector<std::int64_t> labels;
};

// Labellings that a mistake gives, over the whole batch.
bool same_document(const Batch& batch, std::int64_t a, std::int64_t b) {
  const auto number = [&](std::int64_t t) {
    return std::upper_bound(batch.document_offsets.begin(), batch.document_offsets.end(), t);
  };
  return number(a) == number(b);
}

std::vector<Labels> mistaken_labels(const CaseView& view) {
  const Batch& b = view.batch;
  const std::vector<std::int64_t> none(b.labels.size(), kNone);
  Labels twice{"labels shifted twice", "the label of token t is the one of t+1 in its stream", none};
  Labels own{"labels not shifted", "every token is its own label", none};
  Labels across{"label across document boundaries",
                "the last token of a document has the first of the next one as label", b.labels};
  Labels inside{"labels shifted inside each shard",
                "the label of token t is the next token of its document on the same rank", none};
  for (const auto& rank : view.streams())
    for (const auto& stream : rank)
      for (std::size_t i = 0; i < stream.size(); ++i) {
        const std::int64_t t = stream[i], next = i + 1 < stream.size() ? stream[i + 1] : -1;
        twice.labels[t] = next < 0 ? kNone : b.labels[next];
        own.labels[t] = b.labels[t] < 0 ? kNone : b.token_ids[t];
        if (b.labels[t] >= 0 && next >= 0 && same_document(b, t, next)) inside.labels[t] = b.token_ids[next];
        const bool ends = std::binary_search(b.document_offsets.begin(), b.document_offsets.end(), t + 1);
        if (ends && next >= 0) across.labels[t] = b.token_ids[next];
      }
  Labels uncut{"labels not cut over the context ranks",
               "token i of every rank has the label of token i of its data rank's stream", none};
  const Mesh& mesh = view.map.mesh();
  for (int rank = 0; rank < mesh.world() && mesh.cp() > 1; ++rank) {
    std::int64_t m = -1;
    std::vector<std::int64_t> whole;  // stream of the data rank in micro-batch m
    std::size_t next = 0;
    for (const std::int64_t t : view.map.tokens(rank, false)) {
      while (m < 0 || t >= b.micro_batch_tokens(m).end) {
        whole.clear(), next = 0;
        const Range rows = b.micro_batch_rows(++m);
        for (std::int64_t row = rows.begin + data_rank(mesh, rank); row < rows.end; row += data_ranks(mesh))
          for (std::int64_t s = b.row_tokens(row).begin; s < b.row_tokens(row).end; ++s) whole.push_back(s);
      }
      uncut.labels[t] = b.labels[whole[next++]];
    }
  }
  return {twice, own, across, inside, uncut};
}

// Row of the embedding table that the first id of a vocabulary shard looks up, for every tp index.
bool unmasked_embedding(const CaseView& view, const CaseTensor& embedded) {
  const CaseTensor* table = view.find("trace/weights/model.embed_tokens.weight");
  const Mesh& mesh = view.map.mesh();
  if (!table || mesh.tp == 1) return false;
  const std::int64_t width = table->want.shape[1], rows = table->want.shape[0];
  Values expected = values_of(embedded.want);
  for (std::int64_t t = 0; t < view.batch.tokens(); ++t)
    for (int i = 0; i < mesh.tp; ++i) {
      const Range shard = cut(rows, mesh.tp, i);
      const std::int64_t id = view.batch.token_ids[static_cast<std::size_t>(t)];
      if (shard.size() == 0 || (id >= shard.begin && id < shard.end)) continue;
      for (std::int64_t d = 0; d < width; ++d)
        expected[t * width + d] += table->want.at(shard.begin * width + d);
    }
  return explains(embedded, distance(values_of(embedded.got), expected));
}

// The first documents of all streams are right and everything behind them is wrong.
bool behind_first_documents(const CaseView& view, const CaseTensor& tensor, std::int64_t& later) {
  const auto wrong = wrong_tokens(tensor);
  const Batch& b = view.batch;
  for (const auto& rank : view.streams())
    for (const auto& stream : rank) {
      bool behind = false, any = false;
      for (std::size_t i = 0; i < stream.size(); ++i) {
        const bool starts =
            i > 0 && std::binary_search(b.document_offsets.begin(), b.document_offsets.end(), stream[i]);
        if (starts) {
          if (behind && !any) return false;  // a whole later document is right
          behind = true, any = false, ++later;
        }
        const bool bad = wrong.count(stream[i]) > 0;
        if (bad && !behind) return false;
        any |= bad;
      }
      if (behind && !any) return false;
    }
  return later > 0;
}

}  // namespace

void shape_rules(const CaseView& view, std::vector<Cause>& causes) {
  for (const auto& [tensor, reason] : view.evidence.placement)
    if (tensor.starts_with("axis ") || tensor == "sp")
      causes.push_back({tensor + " has no effect", reason, 0.95});
  // Ranks that emit floor(tokens / tp) * tp tokens of each micro-batch.
  const auto streams = view.streams();
  for (const auto& tensor : view.evidence.tensors) {
    if (tensor.key != "logprobs" || tensor.invalid.empty() || tensor.locals.empty()) continue;
    const Mesh& mesh = view.map.mesh();
    std::int64_t lost = 0;
    for (const auto& local : tensor.locals) {
      std::int64_t kept = 0;
      for (const auto& stream : streams[static_cast<std::size_t>(token_rank(mesh, local.rank))])
        kept += static_cast<std::int64_t>(stream.size()) / mesh.tp * mesh.tp;
      if (local.view.shape.size() != 1 || local.view.shape[0] != kept) return;
      lost += view.map.local("logprobs", local.rank).local_shape()[0] - kept;
    }
    if (lost > 0)
      causes.push_back({"tokens dropped: the remainder of tokens / tp",
                        "every rank emits floor(tokens / " + std::to_string(mesh.tp) + ") * " +
                            std::to_string(mesh.tp) + " tokens of each micro-batch",
                        kExact});
  }
}

void load_rules(const CaseView& view, std::vector<Cause>& causes) {
  if (view.first->moment.phase != Phase::load) return;
  const CaseTensor& tensor = *view.first->tensor;
  const auto wrong = view.wrong_of(Phase::load);
  const std::string others = wrong.first > 1 ? "; so do " + std::to_string(wrong.first - 1) + " others" : "";
  for (const auto& cause : shape_causes(view, tensor)) {
    if (cause.name.find("permuted") != std::string::npos || cause.name.find("taken from") == 0 ||
        cause.name.find("wrong place") != std::string::npos)
      causes.push_back({"weight sharded in the wrong order: " + cause.name,
                        tensor.key.substr(14) + " differs as loaded" + others + "; " + cause.evidence,
                        kExact});
    else if (cause.name.find("rounded to") == 0)
      causes.push_back({"weight " + cause.name + " when loaded",
                        tensor.key.substr(14) + others + ": " + cause.evidence, kExact});
  }
  if (tensor.wrong)
    causes.push_back({"weights differ as loaded", tensor.key.substr(14) + others, 0.7});
  else
    causes.push_back({"replicas start from different weights",
                      std::to_string(tensor.replicas_differ) + " elements of " + tensor.key.substr(14) +
                          " differ between ranks that hold the same part, first " + tensor.replicas_where,
                      kExact});
}

void count_rules(const CaseView& view, std::vector<Cause>& causes) {
  const CaseTensor* tensor = view.find("denominators/token_mean");
  const double want = tensor ? tensor->want.at(0) : 0;
  // Where rank 0's count happens to be right, the others still tell.
  const Mesh& mesh = view.map.mesh();
  const int ranks = token_ranks(mesh);
  if (!tensor) return;
  if (ranks > 1 && static_cast<int>(tensor->locals.size()) == mesh.world()) {
    Values counts(static_cast<std::size_t>(ranks), 0);
    for (const auto& local : tensor->locals)
      counts[static_cast<std::size_t>(token_rank(mesh, local.rank))] = local.view.at(0);
    const double sum = std::accumulate(counts.begin(), counts.end(), 0.0);
    const bool differ = std::any_of(counts.begin(), counts.end(), [&](double c) { return c != counts[0]; });
    const std::string held =
        "data ranks count " + ranks_text(counts) + " where " + short_number(want) + " labels are valid";
    if (differ && sum == want)
      causes.push_back({"label count not summed over data ranks", held + "; their sum is right", kExact});
    else if (differ && std::fabs(sum - ranks * want) <= 1e-9 * want)
      causes.push_back({"label count not summed over data ranks: a mean of per-rank means",
                        held + "; their mean is right", kExact});
  }
  if (!tensor->wrong) return;
  const double extra = tensor->got.at(0) - want;
  const auto labels = mistaken_labels(view);
  for (const auto& mistake : labels) {
    const auto valid = std::count_if(mistake.labels.begin(), mistake.labels.end(),
                                     [](std::int64_t label) { return label >= 0; });
    if (static_cast<double>(valid) == tensor->got.at(0))
      causes.push_back({mistake.name,
                        "the count of valid labels is " + short_number(tensor->got.at(0)) + ", not " +
                            short_number(want) + ", as if " + mistake.evidence,
                        0.75});
  }
  if (extra < 0)
    causes.push_back(
        {"labels lost", short_number(-extra) + " of " + short_number(want) + " valid labels", 0.5});
}

void label_rules(const CaseView& view, std::vector<Cause>& causes) {
  const CaseTensor *logprobs = view.find("logprobs"), *logits = view.find("logits");
  if (!logprobs || !logprobs->wrong || !logits || logits->wrong || logits->want.shape.size() != 2) return;
  const Values got = values_of(logprobs->got);
  const auto residual = [&](const LogSoftmax& softmax, const std::vector<std::int64_t>& labels) {
    Values expected(got.size());
    for (std::size_t t = 0; t < got.size(); ++t)
      expected[t] = softmax.of(static_cast<std::int64_t>(t), labels[t]);
    return distance(got, expected);
  };
  const LogSoftmax exact(logits->want, false);
  for (const auto& mistake : mistaken_labels(view))
    if (explains(*logprobs, residual(exact, mistake.labels)))
      causes.push_back({mistake.name,
                        std::string("logits are right, and the logprobs are theirs if ") + mistake.evidence,
                        kExact + 0.01});
  const LogSoftmax rounded(logits->want, true);
  if (explains(*logprobs, residual(rounded, view.batch.labels)))
    causes.push_back({"log-softmax of logits rounded to bfloat16",
                      "logits are right, and the logprobs are those of their bfloat16 values", kExact});
  for (auto cause : shape_causes(view, *logprobs)) {
    cause.evidence = "logits are right, logprobs are not: " + cause.evidence;
    causes.push_back(std::move(cause));
  }
}

// What is wrong with a forward pass whose code was right in step 1 and whose weights are within their bounds.
Cause used_again(const CaseView& view, const Moment& moment, const CaseTensor& tensor) {
  // Old weights err by as much as the step changed the output; what rounding left in the weights, enlarged
  // where gradients are far below AdamW's eps, by next to nothing of that.
  constexpr double kCarried = 1e-4;
  const std::string step = std::to_string(moment.step), before = "step" + std::to_string(moment.step - 1);
  const CaseTensor* first = view.find("activations/" + moment.name);
  const double moved = first ? distance(values_of(first->want), values_of(tensor.want)) : 0;
  const double error = difference_of(tensor);
  if (error < kCarried * moved)
    return {"rounding of the weights carried into step " + step,
            block_words(view, moment.name) + " differs by " + short_number(error / moved) +
                " of what the steps before changed in it, and the weights after " + before +
                " are within their bounds; AdamW enlarges roundings where gradients are small",
            0.6};
  return {"old weights used in step " + step,
          block_words(view, moment.name) + " was right in step 1, and the weights after " + before +
              " are right, but its output in the next step is not",
          0.85};
}

void forward_rules(const CaseView& view, std::vector<Cause>& causes) {
  const Moment& moment = view.first->moment;
  const bool forward = moment.phase == Phase::forward || moment.phase == Phase::logits;
  if (!forward || !view.first->tensor->wrong || !view.first->tensor->invalid.empty()) return;
  const CaseTensor& tensor = *view.first->tensor;
  if (moment.step > 1) {
    // The same code was right in step 1 and the weights after it are right: other weights were used.
    if (view.wrong_of(Phase::update, moment.step - 1).first == 0)
      causes.push_back(used_again(view, moment, tensor));
    return;
  }
  if (moment.name == "embed" && unmasked_embedding(view, tensor)) {
    causes.push_back({"embedding rows outside the vocabulary shard not masked",
                      "got = want + the first row of every other tp rank's shard, at every token", kExact});
    return;
  }
  if (moment.phase == Phase::logits) {
    for (auto cause : shape_causes(view, tensor)) {
      if (view.right("activations/norm"))
        cause.evidence = "the final norm is right, logits are not: " + cause.evidence;
      causes.push_back(std::move(cause));
    }
    return;
  }
  const std::string block = block_words(view, moment.name);
  if (moment.name.starts_with("visual.")) {
    causes.push_back({block + " computes something else", "its input is right, its output is not", kLocated});
    return;
  }
  std::int64_t later = 0;
  if (behind_first_documents(view, tensor, later))
    causes.push_back(
        {"boundaries between documents lost in " + block,
         "the first document of every stream is right, all " + std::to_string(later) + " others are wrong",
         0.9});
  for (auto cause : shape_causes(view, tensor)) {
    // A number without a name says less than the place does.
    if (cause.name.find("constant factor") == 0) continue;
    cause.name += " in the output of " + block;
    causes.push_back(std::move(cause));
  }
  const double norm = norm_of(values_of(tensor.want)), relative = norm > 0 ? difference_of(tensor) / norm : 0;
  if (relative > 1e-6 && relative < 1e-2)
    causes.push_back({"low precision inside " + block,
                      "the difference is " + short_number(relative) + " of its output, its input is right",
                      0.55});
  causes.push_back({block + " computes something else",
                    "its input is right, its output differs by " + short_number(relative) +
                        " of its norm at " + std::to_string(wrong_tokens(tensor).size()) + " of " +
                        std::to_string(view.batch.tokens()) + " tokens",
                    kLocated});
}

}  // namespace meshparity::diagnose
