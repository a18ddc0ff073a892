#include "impl/blocks/packed_tokens.h"

#include <cmath>
#include <limits>

#include "harness/types/cut.h"

namespace meshparity::impl {
namespace {

at::Tensor int_tensor(const std::vector<std::int64_t>& values, at::IntArrayRef shape) {
  return at::tensor(values, at::kLong).view(shape);
}

at::Tensor masked_bias(const at::Tensor& allowed, at::ScalarType dtype) {
  return at::zeros(allowed.sizes(), dtype)
      .masked_fill_(allowed.logical_not(), -std::numeric_limits<double>::infinity());
}

void build_conv(const std::vector<std::int64_t>& documents, std::int64_t width, PackedTokens& out) {
  const std::int64_t n = out.tokens;
  std::vector<std::int64_t> sources(n * width, n), targets(n * width, n);
  for (std::int64_t t = 0; t < n; ++t)
    for (std::int64_t j = 0; j < width; ++j) {
      const std::int64_t source = t - (width - 1) + j;
      if (source < 0 || documents[source] != documents[t]) continue;
      sources[t * width + j] = source;
      targets[source * width + j] = t;
    }
  out.conv_sources = int_tensor(sources, {n, width});
  out.conv_targets = int_tensor(targets, {n, width});
}

// Interleaved mRoPE: frequency i turns with the height axis if i = 1 mod 3 and i < 3 * section[1], with the
// width axis if i = 2 mod 3 and i < 3 * section[2], else with time.
void build_rope(const std::vector<std::int64_t>& positions, const ModelConfig& c, at::ScalarType dtype,
                PackedTokens& out) {
  const std::int64_t n = out.tokens, half = c.rotary_dim / 2, d = c.head_dim;
  at::Tensor cos = at::ones({n, 1, d}, at::kDouble), sin = at::zeros({n, 1, d}, at::kDouble);
  std::vector<std::int64_t> partner(d);
  for (std::int64_t j = 0; j < d; ++j) partner[j] = j < half ? j + half : j < 2 * half ? j - half : j;
  auto* cos_data = cos.data_ptr<double>();
  auto* sin_data = sin.data_ptr<double>();
  const auto section = [&](std::size_t axis) {
    return axis < c.mrope_section.size() ? c.mrope_section[axis] : 0;
  };
  for (std::int64_t i = 0; i < half; ++i) {
    const double frequency =
        std::pow(c.rope_theta, -2.0 * static_cast<double>(i) / static_cast<double>(c.rotary_dim));
    const std::int64_t axis = i % 3 == 1 && i < 3 * section(1) ? 1 : i % 3 == 2 && i < 3 * section(2) ? 2 : 0;
    for (std::int64_t t = 0; t < n; ++t) {
      const double angle = static_cast<double>(positions[axis * n + t]) * frequency;
      cos_data[t * d + i] = cos_data[t * d + half + i] = std::cos(angle);
      sin_data[t * d + i] = -std::sin(angle);
      sin_data[t * d + half + i] = std::sin(angle);
    }
  }
  out.rope_cos = cos.to(dtype);
  out.rope_sin = sin.to(dtype);
  out.rope_partner = int_tensor(partner, {d});
}

void build_attention(const std::vector<std::int64_t>& documents, const PackingOptions& options,
                     PackedTokens& out) {
  const at::Tensor doc = int_tensor(documents, {out.tokens});
  const at::Tensor index = at::arange(out.tokens, at::kLong);
  for (std::int64_t begin = 0; begin < out.tokens; begin += options.attention_block) {
    AttentionBlock block;
    block.begin = begin;
    block.end = std::min(begin + options.attention_block, out.tokens);
    block.key_begin = begin;
    while (block.key_begin > 0 && documents[block.key_begin - 1] == documents[begin]) --block.key_begin;
    const auto rows = [&](const at::Tensor& t) { return t.slice(0, block.begin, block.end).unsqueeze(1); };
    const auto columns = [&](const at::Tensor& t) {
      return t.slice(0, block.key_begin, block.end).unsqueeze(0);
    };
    block.bias =
        masked_bias(rows(doc).eq(columns(doc)).logical_and_(columns(index).le(rows(index))), options.dtype);
    out.attention.push_back(std::move(block));
  }
}

void build_chunks(const std::vector<std::int64_t>& documents, const PackingOptions& options,
                  PackedTokens& out) {
  const std::int64_t n = out.tokens;
  DeltaChunks& chunks = out.chunks;
  if (n == 0) return;
  // Equal chunks no longer than chunk_length: less padding than full chunks and a short last one.
  chunks.count = (n + options.chunk_length - 1) / options.chunk_length;
  chunks.length = (n + chunks.count - 1) / chunks.count;
  std::vector<std::int64_t> padded(documents);
  padded.resize(chunks.count * chunks.length, documents.back());
  const at::Tensor doc = int_tensor(padded, {chunks.count, 1, chunks.length});
  const at::Tensor last = doc.slice(2, chunks.length - 1);
  // No document owns the state before the first token: it is zero, so the factor does not matter.
  const at::Tensor before = at::cat({doc.slice(0, 0, 1).slice(2, 0, 1), last.slice(0, 0, chunks.count - 1)});
  const at::Tensor causal = at::ones({chunks.length, chunks.length}, at::kBool).tril_();
  chunks.bias = masked_bias(doc.unsqueeze(3).eq(doc.unsqueeze(2)).logical_and_(causal), options.dtype);
  chunks.entry = doc.eq(before).to(options.dtype);
  chunks.exit = doc.eq(last).to(options.dtype);
  chunks.carry = before.eq(last).to(options.dtype).unsqueeze(3);
}

void build_pieces(const std::vector<std::int64_t>& documents, const PackingOptions& options,
                  PackedTokens& out) {
  for (std::int64_t begin = 0, end = 0; begin < out.tokens; begin = end) {
    while (end < out.tokens && documents[end] == documents[begin]) ++end;
    const std::int64_t count = (end - begin + options.chunk_length - 1) / options.chunk_length;
    for (std::int64_t i = 0; i < count; ++i) {
      const Range piece = cut(end - begin, count, i);
      out.pieces.push_back({begin + piece.begin, begin + piece.end, i == 0});
    }
  }
}

void move_tables(PackedTokens& out) {
  const auto move = [&](at::Tensor& table) {
    if (table.defined()) table = table.to(out.options.device);
  };
  for (at::Tensor* table :
       {&out.conv_sources, &out.conv_targets, &out.rope_cos, &out.rope_sin, &out.rope_partner,
        &out.chunks.bias, &out.chunks.entry, &out.chunks.exit, &out.chunks.carry})
    move(*table);
  for (auto& block : out.attention) move(block.bias);
}

// Everything that follows from the documents alone.
void build_document_tables(std::int64_t conv_width, PackedTokens& out) {
  out.attention.clear();
  out.pieces.clear();
  out.chunks = {};
  build_conv(out.documents, conv_width, out);
  build_attention(out.documents, out.options, out);
  build_chunks(out.documents, out.options, out);
  build_pieces(out.documents, out.options, out);
  move_tables(out);
}

}  // namespace

PackedTokens pack_tokens(const std::vector<std::int64_t>& documents,
                         const std::vector<std::int64_t>& positions, const ModelConfig& config,
                         const PackingOptions& options) {
  PackedTokens out;
  out.tokens = static_cast<std::int64_t>(documents.size());
  out.documents = documents;
  out.options = options;
  TORCH_CHECK(static_cast<std::int64_t>(positions.size()) == 3 * out.tokens,
              "pack_tokens: ", positions.size(), " positions for ", out.tokens, " tokens");
  build_rope(positions, config, options.dtype, out);
  build_document_tables(config.linear_conv_kernel_dim, out);
  return out;
}

PackedTokens pack_positions(const std::vector<std::int64_t>& positions, const ModelConfig& config,
                            const PackingOptions& options) {
  PackedTokens out;
  out.tokens = static_cast<std::int64_t>(positions.size()) / 3;
  out.options = options;
  build_rope(positions, config, options.dtype, out);
  move_tables(out);
  return out;
}

PackedTokens pack_documents(const std::vector<std::int64_t>& documents, std::int64_t conv_width,
                            const PackingOptions& options) {
  PackedTokens out;
  out.tokens = static_cast<std::int64_t>(documents.size());
  out.documents = documents;
  out.options = options;
  build_document_tables(conv_width, out);
  return out;
}

PackedTokens with_documents(const PackedTokens& tokens, const std::vector<std::int64_t>& documents) {
  TORCH_CHECK(documents.size() == tokens.documents.size(), "with_documents: ", documents.size(),
              " documents for ", tokens.tokens, " tokens");
  PackedTokens out = tokens;
  out.documents = documents;
  build_document_tables(tokens.conv_sources.size(1), out);
  return out;
}

PackedTokens with_positions(const PackedTokens& tokens, const std::vector<std::int64_t>& positions,
                            const ModelConfig& config) {
  TORCH_CHECK(static_cast<std::int64_t>(positions.size()) == 3 * tokens.tokens,
              "with_positions: ", positions.size(), " positions for ", tokens.tokens, " tokens");
  PackedTokens out = tokens;
  build_rope(positions, config, tokens.options.dtype, out);
  move_tables(out);
  return out;
}

}  // namespace meshparity::impl
