// Gathering by the layout of the specification, not by impl's.
#include "harness/cli/rank_tensors.h"

#include <algorithm>

#include "harness/cli/torch_bridge.h"
#include "harness/types/error.h"

namespace meshparity::cli {

RankTensors by_key(const std::vector<impl::RankOutput>& outputs) {
  RankTensors tensors;
  for (std::size_t rank = 0; rank < outputs.size(); ++rank)
    for (const auto& record : outputs[rank].records)
      tensors[record.key].push_back({static_cast<int>(rank), view_of(record.value)});
  return tensors;
}

std::string not_whole(const layout::Gathered& gathered) {
  if (!gathered.invalid.empty()) return gathered.invalid.front();
  return gathered.uncovered ? std::to_string(gathered.uncovered) + " elements are held by no rank" : "";
}

std::map<std::string, HostTensor> gather(const layout::LayoutMap& map,
                                         const std::vector<impl::RankOutput>& outputs) {
  std::map<std::string, HostTensor> global;
  for (const auto& [key, locals] : by_key(outputs)) {
    auto gathered = layout::unshard(map, key, locals);
    if (!gathered.invalid.empty()) throw RunError(key + ": " + gathered.invalid.front());
    global.emplace(key, std::move(gathered.global));
  }
  return global;
}

void ReplicaTally::add(const std::string& name, const layout::Gathered& gathered) {
  elements += gathered.replica_elements, differ += gathered.replica_differ;
  max_abs = std::max(max_abs, gathered.replica_max_abs);
  if (gathered.replica_differ && ++tensors == 1) where = name + " " + gathered.replica_where;
}

CheckResult ReplicaTally::result(const std::string& check, const std::string& tensor) const {
  CheckResult result;
  result.check = check, result.tensor = tensor, result.against = "ranks";
  result.elements = elements, result.outside = differ, result.max_abs = max_abs;
  result.state = differ == 0 ? State::pass : State::fail;
  if (differ) {
    result.where = where;
    result.reason = std::to_string(differ) + " of " + std::to_string(elements) +
                    " replicated elements are not bitwise equal in " + std::to_string(tensors) +
                    " tensors, first " + where;
  }
  return result;
}

}  // namespace meshparity::cli
