#include "reports/drift.h"

#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "reports/drift_words.h"
#include "reports/json_number.h"
#include "reports/words.h"

namespace meshparity::reports {
namespace {

using DriftJson = nlohmann::ordered_json;

std::string padded(std::string text, std::size_t width) {
  if (text.size() < width) text.append(width - text.size(), ' ');
  return text;
}

std::string drift_bins(const std::vector<DriftBin>& bins) {
  std::string text;
  for (const DriftBin& bin : bins)
    text += "    " + padded(bin.label, 20) + padded(drift_number(bin.mean_abs, "%.3g"), 12) +
            padded(drift_number(bin.median_abs, "%.3g"), 12) + std::to_string(bin.tokens) + "\n";
  return text;
}

DriftJson drift_metrics_json(const DriftMetrics& m) {
  DriftJson j = {{"tokens", m.tokens},
                 {"samples", m.samples},
                 {"mean_abs", json_number(m.mean_abs)},
                 {"mean", json_number(m.mean)},
                 {"max_abs", json_number(m.max_abs)},
                 {"k1", json_number(m.k1)},
                 {"k2", json_number(m.k2)},
                 {"k3", json_number(m.k3)},
                 {"chi_square", json_number(m.chi_square)},
                 {"effective_samples", json_number(m.effective_samples)},
                 {"mean_ratio", json_number(m.mean_ratio)},
                 {"mean_ratio_error", json_number(m.mean_ratio_error)},
                 {"perplexity_train", json_number(m.perplexity_train)},
                 {"perplexity_rollout", json_number(m.perplexity_rollout)},
                 {"pearson", json_number(m.pearson)},
                 {"pearson_probability", json_number(m.pearson_probability)},
                 {"share_of_worst", json_number(m.share_of_worst)},
                 {"equal", m.equal}};
  for (const auto& [level, value] : m.quantiles)
    j["quantiles"].push_back({{"level", level}, {"abs", json_number(value)}});
  return j;
}

}  // namespace

std::string drift_console(const DriftResult& r) {
  std::string text = drift_headline(r) + "\n";
  if (r.noise.given) text += one_line(r.noise.sentence) + "\n";
  for (const DriftInput& input : r.inputs) {
    text += "  " + padded(input.side, 10) + one_line(input.name) + "   " + input.format + "\n";
    for (const std::string& note : input.notes) text += "            " + one_line(note) + "\n";
  }
  text += "  " + padded("compared", 10) + drift_samples(r) + "\n";
  for (const DriftCheck& check : r.checks)
    text += "  " + padded(check.fault ? "FAULT" : "noticed", 10) + drift_check(check) + "\n";
  for (const auto& [name, value] : drift_rows(r)) text += "  " + padded(name, 20) + value + "\n";
  for (const std::string& line : r.verdict.evidence)
    text += "  " + padded("evidence", 10) + one_line(line) + "\n";
  text += "  " + padded("next", 10) + one_line(r.verdict.next) + "\n";
  for (const auto& [name, bins] : r.tables)
    if (bins.size() > 1)
      text += "\n  |d| by " + name + "\n" + std::string(24, ' ') + "mean        median      tokens\n" +
              drift_bins(bins);
  text += "\n  worst tokens      slot    token      train        rollout      d\n";
  for (const DriftToken& token : r.worst)
    text += "    " + padded(std::to_string(token.slot), 10) +
            padded(token.id < 0 ? "-" : std::to_string(token.id), 12) +
            padded(drift_number(token.train, "%.6g"), 13) + padded(drift_number(token.rollout, "%.6g"), 13) +
            padded(drift_number(token.train - token.rollout, "%.3g"), 11) + one_line(token.sample) + "\n";
  return text;
}

std::string drift_json(const DriftResult& r) {
  DriftJson d = {{"verdict",
                  {{"cause", r.verdict.cause},
                   {"fault", r.verdict.fault},
                   {"confidence", r.verdict.confidence},
                   {"sentence", r.verdict.sentence},
                   {"evidence", r.verdict.evidence},
                   {"next", r.verdict.next}}}};
  for (const DriftInput& input : r.inputs)
    d["inputs"].push_back(
        {{"side", input.side}, {"name", input.name}, {"format", input.format}, {"notes", input.notes}});
  d["samples"] = {{"train", r.samples_train}, {"rollout", r.samples_rollout}, {"paired", r.samples_paired}};
  d["checks"] = DriftJson::array();
  for (const DriftCheck& c : r.checks)
    d["checks"].push_back(
        {{"check", c.name}, {"count", c.count}, {"of", c.of}, {"detail", c.detail}, {"fault", c.fault}});
  d["metrics"] = drift_metrics_json(r.metrics);
  d["tokens_tested"] = r.tokens_tested;
  d["tests"] = DriftJson::array();
  for (const DriftTest& t : r.tests)
    d["tests"].push_back({{"test", t.name},
                          {"unit", t.unit},
                          {"ran", t.ran},
                          {"fired", t.fired},
                          {"effect", json_number(t.effect)},
                          {"effect_bound", t.effect_bound},
                          {"p", json_number(t.p)},
                          {"p_bound", t.p_bound},
                          {"explained", json_number(t.explained)},
                          {"clusters", t.clusters},
                          {"detail", t.detail}});
  d["tables"] = DriftJson::object();
  for (const auto& [name, bins] : r.tables)
    for (const DriftBin& b : bins)
      d["tables"][name].push_back({{"label", b.label},
                                   {"tokens", b.tokens},
                                   {"mean_abs", json_number(b.mean_abs)},
                                   {"median_abs", json_number(b.median_abs)}});
  d["worst"] = DriftJson::array();
  for (const DriftToken& t : r.worst)
    d["worst"].push_back({{"sample", t.sample},
                          {"slot", t.slot},
                          {"token", t.id},
                          {"train", json_number(t.train)},
                          {"rollout", json_number(t.rollout)}});
  if (r.noise.given)
    d["noise"] = {{"name", r.noise.name},
                  {"side", r.noise.side},
                  {"above", r.noise.above},
                  {"sentence", r.noise.sentence},
                  {"floor_mean", json_number(r.noise.floor_mean)},
                  {"floor_median", json_number(r.noise.floor_median)},
                  {"ratio_mean", json_number(r.noise.ratio_mean)},
                  {"ratio_median", json_number(r.noise.ratio_median)},
                  {"share_of_worst", json_number(r.noise.share_of_worst)},
                  {"p", json_number(r.noise.p)}};
  d["seconds"] = r.seconds;
  // A file name need not be UTF-8.
  return DriftJson{{"schema", 1}, {"drift", std::move(d)}}.dump(1, ' ', false,
                                                                DriftJson::error_handler_t::replace) +
         "\n";
}

std::string drift_markdown(const DriftResult& r) {
  const auto safe = [](std::string_view text) {
    std::string out;
    for (const char c : one_line(text)) {
      if (c == '|' || c == '<' || c == '*' || c == '`') out += '\\';
      out += c;
    }
    return out;
  };
  std::string text = "### Train against rollout: " + r.verdict.cause + "\n\n" + safe(drift_headline(r)) +
                     (r.noise.given ? " " + safe(r.noise.sentence) : std::string()) +
                     "\n\n| | |\n|---|---|\n";
  for (const DriftInput& input : r.inputs)
    text += "| " + input.side + " | " + safe(input.name) + " (" + safe(input.format) + ") |\n";
  text += "| compared | " + drift_samples(r) + " |\n";
  for (const DriftCheck& check : r.checks)
    text += std::string("| ") + (check.fault ? "**fault**" : "noticed") + " | " + safe(drift_check(check)) +
            " |\n";
  for (const auto& [name, value] : drift_rows(r)) text += "| " + safe(name) + " | " + safe(value) + " |\n";
  for (const std::string& line : r.verdict.evidence) text += "| evidence | " + safe(line) + " |\n";
  text += "| next | " + safe(r.verdict.next) + " |\n";
  for (const auto& [name, bins] : r.tables) {
    if (bins.size() < 2) continue;
    text += "\n| " + safe(name) + " | mean \\|d\\| | median \\|d\\| | tokens |\n|---|---|---|---|\n";
    for (const DriftBin& b : bins)
      text += "| " + safe(b.label) + " | " + drift_number(b.mean_abs, "%.3g") + " | " +
              drift_number(b.median_abs, "%.3g") + " | " + std::to_string(b.tokens) + " |\n";
  }
  return text;
}

}  // namespace meshparity::reports
