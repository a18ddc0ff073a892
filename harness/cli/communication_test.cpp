// Two derivations, one truth: what harness/layout says must leave every rank, and what impl's collectives
// logged, site by site and rank by rank, with equality. Also where relayouts may happen at all.
#include <algorithm>
#include <catch2/catch.hpp>
#include <set>

#include "harness/cli/command_fixture.h"
#include "harness/cli/communication_table.h"
#include "harness/cli/rank_inputs.h"
#include "harness/cli/reference_routes.h"
#include "harness/cli/torch_bridge.h"
#include "harness/layout/communication_plan.h"
#include "harness/run/cover.h"
#include "scenarios/faults/decorators.h"
#include "scenarios/initial_weights.h"
#include "scenarios/load.h"

namespace meshparity::cli::communication_test {
namespace {

// A case as the rank program takes it, with weights that live as long.
struct Setup {
  ModelConfig config;
  Batch batch;
  Mesh mesh;
  Flags flags;
  layout::CommunicationRun run;
  impl::Seams seams;
};

const std::map<std::string, at::Tensor>& weights_of(const ModelConfig& config) {
  static std::map<std::string, std::map<std::string, HostTensor>> hosts;
  static std::map<std::string, std::map<std::string, at::Tensor>> tensors;
  std::string key;
  for (const auto& parameter : parameters_of(config)) key += parameter.name + shape_text(parameter.shape);
  if (!tensors.count(key)) {
    hosts[key] = scenarios::initial_weights(config, 7);
    for (const auto& [name, tensor] : hosts[key]) tensors[key].emplace(name, alias_of(tensor));
  }
  return tensors[key];
}

std::vector<impl::RankOutput> run_ranks(const Setup& setup) {
  impl::RankInputs inputs;
  inputs.config = setup.config, inputs.mesh = setup.mesh, inputs.flags = setup.flags;
  inputs.batch = setup.batch, inputs.steps = setup.run.steps, inputs.gradients = setup.run.gradients;
  inputs.loss = setup.run.loss, inputs.loss_form = setup.run.loss_form,
  inputs.weights = &weights_of(setup.config);
  return run_threads(inputs, setup.seams);
}

std::vector<layout::SiteTraffic> planned(const Setup& setup) {
  const layout::LayoutMap map(setup.config, setup.mesh, setup.flags, setup.batch,
                              scenarios::load_placements(setup.config));
  layout::CommunicationRun run = setup.run;
  layout::ExpertRoutes routes;
  if (setup.mesh.ep > 1) {
    routes = reference_routes(setup.config, weights_of(setup.config), setup.batch, {}, setup.mesh,
                              setup.flags, run.loss, run.steps);
    run.routes = &routes;
  }
  return layout::communication_plan(map, run);
}

// What differs between the plan and the log, or nothing.
std::string difference(const Setup& setup) {
  return communication_difference(planned(setup), logged_traffic(run_ranks(setup)));
}

Setup setup_of(const std::string& model, const std::string& batch, const std::string& mesh) {
  Setup setup;
  setup.config = scenarios::load_model(model);
  setup.batch = scenarios::load_batch(batch, setup.config);
  setup.mesh = Mesh::parse(mesh);
  return setup;
}

// With one layer of each kind: what a layer sends does not depend on which it is, and the runs are many.
Setup short_setup(const std::string& model, const std::string& batch, const std::string& mesh) {
  Setup setup = setup_of(model, batch, mesh);
  setup.config.num_hidden_layers = 2, setup.config.full_attention = {false, true};
  return setup;
}

// With `letters` for layers: g GatedDeltaNet, a full attention.
Setup with_layers(Setup setup, const std::string& letters) {
  setup.config.num_hidden_layers = static_cast<std::int64_t>(letters.size());
  setup.config.full_attention.clear();
  for (const char letter : letters) setup.config.full_attention.push_back(letter == 'a');
  return setup;
}

// The sites of a run without layer numbers, direction and operation: "linear_attn.relayout_in".
std::set<std::string> relayout_sites(const std::vector<impl::RankOutput>& outputs) {
  std::set<std::string> sites;
  for (const auto& output : outputs)
    for (const auto& event : output.communication) {
      const auto relayout = event.site.find("relayout");
      if (relayout == std::string::npos) continue;
      const auto layer = event.site.find('.', std::string("layers.").size());
      sites.insert(event.site.substr(layer + 1, event.site.find(':') - layer - 1));
    }
  return sites;
}

}  // namespace

TEST_CASE(
    "what leaves every rank is what the plan says, on a cover of all meshes up to six ranks and some of "
    "eight") {
  run::CaseOptions o;
  o.model = {"tiny-dense", "tiny-moe"}, o.batch = {"packed-odd", "rows", "boundaries"},
  o.mesh = {"world<=4",       "ring5",          "uly3.tp2",         "dp2.ring3",     "dp2.ring2.tp2",
            "fsdp2.uly2.tp2", "ring2.uly2.tp2", "fsdp2.ring2.uly2", "dp2.fsdp2.tp2", "ring2.uly4"};
  o.axes = {"dp", "fsdp", "ring", "uly", "tp"};  // pp and ep have covers of their own
  o.sp = o.gdn = o.attn = o.layout = o.pad = o.recompute = {"all"};
  o.loss_form = {"sharded", "replicated"};
  const auto all = run::expand(o, [](const std::string& model, const std::string&) {
                     return scenarios::load_model(model);
                   }).cases;
  const auto chosen = run::cover(all);
  REQUIRE(chosen.size() > 60);
  int steps = 0;
  for (const auto& spec : chosen) {
    Setup setup = short_setup(spec.model, spec.batch, spec.mesh.text());
    setup.flags = spec.flags;
    setup.run.loss_form = spec.loss_form, setup.run.steps = steps++ % 4 == 3 ? 1 : 0;
    INFO(spec.line());
    CHECK(difference(setup) == "");
  }
}

TEST_CASE("what goes to the experts is what the routes say, for whole and for cut experts") {
  run::CaseOptions o;
  o.model = {"tiny-moe"}, o.batch = {"packed-odd", "rows", "boundaries"},
  o.mesh = {"uly2.ep2",        "tp2.ep2",       "tp2.etp1",       "fsdp2.ep2",          "fsdp3.ep3",
            "dp2.tp2.etp1",    "fsdp2.tp2.ep2", "fsdp2.tp2.etp1", "fsdp2.tp2.ep2.etp2", "ring3.ep3",
            "fsdp2.ring2.ep2", "ring2.tp2.ep4", "dp2.uly2.ep2",   "fsdp2.ring2.ep4",    "tp3.ep3"};
  o.sp = o.layout = o.pad = o.recompute = {"all"};
  const auto chosen = run::cover(run::expand(o, [](const std::string& model, const std::string&) {
                                   return scenarios::load_model(model);
                                 }).cases);
  REQUIRE(chosen.size() > 15);
  int steps = 0;
  for (const auto& spec : chosen) {
    Setup setup = short_setup(spec.model, spec.batch, spec.mesh.text());
    setup.flags = spec.flags;
    // Other weights, other routes: every pass has its own.
    setup.run.steps = steps++ % 4 == 3 ? 2 : 0;
    INFO(spec.line());
    CHECK(difference(setup) == "");
  }
}

TEST_CASE("what goes to the experts of multi-token prediction is what its routes say") {
  run::CaseOptions o;
  o.model = {"tiny-vl-moe"}, o.batch = {"packed-odd", "rows"},
  o.mesh = {"uly2.ep2",  "tp2.ep2",       "fsdp3.ep3",     "fsdp2.tp2.ep2.etp2",
            "ring2.ep2", "ring2.tp2.ep4", "pp2.fsdp2.ep2", "pp2.tp2.ep2"};
  o.sp = o.layout = o.pad = o.recompute = {"all"};
  o.loss = {"token_mean+0.1*mtp"};
  const auto chosen = run::cover(run::expand(o, [](const std::string& model, const std::string&) {
                                   return scenarios::load_model(model);
                                 }).cases);
  REQUIRE(chosen.size() > 10);
  int steps = 0;
  for (const auto& spec : chosen) {
    Setup setup = short_setup(spec.model, spec.batch, spec.mesh.text());
    setup.flags = spec.flags;
    setup.run.loss = spec.loss, setup.run.steps = steps++ % 4 == 3 ? 2 : 0;
    INFO(spec.line());
    CHECK(difference(setup) == "");
  }
}

TEST_CASE("what goes from stage to stage is the residual stream, under every schedule") {
  run::CaseOptions o;
  o.model = {"tiny-dense", "tiny-moe"}, o.batch = {"rows", "boundaries"},
  o.mesh = {"pp2",       "pp4",           "pp2.tp2",      "pp2.dp2",     "pp2.fsdp2",
            "pp2.ring2", "pp2.uly2",      "pp2.uly2.ep2", "pp2.tp2.ep2", "pp2.tp2.etp1",
            "pp3.fsdp2", "pp2.fsdp3.ep3", "pp2.ring2.tp2"};
  o.sp = o.pad = o.recompute = o.schedule = {"all"};
  o.loss_form = {"sharded", "replicated"};
  const auto chosen = run::cover(run::expand(o, [](const std::string& model, const std::string&) {
                                   return scenarios::load_model(model);
                                 }).cases);
  REQUIRE(chosen.size() > 20);
  int steps = 0;
  for (const auto& spec : chosen) {
    Setup setup = with_layers(setup_of(spec.model, spec.batch, spec.mesh.text()), "gaga");
    setup.flags = spec.flags;
    setup.run.loss_form = spec.loss_form, setup.run.steps = steps++ % 5 == 4 ? 1 : 0;
    // Every other dense one with a head that is the embedding.
    setup.config.tie_word_embeddings = spec.model == "tiny-dense" && steps % 2 == 0;
    INFO(spec.line() << (setup.config.tie_word_embeddings ? " tied" : ""));
    CHECK(difference(setup) == "");
  }
}

TEST_CASE("what leaves every rank is what the plan says, for every way to mix over the context axes") {
  run::CaseOptions o;
  o.model = {"tiny-dense"}, o.batch = {"boundaries"}, o.mesh = {"uly2", "ring2", "ring2.uly2", "ring3"};
  o.gdn = o.attn = o.layout = {"all"};
  const auto cases = run::expand(o, [](const std::string& model, const std::string&) {
                       return scenarios::load_model(model);
                     }).cases;
  REQUIRE(cases.size() > 50);
  for (const auto& spec : cases) {
    Setup setup = short_setup(spec.model, spec.batch, spec.mesh.text());
    setup.flags = spec.flags;
    INFO(spec.line());
    CHECK(difference(setup) == "");
  }
}

TEST_CASE("every optimizer step sends the same, and what is sent once is sent once") {
  for (const char* mesh : {"tp2.ring2", "fsdp2.uly2", "dp2.ring2.tp2"})
    for (const int steps : {0, 1, 2, 3}) {
      Setup setup = short_setup("tiny-moe", "rows", mesh);
      setup.run.steps = steps, setup.run.loss_form = "replicated";
      INFO(mesh << " " << steps << " steps");
      CHECK(difference(setup) == "");
    }
  Setup forward = setup_of("tiny-dense", "rows", "fsdp2.ring2.tp2");
  forward.run.gradients = false;
  CHECK(difference(forward) == "");
}

TEST_CASE("the plan holds for every term of a loss, in both its forms") {
  for (const char* loss :
       {"policy_gradient", "token_mean+lm_z", "token_mean+router_z", "token_mean+policy_gradient+lm_z+aux"})
    for (const char* form : {"sharded", "replicated"})
      for (const char* mesh :
           {"dp2.tp2", "fsdp2.uly2", "ring2.uly2", "pp2.uly2", "fsdp2.tp2.etp1", "fsdp2.ep2"}) {
        Setup setup = short_setup("tiny-moe", "rows", mesh);
        setup.run.loss = loss, setup.run.loss_form = form, setup.run.steps = 2;
        INFO(mesh << " " << loss << " " << form);
        CHECK(difference(setup) == "");
      }
}

TEST_CASE("the plan holds for models of other shapes") {
  Setup setup = setup_of("tiny-dense", "boundaries", "fsdp2.ring2.tp2");
  setup.config.tie_word_embeddings = true;
  CHECK(difference(setup) == "");
  setup.config.num_hidden_layers = 2, setup.config.full_attention = {true, true};
  CHECK(difference(setup) == "");
  setup.config.full_attention = {false, false}, setup.config.linear_conv_kernel_dim = 2;
  CHECK(difference(setup) == "");
  setup.config.vocab_size = 62, setup.config.hidden_size = 23;
  CHECK(difference(setup) == "");
}

TEST_CASE("what is sent twice or not at all differs from the plan at its site") {
  class Edited : public faults::PassOn {
   public:
    Edited(std::shared_ptr<impl::Collectives> inner, std::string site)
        : PassOn(std::move(inner)), site_(std::move(site)) {}
    at::Tensor all_reduce(const impl::Group& g, const at::Tensor& x, const impl::Site& site) override {
      return site == site_ ? x : PassOn::all_reduce(g, x, site);
    }
    at::Tensor all_gather(const impl::Group& g, const at::Tensor& x, const std::vector<std::int64_t>& sizes,
                          std::int64_t dim, const impl::Site& site) override {
      if (site == site_) PassOn::all_gather(g, x, sizes, dim, site);
      return PassOn::all_gather(g, x, sizes, dim, site);
    }

   private:
    std::string site_;
  };
  struct Row {
    const char *edited, *said;
  };
  for (const Row& row :
       {Row{"layers.1.parameters", "layers.1.parameters:all_gather: 2 calls on rank 0, planned 1"},
        Row{"layers.2.mlp.down_proj", "layers.2.mlp.down_proj:all_reduce: planned, and in no rank's log"}}) {
    Setup setup = setup_of("tiny-dense", "packed-odd", "fsdp2.tp2");
    setup.seams.collectives = [&](std::shared_ptr<impl::Collectives> inner) {
      return std::make_shared<Edited>(std::move(inner), row.edited);
    };
    const std::string said = difference(setup);
    INFO(said);
    CHECK(said.find(row.said) != std::string::npos);
    CHECK(std::count(said.begin(), said.end(), '\n') == 1);
  }
}

TEST_CASE("run --communication shows the plan beside the log and says where they part") {
  const auto table = [](std::vector<std::string> fault) {
    std::vector<std::string> argv = {MESHPARITY_EXECUTABLE,
                                     "run",
                                     "--model",
                                     "tiny-dense",
                                     "--batch",
                                     "single",
                                     "--mesh",
                                     "tp2",
                                     "--sp",
                                     "on",
                                     "--check",
                                     "loss",
                                     "--communication"};
    argv.insert(argv.end(), fault.begin(), fault.end());
    return execute(argv).out;
  };
  for (const char* mesh : {"uly2.ep2", "pp2"}) {
    const std::string out = execute({MESHPARITY_EXECUTABLE, "run", "--model", "tiny-moe", "--batch", "rows",
                                     "--mesh", mesh, "--check", "loss", "--communication"})
                                .out;
    INFO(out);
    CHECK(out.find("communication as planned at all ") != std::string::npos);
  }
  const std::string right = table({}), wrong = table({"--fault", "sp-flag-noop"});
  INFO(right << wrong);
  CHECK(right.find("\ntp              1  744 720                 =        embed_tokens:reduce_scatter\n") !=
        std::string::npos);
  CHECK(right.find("communication as planned at all 48 sites\n") != std::string::npos);
  CHECK(wrong.find("\ntp              0  nothing                 744 720  embed_tokens:reduce_scatter\n") !=
        std::string::npos);
  CHECK(
      wrong.find("communication NOT as planned at 67 sites, the first: embed_tokens:reduce_scatter: planned, "
                 "and in no rank's log\n") != std::string::npos);
}

TEST_CASE("relayouts happen where the design says and nowhere else") {
  // Contiguous: a ring needs zigzag order around attention, and nothing else leaves the residual order.
  // Zigzag: states need contiguous stretches around the delta rule, and nothing else leaves the order.
  const std::set<std::string> attention = {"self_attn.relayout_in", "self_attn.relayout_out"};
  const std::set<std::string> delta_rule = {"linear_attn.relayout_in", "linear_attn.relayout_out"};
  struct Row {
    const char *layout, *attn, *gdn;
    std::set<std::string> sites;
  };
  const std::vector<Row> table = {{"contiguous", "ring", "state", attention},
                                  {"contiguous", "ring", "heads", attention},
                                  {"contiguous", "ring", "gather", attention},
                                  {"contiguous", "ring", "hybrid", attention},
                                  {"contiguous", "gather", "state", {}},
                                  {"contiguous", "gather", "heads", {}},
                                  {"contiguous", "gather", "gather", {}},
                                  {"contiguous", "gather", "hybrid", {}},
                                  {"zigzag", "ring", "state", delta_rule},
                                  {"zigzag", "ring", "heads", {}},
                                  {"zigzag", "ring", "gather", {}},
                                  {"zigzag", "ring", "hybrid", delta_rule},
                                  {"zigzag", "gather", "state", delta_rule},
                                  {"zigzag", "gather", "heads", {}},
                                  {"zigzag", "gather", "gather", {}},
                                  {"zigzag", "gather", "hybrid", delta_rule},
                                  {"zigzag-document", "ring", "state", delta_rule},
                                  {"zigzag-document", "ring", "heads", {}},
                                  {"zigzag-document", "ring", "gather", {}},
                                  {"zigzag-document", "ring", "hybrid", delta_rule},
                                  {"zigzag-document", "gather", "state", delta_rule},
                                  {"zigzag-document", "gather", "heads", {}},
                                  {"zigzag-document", "gather", "gather", {}},
                                  {"zigzag-document", "gather", "hybrid", delta_rule}};
  struct Target {
    const char *model, *mesh;
  };
  for (const Target& target :
       {Target{"tiny-moe", "ring2"}, Target{"tiny-moe", "ring3"}, Target{"tiny-dense", "ring2.uly2"},
        Target{"tiny-dense", "uly2"}, Target{"tiny-dense", "tp2"}})
    for (const Row& row : table) {
      Setup setup = short_setup(target.model, "boundaries", target.mesh);
      setup.flags.layout = row.layout, setup.flags.attn = row.attn, setup.flags.gdn = row.gdn;
      if (setup.flags.gdn == "hybrid" && (setup.mesh.uly == 1 || setup.mesh.ring == 1)) continue;
      INFO(target.mesh << " " << row.layout << " " << row.attn << " " << row.gdn);
      // One ring index needs no other order than it has.
      CHECK(relayout_sites(run_ranks(setup)) == (setup.mesh.ring > 1 ? row.sites : std::set<std::string>{}));
    }
}

TEST_CASE("what a vision tower sends is what the plan says, in both ways to share it") {
  int compared = 0;
  for (const char* model : {"tiny-vl", "tiny-vl-moe"})
    for (const char* mesh : {"fsdp2", "tp2", "tp3", "ring2.tp2", "uly3", "dp2.tp2", "pp2.tp2", "fsdp2.ring2"})
      for (const char* vision : {"tensor", "images"})
        for (const bool sp : {false, true}) {
          Setup setup = short_setup(model, "rows", mesh);
          REQUIRE(!setup.batch.images.empty());
          setup.flags.vision = vision, setup.flags.sp = sp;
          setup.run.steps = 1;
          if (!refusal(setup.mesh, setup.flags, setup.config).empty()) continue;
          INFO(model << " " << mesh << " " << vision << " sp=" << sp);
          CHECK(difference(setup) == "");
          ++compared;
        }
  CHECK(compared >= 36);
}

}  // namespace meshparity::cli::communication_test
