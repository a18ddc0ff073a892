#include "impl/blocks/gated_delta_net.h"

#include "impl/parallel/index_tensor.h"

namespace meshparity::impl {
namespace {

// Convolution, gates and recurrence over a stream this rank holds whole: [T, Hv*V].
at::Tensor mix(const BlockContext& context, const DeltaNetInputs& in, std::int64_t qk_width,
               const PackedTokens& tokens) {
  const Primitives& f = context.primitives;
  const std::int64_t key_dim = context.config.linear_key_head_dim;
  const Tensors mixed = f.short_conv(in.qkv, in.conv, tokens, qk_width);
  const Tensors gates = f.delta_gates(in.a, in.b, in.a_log, in.dt_bias);
  return f.delta_rule(f.l2norm(mixed[0], key_dim), mixed[1], gates[0], gates[1], tokens, key_dim);
}

// The same where every rank of `group` holds a contiguous stretch of each row.
at::Tensor mix_by_states(const BlockContext& context, const DeltaNetInputs& in, std::int64_t qk_width,
                         const Group& group, const Site& site) {
  const Primitives& f = context.primitives;
  const ContextTables& t = *context.context.tables;
  Collectives& c = *context.context.collectives;
  const std::int64_t key_dim = context.config.linear_key_head_dim;
  const at::Tensor u = with_halo(c, group, in.qkv, t.states, site + ".halo");
  const Tensors mixed = f.short_conv(u, in.conv, t.halo_stream, qk_width);
  const Tensors gates = f.delta_gates(in.a, in.b, in.a_log, in.dt_bias);
  const at::Tensor qk = f.l2norm(distinct_rows(mixed[0], t.states.own_after_halo), key_dim);
  const at::Tensor v = distinct_rows(mixed[1], t.states.own_after_halo);
  if (!t.states.crossing) return f.delta_rule(qk, v, gates[0], gates[1], t.state_stream, key_dim);
  const DeltaInputs all = extend_inputs({qk, v, gates[0], gates[1]}, t.states, key_dim);
  const at::Tensor extended = f.delta_rule(all.qk, all.v, all.g, all.beta, t.extended_stream, key_dim);
  return f.pass_states(c, group, extended, t.states, in.heads(), key_dim, site + ".states");
}

// Trades tokens for heads over `group`, mixes with the heads at hand, and trades back.
template <class Mix>
at::Tensor mix_by_heads(const BlockContext& context, const DeltaNetInputs& in, std::int64_t qk_width,
                        const Group& group, const Site& site, Mix&& mix_heads) {
  const ModelConfig& config = context.config;
  Collectives& c = *context.context.collectives;
  const TokenExchange& tokens = context.context.tables->delta_tokens;
  const int ranks = group.size();
  const std::int64_t key_dim = config.linear_key_head_dim, value_dim = config.linear_value_head_dim;
  const std::int64_t key_heads = qk_width / (2 * key_dim), heads = in.heads(), channels = in.qkv.size(1);
  std::vector<std::vector<std::int64_t>> of_qkv(ranks), of_heads(ranks);
  Tensors columns;
  for (int r = 0; r < ranks; ++r) {
    const auto add = [&](const std::vector<std::int64_t>& list) {
      of_qkv[r].insert(of_qkv[r].end(), list.begin(), list.end());
    };
    add(head_columns(key_heads, key_dim, 0, ranks, r));
    add(head_columns(key_heads, key_dim, qk_width / 2, ranks, r));
    add(head_columns(heads, value_dim, qk_width, ranks, r));
    of_heads[r] = head_columns(heads, 1, 0, ranks, r);
    std::vector<std::int64_t> list = of_qkv[r];
    for (const std::int64_t offset : {channels, channels + heads})
      for (const std::int64_t h : of_heads[r]) list.push_back(offset + h);
    columns.push_back(index_tensor(list, in.qkv.device()));
  }
  const at::Tensor all =
      scatter_columns(c, group, at::cat({in.qkv, in.b, in.a}, 1), columns, tokens, site + ".ulysses_in");
  const std::int64_t own_heads = heads / ranks, own_channels = all.size(1) - 2 * own_heads;
  const Tensors parts = all.split_with_sizes({own_channels, own_heads, own_heads}, 1);
  const at::Tensor my_channels = index_tensor(of_qkv[group.rank()], in.qkv.device());
  const at::Tensor my_heads = index_tensor(of_heads[group.rank()], in.qkv.device());
  const DeltaNetInputs own{parts[0].contiguous(),
                           parts[1].contiguous(),
                           parts[2].contiguous(),
                           in.conv.index_select(0, my_channels),
                           in.a_log.index_select(0, my_heads),
                           in.dt_bias.index_select(0, my_heads)};
  return gather_columns(c, group, mix_heads(own, qk_width / ranks), tokens, site + ".ulysses_out");
}

at::Tensor mix_over_context(const BlockContext& context, DeltaNetInputs in, std::int64_t qk_width,
                            const Site& site) {
  const ContextParallel& cp = context.context;
  const ContextTables& t = *cp.tables;
  const auto on_whole_stream = [&](const DeltaNetInputs& own, std::int64_t width) {
    return mix(context, own, width, t.whole_stream);
  };
  if (cp.gdn == "heads") return mix_by_heads(context, in, qk_width, *cp.cp, site, on_whole_stream);

  const std::vector<std::int64_t> widths{in.qkv.size(1), in.heads(), in.heads()};
  const auto unpack = [&](const at::Tensor& all) {
    const Tensors parts = all.split_with_sizes(widths, 1);
    in.qkv = parts[0].contiguous(), in.b = parts[1].contiguous(), in.a = parts[2].contiguous();
  };
  if (cp.gdn == "gather") {
    unpack(distinct_rows(gather_from(*cp.collectives, *cp.cp, at::cat({in.qkv, in.b, in.a}, 1),
                                     t.gather_sizes, 0, site + ".gather"),
                         t.gather_place));
    return distinct_rows(on_whole_stream(in, qk_width), t.gather_own);
  }
  if (t.to_contiguous)
    unpack(relayout(*cp.collectives, *cp.cp, at::cat({in.qkv, in.b, in.a}, 1), *t.to_contiguous,
                    site + ".relayout_in"));
  at::Tensor o;
  if (cp.gdn == "hybrid")
    o = mix_by_heads(context, in, qk_width, *cp.uly, site,
                     [&](const DeltaNetInputs& own, std::int64_t width) {
                       return mix_by_states(context, own, width, *cp.ring, site);
                     });
  else
    o = mix_by_states(context, in, qk_width, *cp.cp, site);
  if (t.from_contiguous) o = relayout(*cp.collectives, *cp.cp, o, *t.from_contiguous, site + ".relayout_out");
  return o;
}

}  // namespace

at::Tensor gated_delta_net_block(const BlockContext& context, const UnitWeights& w, const at::Tensor& x,
                                 const Site& site) {
  const Primitives& f = context.primitives;
  const at::Tensor entered = context.tp.enter(x, site + ".linear_attn");
  const Tensors projected =
      f.linear(entered, {w["linear_attn.in_proj_qkv.weight"], w["linear_attn.in_proj_z.weight"],
                         w["linear_attn.in_proj_b.weight"], w["linear_attn.in_proj_a.weight"]});
  // This rank's channels: q and k of its key heads, then v of its value heads.
  const at::Tensor& z = projected[1];
  const std::int64_t qk_width = projected[0].size(1) - z.size(1);
  const DeltaNetInputs in{projected[0],           projected[2],
                          projected[3],           w["linear_attn.conv1d.weight"],
                          w["linear_attn.A_log"], w["linear_attn.dt_bias"]};
  const at::Tensor o = context.cached ? context.cached->recur(in, qk_width)
                       : context.context.active()
                           ? mix_over_context(context, in, qk_width, site + ".linear_attn")
                           : mix(context, in, qk_width, *context.tokens);
  const at::Tensor normed = f.gated_rms_norm(o, w["linear_attn.norm.weight"], z, context.config.rms_norm_eps);
  return context.tp.leave(f.linear(normed, {w["linear_attn.out_proj.weight"]})[0],
                          site + ".linear_attn.out_proj");
}

}  // namespace meshparity::impl
