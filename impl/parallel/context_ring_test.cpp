// Blocks of queries and keys hold every pair that a mask lets through once, and no more pairs than documents
// ask for.
#include "impl/parallel/context_ring.h"

#include <catch2/catch.hpp>

namespace meshparity::impl::context_ring_test {

const at::TensorOptions kMasks = at::TensorOptions().dtype(at::kDouble);

std::vector<std::int64_t> documents(std::int64_t count, std::int64_t tokens) {
  std::vector<std::int64_t> document_of;
  for (std::int64_t d = 0; d < count; ++d) document_of.insert(document_of.end(), tokens, d);
  return document_of;
}

std::vector<std::int64_t> places(const at::Tensor& picked, bool all, std::size_t size) {
  std::vector<std::int64_t> out;
  for (std::int64_t i = 0; i < (all ? static_cast<std::int64_t>(size) : picked.numel()); ++i)
    out.push_back(all ? i : picked[i].item<std::int64_t>());
  return out;
}

// How often each pair is let through.
at::Tensor seen(const std::vector<RingBlock>& blocks, std::size_t queries, std::size_t keys) {
  const auto n = static_cast<std::int64_t>(queries), m = static_cast<std::int64_t>(keys);
  at::Tensor count = at::zeros({n, m}, at::kLong);
  for (const RingBlock& block : blocks) {
    const auto q = places(block.queries, block.all_queries, queries),
               k = places(block.keys, block.all_keys, keys);
    const at::Tensor pairs =
        block.bias.defined()
            ? block.bias.eq(0).to(at::kLong)
            : at::ones({static_cast<std::int64_t>(q.size()), static_cast<std::int64_t>(k.size())}, at::kLong);
    const at::Tensor rows = at::tensor(q, at::kLong).unsqueeze(1), columns = at::tensor(k, at::kLong);
    count.index_put_({rows, columns}, pairs, /*accumulate=*/true);
  }
  return count;
}

TEST_CASE("few pairs of tokens are one block over all") {
  const auto document_of = documents(4, 8);
  Tokens tokens;
  for (std::int64_t t = 0; t < 32; ++t) tokens.push_back(t);
  const auto blocks = causal_blocks(tokens, tokens, document_of, kMasks);
  REQUIRE(blocks.size() == 1);
  CHECK(blocks[0].all_queries);
  CHECK(blocks[0].all_keys);
  CHECK(causal_blocks({}, tokens, document_of, kMasks).empty());
}

TEST_CASE("many are split by documents, and every pair stays") {
  const auto document_of = documents(30, 100);
  Tokens queries, keys;
  for (std::int64_t t = 0; t < 3000; ++t) {
    if (t % 3 != 0) queries.push_back(t);           // documents that have queries of this rank
    if (t % 2 == 0 && t < 2500) keys.push_back(t);  // the last five have no keys here
  }
  const auto blocks = causal_blocks(queries, keys, document_of, kMasks);
  CHECK(blocks.size() > 3);
  std::int64_t pairs = 0;
  for (const RingBlock& block : blocks) pairs += block.queries.numel() * block.keys.numel();
  CHECK(pairs * 3 < static_cast<std::int64_t>(queries.size() * keys.size()));
  RingBlock dense;
  dense.bias = causal_bias(queries, keys, document_of, kMasks);
  CHECK(at::equal(seen(blocks, queries.size(), keys.size()), seen({dense}, queries.size(), keys.size())));
}

}  // namespace meshparity::impl::context_ring_test
