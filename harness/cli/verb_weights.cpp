#include "harness/cli/verb_weights.h"

#include <cstdio>
#include <iostream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>

#include "harness/cli/verb_report.h"
#include "harness/cli/verb_weights_ranks.h"
#include "harness/types/error.h"
#include "harness/weights/compare_weights.h"
#include "reports/json_number.h"
#include "reports/report.h"
#include "reports/words.h"

namespace meshparity::cli {
namespace {

using weights::WeightReport;
using weights::WeightResult;

struct WeightsOptions {
  std::string sent, got, previous, json, mesh, model;
  int list = 20;
};

std::string percent_of(std::int64_t part, std::int64_t whole) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3g %%",
                whole ? 100.0 * static_cast<double>(part) / static_cast<double>(whole) : 0);
  return text;
}

std::string result_text(const WeightResult& r) {
  std::string text = "WRONG " + r.name;
  if (!r.what.empty()) text += "  " + r.what;
  text += "\n";
  if (r.different > 0) {
    char line[256];
    std::snprintf(line, sizeof line,
                  "  differ  %lld of %lld elements (%s), most at %s: sent %.9g, got %.9g\n",
                  static_cast<long long>(r.different), static_cast<long long>(r.elements),
                  percent_of(r.different, r.elements).c_str(), r.where.c_str(), r.sent, r.got);
    text += line;
  }
  char confidence[32];
  std::snprintf(confidence, sizeof confidence, "%.2g", r.cause.confidence);
  text += r.cause.text.empty() ? "  cause   unknown\n"
                               : "  cause   " + r.cause.text + " (confidence " + confidence + ")\n";
  return text;
}

// One sentence, then what is known of each, then causes that many weights share.
std::string report_text(const WeightReport& report, const WeightsOptions& o) {
  const std::int64_t judged =
      report.bitwise + report.rounded + static_cast<std::int64_t>(report.wrong.size());
  std::string text;
  const auto count = [](std::int64_t n, const char* what) {
    return std::to_string(n) + " " + what + (n == 1 ? "" : "s");
  };
  if (report.equal())
    text = "EQUAL " + count(judged, "weight") + ", " + count(report.elements, "element") + ": " +
           std::to_string(report.bitwise) + " bit for bit" +
           (report.rounded ? ", " + std::to_string(report.rounded) + " to one rounding of the narrower dtype"
                           : "") +
           "\n";
  else
    text = "DIFFERENT " + std::to_string(report.wrong.size()) + " of " + count(judged, "weight") + "; " +
           std::to_string(report.bitwise) + " equal bit for bit, " + std::to_string(report.rounded) +
           " to one rounding\n";
  for (const auto& note : report.notes) text += "note  " + note + "\n";
  std::map<std::string, int> shared;
  for (const auto& r : report.wrong) ++shared[r.cause.text.empty() ? "unknown" : r.cause.text];
  if (report.wrong.size() > 3)
    for (const auto& [cause, n] : shared)
      if (n > 1) text += "cause " + std::to_string(n) + " weights: " + cause + "\n";
  int listed = 0;
  for (const auto& r : report.wrong) {
    if (o.list > 0 && listed++ >= o.list) {
      text += "... " + std::to_string(report.wrong.size() - static_cast<std::size_t>(o.list)) +
              " more (--list 0 prints all)\n";
      break;
    }
    text += result_text(r);
  }
  return text;
}

std::string report_json(const WeightReport& report, const std::vector<std::string>& ranks,
                        const WeightsOptions& o) {
  nlohmann::ordered_json root = {{"schema", 1},
                                 {"command", "weights"},
                                 {"sent", o.sent},
                                 {"got", o.got},
                                 {"previous", o.previous},
                                 {"equal", report.equal()},
                                 {"bitwise", report.bitwise},
                                 {"rounded", report.rounded},
                                 {"notes", report.notes},
                                 {"ranks", ranks},
                                 {"wrong", nlohmann::ordered_json::array()}};
  for (const auto& r : report.wrong)
    root["wrong"].push_back({{"name", r.name},
                             {"what", r.what},
                             {"elements", r.elements},
                             {"different", r.different},
                             {"max_abs", reports::json_number(r.max_abs)},
                             {"where", r.where},
                             {"cause", r.cause.text},
                             {"confidence", r.cause.confidence}});
  return root.dump(2) + "\n";
}

