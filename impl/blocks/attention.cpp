#include "impl/blocks/attention.h"

#include "impl/parallel/index_tensor.h"

namespace meshparity::impl {
namespace {

// Softmax attention of tokens that lie over ring and uly: heads travel over uly, keys and values over ring.
at::Tensor attend_over_context(const BlockContext& context, const at::Tensor& q, const at::Tensor& k,
                               const at::Tensor& v, const Site& site) {
  const ContextParallel& cp = context.context;
  const ContextTables& t = *cp.tables;
  const std::int64_t d = context.config.head_dim, q_width = q.size(1), kv_width = k.size(1);
  const int ulysses = cp.size.uly, ring = cp.size.ring;
  at::Tensor all = at::cat({q, k, v}, 1);
  if (t.to_ring_order) all = relayout(*cp.collectives, *cp.cp, all, *t.to_ring_order, site + ".relayout_in");
  if (ulysses > 1) {
    Tensors columns;
    for (int u = 0; u < ulysses; ++u) {
      const auto& heads = context.primitives.head_columns;
      std::vector<std::int64_t> list = heads(q_width / d, d, 0, ulysses, u);
      for (const std::int64_t offset : {q_width, q_width + kv_width})
        for (const std::int64_t c : heads(kv_width / d, d, offset, ulysses, u)) list.push_back(c);
      columns.push_back(index_tensor(list, all.device()));
    }
    all = scatter_columns(*cp.collectives, *cp.uly, all, columns, t.attention_tokens, site + ".ulysses_in");
  }
  const std::int64_t own_q = q_width / ulysses, own_kv = (all.size(1) - own_q) / 2;
  const Tensors parts = all.split_with_sizes({own_q, own_kv, own_kv}, 1);
  const at::Tensor oq = parts[0].contiguous(), ok = parts[1].contiguous(), ov = parts[2].contiguous();
  at::Tensor o;
  if (ring == 1)
    o = context.primitives.attention(oq, ok, ov, t.whole_stream, d);
  else if (cp.attn == "ring")
    o = ring_attention(*cp.collectives, *cp.ring, context.primitives.ring, oq, ok, ov, t.ring, d,
                       site + ".ring");
  else
    o = gathered_attention(*cp.collectives, *cp.ring, oq, ok, ov, t.ring_sizes, t.gather_blocks, d,
                           site + ".gather");
  if (ulysses > 1) o = gather_columns(*cp.collectives, *cp.uly, o, t.attention_tokens, site + ".ulysses_out");
  if (t.from_ring_order) o = relayout(*cp.collectives, *cp.cp, o, *t.from_ring_order, site + ".relayout_out");
  return o;
}

}  // namespace

at::Tensor attention_block(const BlockContext& context, const UnitWeights& w, const at::Tensor& x,
                           const Site& site) {
  const Primitives& f = context.primitives;
  const std::int64_t d = context.config.head_dim;
  const double eps = context.config.rms_norm_eps;
  const at::Tensor entered = context.tp.enter(x, site + ".self_attn");
  const Tensors projected = f.linear(
      entered, {w["self_attn.q_proj.weight"], w["self_attn.k_proj.weight"], w["self_attn.v_proj.weight"]});
  const Tensors query_gate = f.split_query_gate(projected[0], d);
  const at::Tensor q = f.rope(f.head_norm(query_gate[0], w["self_attn.q_norm.weight"], eps), *context.tokens);
  const at::Tensor k = f.rope(f.head_norm(projected[1], w["self_attn.k_norm.weight"], eps), *context.tokens);
  const at::Tensor o = context.cached ? context.cached->attend(q, k, projected[2])
                       : context.context.active()
                           ? attend_over_context(context, q, k, projected[2], site + ".self_attn")
                           : f.attention(q, k, projected[2], *context.tokens, d);
  const at::Tensor attended = f.output_gate(o, query_gate[1]);
  return context.tp.leave(f.linear(attended, {w["self_attn.o_proj.weight"]})[0], site + ".self_attn.o_proj");
}

}  // namespace meshparity::impl
