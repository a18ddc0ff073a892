// Ids outside a rank's vocabulary range look up row 0 instead of nothing, and the sum over tp adds it.
#include "impl/blocks/primitives.h"
#include "scenarios/faults/decorators.h"

namespace meshparity::faults {

Fault vocab_embed_mask_wrong() {
  return {
      "vocab-embed-mask-wrong",
      "rows of ids outside the rank's vocabulary range are not zeroed: the sum over tp adds row 0 of other "
      "shards",
      "TTrace, arXiv 2506.09280",
      "logits",
      "logits",
      "embedding rows outside the vocabulary shard not masked",
      {"--model tiny-dense --batch rows --mesh tp2", "--model tiny-moe --batch single --mesh tp3 --sp on"},
      [](impl::Seams& seams) {
        seams.primitives = [](impl::Primitives& p) {
          p.embedding_lookup = [right = p.embedding_lookup](const at::Tensor& table, const at::Tensor& ids,
                                                            std::int64_t begin) {
            const at::Tensor inside = ids.ge(begin).logical_and(ids.lt(begin + table.size(0)));
            return right(table, at::where(inside, ids, at::full_like(ids, begin)), begin);
          };
        };
      }};
}

}  // namespace meshparity::faults
