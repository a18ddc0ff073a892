// meshparity run: one case in detail, in this process.
#include <cstdio>
#include <filesystem>
#include <iostream>

#include "golden/checkpoint.h"
#include "harness/cli/case_arguments.h"
#include "harness/cli/rank_process.h"
#include "harness/cli/reference_process.h"
#include "harness/cli/run_case.h"
#include "harness/cli/staging_folder.h"
#include "harness/cli/verb_report.h"
#include "harness/cli/verbs.h"
#include "harness/cli/worker.h"
#include "harness/types/error.h"
#include "reports/report.h"

namespace meshparity::cli {
namespace {

struct RunOptions {
  run::CaseOptions cases;
  std::string dump, rollout_dump, json, save_weights;
  bool communication = false;
};

// A Hugging Face directory of the model with these weights.
void save(const CaseSpec& spec, const std::map<std::string, HostTensor>& weights,
          const std::filesystem::path& target) {
  const StagingFolder staging(target);
  golden::save_checkpoint(staging.path().string(), config_of(spec.model, spec.golden).json, weights);
  staging.move_to(target);
  std::cout << "wrote config.json and model.safetensors to " << target.string() << std::endl;
}

int run_one(const RunOptions& o) {
  const auto expansion = expand_cases(o.cases);
  if (expansion.cases.size() != 1)
    throw InputError("run takes one case, this describes " + std::to_string(expansion.cases.size()) +
                     "; meshparity gate runs many");
  require_writable(o.dump);
  require_writable(o.rollout_dump);
  require_writable(o.json);
  const std::filesystem::path save_to =
      o.save_weights.empty() ? std::filesystem::path() : writable_target(o.save_weights, false);
  std::string communication;
  std::map<std::string, HostTensor> weights;
  const CaseResult result =
      run_case(expansion.cases.front(), {o.dump, o.communication ? &communication : nullptr,
                                         save_to.empty() ? nullptr : &weights, o.rollout_dump});
  for (const auto& check : result.checks)
    if (check.state == State::pass)
      std::printf("%-9s %-11s %-55s %5.1f%% of bound  max abs %.2e  rel %.2e  against %s\n",
                  std::string(state_name(check.state)).c_str(), check.check.c_str(), check.tensor.c_str(),
                  100 * check.bound_used, check.max_abs, check.max_rel, check.against.c_str());
  std::fflush(stdout);
  std::cout << communication;
  for (const auto& cost : result.costs)
    std::printf("cost      %-36s %7.1f s  peak %5.2f GiB\n", cost.part.c_str(), cost.seconds,
                static_cast<double>(cost.peak_bytes) / (std::int64_t{1} << 30));
  std::fflush(stdout);
  reports::Run run;
  run.command = "meshparity run " + result.case_line, run.version = kVersion, run.listed = 1;
  run.cases = {result}, run.seconds = result.seconds;
  if (result.state != State::pass) std::cout << reports::case_text(result, 1000);
  std::cout << reports::summary_text(run) << std::endl;
  if (!o.dump.empty() && result.state != State::error) std::cout << "wrote " << o.dump << std::endl;
  if (!o.rollout_dump.empty() && result.state != State::error)
    std::cout << "wrote " << o.rollout_dump << std::endl;
  if (!save_to.empty() && result.state != State::error) save(expansion.cases.front(), weights, save_to);
  if (!o.json.empty()) reports::write_file(o.json, reports::to_json(run, true));
  return exit_code(run.cases);
}

}  // namespace

void add_run(CLI::App& app, Chosen& chosen) {
  auto options = std::make_shared<RunOptions>();
  auto* verb = app.add_subcommand("run", "Run one case and print every tensor's verdict");
  add_case_arguments(*verb, options->cases);
  verb->add_option("--dump", options->dump, "write what the ranks computed, in the golden schema");
  verb->add_option(
      "--dump-rollout", options->rollout_dump,
      "of a rollout case: write what the rollout ranks computed; with --dump both sides for drift");
  verb->add_option("--json", options->json, "write the verdict");
  verb->add_option(
      "--save-weights", options->save_weights,
      "write the ranks' weights as a Hugging Face directory: after the last step, as loaded with "
      "--steps 0");
  verb->add_flag("--communication", options->communication,
                 "what left every rank, site by site, beside what must leave it");
  verb->callback([options, &chosen] { chosen.run = [options] { return run_one(*options); }; });

  // Started by the gate and by --spawn, not by people.
  auto* worker = app.add_subcommand("worker", "")->group("");
  worker->callback([&chosen] { chosen.run = [] { return worker_main(); }; });
  struct RankOptions {
    std::string line, store, out;
    int program = 0, rank = 0;
    long parent = 0;
  };
  auto job = std::make_shared<ReferenceJob>();
  auto* reference = app.add_subcommand("reference", "")->group("");
  reference->add_option("--case", job->case_line)->required();
  reference->add_option("--to", job->folder)->required();
  reference->add_option("--threads", job->threads)->check(CLI::Range(1, 1024));
  reference->add_option("--draws", job->draws);
  reference->add_option("--repeats", job->repeats);
  reference->add_option("--parent", job->parent)->required();
  reference->add_flag("--loss-only{false}", job->keep_results);
  reference->callback([job, &chosen] { chosen.run = [job] { return reference_main(*job); }; });
  auto rank_options = std::make_shared<RankOptions>();
  auto* rank = app.add_subcommand("rank", "")->group("");
  rank->add_option("--case", rank_options->line)->required();
  rank->add_option("--program", rank_options->program)->check(CLI::Range(0, 1));
  rank->add_option("--rank", rank_options->rank)->required();
  rank->add_option("--store", rank_options->store)->required();
  rank->add_option("--out", rank_options->out)->required();
  rank->add_option("--parent", rank_options->parent)->required();
  rank->callback([rank_options, &chosen] {
    chosen.run = [o = rank_options] {
      return rank_main(o->line, static_cast<RankProgram>(o->program), o->rank, o->store, o->out, o->parent);
    };
  });
}

}  // namespace meshparity::cli
