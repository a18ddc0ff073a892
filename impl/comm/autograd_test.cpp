// The differentiable forms are linear maps whose backward is their adjoint: <A x, y> = <x, A^T y>, summed
// over ranks, where a side that all ranks hold alike counts once. Data are integers, so both sides must be
// equal to the bit.
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <catch2/catch.hpp>
#include <thread>

#include "harness/types/error.h"
#include "impl/comm/comm_testing.h"

namespace meshparity::impl::testing::autograd_test {
namespace {

using Form = std::function<at::Tensor(Collectives&, const Group&, const at::Tensor&)>;
using ShapeOfRank = std::function<std::vector<std::int64_t>(int)>;

at::Tensor gradient_of(const at::Tensor& y, const at::Tensor& x, const at::Tensor& incoming) {
  return torch::autograd::grad({y}, {x}, {incoming})[0];
}

struct Sides {
  double left = 0, right = 0;  // <A x, y> and <x, A^T y>
  std::int64_t terms = 0;      // elements compared
};

// `shared_in`, `shared_out`: all ranks hold the same input, or get the same output; rank 0's copy counts.
Sides adjoint_sides(int world, const ShapeOfRank& shape, bool shared_in, bool shared_out, const Form& form) {
  std::vector<Sides> of_rank(static_cast<std::size_t>(world));
  on_world(world, [&](Engine& engine, Collectives& c) {
    const int rank = engine.rank();
    auto group = world_group(engine);
    const at::Tensor x = integers(shared_in ? 0 : rank, shape(rank)).requires_grad_();
    const at::Tensor y = form(c, *group, x);
    const at::Tensor incoming = integers(shared_out ? 40 : 40 + rank, y.sizes().vec());
    const at::Tensor outgoing = gradient_of(y, x, incoming);
    expect(outgoing.sizes() == x.sizes(), "gradient has the shape of x");
    Sides& s = of_rank[static_cast<std::size_t>(rank)];
    if (!shared_out || rank == 0) s.left = (y.detach() * incoming).sum().item<double>();
    if (!shared_in || rank == 0) s.right = (x.detach() * outgoing).sum().item<double>();
    s.terms = y.numel();
    if (shared_in) {
      expect_equal(outgoing, c.all_reduce_max(*group, outgoing, "same"), "replicated gradient");
    }
  });
  Sides sides;
  for (const Sides& s : of_rank) sides = {sides.left + s.left, sides.right + s.right, sides.terms + s.terms};
  return sides;
}

void check_adjoint(int world, const ShapeOfRank& shape, bool shared_in, bool shared_out, const Form& form) {
  const Sides sides = adjoint_sides(world, shape, shared_in, shared_out, form);
  CHECK(sides.left == sides.right);
  // Integers from -5 on: no sum over a non-empty tensor of these tests vanishes by chance.
  if (sides.terms > 0) CHECK(sides.left != 0);
}

// Hands its gradient on, or nothing at all.
struct Forget : torch::autograd::Function<Forget> {
  static at::Tensor forward(torch::autograd::AutogradContext*, const at::Tensor& x) { return x.clone(); }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext*,
                                                 torch::autograd::variable_list) {
    return {at::Tensor()};
  }
};

const std::vector<int> kSizes{1, 2, 3, 5};

}  // namespace

TEST_CASE("copy_to and reduce_from are adjoint to what they claim") {
  for (int world : kSizes) {
    for (const std::vector<std::int64_t>& shape : {std::vector<std::int64_t>{}, {5, 3}, {0, 3}}) {
      const ShapeOfRank same = [&](int) { return shape; };
      check_adjoint(world, same, true, false, [](Collectives& c, const Group& g, const at::Tensor& x) {
        return copy_to(c, g, x, "f");
      });
      check_adjoint(world, same, false, true, [](Collectives& c, const Group& g, const at::Tensor& x) {
        return reduce_from(c, g, x, "f");
      });
    }
  }
}

