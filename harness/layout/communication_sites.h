// What the parts of the communication plan share: the ledger of sites, the four collectives counted by
// definition, and the token counts of one micro-batch on one data rank.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "harness/layout/communication_plan.h"

namespace meshparity::layout {

class SiteLedger {
 public:
  explicit SiteLedger(int world) : world_(world) {}
  void add(const SiteTraffic& of_site, int rank, std::int64_t calls, std::int64_t elements);
  std::vector<SiteTraffic> take() { return std::move(lines_); }

 private:
  int world_;
  std::map<std::string, std::size_t> places_;  // site -> line
  std::vector<SiteTraffic> lines_;
};

enum class Direction { forward, backward };

// A group of ranks as one of them sees it.
struct GroupPlace {
  std::string axis;
  std::int64_t size = 1, index = 0;
};

// The sends of one rank. Each operation is counted by its definition and happens `times` times; what happens
// in backward is left out where there is none, and what is recomputed there happens forward twice.
class RankSends {
 public:
  RankSends(SiteLedger& ledger, int rank, std::int64_t times, bool backward, bool recompute = false)
      : ledger_(ledger),
        rank_(rank),
        times_(times),
        backward_(backward),
        forward_runs_(backward && recompute ? 2 : 1) {}

  // n elements, summed or maximised: reduce-scatter and all-gather of parts cut at floor.
  void all_reduce(const GroupPlace& group, const std::string& site, std::int64_t n,
                  Direction direction = Direction::forward, const char* op = "all_reduce") const;
  // `own` elements go to everybody else.
  void all_gather(const GroupPlace& group, const std::string& site, std::int64_t own,
                  Direction direction = Direction::forward) const;
  // Of n elements all but `own` go to those that sum them.
  void reduce_scatter(const GroupPlace& group, const std::string& site, std::int64_t n, std::int64_t own,
                      Direction direction = Direction::forward) const;
  // `leaving` elements go to others, in `calls` calls.
  void all_to_all(const GroupPlace& group, const std::string& site, std::int64_t leaving,
                  Direction direction = Direction::forward, std::int64_t calls = 1) const;
  // n elements to one rank of the group.
  void send(const GroupPlace& group, const std::string& site, std::int64_t n,
            Direction direction = Direction::forward) const;

 private:
  void add(const GroupPlace& group, const std::string& site, const std::string& op, Direction direction,
           std::int64_t calls, std::int64_t elements) const;
  SiteLedger& ledger_;
  int rank_;
  std::int64_t times_;
  bool backward_;
  std::int64_t forward_runs_;
};

// Tokens of one micro-batch on the context ranks of one data rank, padding included. Lists are per cp index.
struct TokenCounts {
  std::int64_t rows = 0;
  std::vector<std::int64_t> residual;    // in the order of the residual stream
  std::vector<std::int64_t> attention;   // around attention: zigzag where it relayouts, else residual
  std::vector<std::int64_t> contiguous;  // around the delta rule by states
  // Tokens that are on this rank in both orders.
  std::vector<std::int64_t> residual_and_attention, residual_and_contiguous;
  // Per rank of the group that passes states (ring for hybrid, else cp): the rows whose convolution inputs
  // later ranks may need.
  std::vector<std::int64_t> tails;
  bool crossing = false;  // does a document cross between ranks of that group?
};
TokenCounts count_tokens(const LayoutMap& map, std::int64_t micro_batch, int data_rank);

// Does attention leave the residual order (a ring needs zigzag), and does the delta rule (states need
// contiguous stretches)? Design, "Mesh", flags.
bool attention_relayouts(const LayoutMap& map);
bool delta_rule_relayouts(const LayoutMap& map);

// One rank with what its sites need: its place on every axis.
struct RankPlace {
  const LayoutMap& map;
  int rank;
  RankCoordinate at;
  ExpertCoordinate expert_at;
  GroupPlace tp, fsdp, ring, uly, cp, ep;
};
RankPlace place_of(const LayoutMap& map, int rank);

// communication_tensor.cpp. A block is entered and left with all tokens of the rank; `tokens` of the rank's
// stream in this micro-batch.
void enter_block(const RankSends& sends, const RankPlace& place, const std::string& site,
                 std::int64_t tokens);
void leave_block(const RankSends& sends, const RankPlace& place, const std::string& site,
                 std::int64_t tokens);
void head_sites(const RankSends& sends, const RankPlace& place, const std::string& site, std::int64_t tokens);

// communication_vision.cpp: the tower on the images of a micro-batch, and its features on their way to the
// tokens.
void vision_sites(const RankSends& sends, const RankPlace& place, std::int64_t micro_batch);

// communication_context.cpp: between entering and leaving, `site` such as "layers.3".
void attention_sites(const RankSends& sends, const RankPlace& place, const std::string& site,
                     const TokenCounts& tokens);
void delta_rule_sites(const RankSends& sends, const RankPlace& place, const std::string& site,
                      const TokenCounts& tokens);

// communication_expert.cpp: what a mixture of experts sends. Counted once for all ranks, because what a rank
// gets back is what others sent it.
class ExpertTraffic {
 public:
  // `passes` over the batch. Throws InputError where the mesh needs routes and `routes` are not these
  // passes'.
  ExpertTraffic(const LayoutMap& map, const ExpertRoutes* routes, int passes, bool even);
  // The block of one layer, entered and left as tp needs it; `tokens` of the rank's stream in this
  // micro-batch. `passes`: sends of every pass; `once`: of one, as each pass routes its own way.
  // `site`: of the layer. `layer`: whose routes its experts have. Throws InputError with ep > 1 for a layer
  // whose routes were not given.
  void block(const RankSends& passes, const RankSends& once, const RankPlace& place, const std::string& site,
             std::int64_t layer, std::int64_t micro_batch, std::int64_t tokens) const;

