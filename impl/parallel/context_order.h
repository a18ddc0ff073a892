// Context parallelism: which tokens of a packed row every rank holds, in which order, and how tokens travel
// from one such order to another. Pure index arithmetic over one data rank's rows; any number of ranks, any
// lengths, parts may be empty. Everything that moves tokens over ring or uly (relayout.h, context_*.h) is
// derived from these lists and from nothing else. Source: design, "Mesh", layout; qwen35.md 4.6, 4.7.
//
// To add an order: one value of ContextOrder, one case in ring_order, and its name in context_order_of.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace meshparity::impl {

// contiguous: the row in cp pieces. zigzag: ring index r holds chunks r and 2*ring-1-r of the row's 2*ring
// chunks. zigzag_document: the same of every document's chunks, document after document.
enum class ContextOrder { contiguous, zigzag, zigzag_document };
// Throws InputError for an unknown word.
ContextOrder context_order_of(const std::string& layout);

// A place on the two context axes. cp index = ring * uly size + uly.
struct ContextSize {
  int ring = 1, uly = 1;
  int ranks() const { return ring * uly; }
};

// Token numbers of a micro-batch's stream on one data rank: rows one after another.
using Tokens = std::vector<std::int64_t>;

// The rows of one micro-batch on one data rank, as stream numbers: row i is [rows[i], rows[i+1]), document d
// is [documents[d], documents[d+1]). Documents do not cross rows.
struct ContextStream {
  std::vector<std::int64_t> rows{0};
  std::vector<std::int64_t> documents{0};
  std::int64_t tokens() const { return rows.back(); }
};

// What the ranks of one ring index hold together, in the order in which their lists are joined: row after
// row.
Tokens ring_order(const ContextStream& stream, ContextOrder order, ContextSize size, int ring_index);
// What one rank holds: every row's list cut over uly, row after row.
Tokens rank_order(const ContextStream& stream, ContextOrder order, ContextSize size, int cp_index);
// All ranks' lists, by cp index.
std::vector<Tokens> all_orders(const ContextStream& stream, ContextOrder order, ContextSize size);

// How one rank's rows travel from the lists `from` to the lists `to` (both per rank of one group, together
// holding the same tokens, each once): picked in `pick` order, `send[i]` of them go to rank i, `recv[i]` come
// from it, and `place` picks the arrived rows into their order.
struct Route {
  std::vector<std::int64_t> send, recv;
  std::vector<std::int64_t> pick;   // [own tokens before]
  std::vector<std::int64_t> place;  // [own tokens after]
};
// Throws RunError if a token of this rank's new list is nowhere in `from`.
Route make_route(const std::vector<Tokens>& from, const std::vector<Tokens>& to, int rank);

}  // namespace meshparity::impl
