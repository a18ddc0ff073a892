#include "harness/diagnose/case.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <string_view>

#include "harness/diagnose/case_view.h"

namespace meshparity::diagnose {
namespace {

bool takes(std::string_view& text, std::string_view prefix) {
  if (text.substr(0, prefix.size()) != prefix) return false;
  text.remove_prefix(prefix.size());
  return true;
}

// "layers.12.mixer" -> 12, -1 where no layer is named.
std::int64_t layer_in(std::string_view name) {
  const auto at = name.find("layers.");
  if (at == std::string_view::npos) return -1;
  std::int64_t layer = -1;
  std::from_chars(name.data() + at + 7, name.data() + name.size(), layer);
  return layer;
}

// "model.visual.blocks.3.attn.qkv.weight" -> 3, -1 where no block is named.
std::int64_t vision_block_in(std::string_view name) {
  const auto at = name.find("visual.blocks.");
  if (at == std::string_view::npos) return -1;
  std::int64_t block = -1;
  std::from_chars(name.data() + at + 14, name.data() + name.size(), block);
  return block;
}

// The vision tower comes behind the embedding in the backward pass: its merger, its blocks downwards, its
// patch embedding. No tower has as many blocks as this.
constexpr int kMostBlocks = 10000;
int vision_backward_place(std::string_view name) {
  const std::int64_t block = vision_block_in(name);
  if (name.find("visual.merger.") != std::string_view::npos) return 0;
  return block < 0 ? kMostBlocks : kMostBlocks - 1 - static_cast<int>(block);
}

// Where in the backward pass a parameter's gradient is complete: the head first, the embedding last. Inside a
// block the products nearest its output come first.
int backward_place(const std::string& name, std::int64_t layers) {
  constexpr int kPerLayer = 100;
  if (name.starts_with("mtp.")) return 0;
  if (name.starts_with("model.visual."))
    return static_cast<int>(layers + 2) * kPerLayer + vision_backward_place(name);
  const std::int64_t layer = layer_in(name);
  if (layer < 0)
    return name.starts_with("lm_head")               ? 0
           : name.find("embed") == std::string::npos ? 1
                                                     : static_cast<int>(layers + 1) * kPerLayer;
  static constexpr std::string_view kParts[] = {"mlp.down_proj.",
                                                "mlp.experts.down_proj",
                                                "mlp.shared_expert.down_proj.",
                                                "mlp.up_proj.",
                                                "mlp.gate_proj.",
                                                "mlp.experts.gate_up_proj",
                                                "mlp.shared_expert.",
                                                "mlp.",
                                                "post_attention_layernorm.",
                                                "o_proj.",
                                                "out_proj.",
                                                "linear_attn.norm.",
                                                "self_attn.",
                                                "linear_attn.",
                                                "input_layernorm."};
  int part = 0;
  for (const auto p : kParts) {
    if (name.find(p) != std::string::npos) break;
    ++part;
  }
  return static_cast<int>(layers - layer) * kPerLayer + part;
}

int forward_place(const std::string& name, std::int64_t layers) {
  if (name.starts_with("visual.")) {
    // Before the stream that holds its features.
    const std::int64_t block = vision_block_in(name);
    return block >= 0                ? static_cast<int>(block) - kMostBlocks
           : name == "visual.merger" ? -1
                                     : -kMostBlocks - 1;
  }
  const std::int64_t layer = layer_in(name);
  if (layer < 0) return name == "embed" ? 0 : static_cast<int>(2 * layers + 1);
  return static_cast<int>(2 * layer + (name.ends_with(".mixer") ? 1 : 2));
}

const char* phase_words(Phase phase) {
  switch (phase) {
    case Phase::load:
      return "weight as loaded, ";
    case Phase::counts:
    case Phase::loss:
    case Phase::norm:
    case Phase::logits:
    case Phase::logprobs:
      return "";
    case Phase::forward:
      return "forward, ";
    case Phase::backward:
      return "backward, gradient of ";
    case Phase::update:
      return "optimizer, ";
  }
  return "";
}

// "token 17, position 4 of document 2 (row 1, micro-batch 0), local 3 of 12 on fsdp0.tp1".
std::string token_place(const CaseView& view, const CaseTensor& tensor, std::int64_t token) {
  const Batch& b = view.batch;
  std::int64_t d = 0, r = 0, m = 0;
  while (d + 1 < b.documents() && b.document_offsets[d + 1] <= token) ++d;
  while (r + 1 < b.rows() && b.row_offsets[r + 1] <= d) ++r;
  while (m + 1 < b.micro_batches() && b.micro_batch_offsets[m + 1] <= r) ++m;
  std::string text = "token " + std::to_string(token) + ", position " +
                     std::to_string(token - b.document_offsets[d]) + " of document " + std::to_string(d) +
                     " (row " + std::to_string(r) + ", micro-batch " + std::to_string(m) + ")";
  if (tensor.locals.empty() || view.map.world() == 1) return text;
  for (int rank = 0; rank < view.map.world(); ++rank) {
    const auto held = view.map.local(tensor.key, rank).indices[0];
    const auto at = std::find(held.begin(), held.end(), token);
    if (at == held.end()) continue;
    text += ", local " + std::to_string(at - held.begin()) + " of " + std::to_string(held.size()) + " on " +
            rank_text(view.map.mesh(), rank);
    const bool begins = at == held.begin() || *(at - 1) != token - 1;
    if (begins && token > b.document_offsets[d]) text += ", the first behind a shard edge";
    break;
  }
  return text;
}

bool has_token_rows(const CaseView& view, const Moment& moment, const CaseTensor& tensor) {
  return !moment.name.starts_with("visual.") && moment.phase >= Phase::forward &&
         moment.phase <= Phase::logprobs && !tensor.want.shape.empty() &&
         tensor.want.shape[0] == view.batch.tokens();
}

std::string place_of(const CaseView& view, const CaseView::Entry& first) {
  const Moment& moment = first.moment;
  std::string text = moment.step > 1 ? "step " + std::to_string(moment.step) + ", " : "";
  text += phase_words(moment.phase) + moment.name;
  if (!first.tensor->invalid.empty()) return text + ": " + first.tensor->invalid;
  if (!first.tensor->wrong)
    text += ", " + first.tensor->replicas_where + " where replicas should be equal";
  else if (has_token_rows(view, moment, *first.tensor))
    if (const auto tokens = wrong_tokens(*first.tensor); !tokens.empty())
      text += ", " + token_place(view, *first.tensor, *tokens.begin());
  int before = 0;
  for (const auto& entry : view.order) {
    if (&entry == &first) break;
    ++before;
  }
  return text + "; " +
         (before ? "the " + std::to_string(before) + " tensors before it are within their bounds"
                 : "nothing comes before it");
}

// What could not be compared at all says why itself.
void invalid_rules(const CaseView& view, std::vector<Cause>& causes) {
  const std::string& why = view.first->tensor->invalid;
  if (why.empty()) return;
  const auto says = [&](const char* words) { return why.find(words) != std::string::npos; };
  const std::string& name = view.first->moment.name;
  if (says("never arrived"))
    causes.push_back({"gradient never arrived", name + ": " + why, 0.95});
  else if (says("missing") || says("no rank emitted"))
    causes.push_back({"not written: " + name, why, 0.7});
  else if (says("finite"))
    causes.push_back(
        {"not finite", name + ": " + why + ": a division by a count of zero or an overflow", 0.6});
  else
    causes.push_back({"wrong shape or dtype: " + name, why, 0.6});
}

}  // namespace

Moment moment_of(const std::string& key, std::int64_t layers) {
  Moment moment;
  std::string_view path = key;
  takes(path, "trace/");
  if (path.starts_with("step")) {
    const auto slash = path.find('/');
    std::from_chars(path.data() + 4, path.data() + slash, moment.step);
    path.remove_prefix(slash + 1);
    moment.phase = Phase::update;
  }
  if (takes(path, "weights/")) {
    moment.name = path;
  } else if (takes(path, "grads/")) {
    moment.phase = Phase::backward, moment.name = path;
    moment.within = backward_place(moment.name, layers);
  } else if (takes(path, "activations/")) {
    moment.phase = Phase::forward, moment.name = path;
    moment.within = forward_place(moment.name, layers);
  } else {
    moment.name = path;
    moment.phase = path == "logits"                   ? Phase::logits
                   : path == "logprobs"               ? Phase::logprobs
                   : path == "grad_norm"              ? Phase::norm
                   : path.starts_with("denominators") ? Phase::counts
                                                      : Phase::loss;
    // The policy that all others are explained by stands first.
    moment.within = path.ends_with("/token_mean") ? 0 : 1;
  }
  return moment;
}

CaseView::CaseView(const CaseEvidence& e)
    : evidence(e), map(*e.map), batch(e.map->batch()), config(e.map->config()) {
  for (const auto& tensor : e.tensors)
    order.push_back({moment_of(tensor.key, config.num_hidden_layers), &tensor});
  std::sort(order.begin(), order.end(),
            [](const Entry& a, const Entry& b) { return a.moment.order() < b.moment.order(); });
  for (const auto& entry : order)
    if (!first && (entry.tensor->wrong || entry.tensor->replicas_differ > 0)) first = &entry;
}

const CaseTensor* CaseView::find(const std::string& key) const {
  for (const auto& tensor : evidence.tensors)
    if (tensor.key == key) return tensor.invalid.empty() ? &tensor : nullptr;
  return nullptr;
}

bool CaseView::right(const std::string& key) const {
  const CaseTensor* tensor = find(key);
  return tensor && !tensor->wrong;
}

std::pair<int, int> CaseView::wrong_of(Phase phase, int step) const {
  int wrong = 0, all = 0;
  for (const auto& entry : order)
    if (entry.moment.phase == phase && entry.moment.step == step) ++all, wrong += entry.tensor->wrong;
  return {wrong, all};
}

std::vector<std::vector<std::vector<std::int64_t>>> CaseView::streams() const {
  const Mesh& mesh = map.mesh();
  std::vector<std::vector<std::vector<std::int64_t>>> streams(static_cast<std::size_t>(token_ranks(mesh)));
  for (int rank = 0; rank < mesh.world(); ++rank) {
    auto& own = streams[static_cast<std::size_t>(token_rank(mesh, rank))];
    if (!own.empty()) continue;  // another tp rank of the same tokens
    own.resize(static_cast<std::size_t>(batch.micro_batches()));
    std::int64_t m = 0;
    for (const std::int64_t t : map.tokens(rank, false)) {
      while (t >= batch.micro_batch_tokens(m).end) ++m;
      own[static_cast<std::size_t>(m)].push_back(t);
    }
  }
  return streams;
}

std::vector<Cause> shape_causes(const CaseView& view, const CaseTensor& t) {
  if (!t.invalid.empty()) return {};
  return causes({t.key, t.got, t.want, t.norm_bound, t.element_bound, &view.map, t.locals, nullptr});
}

double difference_of(const CaseTensor& tensor) {
  return distance(values_of(tensor.got), values_of(tensor.want));
}

bool explains(const CaseTensor& tensor, double residual) {
  // A bound of zero (counts) admits the rounding of the explanation itself.
  const double slack = std::max(tensor.norm_bound, 1e-12 * norm_of(values_of(tensor.want)));
  return residual <= slack && residual <= 0.05 * difference_of(tensor);
}

std::set<std::int64_t> wrong_tokens(const CaseTensor& tensor) {
  std::set<std::int64_t> tokens;
  const std::int64_t inner = tensor.want.numel() / std::max<std::int64_t>(1, tensor.want.shape[0]);
  for (std::int64_t i = 0; i < tensor.want.numel(); ++i)
    if (!(std::fabs(tensor.got.at(i) - tensor.want.at(i)) <= tensor.element_bound)) tokens.insert(i / inner);
  return tokens;
}

Diagnosis diagnose_case(const CaseEvidence& evidence) {
  Diagnosis diagnosis;
  const CaseView view(evidence);
  auto& causes = diagnosis.causes;
  shape_rules(view, causes);
  if (view.first) {
    diagnosis.first_key = view.first->tensor->key;
    diagnosis.first = place_of(view, *view.first);
    load_rules(view, causes);
    count_rules(view, causes);
    input_rules(view, causes);
    row_rules(view, causes);
    label_rules(view, causes);
    forward_rules(view, causes);
    loss_rules(view, causes);
    policy_rules(view, causes);
    backward_rules(view, causes);
    expert_rules(view, causes);
    pipeline_rules(view, causes);
    norm_rules(view, causes);
    update_rules(view, causes);
    replica_rules(view, causes);
    invalid_rules(view, causes);
  }
  most_confident_first(causes);
  return diagnosis;
}

std::string first_line(const Diagnosis& diagnosis) {
  return "first   " + diagnosis.first;
}

}  // namespace meshparity::diagnose
