// The engines made of LibTorch's process groups give what the in-process engine gives. Ranks are threads
// here, each with an engine of its own, as processes would have; real processes are started by the command
// line's tests.
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <thread>

#include "harness/types/error.h"
#include "impl/comm/bench.h"
#include "impl/comm/collective_checks.h"
#include "impl/comm/world.h"

namespace meshparity::impl::testing::process_engine_test {
namespace {

// "" or the first error of any rank.
std::string thrown_by_gloo(int world, const std::function<void(Engine&)>& program,
                           double timeout_seconds = 60) {
  static int runs = 0;
  const auto file = std::filesystem::temp_directory_path() /
                    ("meshparity-gloo-" + std::to_string(getpid()) + "-" + std::to_string(runs++));
  std::vector<std::string> errors(static_cast<std::size_t>(world));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < world; ++rank) {
    threads.emplace_back([&, rank] {
      try {
        auto engine = make_gloo_engine(rank, world, file.string(), timeout_seconds);
        program(*engine);
      } catch (...) {
        errors[static_cast<std::size_t>(rank)] = error_text(std::current_exception());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::filesystem::remove(file);
  for (const std::string& error : errors) {
    if (!error.empty()) return error;
  }
  return "";
}

}  // namespace

TEST_CASE("gloo gives every collective's closed form, uneven and empty parts included", "[gloo]") {
  for (int world : {1, 2, 3}) {
    for (bool ordered : {false, true}) {
      CHECK(thrown_by_gloo(world, [&](Engine& engine) {
              auto c = make_collectives(nullptr, ordered);
              check_reductions(engine, *c);
              check_gathers(engine, *c);
              check_exchange(engine, *c);
            }) == "");
    }
  }
}

TEST_CASE("gloo with ordered sums gives the bits of the in-process engine", "[gloo]") {
  constexpr int kWorld = 4;
  auto program = [](std::vector<at::Tensor>& results, bool ordered) {
    return [&results, ordered](Engine& engine) {
      auto c = make_collectives(nullptr, ordered);
      auto group = world_group(engine);
      const at::Tensor x = normals("x" + std::to_string(engine.rank()), {30, 7});
      const auto parts = cut_sizes(30, kWorld);
      results[static_cast<std::size_t>(engine.rank())] = at::cat(
          {c->all_reduce(*group, x, "a").view({-1}), c->reduce_scatter(*group, x, parts, 0, "b").view({-1})});
    };
  };
  std::vector<at::Tensor> here(kWorld), there(kWorld);
  CHECK_NOTHROW(run_in_process(kWorld, {}, program(here, false)));
  REQUIRE(thrown_by_gloo(kWorld, program(there, true)) == "");
  for (std::size_t r = 0; r < kWorld; ++r) CHECK(at::equal(here[r], there[r]));
}

TEST_CASE("gloo groups of a mesh work side by side, and backward runs through them", "[gloo]") {
  CHECK(thrown_by_gloo(4, [](Engine& engine) {
          auto c = make_collectives(nullptr, false);
          const int column = engine.rank() % 2, row = engine.rank() / 2;
          auto dp = engine.group("dp", {column, 2 + column});
          auto tp = engine.group("tp", {2 * row, 2 * row + 1});
          expect(engine.group("tp", {2 * row, 2 * row + 1}) == tp, "a group asked for twice is one group");
          expect(engine.group("pp", {engine.rank()})->size() == 1, "a group of one needs no rendezvous");
          const at::Tensor x = at::full({3}, engine.rank(), at::kDouble).requires_grad_();
          const at::Tensor y = reduce_from(*c, *dp, copy_to(*c, *tp, x, "a"), "b");
          expect_equal(y.detach(), at::full({3}, 2.0 * column + 2, at::kDouble), "forward");
          y.sum().backward();
          expect_equal(x.grad(), at::full({3}, 2.0, at::kDouble), "backward");
        }) == "");
}

TEST_CASE("a gloo rank that never comes is an error with site and rank, within the limit", "[gloo]") {
  const std::string text = thrown_by_gloo(
      2,
      [](Engine& engine) {
        auto c = make_collectives(nullptr, false);
        auto group = world_group(engine);
        c->barrier(*group, "first");
        if (engine.rank() == 0) c->all_reduce(*group, at::ones({4}), "second");
      },
      2);
  CHECK_THAT(text, Catch::StartsWith("second:all_reduce on tp rank 0 of 2: "));
}

TEST_CASE("an engine that cannot be is refused with one line") {
  CHECK_THROWS_AS(make_gloo_engine(0, 2, "/nonexistent/folder/file", 1), InputError);
  CHECK_THROWS_AS(make_gloo_engine(2, 2, "file", 1), InputError);
  CHECK_THROWS_AS(make_gloo_engine(0, 2, "file", 0), InputError);
#ifdef MESHPARITY_CUDA
  std::string refusal = "none";
  try {
    refusal = make_nccl_engine(0, 1, "file", 1)->world() == 1 ? "none" : "wrong world";
  } catch (const InputError& e) {
    refusal = e.what();
  }
  // With and without a GPU in this machine.
  CHECK((refusal == "none" || refusal == "engine nccl: this machine has no CUDA device"));
#else
  CHECK_THROWS_WITH(make_nccl_engine(0, 2, "file", 1),
                    Catch::Contains("built without CUDA: use the cuda preset"));
#endif
}

TEST_CASE("the bench times both engines", "[gloo]") {
  const CollectiveTiming timing = time_collectives(2, 100, 5);
  CHECK(timing.ranks == 2);
  CHECK(timing.bytes == 104);
  CHECK(timing.in_process_us > 0);
  CHECK(timing.gloo_us > 0);
  CHECK_THROWS_AS(time_collectives(1, 100, 5), InputError);
}

}  // namespace meshparity::impl::testing::process_engine_test
