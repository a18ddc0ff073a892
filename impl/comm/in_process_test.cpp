// What the in-process engine promises beyond right sums: their order, their bits, and the c10d interface
// itself.
#include "impl/comm/in_process.h"

#include <catch2/catch.hpp>

#include "impl/comm/comm_testing.h"

namespace meshparity::impl::testing::in_process_test {
namespace {

constexpr int kWorld = 8;
constexpr std::int64_t kLength = 2000;

at::Tensor term(int rank) {
  return normals("rank" + std::to_string(rank), {kLength});
}

at::Tensor summed_in_order(const std::vector<int>& order) {
  at::Tensor sum = term(order[0]).clone();
  for (std::size_t i = 1; i < order.size(); ++i) sum.add_(term(order[i]));
  return sum;
}

// All-reduce of the terms on every rank, and the same by reduce-scatter, gathered.
struct Sums {
  std::vector<at::Tensor> reduced, scattered;
};
Sums sums(const InProcessOptions& options, bool ordered = false) {
  Sums result{std::vector<at::Tensor>(kWorld), std::vector<at::Tensor>(kWorld)};
  run_in_process(kWorld, options, [&](Engine& engine) {
    auto c = make_collectives(nullptr, ordered);
    auto group = world_group(engine);
    const auto parts = cut_sizes(kLength, kWorld);
    const auto r = static_cast<std::size_t>(engine.rank());
    result.reduced[r] = c->all_reduce(*group, term(engine.rank()), "a");
    result.scattered[r] =
        c->all_gather(*group, c->reduce_scatter(*group, term(engine.rank()), parts, 0, "b"), parts, 0, "c");
  });
  return result;
}

c10d::Backend& backend_of(Engine& engine) {
  static thread_local std::shared_ptr<Group> group;
  group = world_group(engine);
  return group->backend();
}

}  // namespace

TEST_CASE("reductions add in rank order, to the bit, on every rank") {
  const at::Tensor want = summed_in_order({0, 1, 2, 3, 4, 5, 6, 7});
  const Sums got = sums({});
  const Sums ordered = sums({}, true);
  for (std::size_t r = 0; r < kWorld; ++r) {
    CHECK(at::equal(got.reduced[r], want));
    CHECK(at::equal(got.scattered[r], want));
    CHECK(at::equal(ordered.reduced[r], want));
    CHECK(at::equal(ordered.scattered[r], want));
  }
}

TEST_CASE("a permuted order changes last bits only, is the same on all ranks and repeats with its seed") {
  const at::Tensor want = summed_in_order({0, 1, 2, 3, 4, 5, 6, 7});
  InProcessOptions options;
  options.permute_seed = 5;
  const Sums got = sums(options), again = sums(options);
  options.permute_seed = 6;
  const Sums other = sums(options);
  at::Tensor magnitude = at::zeros({kLength}, at::kDouble);
  for (int r = 0; r < kWorld; ++r) magnitude += term(r).abs();
  // Each of two sums of 8 terms rounds 7 times, every time by at most u = 2^-53 of a partial sum <= sum of
  // magnitudes.
  const at::Tensor bound = magnitude * (2 * 7 * 0x1p-53 * 1.001);
  for (std::size_t r = 0; r < kWorld; ++r) {
    CHECK_FALSE(at::equal(got.reduced[r], want));
    CHECK_FALSE(at::equal(got.scattered[r], want));
    CHECK_FALSE(at::equal(got.reduced[r], other.reduced[r]));
    CHECK(((got.reduced[r] - want).abs() <= bound).all().item<bool>());
    CHECK(((got.scattered[r] - want).abs() <= bound).all().item<bool>());
    CHECK(at::equal(got.reduced[r], got.reduced[0]));
    CHECK(at::equal(got.reduced[r], again.reduced[r]));
  }
}

TEST_CASE("a maximum keeps NaN and infinities, in any dtype that has them") {
  CHECK_NOTHROW(on_world(3, [](Engine& engine, Collectives& c) {
    auto group = world_group(engine);
    const double nan = std::numeric_limits<double>::quiet_NaN(),
                 inf = std::numeric_limits<double>::infinity();
    for (at::ScalarType dtype : {at::kDouble, at::kFloat, at::kBFloat16, at::kHalf}) {
      at::Tensor x = at::full({4}, -inf, at::kDouble);
      if (engine.rank() == 1) x = at::tensor({nan, 1.0, inf, -inf}, at::kDouble);
      const at::Tensor got = c.all_reduce_max(*group, x.to(dtype), "m").to(at::kDouble);
      expect(got[0].isnan().item<bool>(), "NaN");
      expect_equal(got.slice(0, 1), at::tensor({1.0, inf, -inf}, at::kDouble), "others");
    }
  }));
}

TEST_CASE("dtypes without arithmetic of our own are reduced too") {
  CHECK_NOTHROW(on_world(3, [](Engine& engine, Collectives& c) {
    auto group = world_group(engine);
    for (at::ScalarType dtype : {at::kHalf, at::kInt}) {
      const at::Tensor sum = c.all_reduce(*group, integers(engine.rank(), {50}, dtype), "s");
      expect_equal(sum, integers(0, {50}, dtype) + integers(1, {50}, dtype) + integers(2, {50}, dtype),
                   "sum");
    }
  }));
}

TEST_CASE("bfloat16 sums round after every rank, like a sum of bfloat16 tensors") {
  CHECK_NOTHROW(on_world(4, [](Engine& engine, Collectives& c) {
    auto group = world_group(engine);
    at::Tensor want = term(0).to(at::kBFloat16);
    for (int r = 1; r < 4; ++r) want = want + term(r).to(at::kBFloat16);
    expect_equal(c.all_reduce(*group, term(engine.rank()).to(at::kBFloat16), "s"), want, "sum");
  }));
}

TEST_CASE("views that are not contiguous are gathered, reduced and sent like their copies") {
  CHECK_NOTHROW(on_world(2, [](Engine& engine, Collectives& c) {
    auto group = world_group(engine);
    const at::Tensor view = integers(engine.rank(), {5, 4}).t(), copy = view.contiguous();
    expect_equal(c.all_reduce(*group, view, "a"), c.all_reduce(*group, copy, "a"), "all_reduce");
    expect_equal(c.all_gather(*group, view, {4, 4}, 0, "b"), c.all_gather(*group, copy, {4, 4}, 0, "b"),
                 "all_gather");
    expect_equal(c.reduce_scatter(*group, view, {1, 4}, 1, "c"),
                 c.reduce_scatter(*group, copy, {1, 4}, 1, "c"), "scatter");
    expect_equal(c.all_to_all(*group, view, {2, 2}, {2, 2}, "d"),
                 c.all_to_all(*group, copy, {2, 2}, {2, 2}, "d"), "exchange");
  }));
}

TEST_CASE("the log counts the elements that leave a rank, by the definitions of comm.h") {
  std::vector<std::vector<CommEvent>> logs(3);
  run_in_process(3, {}, [&](Engine& engine) {
    auto c = make_collectives(&logs[static_cast<std::size_t>(engine.rank())], false);
    auto group = world_group(engine);
    auto alone = engine.group("dp", {engine.rank()});
    const std::vector<std::int64_t> sizes{1, 0, 4};
    const std::int64_t own = sizes[static_cast<std::size_t>(engine.rank())];
    c->all_reduce(*group, integers(0, {10}), "a");  // parts 3, 3, 4
    c->all_gather(*group, integers(0, {own, 2}), sizes, 0, "b");
    c->reduce_scatter(*group, integers(0, {2, 5}), sizes, 1, "c:backward");
    c->all_to_all(*group, integers(0, {6, 7}), {1, 2, 3}, std::vector<std::int64_t>(3, engine.rank() + 1),
                  "d");
    c->barrier(*group, "e");
    c->all_reduce(*alone, integers(0, {10}), "f");
  });
  const std::int64_t want[3][5] = {{7 + 6, 4, 8, 35, 0}, {7 + 6, 0, 10, 28, 0}, {6 + 8, 16, 2, 21, 0}};
  const char* sites[5] = {"a:all_reduce", "b:all_gather", "c:reduce_scatter:backward", "d:all_to_all",
                          "e:barrier"};
  for (std::size_t r = 0; r < 3; ++r) {
    REQUIRE(logs[r].size() == 5);
    for (std::size_t i = 0; i < 5; ++i) {
      CHECK(logs[r][i].elements_sent == want[r][i]);
      CHECK(logs[r][i].site == sites[i]);
      CHECK(logs[r][i].axis == "tp");
    }
    CHECK(logs[r][2].op == "reduce_scatter");
  }
}

TEST_CASE("a group of one rank returns its tensors and makes no backend call") {
  CHECK_NOTHROW(run_in_process(1, {}, [](Engine& engine) {
    auto c = make_collectives(nullptr, true);
    auto group = engine.group("tp", {0});
    const at::Tensor x = integers(0, {3, 2});
    expect(c->all_reduce(*group, x, "a").is_same(x), "all_reduce");
    expect(c->all_gather(*group, x, {3}, 0, "b").is_same(x), "all_gather");
    expect(c->reduce_scatter(*group, x, {3}, 0, "c").is_same(x), "reduce_scatter");
    expect(c->all_to_all(*group, x, {3}, {3}, "d").is_same(x), "all_to_all");
    c->barrier(*group, "e");
  }));
}

TEST_CASE("members may come in any order, and each pair of axis and members is a group of its own") {
  CHECK_NOTHROW(on_world(3, [](Engine& engine, Collectives& c) {
    auto reversed = engine.group("ring", {2, 1, 0});
    expect(reversed->rank() == 2 - engine.rank() && reversed->size() == 3, "rank in group order");
    const at::Tensor own = at::full({1}, engine.rank(), at::kLong);
    expect_equal(c.all_gather(*reversed, own, {1, 1, 1}, 0, "a"), at::tensor({2, 1, 0}, at::kLong),
                 "gathered");
    auto forward = engine.group("ring", {0, 1, 2});
    expect_equal(c.all_gather(*forward, own, {1, 1, 1}, 0, "b"), at::tensor({0, 1, 2}, at::kLong),
                 "gathered");
    if (engine.rank() != 1) {
      auto ends = engine.group("dp", {0, 2});
      expect_equal(c.all_reduce(*ends, own, "c"), at::tensor({2}, at::kLong), "ends");
    }
  }));
}

TEST_CASE("the c10d interface: broadcast, list all-gather with uneven parts, equal splits") {
  CHECK_NOTHROW(run_in_process(3, {}, [](Engine& engine) {
    c10d::Backend& backend = backend_of(engine);
    expect(backend.getBackendName() == "inprocess" && backend.getSize() == 3 &&
               backend.getRank() == engine.rank(),
           "name");
    std::vector<at::Tensor> one{integers(engine.rank(), {4})};
    c10d::BroadcastOptions from;
    from.rootRank = 2;
    expect(backend.broadcast(one, from)->wait(), "wait");
    expect_equal(one[0], integers(2, {4}), "broadcast");

    std::vector<at::Tensor> own{integers(engine.rank(), {engine.rank()})};
    std::vector<std::vector<at::Tensor>> all{
        {at::empty({0}, at::kDouble), at::empty({1}, at::kDouble), at::empty({2}, at::kDouble)}};
    backend.allgather(all, own)->wait();
    for (int r = 0; r < 3; ++r)
      expect_equal(all[0][static_cast<std::size_t>(r)], integers(r, {r}), "allgather");

    at::Tensor in = integers(engine.rank(), {3, 2}), out = at::empty_like(in);
    std::vector<std::int64_t> none;
    backend.alltoall_base(out, in, none, none)->wait();
    for (int r = 0; r < 3; ++r) expect_equal(out[r], integers(r, {3, 2})[engine.rank()], "alltoall_base");
  }));
}

TEST_CASE("the c10d interface refuses what it cannot do") {
  auto refusal = [](const std::function<void(c10d::Backend&)>& call) {
    return thrown(2, [&](Engine& engine) { call(backend_of(engine)); });
  };
  CHECK_THAT(refusal([](c10d::Backend& b) {
               std::vector<at::Tensor> x{integers(0, {2, 3}).t()};
               b.allreduce(x);
             }),
             Catch::Contains("not contiguous"));
  CHECK_THAT(refusal([](c10d::Backend& b) {
               std::vector<at::Tensor> x{integers(0, {2})};
               c10d::AllreduceOptions options;
               options.reduceOp = c10d::ReduceOp::PRODUCT;
               b.allreduce(x, options);
             }),
             Catch::Contains("SUM and MAX only"));
  CHECK_THAT(refusal([](c10d::Backend& b) {
               at::Tensor x = integers(0, {3}), y = at::empty_like(x);
               std::vector<std::int64_t> none;
               b.alltoall_base(y, x, none, none);
             }),
             Catch::Contains("do not divide"));
  CHECK_THAT(refusal([](c10d::Backend& b) {
               at::Tensor x = integers(0, {2}), y = at::empty({4}, at::kFloat);
               b._allgather_base(y, x);
             }),
             Catch::Contains("dtypes differ"));
}

}  // namespace meshparity::impl::testing::in_process_test
