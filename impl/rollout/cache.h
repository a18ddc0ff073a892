// The caches of a rank's layers: keys and values of attention, the convolution's last inputs and the
// recurrent state of GatedDeltaNet, each by slot; and the mixers that read and write them. Padding in front
// of a sequence's next tokens changes nothing: attention does not see its keys, the convolution steps over
// it, the recurrence neither decays nor writes there. Source: qwen35.md 1.5, 1.10. Legend: T tokens of a pass
// (padding among them), R its rows, H and Hkv heads of width d, Hv value heads, K and V widths, W taps of the
// convolution.
#pragma once

#include <memory>

#include "impl/blocks/context.h"
#include "impl/rollout/edit.h"

namespace meshparity::impl {

// What every layer needs to know about the tokens of a pass.
struct PassTables {
  const RolloutPass* pass = nullptr;
  std::vector<std::int64_t> begin;  // [R] first token of every row
  PackedTokens tokens;              // rotary tables
  // The convolution's stream: every row's window, that is its tail and those of its tokens that are read.
  // Where its inputs stand among all tails, row after row, and behind them the pass's tokens; where the read
  // tokens stand in it; and which of it the rows leave as tails.
  PackedTokens windows;
  at::Tensor window_sources, read_in_window, tail_sources;
  at::Tensor read;            // which of the pass's tokens are read; undefined: all
  PackedTokens documents;     // for the chunked rule: every row a document; of a prefill
  at::Tensor writes, decays;  // [T, 1] 1 or 0; undefined: all 1
  at::Tensor slots;           // [R] int64
  at::Tensor real, stream;    // tokens that are no padding: in the pass, and in the stream of the data rank
};

class RolloutCaches {
 public:
  RolloutCaches(const ModelConfig& config, const Primitives& primitives, const RolloutEdit& edit,
                std::int64_t layers, std::int64_t slots, std::int64_t capacity)
      : config_(config),
        primitives_(primitives),
        edit_(edit),
        layers_(layers),
        slots_(slots),
        capacity_(capacity),
        real_(slots) {}

  void start(std::int64_t slot);
  // What the slot holds of its first `tokens` tokens, which must be all of it, layer by layer; and the
  // reverse.
  std::vector<LayerCache> keep(std::int64_t slot, std::int64_t tokens) const;
  void resume(std::int64_t slot, std::int64_t tokens, const std::vector<LayerCache>& prefix);
  // Notes which keys of the pass are padding's. Before its first layer.
  void begin(const RolloutPass& pass);

  // One layer's mixers for one pass; `layer` counts this rank's.
  at::Tensor attend(const PassTables& tables, std::int64_t layer, const at::Tensor& q, const at::Tensor& k,
                    const at::Tensor& v);
  at::Tensor recur(const PassTables& tables, std::int64_t layer, const DeltaNetInputs& in,
                   std::int64_t qk_width);

 private:
  at::Tensor bias(const PassRow& row, Range queries, const at::TensorOptions& options) const;
  // q|k and v of the pass's tokens behind the convolution; every row's tail goes on.
  Tensors convolve(const PassTables& tables, LayerCache& cache, const DeltaNetInputs& in,
                   std::int64_t qk_width) const;

  const ModelConfig& config_;
  const Primitives& primitives_;
  const RolloutEdit& edit_;
  std::vector<LayerCache> layers_;
  std::int64_t slots_, capacity_;
  std::vector<std::vector<char>> real_;  // [slot][key] is it no padding's?
};

// `positions`: (t, h, w) of the data rank's stream of `stream` tokens, axis after axis.
PassTables make_pass_tables(const RolloutPass& pass, const std::vector<RolloutSequence>& sequences,
                            const std::vector<std::int64_t>& positions, const ModelConfig& config,
                            const RolloutEdit& edit, const PackingOptions& options);

}  // namespace meshparity::impl
