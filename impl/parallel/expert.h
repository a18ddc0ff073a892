// Expert parallelism: rows travel to the ranks that hold their experts and back. Dropless; ranks and experts
// that receive nothing take part with no rows. Rows leave in the order (expert, token, slot) and return to
// their pairs, so the combine adds the slots in their order whatever arrived when. Source: qwen35.md 3.2.
#pragma once

#include <memory>
#include <vector>

#include "impl/comm/comm.h"

namespace meshparity::impl {

// The expert axes as the mixture-of-experts block uses them.
struct ExpertParallel {
  Collectives* collectives = nullptr;
  std::shared_ptr<Group> group;  // ep: ranks that hold different experts (and, of the width, the same part)
  bool tokens_cut = false;  // etp = 1 beside tp > 1: every tp rank takes a part of the tokens to the experts
};

// Where the (token, slot) pairs of one layer go. Host integers and two index tensors.
struct ExpertRoutes {
  std::vector<std::int64_t> send, receive;  // [ranks] rows to and from every rank of the group
  at::Tensor token;                         // [T*k] token of every row that leaves, in sending order
  at::Tensor row_of_pair;                   // [T*k] row of pair token * k + slot, in sending order
  at::Tensor experts;                       // [received rows] expert, counted from this rank's first
};

// `experts` [T, k] int64 as routed, of `expert_count` in all, which the group's ranks hold in equal,
// consecutive shares. Exchanges the counts: one all-to-all of expert_count integers at "SITE.counts".
ExpertRoutes expert_routes(const ExpertParallel& ep, const at::Tensor& experts, std::int64_t expert_count,
                           const Site& site);

// Rows of x [T, D] -> the rows this rank's experts work on, [received, D]; differentiable.
at::Tensor dispatch(const ExpertParallel& ep, const ExpertRoutes& routes, const at::Tensor& x,
                    const Site& site);
// What the experts made of them -> per pair of this rank, [T*k, D] in the order token * k + slot;
// differentiable.
at::Tensor collect(const ExpertParallel& ep, const ExpertRoutes& routes, const at::Tensor& rows,
                   const Site& site);

}  // namespace meshparity::impl
