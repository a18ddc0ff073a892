// Moves the rows of a tensor between two orders of the same tokens over a group: one all-to-all with the
// counts of a Route, whatever the orders, lengths and number of ranks. Source: qwen35.md 4.7.
#pragma once

#include "impl/autograd.h"
#include "impl/comm/comm.h"
#include "impl/parallel/context_order.h"

namespace meshparity::impl {

struct Relayout {
  std::vector<std::int64_t> send, recv;
  at::Tensor pick, place;  // int64, on the device of what is moved
};
// From one order of a group's tokens to another, as lists per rank; make_route says what they must hold.
Relayout make_relayout(const std::vector<Tokens>& from, const std::vector<Tokens>& to, int rank,
                       at::Device device);

// x [own tokens before, C] -> [own tokens after, C]; backward is the same move with the orders exchanged.
at::Tensor relayout(Collectives& collectives, const Group& group, const at::Tensor& x, const Relayout& move,
                    const Site& site);

}  // namespace meshparity::impl
