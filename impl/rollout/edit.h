// What rollout does around the model's functions, one entry each: takes shards over, keeps caches, shares
// prefixes, places tokens, samples. A fault, a dtype policy or a tracer replaces or wraps an entry
// (Seams::rollout). To add one: its entry here, its default in edit.cpp, its call where the engine does the
// thing.
#pragma once

#include <ATen/ATen.h>

#include <functional>
#include <string>
#include <vector>

#include "harness/types/mesh.h"
#include "harness/types/rollout.h"
#include "impl/rollout/schedule.h"

namespace meshparity::impl {

// The caches of one layer, by slot. Allocated when the layer first runs; a tensor that its kind of layer has
// no use for, or that no pass has touched, is undefined.
struct LayerCache {
  at::Tensor keys, values;  // [slots, capacity, Hkv*d], keys rotated: of an attention layer
  at::Tensor tail;          // [slots, W-1, channels]: inputs of the convolution before the next token's
  at::Tensor state;         // [slots, Hv, K, V]: of the recurrence
};

// What must be equal for two sequences to begin with the same caches.
struct PrefixKey {
  std::vector<std::int64_t> tokens;
  std::vector<std::int64_t> positions;  // of those tokens, axis after axis
  std::vector<double> pixels;           // of the images that any of them belongs to
  std::vector<std::int64_t> experts;    // that they are told to take
  bool operator==(const PrefixKey&) const = default;
};

struct SampledTokens;  // sampling.h

struct SampledLogprobs {
  at::Tensor logprobs;    // [T] of the labels; 0 where there is none
  at::Tensor sampling;    // [T] within the top-p set, renormalised; 0 outside of it
  at::Tensor in_support;  // [T] int64
};

struct RolloutEdit {
  template <class F>
  using Entry = std::function<F>;
  using Tensor = at::Tensor;

  const ModelConfig& config;
  const Mesh& mesh;  // of rollout
  const RolloutSpec& spec;
  int rank = 0;

  // Resharding: the rank of the rollout mesh whose shard of a parameter `rank` gets (itself), the same
  // function on all ranks; and what stands in the parameters afterwards, given what stood there before.
  Entry<int(const std::string& name, int rank)> shard_of;
  Entry<Tensor(const std::string& name, const Tensor& before, const Tensor& shard)> received;

  // A slot's caches when a new sequence takes it, and when it goes on from a kept prefix (of one slot).
  Entry<void(LayerCache& cache, std::int64_t slot)> start;
  Entry<void(LayerCache& cache, std::int64_t slot, const LayerCache& kept)> resume;
  // The slot whose key-value cache a row is written to.
  Entry<std::int64_t(const RolloutPass& pass, const PassRow& row)> key_slot;
  // Of a row's window, its tail and the inputs it reads behind it, numbered from `window.begin` on, the W-1
  // that are its next tail.
  Entry<Range(const RolloutPass& pass, const PassRow& row, Range window)> next_tail;
  // What all rows of a pass leave: tails [R, W-1, channels] and states [R, Hv, K, V].
  Entry<Tensor(const RolloutPass&pass, const Tensor&before, const Tensor&after)> keep_tail, keep_state;
  // Of the pass's tokens, given 1 where a token is no padding: those that the convolution and the recurrence
  // read, and those whose decay counts.
  Entry<std::vector<char>(const RolloutPass&pass, std::vector<char> real)> read, decays;
  // (t, h, w) of the pass's tokens, axis after axis; padding is at 0.
  Entry<std::vector<std::int64_t>(const RolloutPass& pass, std::vector<std::int64_t> positions)> positions;

  Entry<bool(const PrefixKey& kept, const PrefixKey& asked)> same_prefix;
  // With replay: the experts [n, k] that tokens take, given those of training and the router's own.
  Entry<Tensor(const Tensor& given, const Tensor& routed)> replayed;
  // logits [T, V_tp] of all tokens of the rank.
  Entry<SampledLogprobs(const SampledTokens& tokens, const Tensor& logits, double temperature, double top_p)>
      sample;
};

// All entries as the engine does them. The arguments must outlive it.
RolloutEdit plain_rollout(const ModelConfig& config, const Mesh& mesh, const RolloutSpec& spec, int rank);

}  // namespace meshparity::impl
