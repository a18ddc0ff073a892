// `--check placement`: does a run hold and compute what its mesh says? A mesh that gathers everything and
// computes everything everywhere gets every number right and is no mesh. Knows plain values only: what ranks
// stored and emitted, not how.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "harness/layout/layout.h"
#include "harness/types/verdict.h"

namespace meshparity::layout {

// What one rank held and emitted.
struct RankHoldings {
  int rank = 0;
  std::map<std::string, Shape>
      stored;  // local shape of every parameter it keeps between steps, by checkpoint name
  std::map<std::string, Shape>
      gathered;                      // shape of every parameter as its blocks used it; empty: not recorded
  std::int64_t parameter_bytes = 0;  // bytes of these, as the rank counted them
  std::map<std::string, Shape>
      emitted;  // local shape of emitted tensors by key: "logits", "activations/norm", ...
};

// One result per parameter, per emitted key whose parts are cut (logits, logprobs, activations), for the
// bytes of all ranks
// ("parameter bytes"), and per mesh axis larger than 1 and for sp where it is on ("axis tp", "sp"). States:
// FAIL where a shape or a byte count is not the placement's, or an axis changes no local shape; INVALID where
// a rank is missing or holds a parameter that nobody placed; UNTRUSTED where nothing was recorded that the
// axis could have changed (sp without activations). `dtype`: of the stored parameters. Keys no layout rule
// covers are INVALID.
std::vector<CheckResult> check_placement(const LayoutMap& map, const std::vector<RankHoldings>& ranks,
                                         DType dtype);

}  // namespace meshparity::layout
