#include "impl/train/groups.h"

#include <algorithm>

namespace meshparity::impl {

Groups make_groups(Engine& engine, const Plan& plan, bool routers) {
  const Mesh& mesh = plan.mesh;
  const RankCoordinate at = plan.at;
  const auto among_all = [&](auto&& choose) {
    std::vector<int> list;
    for (int rank = 0; rank < mesh.world(); ++rank)
      if (choose(coordinate_of(mesh, rank))) list.push_back(rank);
    return list;
  };
  // Of this rank's pipeline stage.
  const auto members = [&](auto&& choose) {
    return among_all([&](const RankCoordinate& c) { return c.pp == at.pp && choose(c); });
  };
  const auto same_tp = [&](const RankCoordinate& c) { return c.tp == at.tp; };
  const auto same_ring = [&](const RankCoordinate& c) { return c.ring == at.ring; };
  const auto same_uly = [&](const RankCoordinate& c) { return c.uly == at.uly; };
  const auto same_cp = [&](const RankCoordinate& c) { return same_ring(c) && same_uly(c); };
  const auto same_data = [&](const RankCoordinate& c) { return c.fsdp == at.fsdp && c.dp == at.dp; };
  const auto same_dp = [&](const RankCoordinate& c) { return c.dp == at.dp; };
  const auto same_data_and_cp = [&](const RankCoordinate& c) { return same_data(c) && same_cp(c); };
  Groups g;
  g.tp = engine.group("tp", members(same_data_and_cp));
  const std::vector<int> replicas = plan.kv_replicas();
  g.kv_replicas = engine.group("tp.kv", members([&](const auto& c) {
                                 return same_data(c) && same_cp(c) &&
                                        std::find(replicas.begin(), replicas.end(), c.tp) != replicas.end();
                               }));
  g.fsdp =
      engine.group("fsdp", members([&](const auto& c) { return same_dp(c) && same_cp(c) && same_tp(c); }));
  // Ranks that hold the same parameters and saw other tokens; all ranks with other tokens.
  g.replicas = engine.group("dp.cp", members([&](const auto& c) { return c.fsdp == at.fsdp && same_tp(c); }));
  g.expert_replicas = g.replicas, g.experts = g.fsdp;
  const ExpertCoordinate own = plan.expert_at;
  const auto same_experts = [&](const RankCoordinate& c) {
    const ExpertCoordinate e = expert_coordinate_of(mesh, c);
    return e.ep == own.ep && e.etp == own.etp;
  };
  if (plan.experts_apart())
    g.experts = engine.group("edp", members([&](const auto& c) { return same_dp(c) && same_experts(c); }));
  // Experts that are sharded are so over all of edp: what remains are the replicas over dp.
  if (mesh.fsdp > 1 && mesh.cp() > 1)
    g.expert_replicas = engine.group(
        "dp", members([&](const auto& c) { return c.fsdp == at.fsdp && same_cp(c) && same_tp(c); }));
  if (mesh.fsdp == 1 && mesh.ep * mesh.expert_tp() != mesh.tp)
    g.expert_replicas = engine.group("dp.edp", members(same_experts));
  g.ep = engine.group("ep", members([&](const auto& c) {
                        const ExpertCoordinate e = expert_coordinate_of(mesh, c);
                        return same_dp(c) && e.edp == own.edp && e.etp == own.etp;
                      }));
  g.data = engine.group("dp.fsdp.cp", members(same_tp));
  // Experts that are whole on every tp rank get a part of the tokens from each; else tp ranks decide alike.
  if (routers)
    g.routers = mesh.expert_tokens_cut()
                    ? engine.group("dp.fsdp.cp.tp", members([](const RankCoordinate&) { return true; }))
                    : g.data;
  // Who sees the losses, and who together hold one copy of the model.
  g.everyone = mesh.pp == 1 ? g.data : engine.group("pp.dp.fsdp.cp", among_all(same_tp));
  g.model = engine.group(mesh.pp == 1 ? "fsdp.cp.tp" : "pp.fsdp.cp.tp", among_all(same_dp));
  g.cp = engine.group("cp", members([&](const auto& c) { return same_data(c) && same_tp(c); }));
  g.ring =
      engine.group("ring", members([&](const auto& c) { return same_data(c) && same_uly(c) && same_tp(c); }));
  g.uly =
      engine.group("uly", members([&](const auto& c) { return same_data(c) && same_ring(c) && same_tp(c); }));
  const auto same_place = [&](const RankCoordinate& c) { return same_data_and_cp(c) && same_tp(c); };
  if (mesh.pp > 1) {
    g.pipeline = make_pipeline_groups(engine, among_all(same_place));
    if (at.pp == 0 || at.pp == mesh.pp - 1)
      g.tied = engine.group("pp.embedding", among_all([&](const RankCoordinate& c) {
                              return same_place(c) && (c.pp == 0 || c.pp == mesh.pp - 1);
                            }));
  }
  return g;
}

}  // namespace meshparity::impl
