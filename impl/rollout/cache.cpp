#include "impl/rollout/cache.h"

#include <algorithm>
#include <limits>

#include "impl/parallel/index_tensor.h"

namespace meshparity::impl {
namespace {

constexpr std::int64_t kQueriesAtOnce = 512;  // bounds the memory of a long prompt's scores

std::int64_t ones(const std::vector<char>& flags) {
  return std::count(flags.begin(), flags.end(), char{1});
}

// [T, 1] of 0 and 1; undefined where all are 1.
at::Tensor factor(const std::vector<char>& flags, const PackingOptions& options) {
  if (ones(flags) == static_cast<std::int64_t>(flags.size())) return {};
  const std::vector<std::int64_t> values(flags.begin(), flags.end());
  return at::tensor(values, at::kLong).view({-1, 1}).to(options.device, options.dtype);
}

void allocate(at::Tensor& cache, std::vector<std::int64_t> shape, const at::Tensor& like) {
  if (!cache.defined()) cache = at::zeros(shape, like.options().requires_grad(false));
}

// The convolution's stream, given which of the pass's tokens it reads.
void add_windows(PassTables& t, const std::vector<char>& reads, const ModelConfig& config,
                 const RolloutEdit& edit, const PackingOptions& options) {
  const std::int64_t tail = config.linear_conv_kernel_dim - 1;
  const auto rows = static_cast<std::int64_t>(t.begin.size());
  std::vector<std::int64_t> documents, sources, read, in_window, kept;
  for (std::int64_t r = 0; r < rows; ++r) {
    const PassRow& row = t.pass->rows[r];
    const auto begin = static_cast<std::int64_t>(sources.size());
    for (std::int64_t i = 0; i < tail; ++i) sources.push_back(r * tail + i);
    for (std::int64_t i = t.begin[r]; i < t.begin[r] + row.size(); ++i) {
      if (!reads[i]) continue;
      in_window.push_back(static_cast<std::int64_t>(sources.size()));
      read.push_back(i), sources.push_back(rows * tail + i);
    }
    const Range window{begin, static_cast<std::int64_t>(sources.size())};
    documents.insert(documents.end(), window.size(), r);
    const Range leaves = edit.next_tail(*t.pass, row, window);
    for (std::int64_t i = leaves.begin; i < leaves.end; ++i) kept.push_back(i);
  }
  t.windows = pack_documents(documents, config.linear_conv_kernel_dim, options);
  t.window_sources = index_tensor(sources, options.device);
  t.read_in_window = index_tensor(in_window, options.device);
  t.tail_sources = index_tensor(kept, options.device);
  if (read.size() < reads.size()) t.read = index_tensor(read, options.device);
}

// Rows `index` of a tensor of `rows` rows, zeros elsewhere; index undefined: all.
at::Tensor spread(const at::Tensor& x, const at::Tensor& index, std::int64_t rows) {
  if (!index.defined()) return x.contiguous();
  return at::zeros({rows, x.size(1)}, x.options()).index_copy_(0, index, x);
}

}  // namespace

PassTables make_pass_tables(const RolloutPass& pass, const std::vector<RolloutSequence>& sequences,
                            const std::vector<std::int64_t>& positions, const ModelConfig& config,
                            const RolloutEdit& edit, const PackingOptions& options) {
  PassTables t;
  t.pass = &pass;
  const std::int64_t n = pass.size(), stream = static_cast<std::int64_t>(positions.size()) / 3;
  std::vector<char> real(n, 0);
  std::vector<std::int64_t> at(3 * n, 0), documents(n), slots, places, of_stream;
  std::int64_t next = 0;
  for (std::size_t r = 0; r < pass.rows.size(); ++r) {
    const PassRow& row = pass.rows[r];
    t.begin.push_back(next);
    slots.push_back(row.slot);
    std::fill_n(documents.begin() + next, row.size(), static_cast<std::int64_t>(r));
    next += row.padding;
    for (std::int64_t token = row.tokens.begin; token < row.tokens.end; ++token, ++next) {
      const std::int64_t global = sequences[row.sequence].begin + token;
      real[next] = 1, places.push_back(next), of_stream.push_back(global);
      for (std::int64_t axis = 0; axis < 3; ++axis) at[axis * n + next] = positions[axis * stream + global];
    }
  }
  t.tokens = pack_positions(edit.positions(pass, std::move(at)), config, options);
  t.slots = index_tensor(slots, options.device);
  t.real = index_tensor(places, options.device), t.stream = index_tensor(of_stream, options.device);
  const std::vector<char> reads = edit.read(pass, real);
  add_windows(t, reads, config, edit, options);
  t.writes = factor(reads, options), t.decays = factor(edit.decays(pass, real), options);
  if (!pass.decode) t.documents = pack_documents(documents, config.linear_conv_kernel_dim, options);
  return t;
}

void RolloutCaches::start(std::int64_t slot) {
  real_[slot].clear();
  for (LayerCache& cache : layers_) edit_.start(cache, slot);
}

std::vector<LayerCache> RolloutCaches::keep(std::int64_t slot, std::int64_t tokens) const {
  std::vector<LayerCache> prefix;
  for (const LayerCache& cache : layers_) {
    LayerCache& kept = prefix.emplace_back();
    for (const auto part : {&LayerCache::keys, &LayerCache::values})
      if ((cache.*part).defined()) kept.*part = (cache.*part)[slot].slice(0, 0, tokens).clone();
    for (const auto part : {&LayerCache::tail, &LayerCache::state})
      if ((cache.*part).defined()) kept.*part = (cache.*part)[slot].clone();
  }
  return prefix;
}

void RolloutCaches::resume(std::int64_t slot, std::int64_t tokens, const std::vector<LayerCache>& prefix) {
  real_[slot].assign(tokens, 1);
  for (std::size_t i = 0; i < layers_.size(); ++i) edit_.resume(layers_[i], slot, prefix[i]);
}

void RolloutCaches::begin(const RolloutPass& pass) {
  for (const PassRow& row : pass.rows) {
    std::vector<char>& real = real_[row.slot];
    real.insert(real.end(), row.padding, 0);
    real.insert(real.end(), row.tokens.size(), 1);
  }
}

// [queries, keys up to the last query]: 0 where a key is seen. Padding sees itself: a softmax over nothing is
// NaN.
at::Tensor RolloutCaches::bias(const PassRow& row, Range queries, const at::TensorOptions& options) const {
  const std::vector<char>& real = real_[row.slot];
  const std::int64_t m = row.cached + queries.end;
  if (queries.size() == 1 && ones(real) == static_cast<std::int64_t>(real.size())) return {};
  const at::Tensor keys = at::arange(m, at::kLong);
  const at::Tensor own = keys.slice(0, row.cached + queries.begin).unsqueeze(1);
  const std::vector<std::int64_t> flags(real.begin(), real.begin() + m);
  const at::Tensor seen =
      keys.le(own).logical_and_(at::tensor(flags, at::kLong).ne(0).logical_or(keys.eq(own)));
  return at::zeros(seen.sizes(), at::kDouble)
      .masked_fill_(seen.logical_not(), -std::numeric_limits<double>::infinity())
      .to(options);
}

at::Tensor RolloutCaches::attend(const PassTables& tables, std::int64_t layer, const at::Tensor& q,
                                 const at::Tensor& k, const at::Tensor& v) {
  LayerCache& cache = layers_[layer];
  allocate(cache.keys, {slots_, capacity_, k.size(1)}, k);
  allocate(cache.values, {slots_, capacity_, v.size(1)}, v);
  const RolloutPass& pass = *tables.pass;
  for (std::size_t r = 0; r < pass.rows.size(); ++r) {
    const PassRow& row = pass.rows[r];
    const std::int64_t slot = edit_.key_slot(pass, row), end = row.cached + row.size();
    cache.keys[slot].slice(0, row.cached, end).copy_(k.narrow(0, tables.begin[r], row.size()));
    cache.values[slot].slice(0, row.cached, end).copy_(v.narrow(0, tables.begin[r], row.size()));
  }
  const at::Tensor o = at::empty_like(q);
  for (std::size_t r = 0; r < pass.rows.size(); ++r) {
    const PassRow& row = pass.rows[r];
    for (std::int64_t begin = 0; begin < row.size(); begin += kQueriesAtOnce) {
      const Range own{begin, std::min(begin + kQueriesAtOnce, row.size())};
      const std::int64_t m = row.cached + own.end, first = tables.begin[r] + own.begin;
      o.narrow(0, first, own.size())
          .copy_(primitives_.cached_attention(
              q.narrow(0, first, own.size()), cache.keys[row.slot].slice(0, 0, m),
              cache.values[row.slot].slice(0, 0, m), bias(row, own, q.options()), config_.head_dim));
    }
  }
  return o;
}

Tensors RolloutCaches::convolve(const PassTables& tables, LayerCache& cache, const DeltaNetInputs& in,
                                std::int64_t qk_width) const {
  const std::int64_t channels = in.qkv.size(1);
  const at::Tensor tails = cache.tail.index_select(0, tables.slots);
  const at::Tensor u = at::cat({tails.view({-1, channels}), in.qkv}).index_select(0, tables.window_sources);
  Tensors mixed = primitives_.short_conv(u, in.conv, tables.windows, qk_width);
  const at::Tensor next = u.index_select(0, tables.tail_sources).view(tails.sizes());
  cache.tail.index_copy_(0, tables.slots, edit_.keep_tail(*tables.pass, tails, next));
  for (at::Tensor& part : mixed)
    part = spread(part.index_select(0, tables.read_in_window), tables.read, in.qkv.size(0));
  return mixed;
}

at::Tensor RolloutCaches::recur(const PassTables& tables, std::int64_t layer, const DeltaNetInputs& in,
                                std::int64_t qk_width) {
  LayerCache& cache = layers_[layer];
  const std::int64_t key_dim = config_.linear_key_head_dim, heads = in.heads();
  const std::int64_t channels = in.qkv.size(1), value_dim = (channels - qk_width) / heads;
  allocate(cache.tail, {slots_, config_.linear_conv_kernel_dim - 1, channels}, in.qkv);
  allocate(cache.state, {slots_, heads, key_dim, value_dim}, in.qkv);
  const Tensors convolved = convolve(tables, cache, in, qk_width);
  const at::Tensor qk = primitives_.l2norm(convolved[0], key_dim), &v = convolved[1];
  const Tensors gates = primitives_.delta_gates(in.a, in.b, in.a_log, in.dt_bias);
  const at::Tensor g = tables.decays.defined() ? gates[0] * tables.decays : gates[0];
  const at::Tensor beta = tables.writes.defined() ? gates[1] * tables.writes : gates[1];
  const at::Tensor before = cache.state.index_select(0, tables.slots);
  const Tensors mixed = tables.pass->decode
                            ? primitives_.delta_step(qk, v, g, beta, before, key_dim)
                            : primitives_.delta_rule_from(qk, v, g, beta, before, tables.documents, key_dim);
  cache.state.index_copy_(0, tables.slots, edit_.keep_state(*tables.pass, before, mixed[1]));
  return mixed[0];
}

}  // namespace meshparity::impl
