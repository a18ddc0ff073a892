// The plan of communication against hand counts on uneven lengths, and against the leading terms of qwen35.md
// 8.2 on even ones. docs/communication.md derives both.
#include "harness/layout/communication_plan.h"

#include <catch2/catch.hpp>

#include "harness/layout/layout_fixture.h"
#include "harness/types/error.h"

namespace meshparity::layout::communication_plan_test {
namespace {

using Counts = std::vector<std::int64_t>;

// One row that is one document of n tokens.
Batch one_document(std::int64_t n) {
  Batch b;
  b.document_offsets = {0, n}, b.row_offsets = {0, 1}, b.micro_batch_offsets = {0, 1};
  b.token_ids.assign(static_cast<std::size_t>(n), 0), b.labels.assign(b.token_ids.size(), kIgnoreLabel);
  return b;
}

class Plan {
 public:
  Plan(const ModelConfig& config, const Batch& batch, const std::string& mesh, const Flags& flags,
       const CommunicationRun& run = {})
      : lines_(communication_plan({config, Mesh::parse(mesh), flags, batch, fixture::placements(config)},
                                  run)) {}

  // Elements leaving each rank at a site; no rank where the plan has no such site.
  Counts at(const std::string& site) const {
    for (const auto& line : lines_)
      if (line.site == site) return line.elements;
    return {};
  }
  Counts calls(const std::string& site) const {
    for (const auto& line : lines_)
      if (line.site == site) return line.calls;
    return {};
  }
  std::size_t sites() const { return lines_.size(); }

