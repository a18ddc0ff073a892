// Letters between two ranks: sent without waiting, received in order, and every way they can be wrong is
// named.
#include <catch2/catch.hpp>

#include "impl/comm/comm_testing.h"

namespace meshparity::impl::testing::letters_test {
namespace {

at::Tensor received(Collectives& c, const Group& g, const std::vector<std::int64_t>& shape, int from,
                    const Site& site) {
  at::Tensor x = at::empty(shape, at::kDouble);
  c.recv(g, x, from, site);
  return x;
}

bool says(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("what one rank sends another arrives in order, empty ones too, and no sender waits") {
  on_world(3, [](Engine& engine, Collectives& c) {
    const auto g = world_group(engine, "pp");
    const int next = (engine.rank() + 1) % 3, before = (engine.rank() + 2) % 3;
    // All send first: with sends that wait for their receiver nobody would go on.
    for (const std::int64_t n : {4, 0, 2}) c.send(*g, integers(engine.rank(), {n, 3}), next, "a");
    for (const std::int64_t n : {4, 0, 2})
      expect_equal(received(c, *g, {n, 3}, before, "a"), integers(before, {n, 3}), "letter");
    c.finish_sends();
  });
}

TEST_CASE("what is sent may change as soon as the sends are finished") {
  on_world(2, [](Engine& engine, Collectives& c) {
    const auto g = world_group(engine, "pp");
    if (engine.rank() == 0) {
      at::Tensor x = integers(0, {5});
      c.send(*g, x, 1, "a");
      c.finish_sends();
      x.zero_();
      c.barrier(*g, "b");
    } else {
      c.barrier(*g, "b");
      expect_equal(received(c, *g, {5}, 0, "a"), integers(0, {5}), "letter");
    }
  });
}

TEST_CASE("a letter that does not fit, is not received, or never comes ends the world with its reason") {
  const auto run = [](const std::function<void(Engine&, Collectives&, const Group&)>& body) {
    return thrown(2, [&](Engine& engine) {
      const auto c = make_collectives(nullptr, false);
      body(engine, *c, *world_group(engine, "pp"));
    });
  };
  const std::string shape = run([](Engine& e, Collectives& c, const Group& g) {
    if (e.rank() == 0) c.send(g, integers(0, {4}), 1, "a");
    if (e.rank() == 1) received(c, g, {5}, 0, "a");
  });
  CHECK(says(shape, "message mismatch on pp {0,1}: shapes differ"));
  CHECK(says(shape, "rank 0: send float64 [4] to 1 at a"));
  const std::string site = run([](Engine& e, Collectives& c, const Group& g) {
    if (e.rank() == 0) c.send(g, integers(0, {4}), 1, "stages.0.micro_batch.1");
    if (e.rank() == 1) received(c, g, {4}, 0, "stages.0.micro_batch.0");
  });
  CHECK(says(site, "sites differ"));
  const std::string left = run([](Engine& e, Collectives& c, const Group& g) {
    if (e.rank() == 0) c.send(g, integers(0, {4}), 1, "a");
  });
  CHECK(says(left, "which nobody received"));
  const std::string both =
      run([](Engine& e, Collectives& c, const Group& g) { received(c, g, {4}, 1 - e.rank(), "a"); });
  CHECK(says(both, "no rank can go on"));
  const std::string gone = run([](Engine& e, Collectives& c, const Group& g) {
    if (e.rank() == 1) received(c, g, {4}, 0, "a");
  });
  CHECK(says(gone, "recv float64 [4] from 0 at a"));
  const std::string died = run([](Engine& e, Collectives& c, const Group& g) {
    if (e.rank() == 0) throw std::runtime_error("lost");
    received(c, g, {4}, 0, "a");
  });
  CHECK(says(died, "rank 0: lost"));
}

TEST_CASE("a send is logged with its elements, a receive is not") {
  std::vector<CommEvent> log;
  run_in_process(2, {}, [&](Engine& engine) {
    const auto c = make_collectives(engine.rank() == 0 ? &log : nullptr, false);
    const auto g = world_group(engine, "pp");
    if (engine.rank() == 0)
      c->send(*g, integers(0, {4, 3}), 1, "stages.0");
    else
      received(*c, *g, {4, 3}, 0, "stages.0");
  });
  REQUIRE(log.size() == 1);
  CHECK(log[0].site == "stages.0:send");
  CHECK(log[0].elements_sent == 12);
}

}  // namespace meshparity::impl::testing::letters_test
