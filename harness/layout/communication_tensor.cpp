// tp, with and without sequence parallelism: what enters and leaves a tensor-parallel block, and the head.
#include "harness/layout/communication_sites.h"
#include "harness/types/cut.h"

namespace meshparity::layout {

void enter_block(const RankSends& sends, const RankPlace& place, const std::string& site,
                 std::int64_t tokens) {
  const std::int64_t n = tokens * place.map.config().hidden_size;
  if (!place.map.flags().sp) {
    sends.all_reduce(place.tp, site, n, Direction::backward);
    return;
  }
  const std::int64_t own = cut(tokens, place.tp.size, place.tp.index).size() * place.map.config().hidden_size;
  sends.all_gather(place.tp, site, own);
  sends.reduce_scatter(place.tp, site, n, own, Direction::backward);
}

void leave_block(const RankSends& sends, const RankPlace& place, const std::string& site,
                 std::int64_t tokens) {
  const std::int64_t n = tokens * place.map.config().hidden_size;
  if (!place.map.flags().sp) {
    sends.all_reduce(place.tp, site, n);
    return;
  }
  const std::int64_t own = cut(tokens, place.tp.size, place.tp.index).size() * place.map.config().hidden_size;
  sends.reduce_scatter(place.tp, site, n, own);
  sends.all_gather(place.tp, site, own, Direction::backward);
}

void head_sites(const RankSends& sends, const RankPlace& place, const std::string& site,
                std::int64_t tokens) {
  enter_block(sends, place, site, tokens);
  // Per token the maximum; then the sum of exponentials and the label's logit. Their gradients stay local.
  sends.all_reduce(place.tp, site + ".max", tokens, Direction::forward, "all_reduce_max");
  sends.all_reduce(place.tp, site + ".sums", 2 * tokens);
}

}  // namespace meshparity::layout
