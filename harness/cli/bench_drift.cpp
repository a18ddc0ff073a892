// Judging the blind set and counting.
#include "harness/cli/bench_drift.h"

#include <cstdio>

#include "harness/cli/drift_pairs.h"
#include "harness/drift/drift.h"
#include "harness/types/error.h"
#include "reports/drift.h"

namespace meshparity::cli {
namespace {

struct PairCount {
  int pairs = 0, right = 0, blamed = 0;
};

void judge_pair(const std::string& kind, std::uint64_t seed, bool benign, bool show, PairCount& count) {
  const RunPair pair = make_run_pair(kind, seed);
  const DriftResult found = drift::analyse(*pair.source, nullptr);
  const bool named = found.verdict.sentence.find(pair.detail) != std::string::npos;
  const bool right = found.verdict.cause == pair.cause && named;
  const bool blamed = benign && found.verdict.fault;
  ++count.pairs, count.right += right, count.blamed += blamed;
  std::printf("%-6s %s %llu  mean |d| %.3g  %s\n",
              right    ? "right"
              : blamed ? "BLAMED"
                       : "wrong",
              kind.c_str(), static_cast<unsigned long long>(seed), found.metrics.mean_abs,
              pair.made_of.c_str());
  if (!right)
    std::printf("       expected %s %s, got %s: %s\n", pair.cause.c_str(), pair.detail.c_str(),
                found.verdict.cause.c_str(), found.verdict.sentence.c_str());
  if (!right && show) {
    std::fputs(reports::drift_console(found).c_str(), stdout);
    for (const DriftTest& test : found.tests)
      std::printf("  %-30s effect %8.3g  p %8.2g  over %llu%s\n", test.name.c_str(), test.effect, test.p,
                  static_cast<unsigned long long>(test.clusters), test.fired ? "  fired" : "");
  }
  std::fflush(stdout);
}

PairCount judge_pairs(const DriftBench& bench, bool benign, int pairs) {
  std::vector<std::string> kinds = run_pair_kinds(benign);
  if (!bench.kind.empty()) std::erase_if(kinds, [&](const std::string& k) { return k != bench.kind; });
  PairCount count;
  for (int i = 0; i < pairs && !kinds.empty(); ++i)
    judge_pair(kinds[static_cast<std::size_t>(i) % kinds.size()], bench.seed + static_cast<std::uint64_t>(i),
               benign, bench.show, count);
  return count;
}

}  // namespace

int bench_drift(const DriftBench& bench) {
  if (!bench.kind.empty()) {
    bool known = false;
    for (const bool benign : {false, true})
      for (const std::string& kind : run_pair_kinds(benign)) known = known || kind == bench.kind;
    if (!known) throw InputError("bench drift: no kind '" + bench.kind + "'");
  }
  const PairCount faulty = judge_pairs(bench, false, bench.faulty);
  const PairCount benign = judge_pairs(bench, true, bench.benign);
  std::printf("%d of %d faulty pairs named right, %d of %d benign pairs blamed\n", faulty.right, faulty.pairs,
              benign.blamed, benign.pairs);
  return faulty.right * 10 >= faulty.pairs * 9 && benign.blamed == 0 ? 0 : 1;
}

}  // namespace meshparity::cli
