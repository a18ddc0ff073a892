// Ulysses: an all-to-all that trades tokens for columns (heads). Before it a rank holds its tokens with all
// columns, after it all tokens of the group with its own columns. Columns may go to several ranks (replicated
// key-value heads); their gradients come back summed. Source: qwen35.md 4.5.
#pragma once

#include "impl/autograd.h"
#include "impl/comm/comm.h"
#include "impl/parallel/context_order.h"

namespace meshparity::impl {

// The token side of the exchange, for one micro-batch.
struct TokenExchange {
  std::vector<std::int64_t> sizes;  // tokens per rank of the group
  int rank = 0;
  // [all tokens] int64: for every token of the joined order its row in the ranks' lists put one after
  // another.
  at::Tensor place;
};
// `lists`: the ranks' tokens; `joined`: all of them in the order wanted after the exchange.
TokenExchange make_token_exchange(const std::vector<Tokens>& lists, const Tokens& joined, int rank,
                                  at::Device device);

// x [own tokens, C] -> [all tokens, columns[own].numel()]. `columns`: per rank the columns it gets, equally
// many for all.
at::Tensor scatter_columns(Collectives& collectives, const Group& group, const at::Tensor& x,
                           const std::vector<at::Tensor>& columns, const TokenExchange& tokens,
                           const Site& site);
// y [all tokens, c] -> [own tokens, c * ranks]: the ranks' columns side by side.
at::Tensor gather_columns(Collectives& collectives, const Group& group, const at::Tensor& y,
                          const TokenExchange& tokens, const Site& site);

// Of `heads` heads of `width` columns starting at column `offset`: the columns of the heads that rank `index`
// of `ranks` works on; one head is held by several ranks where there are more ranks than heads.
std::vector<std::int64_t> head_columns(std::int64_t heads, std::int64_t width, std::int64_t offset, int ranks,
                                       int index);

}  // namespace meshparity::impl
