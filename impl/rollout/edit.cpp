#include "impl/rollout/edit.h"

#include "impl/rollout/sampling.h"

namespace meshparity::impl {
namespace {

void start_slot(LayerCache& cache, std::int64_t slot) {
  // Keys need no clearing: how many of them count is known.
  for (at::Tensor* t : {&cache.tail, &cache.state})
    if (t->defined()) t->select(0, slot).zero_();
}

void resume_slot(LayerCache& cache, std::int64_t slot, const LayerCache& kept) {
  const auto copy = [slot](at::Tensor& into, const at::Tensor& from) {
    if (from.defined()) into.select(0, slot).slice(0, 0, from.size(0)).copy_(from);
  };
  copy(cache.keys, kept.keys), copy(cache.values, kept.values);
  copy(cache.tail, kept.tail), copy(cache.state, kept.state);
}

}  // namespace

RolloutEdit plain_rollout(const ModelConfig& config, const Mesh& mesh, const RolloutSpec& spec, int rank) {
  RolloutEdit edit{config, mesh, spec, rank, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}};
  edit.shard_of = [](const std::string&, int of) { return of; };
  edit.received = [](const std::string&, const at::Tensor&, const at::Tensor& shard) { return shard; };
  edit.start = start_slot;
  edit.resume = resume_slot;
  edit.key_slot = [](const RolloutPass&, const PassRow& row) { return row.slot; };
  edit.next_tail = [&config](const RolloutPass&, const PassRow&, Range window) {
    return Range{window.end - (config.linear_conv_kernel_dim - 1), window.end};
  };
  edit.keep_tail =
      edit.keep_state = [](const RolloutPass&, const at::Tensor&, const at::Tensor& after) { return after; };
  edit.read = edit.decays = [](const RolloutPass&, std::vector<char> real) { return real; };
  edit.positions = [](const RolloutPass&, std::vector<std::int64_t> positions) { return positions; };
  edit.same_prefix = [](const PrefixKey& kept, const PrefixKey& asked) { return kept == asked; };
  edit.replayed = [](const at::Tensor& given, const at::Tensor&) { return given; };
  edit.sample = [](const SampledTokens& tokens, const at::Tensor& logits, double temperature, double top_p) {
    return tokens.sample(logits, temperature, top_p);
  };
  return edit;
}

}  // namespace meshparity::impl
