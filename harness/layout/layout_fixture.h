// For the tests of layouts and diagnosis: a small model whose placements are written out by hand, and a batch
// whose rows, documents and micro-batches divide nothing evenly.
#pragma once

#include <numeric>
#include <string>
#include <vector>

#include "harness/layout/layout.h"
#include "harness/types/model_config.h"

namespace meshparity::layout::fixture {

// Two layers (GatedDeltaNet, full attention), 4 query heads on 2 key-value heads, mixture of experts.
inline ModelConfig model() {
  ModelConfig c;
  c.vocab_size = 13, c.hidden_size = 6, c.num_hidden_layers = 2;
  c.num_attention_heads = 4, c.num_key_value_heads = 2, c.head_dim = 3;
  c.linear_num_key_heads = 4, c.linear_num_value_heads = 8, c.linear_key_head_dim = 2,
  c.linear_value_head_dim = 1;
  c.num_experts = 5, c.num_experts_per_tok = 2, c.moe_intermediate_size = 7;
  c.shared_expert_intermediate_size = 5;
  c.full_attention = {false, true};
  return c;
}

inline PlacementTable placements(const ModelConfig& c) {
  const auto ends_with = [](const std::string& name, const std::string& end) {
    return name.size() >= end.size() && name.compare(name.size() - end.size(), end.size(), end) == 0;
  };
  PlacementTable table;
  for (const auto& parameter : parameters_of(c)) {
    ParameterPlacement p{parameter.name, parameter.shape, -1, {}, 0, false, false};
    const auto place = [&](const char* end, int dim, std::vector<Block> blocks) {
      if (ends_with(parameter.name, end)) p.tp_dim = dim, p.tp_blocks = std::move(blocks);
    };
    place("embed_tokens.weight", 0, {{c.vocab_size}});
    place("lm_head.weight", 0, {{c.vocab_size}});
    place("q_proj.weight", 0, {{c.num_attention_heads, 2 * c.head_dim}});
    place("k_proj.weight", 0, {{c.num_key_value_heads, c.head_dim, true}});
    place("v_proj.weight", 0, {{c.num_key_value_heads, c.head_dim, true}});
    place("o_proj.weight", 1, {{c.num_attention_heads, c.head_dim}});
    for (const char* end : {"in_proj_qkv.weight", "conv1d.weight"})
      place(end, 0,
            {{c.linear_num_key_heads, c.linear_key_head_dim},
             {c.linear_num_key_heads, c.linear_key_head_dim},
             {c.linear_num_value_heads, c.linear_value_head_dim}});
    for (const char* end : {"in_proj_b.weight", "in_proj_a.weight", "A_log", "dt_bias"})
      place(end, 0, {{c.linear_num_value_heads}});
    place("in_proj_z.weight", 0, {{c.linear_num_value_heads, c.linear_value_head_dim}});
    place("linear_attn.out_proj.weight", 1, {{c.linear_num_value_heads, c.linear_value_head_dim}});
    place("shared_expert.gate_proj.weight", 0, {{c.shared_expert_intermediate_size}});
    place("shared_expert.up_proj.weight", 0, {{c.shared_expert_intermediate_size}});
    place("shared_expert.down_proj.weight", 1, {{c.shared_expert_intermediate_size}});
    place("experts.gate_up_proj", 1, {{c.moe_intermediate_size}, {c.moe_intermediate_size}});
    place("experts.down_proj", 2, {{c.moe_intermediate_size}});
    p.expert = parameter.name.find(".experts.") != std::string::npos;
    table.push_back(std::move(p));
  }
  return table;
}

// Rows of 2+3, 1, 4, 6 and 2+1+1 tokens in micro-batches of 2, 1 and 2 rows: 20 tokens.
inline Batch batch() {
  Batch b;
  b.document_offsets = {0, 2, 5, 6, 10, 16, 18, 19, 20};
  b.row_offsets = {0, 2, 3, 4, 5, 8};
  b.micro_batch_offsets = {0, 2, 3, 5};
  b.token_ids.resize(20);
  std::iota(b.token_ids.begin(), b.token_ids.end(), 0);
  b.labels.assign(20, kIgnoreLabel);
  return b;
}

inline LayoutMap map(const std::string& mesh, bool sp = false) {
  Flags flags;
  flags.sp = sp;
  return {model(), Mesh::parse(mesh), flags, batch(), placements(model())};
}

// Every rank's part of `global`, and views of them.
struct Parts {
  std::vector<HostTensor> tensors;
  std::vector<RankTensor> views;
};

inline Parts parts_of(const LayoutMap& map, const std::string& key, const TensorView& global) {
  Parts parts;
  for (int rank = 0; rank < map.world(); ++rank) parts.tensors.push_back(shard(map.local(key, rank), global));
  for (int rank = 0; rank < map.world(); ++rank) parts.views.push_back({rank, parts.tensors[rank].view()});
  return parts;
}

// Element i holds i + 1.
inline HostTensor counting(const Shape& shape) {
  HostTensor t = HostTensor::zeros(DType::float64, shape);
  for (std::int64_t i = 0; i < t.numel(); ++i) t.as<double>()[i] = static_cast<double>(i + 1);
  return t;
}

}  // namespace meshparity::layout::fixture