// Every argument that is a pattern names per-rank files; their model is --model's, or that of a side that has
// one.
RankWeights open_side(const std::string& argument, const WeightsOptions& o) {
  if (!names_ranks(argument)) return {open_whole_weights(argument), {}, {}};
  if (o.mesh.empty())
    throw InputError(argument + ": names per-rank files: say on which mesh, --mesh tp2.fsdp2");
  std::string model = o.model;
  for (const std::string* other : {&o.sent, &o.got, &o.previous})
    if (model.empty() && !other->empty()) model = model_of_weights(*other);
  if (model.empty())
    throw InputError(argument + ": --model is missing: no side is a directory with a config.json");
  return open_rank_weights(argument, o.mesh, model);
}

int run_weights(const WeightsOptions& o) {
  require_writable(o.json);
  const bool ranks = names_ranks(o.sent) || names_ranks(o.got) || names_ranks(o.previous);
  if (!ranks && !o.mesh.empty())
    throw InputError("--mesh " + o.mesh +
                     ": no side names per-rank files (a pattern, such as 'dump/rank*.pt')");
  const RankWeights sent = open_side(o.sent, o), got = open_side(o.got, o);
  const RankWeights previous = o.previous.empty() ? RankWeights{} : open_side(o.previous, o);
  WeightReport report = weights::compare_weights(*sent.set, *got.set, previous.set.get());
  std::vector<std::string> wrong;
  for (const RankWeights* side : {&sent, &got, &previous}) {
    report.notes.insert(report.notes.end(), side->notes.begin(), side->notes.end());
    wrong.insert(wrong.end(), side->wrong.begin(), side->wrong.end());
  }
  std::cout << report_text(report, o);
  for (std::size_t i = 0; i < wrong.size() && (o.list == 0 || i < static_cast<std::size_t>(o.list)); ++i)
    std::cout << "RANKS " << reports::one_line(wrong[i]) << "\n";
  if (o.list > 0 && wrong.size() > static_cast<std::size_t>(o.list))
    std::cout << "... " << wrong.size() - static_cast<std::size_t>(o.list) << " more (--list 0 prints all)\n";
  std::cout << std::flush;
  if (!o.json.empty()) reports::write_file(o.json, report_json(report, wrong, o));
  return report.equal() && wrong.empty() ? 0 : 1;
}

}  // namespace

void add_weights(CLI::App& app, Chosen& chosen) {
  auto options = std::make_shared<WeightsOptions>();
  auto* verb = app.add_subcommand("weights", "Are two sets of weights the same, and if not, what happened?");
  verb->add_option("sent", options->sent,
                   "what should have arrived: a Hugging Face directory, a .safetensors file, a state dict in "
                   "a torch .pt, an HDF5 "
                   "golden or dump (FILE:step2 for its weights after a step), or 'rank*.pt' with --mesh")
      ->required();
  verb->add_option("got", options->got, "what did arrive")->required();
  verb->add_option("--previous", options->previous, "an older version: names what is stale");
  verb->add_option("--mesh", options->mesh,
                   "the mesh of the side that is a pattern of one file per rank, as tp2.fsdp2");
  verb->add_option(
      "--model", options->model,
      "whose shapes per-rank files have, where no side has a config.json: a name or a directory");
  verb->add_option("--json", options->json, "write the result");
  verb->add_option("--list", options->list, "so many wrong weights are printed, 0: all")
      ->check(CLI::NonNegativeNumber);
  verb->callback([options, &chosen] { chosen.run = [options] { return run_weights(*options); }; });
}

}  // namespace meshparity::cli