 private:
  std::vector<SiteTraffic> lines_;
};

Flags flags_of(const std::string& gdn, const std::string& attn = "ring",
               const std::string& layout = "contiguous") {
  Flags flags;
  flags.gdn = gdn, flags.attn = attn, flags.layout = layout;
  return flags;
}

// The widths of the largest published model: one GatedDeltaNet layer and one of full attention.
ModelConfig published_widths() {
  ModelConfig c = fixture::model();
  c.hidden_size = 4096, c.num_attention_heads = 32, c.num_key_value_heads = 2, c.head_dim = 256;
  c.linear_num_key_heads = 16, c.linear_num_value_heads = 64;
  c.linear_key_head_dim = 128, c.linear_value_head_dim = 128;
  return c;
}

// Every token of every pass and layer chooses these experts.
ExpertRoutes same_routes(const ModelConfig& c, int passes, std::int64_t tokens,
                         const std::vector<std::int64_t>& experts) {
  std::vector<std::int64_t> layer;
  for (std::int64_t t = 0; t < tokens; ++t) layer.insert(layer.end(), experts.begin(), experts.end());
  const std::vector<std::vector<std::int64_t>> layers(static_cast<std::size_t>(c.num_hidden_layers), layer);
  return ExpertRoutes(static_cast<std::size_t>(passes), layers);
}

std::string refusal_of(const ModelConfig& config, const Batch& batch, const ExpertRoutes* routes) {
  CommunicationRun run;
  run.routes = routes;
  try {
    const Plan plan(config, batch, "uly2.ep2", {}, run);
  } catch (const InputError& error) {
    return error.what();
  }
  return "accepted";
}

// The same count on every rank, or -1.
std::int64_t everywhere(const Counts& counts) {
  for (const auto n : counts)
    if (n != counts.front()) return -1;
  return counts.empty() ? -1 : counts.front();
}

constexpr std::int64_t kTokens = 3840;  // 2^8 * 3 * 5: every cut below is even

}  // namespace

TEST_CASE("seven tokens over a ring of two: every count of the context axes by hand") {
  // Contiguous {0,1,2} {3,4,5,6}; zigzag chunks {0} {1,2} {3,4} {5,6}, so {0,5,6} {1,2,3,4}: two tokens leave
  // each rank. 4 query heads on 2 key-value heads of 3: q 12, k and v 6 each. Delta rule: 24 channels, 8
  // heads of 2 x 1.
  const Plan plan(fixture::model(), one_document(7), "ring2", flags_of("state"));
  CHECK(plan.at("layers.1.self_attn.relayout_in:all_to_all") == Counts{2 * 24, 2 * 24});
  CHECK(plan.at("layers.1.self_attn.relayout_in:all_to_all:backward") == Counts{2 * 24, 2 * 24});
  CHECK(plan.at("layers.1.self_attn.relayout_out:all_to_all") == Counts{2 * 12, 2 * 12});
  CHECK(plan.at("layers.1.self_attn.ring:all_to_all") == Counts{3 * 12, 4 * 12});
  CHECK(plan.calls("layers.1.self_attn.ring:all_to_all:backward") == Counts{2, 2});
  // Own keys, values and their gradients leave; the other's gradients go home.
  CHECK(plan.at("layers.1.self_attn.ring:all_to_all:backward") == Counts{3 * 24 + 4 * 12, 4 * 24 + 3 * 12});
  CHECK(plan.at("layers.0.linear_attn.halo:all_gather") == Counts{3 * 24, 3 * 24});
  CHECK(plan.at("layers.0.linear_attn.halo:reduce_scatter:backward") == Counts{3 * 24, 3 * 24});
  CHECK(plan.at("layers.0.linear_attn.states:all_gather") == Counts{8 * 2 * 3, 8 * 2 * 3});
  CHECK(plan.at("layers.0.linear_attn.states:all_gather:backward") == Counts{8 * 2 * 1, 8 * 2 * 1});
  CHECK(plan.at("layers.0.linear_attn.relayout_in:all_to_all").empty());
}

TEST_CASE(
    "a stretch shorter than the convolution lends what it has, and no state goes where no document does") {
  // Documents of 2 and 2 tokens on two ranks of 2 tokens each: the edge is a document's edge.
  Batch batch = one_document(4);
  batch.document_offsets = {0, 2, 4}, batch.row_offsets = {0, 2};
  const Plan plan(fixture::model(), batch, "uly2", flags_of("state"));
  CHECK(plan.at("layers.0.linear_attn.halo:all_gather") == Counts{2 * 24, 2 * 24});
  CHECK(plan.at("layers.0.linear_attn.states:all_gather").empty());
  // Three ranks and one token: two of them hold nothing.
  const Plan lonely(fixture::model(), one_document(1), "ring3", flags_of("state"));
  CHECK(lonely.at("layers.0.linear_attn.halo:all_gather") == Counts{0, 0, 2 * 24});
  CHECK(lonely.at("layers.0.linear_attn.states:all_gather").empty());
}

TEST_CASE("seven tokens over tp: sums and sequence parts of unequal size by hand") {
  ModelConfig config = fixture::model();
  config.num_key_value_heads = 4;
  const Plan plain(config, one_document(7), "tp4", {});
  // 42 elements in floor parts 10 11 10 11; 7 in parts 1 2 2 2: n - own + 3 own.
  CHECK(plain.at("embed_tokens:all_reduce") == Counts{62, 64, 62, 64});
  CHECK(plain.at("layers.0.linear_attn:all_reduce:backward") == Counts{62, 64, 62, 64});
  CHECK(plain.at("lm_head.max:all_reduce_max") == Counts{9, 11, 11, 11});
  Flags sp;
  sp.sp = true;
  const Plan cut(config, one_document(7), "tp4", sp);
  // Tokens 1 2 2 2 of width 6: the own part to three others; all but the own part to who sums it.
  CHECK(cut.at("layers.0.mlp:all_gather") == Counts{18, 36, 36, 36});
  CHECK(cut.at("layers.0.mlp:reduce_scatter:backward") == Counts{36, 30, 30, 30});
  CHECK(cut.at("layers.0.mlp.experts:reduce_scatter") == Counts{36, 30, 30, 30});
  CHECK(cut.at("layers.0.mlp:all_reduce:backward").empty());
}

TEST_CASE("one rank sends nothing, forward alone sends nothing back, steps repeat the passes") {
  CHECK(Plan(fixture::model(), fixture::batch(), "dp1", {}).sites() == 0);
  CommunicationRun forward, steps;
  forward.gradients = false, steps.steps = 3;
  const Plan one(fixture::model(), fixture::batch(), "tp2", {}),
      only(fixture::model(), fixture::batch(), "tp2", {}, forward),
      three(fixture::model(), fixture::batch(), "tp2", {}, steps);
  CHECK(only.at("embed_tokens:all_reduce") == one.at("embed_tokens:all_reduce"));
  CHECK(only.at("gradients.tp:all_reduce").empty());
  CHECK(only.at("lm_head:all_reduce:backward").empty());
  CHECK(three.calls("gradients.tp:all_reduce") == Counts{3, 3});
  CHECK(everywhere(three.at("embed_tokens:all_reduce")) == 3 * everywhere(one.at("embed_tokens:all_reduce")));
  CommunicationRun wrong;
  wrong.loss_form = "halved";
  CHECK_THROWS_AS(Plan(fixture::model(), fixture::batch(), "tp2", {}, wrong), InputError);
}

TEST_CASE("seven tokens to two ranks of experts: rows out and back by hand") {
  ModelConfig config = fixture::model();
  config.num_experts = 6;
  // Rank 0 holds tokens 0..2 and experts 0..2, rank 1 tokens 3..6 and experts 3..5. Every token chooses
  // expert 0 and a second one, 3 where its number is even and 1 where it is odd.
  ExpertRoutes routes = same_routes(config, 1, 7, {0, 1});
  for (auto& layer : routes[0])
    for (std::int64_t t = 0; t < 7; t += 2) layer[static_cast<std::size_t>(2 * t + 1)] = 3;
  CommunicationRun run;
  run.routes = &routes;
  Flags flags;
  flags.gdn = "gather";
  const Plan plan(config, one_document(7), "uly2.ep2", flags, run);
  // Rank 0 sends tokens 0 and 2 once; of rank 1, tokens 3 and 5 go twice, 4 and 6 once.
  CHECK(plan.at("layers.0.mlp.experts.counts:all_to_all") == Counts{3, 3});
  CHECK(plan.at("layers.0.mlp.experts.dispatch:all_to_all") == Counts{2 * 6, 6 * 6});
  CHECK(plan.at("layers.0.mlp.experts.dispatch:all_to_all:backward") == Counts{6 * 6, 2 * 6});
  CHECK(plan.at("layers.0.mlp.experts.combine:all_to_all") == Counts{6 * 6, 2 * 6});
  CHECK(plan.at("layers.0.mlp.experts.combine:all_to_all:backward") == Counts{2 * 6, 6 * 6});
  flags.recompute = true;
  const Plan again(config, one_document(7), "uly2.ep2", flags, run);
  CHECK(again.at("layers.0.mlp.experts.dispatch:all_to_all") == Counts{4 * 6, 12 * 6});
  CHECK(again.at("layers.0.mlp.experts.dispatch:all_to_all:backward") == Counts{6 * 6, 2 * 6});
}

TEST_CASE("routes that are missing or of another run are refused") {
  ModelConfig config = fixture::model();
  config.num_experts = 6;
  const Batch batch = one_document(7);
  CHECK(refusal_of(config, batch, nullptr) ==
        "mesh uly2.ep2: what goes to the experts depends on the routes, and none are given");
  const ExpertRoutes right = same_routes(config, 1, 7, {0, 1}), two = same_routes(config, 2, 7, {0, 1}),
                     six = same_routes(config, 1, 6, {0, 1});
  CHECK(refusal_of(config, batch, &right) == "accepted");
  for (const ExpertRoutes* wrong : {&two, &six})
    CHECK(refusal_of(config, batch, wrong) ==
          "mesh uly2.ep2: the routes are not those of 1 passes over 7 tokens, padding included");
}

TEST_CASE("whole experts under tp: seven tokens in parts of two, two and three, by hand") {
  ModelConfig config = fixture::model();
  config.linear_num_key_heads = 3, config.linear_num_value_heads = 6, config.num_attention_heads = 3;
  config.num_key_value_heads = 1, config.num_experts = 6;
  const Plan plan(config, one_document(7), "tp3.etp1", {});
  CHECK(plan.at("layers.0.mlp.experts.join:all_gather") == Counts{2 * 2 * 6, 2 * 2 * 6, 2 * 3 * 6});
  CHECK(plan.at("layers.0.mlp.experts.split:all_gather:backward") == Counts{24, 24, 36});
  CHECK(plan.at("layers.0.mlp.experts:all_reduce").empty());
  Flags sp;
  sp.sp = true;
  const Plan cut(config, one_document(7), "tp3.etp1", sp);
  CHECK(cut.at("layers.0.mlp.experts.join:all_gather").empty());
  CHECK(cut.at("layers.0.mlp.shared_expert:reduce_scatter") == Counts{5 * 6, 5 * 6, 4 * 6});
}

TEST_CASE("a pipeline of two: messages forwards and back, and what only one stage sends, by hand") {
  ModelConfig config = fixture::model();
  config.num_hidden_layers = 4, config.full_attention = {false, true, false, true};
  config.tie_word_embeddings = true;
  Batch batch = one_document(7);
  batch.document_offsets = {0, 4, 7}, batch.row_offsets = {0, 1, 2}, batch.micro_batch_offsets = {0, 1, 2};
  Flags flags;
  const Plan plan(config, batch, "pp2", flags);
  CHECK(plan.at("stages.0.micro_batch.0:send") == Counts{4 * 6, 0});
  CHECK(plan.at("stages.0.micro_batch.1:send") == Counts{3 * 6, 0});
  CHECK(plan.at("stages.0.micro_batch.1:send:backward") == Counts{0, 3 * 6});
  CHECK(plan.at("stages.1.micro_batch.0:send").empty());
  // 13 x 6 elements of the table, in two halves.
  CHECK(plan.at("gradients.embedding:all_reduce") == Counts{78, 78});
  flags.schedule = "interleaved";
  const Plan turns(config, batch, "pp2", flags);
  CHECK(turns.at("stages.0.micro_batch.0:send") == Counts{24, 0});
  CHECK(turns.at("stages.1.micro_batch.0:send") == Counts{0, 24});
  CHECK(turns.at("stages.2.micro_batch.0:send:backward") == Counts{0, 24});
  CHECK(turns.at("stages.3.micro_batch.0:send").empty());
  flags.sp = true;
  const Plan parts(config, batch, "pp2.tp2", flags);
  CHECK(parts.at("stages.0.micro_batch.1:send") == Counts{1 * 6, 2 * 6, 0, 0});
}

TEST_CASE("even lengths, passed states: Hv K (K+V) and 3 channels to each other rank, whatever the length") {
  const ModelConfig c = published_widths();
  const std::int64_t map =
      c.linear_num_value_heads * c.linear_key_head_dim * (c.linear_key_head_dim + c.linear_value_head_dim);
  CHECK(map == 2097152);  // qwen35.md: about 2.1 M numbers for the largest model
  for (const int w : {2, 3, 5, 8})
    for (const std::int64_t tokens : {kTokens, 2 * kTokens}) {
      INFO(w << " ranks, " << tokens << " tokens");
      const Plan plan(c, one_document(tokens), "ring" + std::to_string(w), flags_of("state", "gather"));
      CHECK(everywhere(plan.at("layers.0.linear_attn.states:all_gather")) == (w - 1) * map);
      CHECK(everywhere(plan.at("layers.0.linear_attn.halo:all_gather")) == (w - 1) * 3 * c.gdn_conv_width());
    }
}

TEST_CASE("even lengths, delta rule by heads: n (2 Hk K + 2 Hv V + 2 Hv) but for the own share") {
  const ModelConfig c = published_widths();
  const std::int64_t width = 2 * c.gdn_key_width() + 2 * c.gdn_value_width() + 2 * c.linear_num_value_heads;
  for (const int w : {2, 4, 8}) {
    const std::int64_t n = kTokens / w;
    const Plan plan(c, one_document(kTokens), "uly" + std::to_string(w), flags_of("heads"));
    const std::int64_t in = everywhere(plan.at("layers.0.linear_attn.ulysses_in:all_to_all"));
    const std::int64_t out = everywhere(plan.at("layers.0.linear_attn.ulysses_out:all_to_all"));
    CHECK((in + out) * w == n * width * (w - 1));
  }
}

TEST_CASE("even lengths, relayout and passed states: n (2 Hk K + 2 Hv V + 2 Hv) but for chunks that stay") {
  // Of 2 w chunks rank r holds 2r and 2r+1 in one order, r and 2w-1-r in the other: chunk 0 stays, and one
  // more on the rank where 3r is 2w-1 or 2w-2.
  const ModelConfig c = published_widths();
  const std::int64_t width = 2 * c.gdn_key_width() + 2 * c.gdn_value_width() + 2 * c.linear_num_value_heads;
  for (const int w : {2, 3, 4, 5, 8}) {
    const std::int64_t chunk = kTokens / (2 * w);
    const Plan plan(c, one_document(kTokens), "ring" + std::to_string(w),
                    flags_of("state", "ring", "zigzag"));
    const Counts in = plan.at("layers.0.linear_attn.relayout_in:all_to_all"),
                 out = plan.at("layers.0.linear_attn.relayout_out:all_to_all");
    REQUIRE(in.size() == static_cast<std::size_t>(w));
    for (int r = 0; r < w; ++r) {
      INFO("rank " << r << " of " << w);
      const int stays = (r == 0) + (3 * r == 2 * w - 1 || 3 * r == 2 * w - 2);
      CHECK(in[r] + out[r] == (2 - stays) * chunk * width);
    }
  }
}

TEST_CASE("even lengths, ring attention: 2 n Hkv d a hop, and as much again for gradients on the way back") {
  const ModelConfig c = published_widths();
  const std::int64_t kv = c.num_key_value_heads * c.head_dim;
  for (const int w : {2, 3, 4, 5, 8}) {
    const std::int64_t hop = 2 * (kTokens / w) * kv;
    const Plan plan(c, one_document(kTokens), "ring" + std::to_string(w),
                    flags_of("state", "ring", "zigzag"));
    CHECK(everywhere(plan.at("layers.1.self_attn.ring:all_to_all")) == (w - 1) * hop);
    CHECK(everywhere(plan.calls("layers.1.self_attn.ring:all_to_all")) == w - 1);
    // Gradients make one hop more than keys and values: they go home.
    CHECK(everywhere(plan.at("layers.1.self_attn.ring:all_to_all:backward")) == (w - 1) * hop + w * hop);
    CHECK(everywhere(plan.calls("layers.1.self_attn.ring:all_to_all:backward")) == w);
  }
}

TEST_CASE("even lengths, gathered keys and values: 2 n (w-1) Hkv d") {
  const ModelConfig c = published_widths();
  for (const int w : {2, 3, 5, 8}) {
    const Plan plan(c, one_document(kTokens), "ring" + std::to_string(w), flags_of("state", "gather"));
    const std::int64_t want = 2 * (kTokens / w) * (w - 1) * c.num_key_value_heads * c.head_dim;
    CHECK(everywhere(plan.at("layers.1.self_attn.gather:all_gather")) == want);
    CHECK(everywhere(plan.at("layers.1.self_attn.gather:reduce_scatter:backward")) == want);
  }
}

TEST_CASE("even lengths, tp with sp: 4 n D a layer but for the own share, and without sp the same sum") {
  const ModelConfig c = published_widths();
  for (const int w : {2, 4, 8}) {
    Flags sp;
    sp.sp = true;
    const Plan cut(c, one_document(kTokens), "tp" + std::to_string(w), sp);
    std::int64_t forward = 0;
    for (const char* site :
         {"layers.0.linear_attn:all_gather", "layers.0.linear_attn.out_proj:reduce_scatter",
          "layers.0.mlp:all_gather", "layers.0.mlp.experts:reduce_scatter"})
      forward += everywhere(cut.at(site));
    CHECK(forward * w == 4 * kTokens * c.hidden_size * (w - 1));
    const Plan whole(c, one_document(kTokens), "tp" + std::to_string(w), {});
    CHECK(everywhere(whole.at("layers.0.linear_attn.out_proj:all_reduce")) +
              everywhere(whole.at("layers.0.mlp.experts:all_reduce")) ==
          forward);
  }
}

}  // namespace meshparity::layout::communication_plan_test
