// Collectives against closed forms: integer-valued data, so that any summation order gives the same bits and
// the bound is zero. Every dtype, uneven and empty parts, every dimension. Every engine must pass these.
#pragma once

#include "impl/comm/comm_testing.h"

namespace meshparity::impl::testing {

inline at::Tensor sum_of_ranks(int world, const std::vector<std::int64_t>& shape,
                               at::ScalarType dtype = at::kDouble) {
  at::Tensor sum = integers(0, shape, dtype);
  for (int r = 1; r < world; ++r) sum = sum + integers(r, shape, dtype);
  return sum;
}

inline std::vector<std::int64_t> with_dim(std::int64_t dim, std::int64_t size) {
  std::vector<std::int64_t> shape{3, 2, 4};
  shape[static_cast<std::size_t>(dim)] = size;
  return shape;
}

inline void check_reductions(Engine& engine, Collectives& c) {
  auto group = world_group(engine);
  for (at::ScalarType dtype : {at::kDouble, at::kFloat, at::kBFloat16, at::kLong}) {
    for (const std::vector<std::int64_t>& shape :
         {std::vector<std::int64_t>{}, {1}, {0}, {3, 0}, {5, 7}, {3001}}) {
      const at::Tensor x = integers(engine.rank(), shape, dtype);
      const at::Tensor before = x.clone();
      expect_equal(c.all_reduce(*group, x, "a"), sum_of_ranks(engine.world(), shape, dtype), "all_reduce");
      at::Tensor largest = integers(0, shape, dtype);
      for (int r = 1; r < engine.world(); ++r) largest = at::maximum(largest, integers(r, shape, dtype));
      expect_equal(c.all_reduce_max(*group, x, "b"), largest, "all_reduce_max");
      expect_equal(x, before, "input");
    }
  }
  c.barrier(*group, "c");
}

inline void check_gathers(Engine& engine, Collectives& c) {
  auto group = world_group(engine);
  for (const auto& sizes : part_lists(engine.world())) {
    for (std::int64_t dim : {0, 1, 2, -1}) {
      const std::int64_t d = dim < 0 ? dim + 3 : dim;
      std::vector<at::Tensor> parts;
      for (int r = 0; r < engine.world(); ++r)
        parts.push_back(integers(r, with_dim(d, sizes[static_cast<std::size_t>(r)])));
      const at::Tensor own = parts[static_cast<std::size_t>(engine.rank())];
      expect_equal(c.all_gather(*group, own, sizes, dim, "g"), at::cat(parts, d), "all_gather");
      const at::Tensor want = sum_of_ranks(engine.world(), with_dim(d, total(sizes)))
                                  .split_with_sizes(sizes, d)[static_cast<std::size_t>(engine.rank())];
      const at::Tensor whole = integers(engine.rank(), with_dim(d, total(sizes)));
      expect_equal(c.reduce_scatter(*group, whole, sizes, dim, "s"), want, "reduce_scatter");
    }
  }
}

// Rank r sends (r + 2 * i) % 3 rows to rank i: uneven, some none.
inline void check_exchange(Engine& engine, Collectives& c) {
  auto group = world_group(engine);
  auto rows = [](int from, int to) { return static_cast<std::int64_t>((from + 2 * to) % 3); };
  for (const std::vector<std::int64_t>& row : {std::vector<std::int64_t>{}, {4}, {2, 3}, {0}}) {
    auto sent = [&](int from, int to) {
      std::vector<std::int64_t> shape{rows(from, to)};
      shape.insert(shape.end(), row.begin(), row.end());
      return integers(from * 16 + to, shape);
    };
    std::vector<std::int64_t> send, receive;
    std::vector<at::Tensor> out, in;
    for (int r = 0; r < engine.world(); ++r) {
      send.push_back(rows(engine.rank(), r));
      receive.push_back(rows(r, engine.rank()));
      out.push_back(sent(engine.rank(), r));
      in.push_back(sent(r, engine.rank()));
    }
    expect_equal(c.all_to_all(*group, at::cat(out), send, receive, "e"), at::cat(in), "all_to_all");
  }
}

}  // namespace meshparity::impl::testing
