// Stages tile the layers; every schedule runs everything once, can always go on, and keeps no more
// activations than it promises.
#include "impl/parallel/pipeline.h"

#include <catch2/catch.hpp>
#include <map>
#include <set>

namespace meshparity::impl::pipeline_test {
namespace {

Mesh stages(int pp) {
  Mesh mesh;
  mesh.pp = pp;
  return mesh;
}

Flags with(const char* schedule) {
  Flags flags;
  flags.schedule = schedule;
  return flags;
}

// Runs all ranks one action at a time, whoever can; what is left undone at the end.
std::size_t stuck_actions(int pp, const Flags& flags, int micro_batches) {
  std::map<int, std::vector<PipelineAction>> left;
  for (int p = 0; p < pp; ++p) left[p] = pipeline_schedule(stages(pp), flags, p, micro_batches);
  std::set<std::pair<int, int>> forward, backward;
  const int last = pp * (flags.schedule == std::string("interleaved") ? 2 : 1) - 1;
  bool moved = true;
  while (moved) {
    moved = false;
    for (auto& [p, actions] : left) {
      if (actions.empty()) continue;
      const PipelineAction a = actions.front();
      const int stage = a.chunk * pp + p;
      const bool ready = a.forward ? stage == 0 || forward.count({stage - 1, a.micro_batch})
                                   : forward.count({stage, a.micro_batch}) &&
                                         (stage == last || backward.count({stage + 1, a.micro_batch}));
      if (!ready) continue;
      (a.forward ? forward : backward).insert({stage, a.micro_batch});
      actions.erase(actions.begin());
      moved = true;
    }
  }
  std::size_t undone = 0;
  for (const auto& [p, actions] : left) undone += actions.size();
  return undone;
}

}  // namespace

TEST_CASE("virtual stages tile the layers in order, ends where they belong") {
  for (const char* schedule : {"1f1b", "gpipe", "interleaved"})
    for (int pp = 1; pp <= 5; ++pp)
      for (std::int64_t layers = 2 * pp; layers <= 11; ++layers) {
        std::map<int, PipelineStage> all;
        for (int p = 0; p < pp; ++p)
          for (const auto& stage : stages_of(stages(pp), with(schedule), layers, p)) {
            CHECK(stage.number % pp == p);
            all[stage.number] = stage;
          }
        std::int64_t end = 0;
        for (const auto& [number, stage] : all) {
          CHECK(stage.layers.begin == end);
          CHECK(stage.layers.size() > 0);
          CHECK(stage.first == (number == 0));
          CHECK(stage.last == (number == static_cast<int>(all.size()) - 1));
          end = stage.layers.end;
        }
        CHECK(end == layers);
      }
}

TEST_CASE("every schedule runs every micro-batch once each way and never stops, for any number of them") {
  for (const char* schedule : {"1f1b", "gpipe", "interleaved"})
    for (int pp = 1; pp <= 8; ++pp)
      for (int m = 1; m <= 13; ++m) {
        CAPTURE(schedule, pp, m);
        const Flags flags = with(schedule);
        for (int p = 0; p < pp; ++p) {
          std::set<std::pair<int, int>> open, done;
          for (const auto& a : pipeline_schedule(stages(pp), flags, p, m)) {
            const auto key = std::pair(a.chunk, a.micro_batch);
            if (a.forward)
              CHECK(open.insert(key).second);
            else
              CHECK((open.erase(key) == 1 && done.insert(key).second));
          }
          CHECK(open.empty());
          CHECK(done.size() ==
                static_cast<std::size_t>(m * (schedule == std::string("interleaved") ? 2 : 1)));
        }
        CHECK(stuck_actions(pp, flags, m) == 0);
      }
}

TEST_CASE("1f1b keeps the activations of no more micro-batches than there are stages left, gpipe of all") {
  for (int pp = 1; pp <= 8; ++pp)
    for (int m = 1; m <= 13; ++m)
      for (int p = 0; p < pp; ++p) {
        CHECK(most_in_flight(pipeline_schedule(stages(pp), with("1f1b"), p, m)) == std::min(m, pp - p));
        CHECK(most_in_flight(pipeline_schedule(stages(pp), with("gpipe"), p, m)) == m);
      }
  // Interleaved, whole groups of pp micro-batches: 2 (stages behind) + pp ahead, and the one at hand.
  for (int pp = 2; pp <= 4; ++pp)
    for (int p = 0; p < pp; ++p)
      CHECK(most_in_flight(pipeline_schedule(stages(pp), with("interleaved"), p, 3 * pp)) ==
            2 * (pp - 1 - p) + pp + 1);
}

}  // namespace meshparity::impl::pipeline_test