TEST_CASE(
    "gather_from, scatter_to, split_to and join_from are adjoint to what they claim for uneven and empty "
    "parts") {
  for (int world : kSizes) {
    for (const auto& sizes : part_lists(world)) {
      for (std::int64_t dim : {0, 1, -1}) {
        const std::size_t d = dim == 0 ? 0 : 1;
        auto shape = [&](std::int64_t n) {
          return d == 0 ? std::vector<std::int64_t>{n, 3} : std::vector<std::int64_t>{3, n};
        };
        const ShapeOfRank part = [&](int r) { return shape(sizes[static_cast<std::size_t>(r)]); };
        const ShapeOfRank whole = [&](int) { return shape(total(sizes)); };
        check_adjoint(world, part, false, false, [&](Collectives& c, const Group& g, const at::Tensor& x) {
          return gather_from(c, g, x, sizes, dim, "f");
        });
        check_adjoint(world, whole, false, false, [&](Collectives& c, const Group& g, const at::Tensor& x) {
          return scatter_to(c, g, x, sizes, dim, "f");
        });
        check_adjoint(world, whole, true, false, [&](Collectives& c, const Group& g, const at::Tensor& x) {
          return split_to(c, g, x, sizes, dim, "f");
        });
        check_adjoint(world, part, false, true, [&](Collectives& c, const Group& g, const at::Tensor& x) {
          return join_from(c, g, x, sizes, dim, "f");
        });
      }
    }
  }
}

TEST_CASE("exchange is adjoint to the exchange back for uneven and empty row counts") {
  for (int world : kSizes) {
    for (int modulus : {1, 2, 3}) {  // 1: nobody sends anything
      auto rows = [&](int from, int to) { return static_cast<std::int64_t>((from + 2 * to + 1) % modulus); };
      auto sent = [&](int rank) {
        std::vector<std::int64_t> list;
        for (int r = 0; r < world; ++r) list.push_back(rows(rank, r));
        return list;
      };
      auto received = [&](int rank) {
        std::vector<std::int64_t> list;
        for (int r = 0; r < world; ++r) list.push_back(rows(r, rank));
        return list;
      };
      check_adjoint(
          world,
          [&](int r) {
            return std::vector<std::int64_t>{total(sent(r)), 3};
          },
          false, false,
          [&](Collectives& c, const Group& g, const at::Tensor& x) {
            return exchange(c, g, x, sent(g.rank()), received(g.rank()), "f");
          });
    }
  }
}

TEST_CASE("an input that needs no gradient gives an output that needs none") {
  CHECK_NOTHROW(on_world(3, [](Engine& engine, Collectives& c) {
    auto group = world_group(engine);
    const at::Tensor x = integers(engine.rank(), {3, 2});
    expect(!copy_to(c, *group, x, "a").requires_grad(), "copy_to");
    expect(!reduce_from(c, *group, x, "b").requires_grad(), "reduce_from");
    expect(!gather_from(c, *group, x, {3, 3, 3}, 0, "c").requires_grad(), "gather_from");
    expect(!scatter_to(c, *group, x, {1, 0, 2}, 0, "d").requires_grad(), "scatter_to");
    expect(!split_to(c, *group, x, {1, 0, 2}, 0, "e").requires_grad(), "split_to");
    expect(!exchange(c, *group, x, {1, 1, 1}, {1, 1, 1}, "f").requires_grad(), "exchange");
    const at::NoGradGuard no_grad;
    expect(!reduce_from(c, *group, x.clone().requires_grad_(), "g").requires_grad(), "without grad mode");
  }));
}

TEST_CASE("a rank whose output gets no gradient still takes part in backward, with zeros") {
  CHECK_NOTHROW(on_world(3, [](Engine& engine, Collectives& c) {
    auto group = world_group(engine);
    const at::Tensor x = integers(0, {4}).requires_grad_();
    at::Tensor y = copy_to(c, *group, x, "a");
    if (engine.rank() == 1) y = Forget::apply(y);
    // Ranks 0 and 2 send ones.
    expect_equal(gradient_of(y.sum(), x, at::ones({}, at::kDouble)), at::full({4}, 2.0, at::kDouble),
                 "gradient");
    const at::Tensor part = integers(engine.rank(), {2}).requires_grad_();
    at::Tensor whole = gather_from(c, *group, part, {2, 2, 2}, 0, "b");
    if (engine.rank() == 0) whole = Forget::apply(whole);
    expect_equal(gradient_of(whole.sum(), part, at::ones({}, at::kDouble)), at::full({2}, 2.0, at::kDouble),
                 "gathered");
  }));
}

