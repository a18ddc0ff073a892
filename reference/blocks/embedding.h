// Where the model meets the vocabulary: token embedding and output head. Tied models pass one matrix to both.
#pragma once

#include <ATen/ATen.h>

namespace meshparity::reference {

// token_ids [T] int64, table [vocab, D] -> [T, D].
at::Tensor embed(const at::Tensor& token_ids, const at::Tensor& table);

// x [T, D], head [vocab, D] -> logits [T, vocab].
at::Tensor output_head(const at::Tensor& x, const at::Tensor& head);

}  // namespace meshparity::reference
