#include "reference/blocks/embedding.h"

namespace meshparity::reference {

at::Tensor embed(const at::Tensor& token_ids, const at::Tensor& table) {
  return at::embedding(table, token_ids);
}

at::Tensor output_head(const at::Tensor& x, const at::Tensor& head) {
  return at::linear(x, head);
}

}  // namespace meshparity::reference
