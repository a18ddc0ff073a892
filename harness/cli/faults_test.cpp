// The planted faults as users see them: each caught, its cause named and never confidently misnamed; the
// lists of what is planted and what waits are complete; docs/faults.md says the same.
#include <catch2/catch.hpp>
#include <fstream>
#include <map>
#include <set>
#include <sstream>

#include "harness/cli/case_arguments.h"
#include "harness/cli/fault_table.h"
#include "harness/cli/run_case.h"
#include "scenarios/load.h"

namespace meshparity::cli {
namespace {

constexpr std::size_t kPublicRows = 133;
// Planted beside the public list, each for a part that no row of it reaches.
const std::set<std::string> kOwn = {
    "clip-coefficient-uncapped", "reshard-shards-swapped", "reshard-shard-not-written",
    "reshard-a-log-bf16",        "decode-state-bf16",      "kv-neighbour-slot",
    "recurrent-state-not-reset", "prefix-hash-short",      "decode-position-counts-padding"};

}  // namespace

TEST_CASE("every row of the public list is planted or says what it waits for") {
  std::set<std::string> ids;
  for (const auto& fault : faults::all())
    if (!kOwn.count(fault.id)) CHECK(ids.insert(fault.id).second);
  const auto waiting = scenarios::load_unplanted_faults();
  const std::set<std::string> words = {"rollout", "dtype", "epochs", "async", "bias", "reference"};
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

TEST_CASE("faults that need context parallelism are planted") {
  // Rows of the public list whose `needs` name CP.
  const std::set<std::string> rows = {"gdn-cp-zigzag-as-contiguous",
                                      "zigzag-exchange-cp2-hardcoded",
                                      "thd-cu-seqlens-floordiv-cp",
                                      "odd-length-split-drops-tail",
                                      "cp-context-batch1-only",
                                      "mrope-3d-sharded-on-dim1",
                                      "ulysses-kv-replica-misindex",
                                      "a2a-head-seq-order-swapped",
                                      "zigzag-two-definitions",
                                      "vlm-usp-slice-twice-or-never",
                                      "gdn-alog-dtbias-grad-replicated",
                                      "vision-gather-bwd-drops-remote",
                                      "vision-gather-tp-fold",
                                      "cp-embeds-detached",
                                      "ring-bwd-local-lse",
                                      "fla-cp-bwd-gate-offset",
                                      "cp-local-token-count",
                                      "ulysses-replicated-loss-local-tokens",
                                      "ulysses-gradnorm-drift",
                                      "sp-count-overdivided",
                                      "cp-loss-extra-scale",
                                      "cp-3tuple-contract",
                                      "cp-correction-factor-dp-only",
                                      "sp-grad-divided-by-full-world",
                                      "mtp-loss-div-cp",
                                      "fully-masked-shard-nan",
                                      "ring-out-bf16-accum",
                                      "ring-lse-exp-overflow",
                                      "conv-backend-mismatch",
                                      "gdn-cp-single-doc-cu-seqlens",
                                      "conv1d-cp-no-halo",
                                      "conv1d-cp-local-seqidx-reset",
                                      "cp-state-order-reversed",
                                      "cp-state-carry-into-new-doc",
                                      "sampler-ignores-ulysses",
                                      "sp-worker-seed-per-rank",
                                      "label-shift-after-shard",
                                      "labels-shifted-twice",
                                      "ulysses-accum-normalise",
                                      "packed-mrope-cp-fallback",
                                      "cp-positions-local"};
  for (const auto& id : rows) CHECK_NOTHROW(faults::find(id));
  CHECK(rows.size() == 41);
}

TEST_CASE(
    "faults that need experts, a pipeline or recomputation are planted but for those of a missing part") {
  // Rows of the public list whose `needs` name EP, ETP, PP or AC.
  const std::set<std::string> rows = {
      "router-grad-tp-missing",      "moe-tp-noep-grad-placement", "router-probs-nondiff-gather",
      "ep-router-grad-wrong-kernel", "pp-tied-embed-no-sync",      "tied-embed-after-reduce-scatter",
      "pp-accum-grads-wiped",        "replicated-init-differs",    "edp-group-wrong",
      "mtp-embed-replica-unsynced",  "tied-embed-uneven-fsdp",     "shared-expert-reduced-twice",
      "expert-grad-times-ep",        "pp-loss-unnormalised",       "gradnorm-expert-undercount",
      "recompute-topk-flip",         "pp-padding-mask-unsharded",  "ep-idle-expert-grad-none",
      "ep-permute-unstable",         "ep-uneven-split-swap",       "train-ep-drift",
      "pp-cu-seqlens-sliced",        "pp-doc-ids-dropped",         "pp-position-ids-lost",
      "moe-param-sync-zeros",        "step-count-per-rank"};
  const std::map<std::string, std::string> left = {{"train-ep-drift", "rollout"}};
  std::map<std::string, std::string> waiting;
  for (const auto& row : scenarios::load_unplanted_faults())
    if (rows.count(row.id)) waiting[row.id] = row.waits_for;
  CHECK(waiting == left);
  for (const auto& id : rows)
    if (!left.count(id)) CHECK_NOTHROW(faults::find(id));
}

TEST_CASE("the cause of a planted fault is named, and never confidently misnamed") {
  // One of each kind: weights, counts, labels, forward, loss, reductions, norm, steps, shapes, rollout.
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
                                "expert-grad-times-ep",
                                "gradnorm-expert-undercount",
                                "edp-group-wrong",
                                "pp-tied-embed-no-sync",
                                "pp-accum-grads-wiped",
                                "pp-doc-ids-dropped",
                                "recompute-topk-flip",
                                "sp-flag-noop",
                                "reshard-shards-swapped",
                                "recurrent-state-not-reset",
                                "topp-renorm",
                                "r3-misaligned"};
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
  const auto state = [](const char* id, const std::string& line) {
    CaseSpec spec = single_case(line);
    spec.fault = id;
    return run_case(spec).state;
  };
  // The ring's order exists over ring alone; states are passed over all context ranks.
  const std::map<const char*, std::vector<std::string>> axes = {{"zigzag-exchange-cp2-hardcoded", {"ring"}},
                                                                {"cp-state-order-reversed", {"ring", "uly"}}};
  for (const auto& [id, names] : axes)
    for (const auto& axis : names) {
      const std::string line = "--model tiny-moe --batch single --gdn state --mesh " + axis;
      INFO(id << " " << line);
      CHECK(state(id, line + "2") == State::pass);
      CHECK(state(id, line + "3") == State::fail);
    }
}

TEST_CASE("docs/faults.md holds every fault, its check, its meshes and what waits") {
  std::ifstream in(MESHPARITY_SOURCE_DIR "/docs/faults.md");
  std::stringstream text;
  text << in.rdbuf();
  const std::string docs = text.str();
  std::size_t rows = 0, at = 0;
  while ((at = docs.find("\n| `", at)) != std::string::npos) ++rows, ++at;
  CHECK(rows == kPublicRows + kOwn.size());
  for (const auto& fault : faults::all()) {
    INFO("run ./meshparity faults run --markdown docs/faults.md");
    INFO(static_cells(fault));
    CHECK(docs.find("\n" + static_cells(fault)) != std::string::npos);
  }
  for (const auto& row : scenarios::load_unplanted_faults())
    CHECK(docs.find("\n| `" + row.id + "` | " + row.kind + " | " + row.waits_for) != std::string::npos);
}

}  // namespace meshparity::cli