TEST_CASE("an output used twice, and a graph run backward twice, accumulate") {
  CHECK_NOTHROW(on_world(2, [](Engine& engine, Collectives& c) {
    auto group = world_group(engine);
    at::Tensor x = integers(0, {3}).requires_grad_();
    const at::Tensor y = copy_to(c, *group, x, "a");
    const at::Tensor loss = (y * 2).sum() + (y * (1 + engine.rank())).sum();
    const at::Tensor want = at::full({3}, 3.0 + 4.0, at::kDouble);
    loss.backward({}, /*retain_graph=*/true);
    expect_equal(x.grad(), want, "once");
    loss.backward();
    expect_equal(x.grad(), want * 2, "twice");
  }));
}

TEST_CASE("backward runs after the group handle has gone and logs sites as backward") {
  std::vector<std::vector<CommEvent>> logs(2);
  run_in_process(2, {}, [&](Engine& engine) {
    auto c = make_collectives(&logs[static_cast<std::size_t>(engine.rank())], false);
    const at::Tensor x = integers(engine.rank(), {4, 3}).requires_grad_();
    at::Tensor y;
    {
      auto group = world_group(engine);
      y = copy_to(*c, *group, reduce_from(*c, *group, x, "layers.0.mlp"), "layers.1.mlp");
    }
    y.sum().backward();
  });
  for (const auto& log : logs) {
    REQUIRE(log.size() == 2);
    CHECK(log[0].site == "layers.0.mlp:all_reduce");
    CHECK(log[1].site == "layers.1.mlp:all_reduce:backward");
  }
}

TEST_CASE("rank threads run their own backward, on one ATen thread") {
  std::vector<std::thread::id> forward(2), backward(2);
  run_in_process(2, {}, [&](Engine& engine) {
    expect(at::get_num_threads() == 1, "ATen threads");
    const auto r = static_cast<std::size_t>(engine.rank());
    forward[r] = std::this_thread::get_id();
    at::Tensor x = integers(0, {3}).requires_grad_();
    at::Tensor y = x * 2;
    y.register_hook([&](const at::Tensor& g) {
      backward[r] = std::this_thread::get_id();
      return g;
    });
    y.sum().backward();
  });
  CHECK(forward == backward);
  CHECK(forward[0] != forward[1]);
}

TEST_CASE("a second derivative is refused rather than wrong") {
  const std::string text = thrown(2, [](Engine& engine) {
    auto c = make_collectives(nullptr, false);
    auto group = world_group(engine);
    const at::Tensor x = integers(0, {3}).requires_grad_();
    torch::autograd::grad({reduce_from(*c, *group, x * x, "a").sum()}, {x}, {}, true, /*create_graph=*/true);
  });
  CHECK_THAT(text, Catch::Contains("a:backward") && Catch::Contains("second derivative"));
}

TEST_CASE("ranks that disagree in backward get a report, not a hang") {
  const std::string text = thrown(3, [](Engine& engine) {
    auto c = make_collectives(nullptr, false);
    auto group = world_group(engine);
    const at::Tensor x = integers(0, {3}).requires_grad_();
    const at::Tensor y = copy_to(*c, *group, x, engine.rank() == 1 ? "here" : "there");
    try {
      y.sum().backward();
    } catch (const RunError& e) {
      throw;  // the type survives the autograd engine
    } catch (...) {
      throw std::logic_error("not a RunError");
    }
  });
  CHECK_THAT(text, Catch::Contains("sites differ") &&
                       Catch::Contains("rank 1: all_reduce float64 [3] at here:all_reduce:backward"));
}

}  // namespace meshparity::impl::testing::autograd_test
