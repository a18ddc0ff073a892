// The planted faults as users see them: each caught, its cause named and never confidently misnamed; the
// lists of what is planted and what waits are complete; docs/faults.md says the same.
#include <catch2/catch.hpp>
#include <fstream>
#include <set>
#include <sstream>

#include "harness/cli/case_arguments.h"
#include "harness/cli/fault_table.h"
#include "harness/cli/run_case.h"
#include "scenarios/load.h"

namespace meshparity::cli {
namespace {

constexpr std::size_t kPublicRows = 133;

}  // namespace

TEST_CASE("every row of the public list is planted or says what it waits for") {
  std::set<std::string> ids;
  for (const auto& fault : faults::all()) CHECK(ids.insert(fault.id).second);
  const auto waiting = scenarios::load_unplanted_faults();
  const std::set<std::string> words = {"cp",     "ep",      "pp",   "vision",    "mtp",
                                       "aux",    "rollout", "pad",  "recompute", "dtype",
                                       "epochs", "async",   "bias", "equal",     "reference"};
  for (const auto& row : waiting) {
    INFO(row.id);
    CHECK(ids.insert(row.id).second);
    CHECK(words.count(row.waits_for));
  }
  CHECK(ids.size() == kPublicRows);
  for (const auto& fault : faults::all()) {
    INFO(fault.id);
    CHECK(fault.cases.size() >= 2);
    CHECK(!fault.cause.empty());
  }
}

TEST_CASE("the cause of a planted fault is named, and never confidently misnamed") {
  // One of each kind: weights, counts, labels, forward, loss, reductions, norm, steps, shapes.
  const char* const kNamed[] = {"conv1d-weight-not-block-sharded",
                                "a-log-bf16",
                                "dp-tokens-not-global",
                                "labels-shifted-twice",
                                "vocab-embed-mask-wrong",
                                "gdn-packed-no-reset",
                                "label-shift-after-shard",
                                "cp-local-token-count",
                                "cp-correction-factor-dp-only",
                                "gdn-alog-dtbias-grad-replicated",
                                "ga-loss-not-divided",
                                "sp-norm-grad-no-allreduce",
                                "kv-replica-grad-unsummed",
                                "moe-tp-input-grad-partial",
                                "gather-bwd-reduce-duplicated",
                                "gradnorm-replicated-overcount",
                                "zero-grad-missing",
                                "param-gather-stale",
                                "sp-flag-noop"};
  for (const char* id : kNamed) {
    FaultRun run;
    run.fault = &faults::find(id);
    CaseSpec spec = single_case(run.fault->cases.front());
    spec.fault = id;
    const CaseResult result = run_case(spec);
    for (const auto& check : result.checks)
      if (check.state == State::fail || check.state == State::invalid) {
        read_explanation(check, run);
        break;
      }
    INFO(id << ": " << run.first << " / " << run.cause << " " << run.confidence);
    CHECK(!run.first.empty());
    CHECK(run.cause_right());
    CHECK(!run.misled());
  }
}

TEST_CASE("faults that are exact on two context ranks pass there and are caught on three") {
  for (const char* id : {"zigzag-exchange-cp2-hardcoded", "cp-state-order-reversed"})
    for (const int ring : {2, 3}) {
      CaseSpec spec = single_case("--model tiny-dense --batch single --mesh ring" + std::to_string(ring));
      spec.fault = id;
      INFO(id << " on ring" << ring);
      CHECK(run_case(spec).state == (ring == 2 ? State::pass : State::fail));
    }
}

TEST_CASE("docs/faults.md holds every fault, its check, its meshes and what waits") {
  std::ifstream in(MESHPARITY_SOURCE_DIR "/docs/faults.md");
  std::stringstream text;
  text << in.rdbuf();
  const std::string docs = text.str();
  std::size_t rows = 0, at = 0;
  while ((at = docs.find("\n| `", at)) != std::string::npos) ++rows, ++at;
  CHECK(rows == kPublicRows);
  for (const auto& fault : faults::all()) {
    INFO("run ./meshparity faults run --markdown docs/faults.md");
    INFO(static_cells(fault));
    CHECK(docs.find("\n" + static_cells(fault)) != std::string::npos);
  }
  for (const auto& row : scenarios::load_unplanted_faults())
    CHECK(docs.find("\n| `" + row.id + "` | " + row.kind + " | " + row.waits_for) != std::string::npos);
}

}  // namespace meshparity::cli
