// Rotary positions on three axes (interleaved multimodal RoPE). A text token has the same position on all
// three. Another rule of frequencies would be another `rope_angles`.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <vector>

namespace meshparity::reference {

// cos and sin of every pair's angle, each [T, R/2]; pair i turns by position * theta^(-2i/R).
struct RotaryTable {
  at::Tensor cos;
  at::Tensor sin;
};

// positions [3, T] int64: time, height, width. Pair i reads height where i mod 3 = 1 and i < 3 section[1],
// width where i mod 3 = 2 and i < 3 section[2], else time. `options` decide the dtype of angles and table.
// Source: qwen35.md 1.4.
RotaryTable rotary_table(const at::Tensor& positions, std::int64_t rotary_dim, double theta,
                         const std::vector<std::int64_t>& section, const at::TensorOptions& options);

// Turns the first R of d dimensions of every head, pairing i with i + R/2; the rest passes. x [T, H, d] ->
// [T, H, d].
at::Tensor apply_rope(const at::Tensor& x, const RotaryTable& table);

}  // namespace meshparity::reference
