// What the ranks of a case emitted, by path, and put together.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "harness/layout/layout.h"
#include "harness/types/verdict.h"
#include "impl/train/program.h"

namespace meshparity::cli {

// By path below /expected the local tensors of the ranks that emitted one, rank after rank.
using RankTensors = std::map<std::string, std::vector<layout::RankTensor>>;

// Views into `outputs[rank]`, which must outlive them.
RankTensors by_key(const std::vector<impl::RankOutput>& outputs);

// Why a tensor cannot be judged: what is wrong with it, or how many of its elements no rank holds. Empty
// where it is whole.
std::string not_whole(const layout::Gathered& gathered);

// All tensors put together. Throws RunError naming one that cannot be.
std::map<std::string, HostTensor> gather(const layout::LayoutMap& map,
                                         const std::vector<impl::RankOutput>& outputs);

// Elements that several ranks hold, over many tensors: bitwise, apart from accuracy.
struct ReplicaTally {
  std::int64_t elements = 0, differ = 0, tensors = 0;
  double max_abs = 0;
  std::string where;  // the first tensor that differs, and where in it

  void add(const std::string& name, const layout::Gathered& gathered);
  CheckResult result(const std::string& check, const std::string& tensor) const;
};

}  // namespace meshparity::cli
