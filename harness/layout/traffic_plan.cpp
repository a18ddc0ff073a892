// What leaves a rank in one step, by axis: the communication plan of one and of two micro-batches on a few
// ranks, continued to all micro-batches, since every further one sends what the second added.
#include <algorithm>
#include <set>

#include "harness/layout/communication_plan.h"
#include "harness/layout/mesh_plan.h"

namespace meshparity::layout {
namespace {

bool contains(const std::string& text, const char* part) {
  return text.find(part) != std::string::npos;
}

// Bytes of an element at a site.
std::int64_t element_bytes(const std::string& site, const PlanDtypes& dtypes) {
  const auto size = [](DType dtype) { return static_cast<std::int64_t>(dtype_size(dtype)); };
  if (site.rfind("gradients.", 0) == 0) return size(dtypes.gradients);
  if (contains(site, ".parameters:"))
    return size(contains(site, ":backward") ? dtypes.gradients : dtypes.parameters);
  if (site.rfind("loss.", 0) == 0 || site.rfind("gradient_norm", 0) == 0 || contains(site, ".counts:"))
    return 8;
  const bool wide =
      contains(site, ".states:") || contains(site, "lm_head.max") || contains(site, "lm_head.sums");
  return wide ? std::max<std::int64_t>(4, size(dtypes.parameters)) : size(dtypes.parameters);
}

// `micro_batches` micro-batches of which data rank 0 has one row each, the others none: what data rank 0
// sends depends on its own rows alone.
Batch rows_of_one_rank(std::int64_t micro_batches, const PlanBatch& plan, const ModelConfig& config) {
  const std::int64_t row_tokens = plan.row_tokens;
  Batch batch;
  batch.document_offsets = batch.row_offsets = batch.micro_batch_offsets = {0};
  for (std::int64_t m = 1; m <= micro_batches; ++m) {
    batch.document_offsets.push_back(m * row_tokens);
    batch.row_offsets.push_back(m);
    batch.micro_batch_offsets.push_back(m);
  }
  batch.token_ids.assign(static_cast<std::size_t>(micro_batches * row_tokens), 0);
  batch.labels.assign(batch.token_ids.size(), kIgnoreLabel);
  if (!config.has_vision() || plan.row_patches == 0) return batch;
  // One image per row, whose tokens come first.
  const VisionConfig& v = config.vision;
  for (std::int64_t m = 0; m < micro_batches; ++m) {
    batch.images.grids.push_back({1, v.spatial_merge_size, plan.row_patches / v.spatial_merge_size});
    std::fill_n(batch.token_ids.begin() + m * row_tokens, plan.row_patches / v.merged_patches(),
                config.image_token_id);
  }
  return batch;
}

// Data rank 0's ranks at both ends of every other axis.
std::vector<int> corner_ranks(const Mesh& mesh) {
  std::set<int> ranks;
  for (int pp = 0; pp < mesh.pp; ++pp)
    for (const int ring : {0, mesh.ring - 1})
      for (const int uly : {0, mesh.uly - 1})
        for (const int tp : {0, mesh.tp - 1}) {
          RankCoordinate at;
          at.pp = pp, at.ring = ring, at.uly = uly, at.tp = tp;
          ranks.insert(rank_of(mesh, at));
        }
  return {ranks.begin(), ranks.end()};
}

// The axis a user named: groups of several axes keep their names, the two ways of pp are one.
std::string axis_name(const std::string& group) {
  return group.rfind("pp.embedding", 0) == 0 || group == "pp.around" || group.rfind("pp.backward", 0) == 0
             ? "pp"
             : group;
}

}  // namespace

std::vector<AxisTraffic> traffic(const ModelConfig& config, const PlacementTable& placements,
                                 const Mesh& mesh, const Flags& flags, const PlanBatch& batch,
                                 const PlanDtypes& dtypes) {
  const std::vector<int> ranks = corner_ranks(mesh);
  std::vector<std::string> axes;
  std::map<std::string, std::map<int, std::int64_t>> bytes;  // axis -> rank
  const std::int64_t micro_batches = batch.micro_batches(mesh);
  const auto add = [&](std::int64_t of_batch, std::int64_t times) {
    if (times == 0) return;
    const LayoutMap map(config, mesh, flags, rows_of_one_rank(of_batch, batch, config), placements);
    CommunicationRun run;
    run.even_routes = true, run.ranks = ranks;
    for (const SiteTraffic& site : communication_plan(map, run)) {
      const std::string axis = axis_name(site.axis);
      if (!bytes.count(axis)) axes.push_back(axis);
      auto& of_axis = bytes[axis];
      for (const int rank : ranks)
        of_axis[rank] += times * site.elements[rank] * element_bytes(site.site, dtypes);
    }
  };
  // first + (micro_batches - 1) * (two - first)
  add(1, 2 - micro_batches);
  add(2, micro_batches - 1);
  std::vector<AxisTraffic> out;
  for (const std::string& axis : axes) {
    AxisTraffic line{axis, bytes[axis][ranks.front()], 0};
    for (const auto& [rank, n] : bytes[axis])
      line.least = std::min(line.least, n), line.most = std::max(line.most, n);
    out.push_back(line);
  }
  return out;
}

}  // namespace meshparity::layout
