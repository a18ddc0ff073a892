#include "impl/parallel/expert.h"

#include <numeric>

#include "impl/parallel/index_tensor.h"

namespace meshparity::impl {

ExpertRoutes expert_routes(const ExpertParallel& ep, const at::Tensor& experts, std::int64_t expert_count,
                           const Site& site) {
  const int ranks = ep.group->size();
  const std::int64_t share = expert_count / ranks, k = experts.size(1);
  const at::Tensor host = experts.to(at::kCPU).contiguous();
  const auto* chosen = host.const_data_ptr<std::int64_t>();
  const std::int64_t pairs = host.numel();

  std::vector<std::int64_t> counts(expert_count, 0), next(expert_count, 0);
  for (std::int64_t i = 0; i < pairs; ++i) ++counts[chosen[i]];
  std::exclusive_scan(counts.begin(), counts.end(), next.begin(), std::int64_t{0});
  std::vector<std::int64_t> token(pairs), row_of_pair(pairs);
  for (std::int64_t i = 0; i < pairs; ++i) {
    const std::int64_t row = next[chosen[i]]++;
    row_of_pair[i] = row, token[row] = i / k;
  }

  // Rank r's counts of its own experts by every rank: [ranks, share].
  const std::vector<std::int64_t> shares(ranks, share);
  const at::Tensor arriving =
      ep.collectives
          ->all_to_all(*ep.group, index_tensor(counts, experts.device()), shares, shares, site + ".counts")
          .to(at::kCPU)
          .contiguous();
  const auto* arrives = arriving.const_data_ptr<std::int64_t>();
  ExpertRoutes routes;
  std::vector<std::int64_t> local;
  for (int r = 0; r < ranks; ++r) {
    routes.send.push_back(
        std::accumulate(counts.begin() + r * share, counts.begin() + (r + 1) * share, std::int64_t{0}));
    routes.receive.push_back(
        std::accumulate(arrives + r * share, arrives + (r + 1) * share, std::int64_t{0}));
    for (std::int64_t e = 0; e < share; ++e) local.insert(local.end(), arrives[r * share + e], e);
  }
  routes.token = index_tensor(token, experts.device());
  routes.row_of_pair = index_tensor(row_of_pair, experts.device());
  routes.experts = index_tensor(local, experts.device());
  return routes;
}

at::Tensor dispatch(const ExpertParallel& ep, const ExpertRoutes& routes, const at::Tensor& x,
                    const Site& site) {
  return exchange(*ep.collectives, *ep.group, x.index_select(0, routes.token), routes.send, routes.receive,
                  site + ".dispatch");
}

at::Tensor collect(const ExpertParallel& ep, const ExpertRoutes& routes, const at::Tensor& rows,
                   const Site& site) {
  return exchange(*ep.collectives, *ep.group, rows, routes.receive, routes.send, site + ".combine")
      .index_select(0, routes.row_of_pair);
}

}  // namespace meshparity::impl
