// What must leave every rank of a mesh, site by site, without running it: a second derivation, from the
// model's sizes, the mesh rules, the placements and the token lists of this folder, of what impl's
// communication log records. A test compares the two. Each formula is derived in docs/communication.md.
//
// To add an axis: its sites in a communication_<axis>.cpp, called from communication_plan.cpp at their place
// in the pass.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "harness/layout/layout.h"

namespace meshparity::layout {

// One site with one operation. Elements are counted by the definition of impl/comm/comm.h, which does not
// depend on the engine; a group of one rank sends nothing and has no line.
struct SiteTraffic {
  std::string site;                    // as the log names it: "layers.3.mlp:all_reduce:backward"
  std::string axis;                    // of the group: "tp", "dp.cp", ...
  std::string op;                      // all_reduce, all_reduce_max, all_gather, reduce_scatter, all_to_all
  std::vector<std::int64_t> calls;     // [world]
  std::vector<std::int64_t> elements;  // [world] that leave each rank in all calls together
};

// What of a run decides how much is sent, besides the layout.
struct CommunicationRun {
  int steps = 0;          // optimizer steps, each one pass over the batch; 0: one pass, no step
  bool gradients = true;  // false, with steps = 0: forward only
  std::string loss_form = "sharded";
};

// Can this mesh be planned? Not with pp, and not with ep or an etp of its own: what goes to the experts
// depends on the routes.
bool communication_is_planned(const Mesh& mesh);

// Every site of a whole run, in the order of its first forward call, backward calls beside their forward
// ones. Throws InputError for an unknown loss form and for a mesh that cannot be planned.
std::vector<SiteTraffic> communication_plan(const LayoutMap& map, const CommunicationRun& run);

}  // namespace meshparity::layout
