// Sums over ranks. A tensor that is replicated over an axis but holds only the rank's own contribution sums
// to the right value over that axis: its all-reduce is missing. Needs what each rank emitted.
#include <algorithm>
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

// Sums what the ranks of one line of the axis hold that hold the same part: all of the line where the axis
// replicates the tensor, a few where it replicates heads. Residual of (sum - want) over all parts, or -1
// where some part has no replica. `members`: ranks that hold one part.
double residual_of_sum(const std::vector<Local>& locals, const Axis& axis, const Mesh& mesh, int& members,
                       bool& equal) {
  struct Part {
    const Local* first = nullptr;
    Values sum;
    int members = 0;
  };
  std::map<std::pair<std::vector<int>, std::vector<std::vector<std::int64_t>>>, Part> parts;
  for (const auto& local : locals) {
    // All ranks that differ on this axis only stand on one line of it.
    const RankCoordinate c = coordinate_of(mesh, local.rank);
    std::vector<int> line{c.dp, c.fsdp, c.ring, c.uly, c.tp, c.pp};
    if (axis.name == "dp" || axis.name == "dp*fsdp") line[0] = 0;
    if (axis.name == "fsdp" || axis.name == "dp*fsdp") line[1] = 0;
    if (axis.name == "ring" || axis.name == "cp") line[2] = 0;
    if (axis.name == "uly" || axis.name == "cp") line[3] = 0;
    if (axis.name == "tp") line[4] = 0;
    if (axis.name == "pp") line[5] = 0;
    Part& part = parts[{line, local.indices}];
    if (!part.first) part.first = &local, part.sum.assign(local.got.size(), 0.0);
    equal = equal && part.first->got == local.got;
    for (std::size_t i = 0; i < part.sum.size(); ++i) part.sum[i] += local.got[i];
    ++part.members;
  }
  double squares = 0;
  members = 0;
  for (const auto& [place, part] : parts) {
    if (part.sum.empty()) continue;
    if (part.members < 2) return -1;
    members = std::max(members, part.members);
    const double d = distance(part.sum, part.first->want);
    squares += d * d;
  }
  return members < 2 ? -1 : std::sqrt(squares / static_cast<double>(parts.size()));
}

}  // namespace

void find_reductions(const ErrorShape& shape, std::vector<Cause>& causes) {
  if (!shape.suspect.map || shape.suspect.locals.empty()) return;
  const Mesh& mesh = shape.suspect.map->mesh();
  const auto locals = locals_of(shape);
  // Whole stages: most parameters lie on one of them, a tied embedding on two.
  if (locals.empty() || static_cast<int>(locals.size()) % (mesh.world() / mesh.pp) != 0) return;
  for (const auto& axis : axes_of(mesh)) {
    int members = 0;
    bool equal = true;
    const double residual = residual_of_sum(locals, axis, mesh, members, equal);
    if (residual < 0) continue;
    const double confidence = shape.confidence(residual);
    if (confidence == 0) continue;
    // Equal shares are a sum that was divided; unequal ones can only be contributions.
    if (equal) {
      causes.push_back(
          {"averaged over " + axis.name + " where it should be summed",
           "all " + std::to_string(members) + " ranks hold the same, want divided by their number",
           std::min(0.98, confidence + 0.01)});
      continue;
    }
    causes.push_back({"all-reduce over " + axis.name + " missing",
                      "the sum over " + axis.name + " of what " + (members < axis.size ? "the " : "its ") +
                          std::to_string(members) +
                          (members < axis.size ? " ranks with the same part" : " ranks") +
                          " hold equals want (left over: " + short_number(residual) + " of " +
                          short_number(shape.difference) + ")",
                      std::min(0.98, confidence + 0.01)});
  }
}

}  // namespace meshparity::diagnose
