// Who holds what: parameters by their placement rows, token-like tensors by the rule of rows and data ranks.
// To add a kind of emitted tensor: a branch in LayoutMap::local, and its line in the table of
// layout_test.cpp.
#include <algorithm>
#include <charconv>
#include <numeric>
#include <string_view>

#include "harness/layout/images.h"
#include "harness/layout/layout.h"
#include "harness/layout/padded_rows.h"
#include "harness/layout/parameter_ranges.h"
#include "harness/layout/stages.h"
#include "harness/layout/token_order.h"
#include "harness/types/cut.h"
#include "harness/types/error.h"

namespace meshparity::layout {
namespace {

using Indices = std::vector<std::int64_t>;

Indices range(std::int64_t begin, std::int64_t end) {
  Indices list(static_cast<std::size_t>(end - begin));
  std::iota(list.begin(), list.end(), begin);
  return list;
}

bool starts_with(std::string_view text, std::string_view prefix) {
  return text.substr(0, prefix.size()) == prefix;
}

// Takes "step<k>/" off the front of a key; false where it does not start so.
bool take_step(std::string_view& key) {
  const auto slash = key.find('/');
  if (!starts_with(key, "step") || slash == std::string_view::npos) return false;
  int step = 0;
  const char* const end = key.data() + slash;
  const auto [stop, error] = std::from_chars(key.data() + 4, end, step);
  if (error != std::errc() || stop != end || step < 1) return false;
  key.remove_prefix(slash + 1);
  return true;
}

// The checkpoint name in a key that addresses a parameter ("grads/<name>", "weights/<name>",
// "step<k>/weights/<name>"), or empty.
std::string_view parameter_name(std::string_view key) {
  if (starts_with(key, "grads/")) return key.substr(6);
  if (starts_with(key, "gathered/")) return key.substr(9);
  take_step(key);
  return starts_with(key, "weights/") ? key.substr(8) : std::string_view{};
}

// embed, norm, layers.<i>.mixer, layers.<i>.ffn.
bool is_activation(std::string_view name, std::int64_t layers) {
  if (name == "embed" || name == "norm") return true;
  if (!starts_with(name, "layers.")) return false;
  name.remove_prefix(7);
  const auto dot = name.find('.');
  if (dot == std::string_view::npos) return false;
  std::int64_t layer = -1;
  const char* const end = name.data() + dot;
  const auto [stop, error] = std::from_chars(name.data(), end, layer);
  if (error != std::errc() || stop != end || layer < 0 || layer >= layers) return false;
  const auto part = name.substr(dot + 1);
  return part == "mixer" || part == "ffn";
}

// visual.patch_embed and visual.blocks.<i> hold patches, visual.merger features.
bool is_vision_activation(std::string_view name, std::int64_t depth) {
  if (name == "visual.patch_embed" || name == "visual.merger") return depth > 0;
  if (!starts_with(name, "visual.blocks.")) return false;
  name.remove_prefix(14);
  std::int64_t block = -1;
  const auto [stop, error] = std::from_chars(name.data(), name.data() + name.size(), block);
  return error == std::errc() && stop == name.data() + name.size() && block >= 0 && block < depth;
}

void check_placement_row(const ParameterPlacement& p) {
  const char* const file = "placements.toml";
  const int dims = static_cast<int>(p.shape.size());
  if (p.fsdp_dim < 0 || p.fsdp_dim >= dims)
    throw InputError(file, p.name, "fsdp_dim is not a dimension of " + shape_text(p.shape));
  if (p.tp_dim < 0) return;
  if (p.tp_dim >= dims) throw InputError(file, p.name, "tp_dim is not a dimension of " + shape_text(p.shape));
  std::int64_t sum = 0;
  for (const auto& block : p.tp_blocks) sum += block.count * block.width;
  if (sum != p.shape[p.tp_dim])
    throw InputError(file, p.name,
                     "tp_blocks cover " + std::to_string(sum) + " of " + std::to_string(p.shape[p.tp_dim]) +
                         " indices of dimension " + std::to_string(p.tp_dim));
}

void append_real(Indices& list, const Indices& stream, Range part) {
  for (std::int64_t i = part.begin; i < part.end; ++i)
    if (stream[i] >= 0) list.push_back(stream[i]);
}

}  // namespace

Shape LocalIndex::local_shape() const {
  Shape shape;
  for (const auto& list : indices) shape.push_back(static_cast<std::int64_t>(list.size()));
  return shape;
}

LayoutMap::LayoutMap(const ModelConfig& config, const Mesh& mesh, const Flags& flags, const Batch& batch,
                     const PlacementTable& placements)
    : config_(config), mesh_(mesh), flags_(flags), batch_(batch), placements_(placements) {
  for (std::size_t i = 0; i < placements_.size(); ++i) {
    // A tower whose images are spread is whole on every rank.
    if (placements_[i].tower && flags_.vision == "images")
      placements_[i].tp_dim = -1, placements_[i].tp_blocks = {};
    check_placement_row(placements_[i]);
    if (!rows_.emplace(placements_[i].name, i).second)
      throw InputError("placements.toml", placements_[i].name, "appears twice");
  }
  const int data_count = data_ranks(mesh_), context = mesh_.cp();
  stream_tokens_.resize(static_cast<std::size_t>(token_ranks(mesh_)));
  residual_tokens_.resize(stream_tokens_.size() * mesh_.tp);
  for (std::int64_t m = 0; m < batch_.micro_batches(); ++m) {
    for (int data = 0; data < data_count; ++data) {
      std::vector<Indices> streams(context);  // of this micro-batch, per cp index
      for (const PaddedRow& padded : padded_rows(batch_, mesh_, flags_.pad, m, data)) {
        const auto held = context_order(padded.documents, flags_.layout, mesh_.ring, mesh_.uly);
        for (int c = 0; c < context; ++c)
          for (const std::int64_t place : held[c]) streams[c].push_back(padded.tokens[place]);
      }
      for (int c = 0; c < context; ++c) {
        const std::size_t place = static_cast<std::size_t>(data) * context + c;
        const Indices& stream = streams[c];
        append_real(stream_tokens_[place], stream, {0, static_cast<std::int64_t>(stream.size())});
        for (int tp = 0; tp < mesh_.tp; ++tp) {
          auto& residual = residual_tokens_[place * mesh_.tp + tp];
          const auto size = static_cast<std::int64_t>(stream.size());
          const Range part = flags_.sp ? cut(size, mesh_.tp, tp) : Range{0, size};
          append_real(residual, stream, part);
        }
      }
    }
  }
}

std::vector<std::int64_t> LayoutMap::tokens(int rank, bool residual) const {
  const auto place = static_cast<std::size_t>(token_rank(mesh_, rank));
  return residual ? residual_tokens_[place * mesh_.tp + coordinate_of(mesh_, rank).tp]
                  : stream_tokens_[place];
}

bool LayoutMap::on_stage(std::string_view name, int pp) const {
  return layout::on_stage(config_, mesh_, flags_, name, pp);
}

LocalIndex LayoutMap::local_parameter(const ParameterPlacement& p, const RankCoordinate& at,
                                      bool gathered) const {
  const ParameterCut parts = cut_of(p, mesh_, flags_, at);
  LocalIndex index{p.shape, {}};
  for (int dim = 0; dim < static_cast<int>(p.shape.size()); ++dim) {
    Indices list;
    for (const Range& part : dimension_ranges(p, dim, parts, gathered)) {
      const Indices indices = range(part.begin, part.end);
      list.insert(list.end(), indices.begin(), indices.end());
    }
    index.indices.push_back(std::move(list));
  }
  return index;
}

LocalIndex LayoutMap::local_vision(std::string_view name, int rank) const {
  const bool features = name == "visual.merger";
  const std::int64_t patches = batch_.images.patches() + batch_.videos.patches();
  Indices held;
  for (std::int64_t m = 0; m < batch_.micro_batches(); ++m)
    for (const ImagePlace& image :
         images_computed(images_of(batch_, config_, mesh_, m, data_rank(mesh_, rank)), mesh_, flags_,
                         coordinate_of(mesh_, rank))) {
      const Indices part = features ? range(image.first_feature, image.first_feature + image.features)
                                    : range(image.first_patch, image.first_patch + image.patches);
      held.insert(held.end(), part.begin(), part.end());
    }
  const std::int64_t width = features ? config_.hidden_size : config_.vision.hidden_size;
  const std::int64_t rows = features ? patches / config_.vision.merged_patches() : patches;
  return {{rows, width}, {held, range(0, width)}};
}

LocalIndex LayoutMap::local(const std::string& key, int rank) const {
  if (starts_with(key, "rollout/")) return local_rollout(std::string_view(key).substr(8), rank);
  LocalIndex index = local_of_stage(key, rank);
  std::string_view name = key;
  if (starts_with(name, "trace/")) name.remove_prefix(6), take_step(name);
  const bool of_tokens = name == "logits" || name == "logprobs";
  if (starts_with(name, "activations/"))
    name.remove_prefix(12);
  else if (!of_tokens)
    name = parameter_name(name);
  if (!name.empty() && !on_stage(name, coordinate_of(mesh_, rank).pp)) index.indices[0].clear();
  return index;
}

LocalIndex LayoutMap::local_rollout(std::string_view name, int rank) const {
  if (name == "sampling_logprobs" || name == "in_support") return local("logprobs", rank);
  if (name == "logits" || name == "logprobs" || starts_with(name, "weights/"))
    return local(std::string(name), rank);
  const bool routes = starts_with(name, "routes/") &&
                      is_activation(std::string(name.substr(7)) + ".ffn", config_.num_hidden_layers);
  if (!routes || !config_.is_moe())
    throw InputError("'rollout/" + std::string(name) + "': no layout rule for a tensor of that name");
  const std::int64_t chosen = config_.num_experts_per_tok;
  LocalIndex index = {{batch_.tokens(), chosen}, {tokens(rank, false), range(0, chosen)}};
  if (!on_stage(name.substr(7), coordinate_of(mesh_, rank).pp)) index.indices[0].clear();
  return index;
}

LocalIndex LayoutMap::local_of_stage(const std::string& key, int rank) const {
  if (rank < 0 || rank >= world())
    throw InputError("rank " + std::to_string(rank) + " is not on mesh " + mesh_.text());
  if (starts_with(key, "trace/")) {
    std::string_view traced = std::string_view(key).substr(6);
    take_step(traced);
    return local_of_stage(std::string(traced), rank);
  }
  const RankCoordinate at = coordinate_of(mesh_, rank);
  const std::int64_t n = batch_.tokens();
  if (key == "logits") {
    const Range vocabulary = cut(config_.vocab_size, mesh_.tp, at.tp);
    return {{n, config_.vocab_size}, {tokens(rank, false), range(vocabulary.begin, vocabulary.end)}};
  }
  if (key == "logprobs") return {{n}, {tokens(rank, false)}};
  if (key == "grad_norm" || starts_with(key, "loss/")) return {};
  if (starts_with(key, "denominators/")) {
    const auto policy = std::string_view(key).substr(13);
    if (policy == "sequence_mean") return {{batch_.documents()}, {range(0, batch_.documents())}};
    if (policy == "micro_batch_mean" || policy == "router_z" || policy == "aux")
      return {{batch_.micro_batches()}, {range(0, batch_.micro_batches())}};
    return {};
  }
  if (starts_with(key, "activations/") &&
      is_activation(std::string_view(key).substr(12), config_.num_hidden_layers))
    return {{n, config_.hidden_size}, {tokens(rank, true), range(0, config_.hidden_size)}};
  if (starts_with(key, "activations/") &&
      is_vision_activation(std::string_view(key).substr(12), config_.vision.depth))
    return local_vision(std::string_view(key).substr(12), rank);
  const std::string_view name = parameter_name(key);
  if (!name.empty()) {
    const auto row = rows_.find(std::string(name));
    if (row != rows_.end())
      return local_parameter(placements_[row->second], at, starts_with(key, "gathered/"));
    throw InputError("'" + key + "': no placement of a parameter of that name");
  }
  throw InputError("'" + key + "': no layout rule for a tensor of that name");
}

}  // namespace meshparity::layout
