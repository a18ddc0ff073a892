// The blind set's pairs are what they say: benign ones differ by their dtypes alone, faulty ones are named.
#include "harness/cli/drift_pairs.h"

#include <catch2/catch.hpp>
#include <cstdint>

#include "harness/drift/drift.h"
#include "harness/types/error.h"

namespace meshparity::cli::drift_pairs_test {

TEST_CASE("a pair is a function of its kind and seed") {
  const RunPair a = make_run_pair("token-shift", 1200), b = make_run_pair("token-shift", 1200);
  const RunPair c = make_run_pair("token-shift", 1201);
  CHECK(a.made_of == b.made_of);
  REQUIRE(a.source->samples().size() == b.source->samples().size());
  CHECK(a.source->samples()[0].train.logprobs == b.source->samples()[0].train.logprobs);
  CHECK(a.source->samples()[0].train.logprobs != c.source->samples()[0].train.logprobs);
  CHECK_THROWS_AS(make_run_pair("nothing", 1), InputError);
}

TEST_CASE("real runs with a fault are named") {
  for (const char* kind :
       {"layout-zigzag", "temperature", "top-p", "routing", "cache", "layout-positions", "precision"}) {
    const RunPair pair = make_run_pair(kind, 1300);
    const DriftResult found = drift::analyse(*pair.source, nullptr);
    CAPTURE(kind, pair.made_of, found.verdict.sentence);
    CHECK(found.verdict.cause == pair.cause);
    CHECK(found.verdict.sentence.find(pair.detail) != std::string::npos);
  }
}

TEST_CASE("real runs that differ by dtypes alone are rounding") {
  for (const std::uint64_t seed : {1400, 1401}) {
    const char* kind = "benign-policies";
    const RunPair pair = make_run_pair(kind, seed);
    const DriftResult found = drift::analyse(*pair.source, nullptr);
    CAPTURE(kind, pair.made_of, found.verdict.sentence);
    CHECK(!found.verdict.fault);
    CHECK(found.verdict.cause == "rounding");
  }
}

}  // namespace meshparity::cli::drift_pairs_test
