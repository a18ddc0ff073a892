// Ranks that disagree, throw, return early or stop answering: always an error that names who did what, never
// a hang.
#include <catch2/catch.hpp>
#include <chrono>
#include <thread>

#include "harness/types/error.h"
#include "impl/comm/comm_testing.h"

namespace meshparity::impl::testing::failure_test {
namespace {

using Body = std::function<void(Engine&, Collectives&, const Group&)>;

std::string thrown_by(int world, const Body& body, const InProcessOptions& options = {}) {
  return thrown(
      world,
      [&](Engine& engine) {
        auto c = make_collectives(nullptr, false);
        body(engine, *c, *world_group(engine));
      },
      options);
}

}  // namespace

TEST_CASE("ranks that call different collectives are told who called what") {
  struct Case {
    const char* reason;
    const char* rank_1;
    Body odd;
  };
  const Body common = [](Engine&, Collectives& c, const Group& g) {
    c.all_gather(g, integers(0, {2, 3}), {2, 2, 2}, 0, "site");
  };
  const std::vector<Case> cases{
      {"operations differ", "rank 1: all_reduce float64 [2,3] at site:all_reduce",
       [](Engine&, Collectives& c, const Group& g) {
         c.all_reduce(g, integers(0, {2, 3}), "site");
       }},
      {"sites differ", "rank 1: all_gather float64 [2,3] in parts [2,2,2] at other:all_gather",
       [](Engine&, Collectives& c, const Group& g) {
         c.all_gather(g, integers(0, {2, 3}), {2, 2, 2}, 0, "other");
       }},
      {"dtypes differ", "rank 1: all_gather float32 [2,3]",
       [](Engine&, Collectives& c, const Group& g) {
         c.all_gather(g, integers(0, {2, 3}, at::kFloat), {2, 2, 2}, 0, "site");
       }},
      {"part sizes differ", "rank 1: all_gather float64 [2,3] in parts [1,2,3]",
       [](Engine&, Collectives& c, const Group& g) {
         c.all_gather(g, integers(0, {2, 3}), {1, 2, 3}, 0, "site");
       }},
      {"part sizes differ", "rank 1: all_gather float64 [2,4]",
       [](Engine&, Collectives& c, const Group& g) {
         c.all_gather(g, integers(0, {2, 4}), {2, 2, 2}, 0, "site");
       }},
  };
  for (const Case& one : cases) {
    const std::string text = thrown_by(
        3, [&](Engine& e, Collectives& c, const Group& g) { (e.rank() == 1 ? one.odd : common)(e, c, g); });
    CHECK_THAT(text,
               Catch::Contains("collective mismatch on tp {0,1,2}") && Catch::Contains(one.reason) &&
                   Catch::Contains(one.rank_1) &&
                   Catch::Contains("rank 2: all_gather float64 [2,3] in parts [2,2,2] at site:all_gather"));
  }
}

TEST_CASE("sums of different shapes and exchanges that do not fit are mismatches") {
  CHECK_THAT(thrown_by(2,
                       [](Engine& e, Collectives& c, const Group& g) {
                         c.all_reduce(g, integers(0, {2, 3 + e.rank()}), "a");
                       }),
             Catch::Contains("shapes differ") && Catch::Contains("[2,3]") && Catch::Contains("[2,4]"));
  CHECK_THAT(
      thrown_by(
          2,
          [](Engine&, Collectives& c, const Group& g) {
            c.all_to_all(g, integers(0, {3}), {1, 2}, {1, 2}, "a");  // rank 0 sends 2 rows, rank 1 expects 1
          }),
      Catch::Contains("rows sent and received differ"));
  CHECK_THAT(thrown_by(3,
                       [](Engine& e, Collectives& c, const Group& g) {
                         std::vector<std::int64_t> send{1, 1, 1}, receive{1, 1, 1};
                         if (e.rank() == 0) receive[2] = 2;
                         c.all_to_all(g, integers(0, {3}), send, receive, "a");
                       }),
             Catch::Contains("rows sent and received differ") &&
                 Catch::Contains("sending [1,1,1] receiving [1,1,2]"));
}

TEST_CASE("a mismatch is thrown on every rank") {
  std::vector<std::string> told(3);
  thrown_by(3, [&](Engine& e, Collectives& c, const Group& g) {
    try {
      c.all_reduce(g, integers(0, {1 + e.rank()}), "a");
    } catch (const RunError& error) {
      told[static_cast<std::size_t>(e.rank())] = error.what();
      throw;
    }
  });
  for (const std::string& text : told)
    CHECK_THAT(text, Catch::Contains("shapes differ") && Catch::Contains("rank 2"));
}

TEST_CASE("ranks waiting for each other in different groups are a mismatch at once") {
  const std::string text = thrown(3, [](Engine& engine) {
    auto c = make_collectives(nullptr, false);
    auto tp = world_group(engine, "tp");
    auto dp = world_group(engine, "dp");
    c->barrier(*tp, "first");
    c->all_reduce(engine.rank() == 2 ? *dp : *tp, integers(0, {2}), "second");
  });
  CHECK_THAT(text, Catch::Contains("no rank can go on") &&
                       Catch::Contains("rank 0: all_reduce float64 [2] at second:all_reduce on tp {0,1,2}") &&
                       Catch::Contains("rank 2: all_reduce float64 [2] at second:all_reduce on dp {0,1,2}"));
}

TEST_CASE("a rank that returns while others wait is an error") {
  const std::string text = thrown_by(3, [](Engine& e, Collectives& c, const Group& g) {
    c.barrier(g, "first");
    if (e.rank() != 1) c.barrier(g, "second");
  });
  CHECK_THAT(text, Catch::Contains("rank 1: returned after first:barrier") &&
                       Catch::Contains("rank 0: barrier at second:barrier"));
}

TEST_CASE("a rank that throws ends the others' pending and later collectives, and is the one reported") {
  std::vector<int> failures(4, 0);
  const std::string text = thrown_by(4, [&](Engine& e, Collectives& c, const Group& g) {
    if (e.rank() == 2) throw std::domain_error("negative loss");
    for (int i = 0; i < 2; ++i) {
      try {
        c.barrier(g, "b");
      } catch (const RunError& error) {
        expect(std::string(error.what()).find("rank 2: negative loss") != std::string::npos, error.what());
        ++failures[static_cast<std::size_t>(e.rank())];
      }
    }
    try {
      world_group(e, "new");  // made after the failure, just as dead
      c.barrier(*world_group(e, "new"), "c");
    } catch (const RunError&) {
      ++failures[static_cast<std::size_t>(e.rank())];
    }
    // A consequence, not the cause, and from a lower rank.
    throw std::runtime_error("could not clean up");
  });
  CHECK(text == "rank 2: negative loss");
  CHECK(failures == std::vector<int>{3, 3, 0, 3});
}

TEST_CASE("the reported error keeps its kind and names its rank") {
  auto fail_with = [](const std::function<void()>& fail) {
    return [fail](Engine& engine) {
      auto c = make_collectives(nullptr, false);
      auto group = world_group(engine);
      c->barrier(*group, "a");
      if (engine.rank() == 1) fail();
      c->barrier(*group, "b");
    };
  };
  CHECK_THROWS_AS(
      run_in_process(2, {}, fail_with([] { throw InputError("model.json", "hidden_size", "is odd"); })),
      InputError);
  CHECK_THROWS_AS(run_in_process(2, {}, fail_with([] { throw std::bad_alloc(); })), RunError);
  CHECK(thrown(2, fail_with([] { throw InputError("model.json", "hidden_size", "is odd"); })) ==
        "rank 1: model.json: hidden_size: is odd");
  CHECK(thrown(2, fail_with([] { throw 7; })) == "rank 1: unknown exception");
  const std::string torch_error = thrown(2, fail_with([] { at::ones({2}) + at::ones({3}); }));
  CHECK_THAT(torch_error,
             Catch::StartsWith("rank 1: ") && Catch::Contains("size") && !Catch::Contains("frame #"));
}

TEST_CASE("a rank that does not come within the limit is reported as a desync") {
  InProcessOptions options;
  options.wait_limit_seconds = 0.05;
  const std::string text = thrown_by(
      3,
      [](Engine& e, Collectives& c, const Group& g) {
        c.barrier(g, "first");
        if (e.rank() == 0) std::this_thread::sleep_for(std::chrono::milliseconds(300));
        c.barrier(g, "second");
      },
      options);
  CHECK_THAT(text, Catch::StartsWith("desync: rank ") && Catch::Contains("0.05 s") &&
                       Catch::Contains("rank 0: running after first:barrier"));
}

TEST_CASE("tensors that do not fit their part sizes are refused by the rank that has them") {
  struct Case {
    const char* text;
    Body body;
  };
  const std::vector<Case> cases{
      {"a:all_gather on tp rank 0 of 2: holds [3], not its part of [2,2]",
       [](Engine&, Collectives& c, const Group& g) {
         c.all_gather(g, integers(0, {3}), {2, 2}, 0, "a");
       }},
      {"part sizes [2] do not fit the group",
       [](Engine&, Collectives& c, const Group& g) { c.all_gather(g, integers(0, {2}), {2}, 0, "a"); }},
      {"part sizes [-1,3] do not fit the group",
       [](Engine&, Collectives& c, const Group& g) {
         c.reduce_scatter(g, integers(0, {2}), {-1, 3}, 0, "a");
       }},
      {"not all parts [1,2]",
       [](Engine&, Collectives& c, const Group& g) {
         c.reduce_scatter(g, integers(0, {2}), {1, 2}, 0, "a");
       }},
      {"no dimension 1 in [2]",
       [](Engine&, Collectives& c, const Group& g) {
         c.all_gather(g, integers(0, {2}), {2, 2}, 1, "a");
       }},
      {"no dimension 0 in []",
       [](Engine&, Collectives& c, const Group& g) {
         c.all_to_all(g, integers(0, {}), {1, 0}, {1, 0}, "a");
       }},
      {"sends [1,2] rows of [2]",
       [](Engine&, Collectives& c, const Group& g) {
         c.all_to_all(g, integers(0, {2}), {1, 2}, {1, 2}, "a");
       }},
      {"tensor is undefined",
       [](Engine&, Collectives& c, const Group& g) { c.all_reduce(g, at::Tensor(), "a"); }},
      {"a:split on tp: part sizes do not fit",
       [](Engine&, Collectives& c, const Group& g) {
         split_to(c, g, integers(0, {2}), {1, 2}, 0, "a");
       }},
  };
  for (const Case& one : cases) CHECK_THAT(thrown_by(2, one.body), Catch::Contains(one.text));
}

TEST_CASE("groups must be made of different ranks of the world, this one among them") {
  auto make = [](const std::vector<int>& members) {
    return thrown(3, [&](Engine& engine) {
      if (engine.rank() == 0) engine.group("tp", members);
    });
  };
  CHECK_THAT(make({0, 3}), Catch::Contains("rank 0: group tp {0,3} names a rank outside the world"));
  CHECK_THAT(make({0, 0}), Catch::Contains("names a rank twice"));
  CHECK_THAT(make({1, 2}), Catch::Contains("does not contain this rank"));
  CHECK_THAT(make({}), Catch::Contains("does not contain this rank"));
  CHECK_THROWS_AS(run_in_process(0, {}, [](Engine&) {}), RunError);
  CHECK_THROWS_AS(run_in_process(256, {}, [](Engine&) {}), RunError);
}

TEST_CASE("whenever and wherever a rank throws, the world ends and that rank is named") {
  for (int round = 0; round < 60; ++round) {
    const int world = 2 + round % 5, guilty = round % world, when = round % 7;
    const std::string text = thrown(world, [&](Engine& engine) {
      auto c = make_collectives(nullptr, false);
      auto all = world_group(engine);
      // Neighbours: {0,1}, {2,3}, ...; the last may be alone.
      const int first = engine.rank() / 2 * 2;
      std::vector<int> pair{first};
      if (first + 1 < world) pair.push_back(first + 1);
      auto two = engine.group("pair", pair);
      at::Tensor x = integers(engine.rank(), {100});
      for (int step = 0; step < 10; ++step) {
        if (engine.rank() == guilty && step == when) throw std::runtime_error("step " + std::to_string(step));
        x = c->all_reduce(*two, x, "pair");
        if (step % 3 == 0) x = c->all_reduce(*all, x, "all") / world;
      }
    });
    CHECK(text == "rank " + std::to_string(guilty) + ": step " + std::to_string(when));
  }
}

}  // namespace meshparity::impl::testing::failure_test
