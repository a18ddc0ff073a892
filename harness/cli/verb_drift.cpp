#include "harness/cli/verb_drift.h"

#include <iostream>
#include <memory>

#include "golden/dumps/dump.h"
#include "harness/cli/verb_drift_series.h"
#include "harness/cli/verb_report.h"
#include "harness/drift/drift.h"
#include "harness/drift/noise.h"
#include "harness/types/error.h"
#include "reports/drift.h"
#include "reports/html.h"
#include "reports/report.h"
#include "reports/series.h"

namespace meshparity::cli {
namespace {

struct DriftOptions {
  std::string both, train, rollout, noise, noise_side = "train", json, markdown, html;
  bool quiet = false, series = false;
};

int judge_series(const DriftOptions& o) {
  if (!o.noise.empty()) throw InputError("drift: --noise and --series do not go together: judge one step");
  const SeriesResult result = judge_drift_series(o.both, o.train, o.rollout);
  std::cout << (o.quiet ? reports::series_headline(result) + "\n" : reports::series_console(result))
            << std::flush;
  if (!o.json.empty()) reports::write_file(o.json, reports::series_json(result));
  if (!o.markdown.empty()) reports::write_file(o.markdown, reports::series_markdown(result));
  if (!o.html.empty()) reports::write_file(o.html, reports::series_html(result));
  return result.verdict.fault || result.judged_verdict.fault ? 1 : 0;
}

int judge_drift(const DriftOptions& o) {
  if (o.both.empty() == (o.train.empty() && o.rollout.empty()))
    throw InputError("drift: give one dump that holds both sides, or --train A --rollout B");
  if (o.both.empty() && (o.train.empty() || o.rollout.empty()))
    throw InputError(std::string("drift: --") + (o.train.empty() ? "train" : "rollout") + " is missing");
  require_writable(o.json), require_writable(o.markdown), require_writable(o.html);
  if (o.series) return judge_series(o);
  const auto first = dumps::open_dump(o.both.empty() ? o.train : o.both);
  const auto second = o.both.empty() ? dumps::open_dump(o.rollout) : nullptr;
  DriftResult result = drift::analyse(*first, second.get());
  if (!o.noise.empty())
    result.noise = drift::compare_with_noise(*first, second.get(), *dumps::open_dump(o.noise),
                                             o.noise_side == "rollout");
  const std::string console = reports::drift_console(result);
  const std::size_t lines = result.noise.given ? 2 : 1;
  std::size_t end = 0;
  for (std::size_t i = 0; i < lines; ++i) end = console.find('\n', end) + 1;
  std::cout << (o.quiet ? console.substr(0, end) : console) << std::flush;
  if (!o.json.empty()) reports::write_file(o.json, reports::drift_json(result));
  if (!o.markdown.empty()) reports::write_file(o.markdown, reports::drift_markdown(result));
  if (!o.html.empty()) reports::write_file(o.html, reports::drift_html(result));
  return result.verdict.fault || result.noise.above ? 1 : 0;
}

}  // namespace

void add_drift(CLI::App& app, Chosen& chosen) {
  auto o = std::make_shared<DriftOptions>();
  auto* verb = app.add_subcommand(
      "drift", "Judge train against rollout logprobs from dumps: how large, and why; 0 rounding, 1 a fault");
  verb->add_option("file", o->both,
                   "a dump that holds both sides; a pattern ('dump/*_rank*.pt') for one file per rank");
  verb->add_option("--train", o->train, "the trainer's logprobs");
  verb->add_option("--rollout", o->rollout, "the sampler's logprobs");
  verb->add_option("--noise", o->noise,
                   "a second run of one side with other batches: is the drift above that noise?");
  verb->add_option("--noise-side", o->noise_side, "whose second run that is")
      ->check(CLI::IsMember({"train", "rollout"}));
  verb->add_flag("--series", o->series,
                 "the files are steps of one run ('step_*', 'data_{step}_rank*.pt'): what changed, and when");
  verb->add_option("--json", o->json, "write everything that was found")->group("Reports");
  verb->add_option("--markdown", o->markdown, "write the verdict and its table")->group("Reports");
  verb->add_option("--html", o->html, "write one page with drawings, readable without a network")
      ->group("Reports");
  verb->add_flag("--quiet", o->quiet, "only the sentence of the verdict");
  verb->callback([o, &chosen] { chosen.run = [o] { return judge_drift(*o); }; });
}

}  // namespace meshparity::cli
