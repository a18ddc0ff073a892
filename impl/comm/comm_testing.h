// What the tests of this folder share. Catch2's assertions are not made for threads, so ranks throw what they
// find and the test's own thread sees it rethrown by run_in_process.
#pragma once

#include <ATen/ATen.h>

#include <functional>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "harness/types/cut.h"
#include "harness/types/generator.h"
#include "impl/comm/comm.h"

namespace meshparity::impl::testing {

inline void expect(bool ok, const std::string& what) {
  if (!ok) throw std::logic_error(what);
}

// Same dtype, shape and bits.
inline void expect_equal(const at::Tensor& got, const at::Tensor& want, const std::string& what) {
  expect(got.scalar_type() == want.scalar_type(), what + ": dtypes differ");
  expect(got.sizes() == want.sizes(), what + ": shapes differ");
  expect(at::equal(got, want), what + ": values differ");
}

inline std::shared_ptr<Group> world_group(Engine& engine, const std::string& axis = "tp") {
  std::vector<int> members(static_cast<std::size_t>(engine.world()));
  std::iota(members.begin(), members.end(), 0);
  return engine.group(axis, members);
}

// Small integers, a function of rank and index: sums over ranks are exact in any order and dtype but
// bfloat16's range.
inline at::Tensor integers(int rank, const std::vector<std::int64_t>& shape,
                           at::ScalarType dtype = at::kDouble) {
  std::int64_t n = 1;
  for (std::int64_t s : shape) n *= s;
  at::Tensor i = at::arange(n, at::kLong);
  return ((i * 7 + rank * 3) % 11 - 5 + rank).view(shape).to(dtype);
}

// Standard normal numbers, a function of name and index.
inline at::Tensor normals(const std::string& name, const std::vector<std::int64_t>& shape) {
  at::Tensor x = at::empty(shape, at::kDouble);
  const Generator generator(11, name);
  for (std::int64_t i = 0; i < x.numel(); ++i)
    x.data_ptr<double>()[i] = generator.normal(static_cast<std::uint64_t>(i));
  return x;
}

// Part lists of `size` ranks to try: even, floor-cut uneven, with empty parts, all but one empty, all empty.
inline std::vector<std::vector<std::int64_t>> part_lists(int size) {
  const auto w = static_cast<std::size_t>(size);
  std::vector<std::vector<std::int64_t>> lists{std::vector<std::int64_t>(w, 2), cut_sizes(2 * size + 1, size),
                                               cut_sizes(size - 1, size), std::vector<std::int64_t>(w, 0),
                                               std::vector<std::int64_t>(w, 0)};
  lists[3][w / 2] = 3;
  return lists;
}

inline std::int64_t total(const std::vector<std::int64_t>& values) {
  return std::accumulate(values.begin(), values.end(), std::int64_t{0});
}

// Runs on a world of threads with one plain Collectives per rank.
inline void on_world(int world, const std::function<void(Engine&, Collectives&)>& body,
                     const InProcessOptions& options = {}) {
  run_in_process(world, options, [&](Engine& engine) {
    auto collectives = make_collectives(nullptr, false);
    body(engine, *collectives);
  });
}

// What run_in_process throws, or "" if nothing.
inline std::string thrown(int world, const std::function<void(Engine&)>& program,
                          const InProcessOptions& options = {}) {
  try {
    run_in_process(world, options, program);
  } catch (const std::exception& e) {
    return e.what();
  }
  return "";
}

}  // namespace meshparity::impl::testing
