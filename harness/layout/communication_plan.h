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
  std::string site;  // as the log names it: "layers.3.mlp:all_reduce:backward"
  std::string axis;  // of the group: "tp", "dp.cp", ...
  std::string op;    // all_reduce, all_reduce_max, all_gather, reduce_scatter, all_to_all, send
  std::vector<std::int64_t> calls;     // [world]
  std::vector<std::int64_t> elements;  // [world] that leave each rank in all calls together
};

// The experts that every token chooses, [pass over the batch][layer][token * k + slot]; behind the model's
// layers that of multi-token prediction, where the loss has its term. Tokens are those of
// the padded batch (padded_rows.h): what is padding goes to experts like everything else.
using ExpertRoutes = std::vector<std::vector<std::vector<std::int64_t>>>;

// What of a run decides how much is sent, besides the layout.
struct CommunicationRun {
  int steps = 0;          // optimizer steps, each one pass over the batch; 0: one pass, no step
  bool gradients = true;  // false, with steps = 0: forward only
  std::string loss = "token_mean";
  std::string loss_form = "sharded";
  // Read with ep > 1 alone: how many rows go to another rank's experts is not a matter of sizes.
  const ExpertRoutes* routes = nullptr;
  // Instead of routes: every rank of the ep group gets the same share of every rank's rows.
  bool even_routes = false;
  std::vector<int> ranks = {};  // whose sends are counted; empty: everybody's
};

// Every site of a whole run, stage after stage in the order of its first forward call, backward calls beside
// their forward ones. Throws InputError for an unknown loss or loss form, and with ep > 1 where routes are
// missing or of another size than the run.
std::vector<SiteTraffic> communication_plan(const LayoutMap& map, const CommunicationRun& run);

}  // namespace meshparity::layout
