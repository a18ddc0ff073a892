// Sums over ranks. A tensor that is replicated over an axis but holds only the rank's own contribution sums
// to the right value over that axis: its all-reduce is missing. Needs what each rank emitted.
#include <cmath>
#include <map>

#include "harness/diagnose/error_shape.h"

namespace meshparity::diagnose {
namespace {

struct Local {
  int rank;
  Values got, want;
  std::vector<std::vector<std::int64_t>> indices;
};

std::vector<Local> locals_of(const ErrorShape& shape) {
  std::vector<Local> locals;
  for (const auto& local : shape.suspect.locals) {
    const auto index = shape.suspect.map->local(shape.suspect.key, local.rank);
    if (local.view.shape != index.local_shape() || !is_floating(local.view.dtype)) return {};
    const HostTensor want = layout::shard(index, shape.suspect.want);
    locals.push_back({local.rank, values_of(local.view), values_of(want.view()), index.indices});
  }
  return locals;
}

// Where every rank on the axis holds the same part: sums what the ranks of one line of the axis hold.
// Residual of (sum - want) over all lines, or -1 where the axis does not replicate this tensor.
double residual_of_sum(const std::vector<Local>& locals, const Axis& axis, const Mesh& mesh) {
  std::map<std::vector<int>, const Local*> first;
  std::map<std::vector<int>, Values> sums;
  std::map<std::vector<int>, int> members;
  for (const auto& local : locals) {
    // All ranks that differ on this axis only stand on one line of it.
    const RankCoordinate c = coordinate_of(mesh, local.rank);
    std::vector<int> line{c.dp, c.fsdp, c.tp};
    if (axis.name == "dp" || axis.name == "dp*fsdp") line[0] = 0;
    if (axis.name == "fsdp" || axis.name == "dp*fsdp") line[1] = 0;
    if (axis.name == "tp") line[2] = 0;
    auto [place, inserted] = first.emplace(line, &local);
    if (!inserted && place->second->indices != local.indices) return -1;
    auto& sum = sums[line];
    if (sum.empty()) sum.assign(local.got.size(), 0.0);
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += local.got[i];
    ++members[line];
  }
  double squares = 0;
  for (const auto& [line, sum] : sums) {
    if (members[line] != axis.size) return -1;
    const double d = distance(sum, first[line]->want);
    squares += d * d;
  }
  return std::sqrt(squares / static_cast<double>(sums.size()));
}

}  // namespace

void find_reductions(const ErrorShape& shape, std::vector<Cause>& causes) {
  if (!shape.suspect.map || shape.suspect.locals.empty()) return;
  const Mesh& mesh = shape.suspect.map->mesh();
  const auto locals = locals_of(shape);
  if (static_cast<int>(locals.size()) != mesh.world()) return;
  for (const auto& axis : axes_of(mesh)) {
    const double residual = residual_of_sum(locals, axis, mesh);
    if (residual < 0) continue;
    const double confidence = shape.confidence(residual);
    if (confidence == 0) continue;
    // Equal shares look like a mean as well; unequal ones can only be contributions.
    causes.push_back({"all-reduce over " + axis.name + " missing",
                      "the sum over " + axis.name + " of what its " + std::to_string(axis.size) +
                          " ranks hold equals want (left over: " + short_number(residual) + " of " +
                          short_number(shape.difference) + ")",
                      std::min(0.98, confidence + 0.01)});
  }
}

}  // namespace meshparity::diagnose
