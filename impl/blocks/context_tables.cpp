#include "impl/blocks/context_tables.h"

#include <numeric>

#include "impl/parallel/index_tensor.h"

namespace meshparity::impl {
namespace {

Tokens whole(const ContextStream& stream) {
  Tokens all(static_cast<std::size_t>(stream.tokens()));
  std::iota(all.begin(), all.end(), 0);
  return all;
}

std::vector<std::int64_t> documents_of(const Tokens& tokens, const std::vector<std::int64_t>& document_of) {
  std::vector<std::int64_t> out;
  for (const std::int64_t t : tokens) out.push_back(document_of[t]);
  return out;
}

// The lists of this ring index's uly ranks.
std::vector<Tokens> uly_lists(const std::vector<Tokens>& all, ContextSize size, int ring_index) {
  return {all.begin() + ring_index * size.uly, all.begin() + (ring_index + 1) * size.uly};
}

}  // namespace

void build_state_tables(const ContextStream& stream, const std::vector<Tokens>& stretches, int rank,
                        const std::vector<std::int64_t>& document_of, const ModelConfig& config,
                        const PackingOptions& options, ContextTables& t) {
  const std::int64_t conv_width = config.linear_conv_kernel_dim;
  t.states = make_state_tables(stream, stretches, rank, document_of, conv_width, config.linear_key_head_dim,
                               options.device);
  t.halo_stream = pack_documents(t.states.halo_documents, conv_width, options);
  if (t.states.crossing)
    t.extended_stream = pack_documents(t.states.extended_documents, conv_width, options);
  else
    t.state_stream = pack_documents(documents_of(stretches[rank], document_of), conv_width, options);
}

ContextTables make_context_tables(const ContextStream& stream, const std::vector<std::int64_t>& document_of,
                                  const Mesh& mesh, const Flags& flags, int cp_index,
                                  const ModelConfig& config, const PackingOptions& options) {
  ContextTables t;
  const ContextSize size{mesh.ring, mesh.uly};
  const int ring_index = cp_index / size.uly, uly_index = cp_index % size.uly;
  const at::Device device = options.device;
  const at::TensorOptions masks = at::TensorOptions().dtype(options.dtype).device(device);
  const ContextOrder order = size.ring > 1 ? context_order_of(flags.layout) : ContextOrder::contiguous;
  const std::vector<Tokens> residual = all_orders(stream, order, size);
  const std::vector<Tokens> pieces = all_orders(stream, ContextOrder::contiguous, size);
  const std::int64_t conv_width = config.linear_conv_kernel_dim;

  for (const auto& list : uly_lists(residual, size, ring_index))
    t.uly_sizes.push_back(static_cast<std::int64_t>(list.size()));

  // Softmax attention.
  ContextOrder attending = order;
  if (size.ring > 1 && flags.attn == "ring" && order == ContextOrder::contiguous) {
    attending = ContextOrder::zigzag;
    const std::vector<Tokens> zigzag = all_orders(stream, attending, size);
    t.to_ring_order = make_relayout(residual, zigzag, cp_index, device);
    t.from_ring_order = make_relayout(zigzag, residual, cp_index, device);
  }
  const std::vector<Tokens> attention_lists = all_orders(stream, attending, size);
  const Tokens joined = ring_order(stream, attending, size, ring_index);
  t.attention_tokens =
      make_token_exchange(uly_lists(attention_lists, size, ring_index), joined, uly_index, device);
  if (size.ring > 1 && flags.attn == "ring")
    t.ring = make_ring_tables(stream, attending, size, ring_index, document_of, masks);
  if (size.ring > 1 && flags.attn == "gather") {
    Tokens keys;
    for (int r = 0; r < size.ring; ++r) {
      const Tokens list = ring_order(stream, attending, size, r);
      t.ring_sizes.push_back(static_cast<std::int64_t>(list.size()));
      keys.insert(keys.end(), list.begin(), list.end());
    }
    t.gather_blocks = causal_blocks(joined, keys, document_of, masks);
  }

  // The delta rule.
  if (size.ring == 1 || flags.gdn == "heads" || flags.gdn == "gather")
    t.whole_stream = pack_documents(document_of, conv_width, options);
  if (flags.gdn == "heads") t.delta_tokens = make_token_exchange(residual, whole(stream), cp_index, device);
  if (flags.gdn == "gather") {
    t.gather_place = make_token_exchange(residual, whole(stream), cp_index, device).place;
    for (const auto& list : residual) t.gather_sizes.push_back(static_cast<std::int64_t>(list.size()));
    t.gather_own = index_tensor(residual[cp_index], device);
  }
  if (flags.gdn == "state" || flags.gdn == "hybrid") {
    if (order != ContextOrder::contiguous) {
      t.to_contiguous = make_relayout(residual, pieces, cp_index, device);
      t.from_contiguous = make_relayout(pieces, residual, cp_index, device);
    }
    std::vector<Tokens> stretches = pieces;
    int mine = cp_index;
    if (flags.gdn == "hybrid") {
      stretches.clear();
      for (int r = 0; r < size.ring; ++r)
        stretches.push_back(ring_order(stream, ContextOrder::contiguous, size, r));
      mine = ring_index;
      t.delta_tokens =
          make_token_exchange(uly_lists(pieces, size, ring_index), stretches[ring_index], uly_index, device);
    }
    build_state_tables(stream, stretches, mine, document_of, config, options, t);
  }
  return t;
}

}  // namespace meshparity::impl