 private:
  // Of one rank in one micro-batch: tokens of the padded batch that it routes.
  std::vector<std::int64_t> routed_tokens(int rank, std::int64_t micro_batch) const;
  // Rows that leave the rank for others' experts, and that others send to its own.
  struct Rows {
    std::int64_t leaving = 0, arriving = 0;
  };
  Rows& rows(int pass, std::int64_t layer, std::int64_t micro_batch, int rank);
  const Rows& rows(int pass, std::int64_t layer, std::int64_t micro_batch, int rank) const {
    return const_cast<ExpertTraffic*>(this)->rows(pass, layer, micro_batch, rank);
  }
  void count(const ExpertRoutes& routes);
  // What leaves of `tokens` and arrives, if every rank of the group gets the same share.
  Rows even_rows(const RankPlace& place, std::int64_t tokens) const;
  const LayoutMap& map_;
  int passes_;
  bool even_;
  std::int64_t layers_ = 0;  // that have routes
  std::vector<Rows> rows_;   // [pass][layer][micro-batch][rank]; empty with ep = 1
};

// communication_pipeline.cpp: between stages. Virtual stage v of all holds layers cut(layers, all, v).
struct StagePlace {
  int number = 0;
  Range layers;
  bool first = true, last = true;
};
std::vector<StagePlace> stages_of(const LayoutMap& map, int pp);
// What a stage hands on of one micro-batch of `tokens` in the rank's stream, and what it hands back.
void stage_sends(const RankSends& sends, const RankPlace& place, const StagePlace& stage,
                 std::int64_t micro_batch, std::int64_t tokens, std::int64_t streams);
// Where the loss has terms of the router: its sums on, each expert's share of rows back.
void router_sends(const RankSends& sends, const RankPlace& place, const StagePlace& stage,
                  std::int64_t micro_batch);

// communication_data.cpp: parameters gathered once per micro-batch, gradients summed once per pass.
class ParameterTraffic {
 public:
  explicit ParameterTraffic(const LayoutMap& map);
  // The unit ("embed", "layers.3", "head", "visual", "mtp") of one micro-batch.
  void gather_unit(const RankSends& sends, const RankPlace& place, const std::string& unit) const;
  void reduce_gradients(const RankSends& sends, const RankPlace& place) const;

 private:
  struct Parameter {
    std::string name, unit;
    bool expert = false, replicated = false, kv_head = false;
    bool tower = false;                                       // of the vision tower
    std::shared_ptr<const std::vector<std::int64_t>> shards;  // [world] elements each rank keeps
  };
  bool experts_apart() const;
  // Is the parameter on this rank's pipeline stages?
  bool held(const Parameter& parameter, const RankPlace& place) const;
  const LayoutMap& map_;
  std::vector<Parameter> parameters_;
  std::map<std::string, std::vector<std::size_t>> units_;  // unit -> its parameters
};

}  // namespace meshparity::layout
