// ring and uly: what softmax attention and the delta rule exchange, under every way to mix over them.
#include <algorithm>
#include <numeric>

#include "harness/layout/communication_sites.h"

namespace meshparity::layout {
namespace {

std::int64_t sum(const std::vector<std::int64_t>& values) {
  return std::accumulate(values.begin(), values.end(), std::int64_t{0});
}

// Tokens of every ring index, and of the ring index at hand.
std::vector<std::int64_t> per_ring(const RankPlace& place, const std::vector<std::int64_t>& per_cp) {
  std::vector<std::int64_t> counts(static_cast<std::size_t>(place.ring.size), 0);
  for (std::size_t c = 0; c < per_cp.size(); ++c) counts[c / place.uly.size] += per_cp[c];
  return counts;
}

// Tokens for heads, over a group that holds `all` tokens, `own` of them here: every other rank gets its
// columns of the own tokens, and in backward the gradients of the own columns go to the tokens' owners.
void trade_tokens(const RankSends& sends, const GroupPlace& group, const std::string& site, std::int64_t own,
                  std::int64_t all, std::int64_t columns_each) {
  sends.all_to_all(group, site, own * (group.size - 1) * columns_each);
  sends.all_to_all(group, site, (all - own) * columns_each, Direction::backward);
}

// The way back: the own columns of other ranks' tokens leave.
void trade_back(const RankSends& sends, const GroupPlace& group, const std::string& site, std::int64_t own,
                std::int64_t all, std::int64_t columns_each) {
  sends.all_to_all(group, site, (all - own) * columns_each);
  sends.all_to_all(group, site, own * (group.size - 1) * columns_each, Direction::backward);
}

// Rows that change rank between two orders; what left comes back in backward, and so does what arrived.
void move_rows(const RankSends& sends, const GroupPlace& group, const std::string& site, std::int64_t before,
               std::int64_t after, std::int64_t both, std::int64_t width) {
  sends.all_to_all(group, site, (before - both) * width);
  sends.all_to_all(group, site, (after - both) * width, Direction::backward);
}

void gather_rows(const RankSends& sends, const GroupPlace& group, const std::string& site, std::int64_t own,
                 std::int64_t all, std::int64_t width) {
  sends.all_gather(group, site, own * width);
  sends.reduce_scatter(group, site, all * width, own * width, Direction::backward);
}

// Keys and values visit every rank: a rank passes on what it holds at each step, the own rows first. Forward
// ends at the last rank, so the rows of the next ring index stop here. In backward the sums of the gradients
// travel along, and alone take one more hop to come home.
void ring_sites(const RankSends& sends, const RankPlace& place, const std::string& site,
                const std::vector<std::int64_t>& tokens, std::int64_t kv_columns) {
  const std::int64_t hops = place.ring.size - 1;
  const std::int64_t last = tokens[(place.ring.index + 1) % place.ring.size], passed = sum(tokens) - last;
  sends.all_to_all(place.ring, site, passed * 2 * kv_columns, Direction::forward, hops);
  sends.all_to_all(place.ring, site, passed * 4 * kv_columns + last * 2 * kv_columns, Direction::backward,
                   hops + 1);
}

}  // namespace

void attention_sites(const RankSends& sends, const RankPlace& place, const std::string& site,
                     const TokenCounts& tokens) {
  const ModelConfig& c = place.map.config();
  const std::int64_t me = place.cp.index, heads = c.num_attention_heads / place.tp.size;
  // A key-value head is held by several ranks where there are more ranks than heads.
  const std::int64_t kv_heads = std::max<std::int64_t>(1, c.num_key_value_heads / place.tp.size);
  const std::int64_t q = heads * c.head_dim, kv = kv_heads * c.head_dim;
  const std::int64_t own_q = q / place.uly.size,
                     own_kv = std::max<std::int64_t>(1, kv_heads / place.uly.size) * c.head_dim;
  const std::string at = site + ".self_attn";
  const std::int64_t before = tokens.residual[me], during = tokens.attention[me],
                     both = tokens.residual_and_attention[me];
  const std::vector<std::int64_t> of_ring = per_ring(place, tokens.attention);
  const std::int64_t joined = of_ring[place.ring.index];

  if (attention_relayouts(place.map))
    move_rows(sends, place.cp, at + ".relayout_in", before, during, both, q + 2 * kv);
  trade_tokens(sends, place.uly, at + ".ulysses_in", during, joined, own_q + 2 * own_kv);
  if (place.map.flags().attn == "ring")
    ring_sites(sends, place, at + ".ring", of_ring, own_kv);
  else
    gather_rows(sends, place.ring, at + ".gather", joined, sum(of_ring), 2 * own_kv);
  trade_back(sends, place.uly, at + ".ulysses_out", during, joined, own_q);
  if (attention_relayouts(place.map))
    move_rows(sends, place.cp, at + ".relayout_out", during, before, both, q);
}

void delta_rule_sites(const RankSends& sends, const RankPlace& place, const std::string& site,
                      const TokenCounts& tokens) {
  const ModelConfig& c = place.map.config();
  const std::string at = site + ".linear_attn", gdn = place.map.flags().gdn;
  // This rank's part after tp: channels q, k, v; with b and a what enters the delta rule; o what leaves it.
  const std::int64_t heads = c.linear_num_value_heads / place.tp.size, key = c.linear_key_head_dim,
                     value = c.linear_value_head_dim;
  std::int64_t channels = c.gdn_conv_width() / place.tp.size;
  const std::int64_t in = channels + 2 * heads, out = heads * value, me = place.cp.index;
  const std::int64_t residual = tokens.residual[me], all = sum(tokens.residual);

  if (gdn == "heads") {
    trade_tokens(sends, place.cp, at + ".ulysses_in", residual, all, in / place.cp.size);
    trade_back(sends, place.cp, at + ".ulysses_out", residual, all, out / place.cp.size);
    return;
  }
  if (gdn == "gather") {
    gather_rows(sends, place.cp, at + ".gather", residual, all, in);
    return;
  }
  const std::int64_t contiguous = tokens.contiguous[me], both = tokens.residual_and_contiguous[me];
  const bool hybrid = gdn == "hybrid";
  const GroupPlace& passing = hybrid ? place.ring : place.cp;
  const std::int64_t joined = per_ring(place, tokens.contiguous)[place.ring.index];
  const std::int64_t split = hybrid ? place.uly.size : 1;

  if (delta_rule_relayouts(place.map))
    move_rows(sends, place.cp, at + ".relayout_in", residual, contiguous, both, in);
  if (hybrid) trade_tokens(sends, place.uly, at + ".ulysses_in", contiguous, joined, in / split);
  channels /= split;
  gather_rows(sends, passing, at + ".halo", tokens.tails[passing.index], sum(tokens.tails), channels);
  if (tokens.crossing) {
    const std::int64_t map_width = heads / split * key;
    sends.all_gather(passing, at + ".states", tokens.rows * map_width * (key + value));
    sends.all_gather(passing, at + ".states", tokens.rows * map_width * value, Direction::backward);
  }
  if (hybrid) trade_back(sends, place.uly, at + ".ulysses_out", contiguous, joined, out / split);
  if (delta_rule_relayouts(place.map))
    move_rows(sends, place.cp, at + ".relayout_out", contiguous, residual, both, out);
}

}  // namespace meshparity::layout
