// Attribution records as a console table, Markdown and JSON.
#include "reports/attribution.h"

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "reports/json_number.h"

namespace meshparity::reports {
namespace {

using AttributionJson = nlohmann::ordered_json;

std::string cost_text(double value, const char* format = "%.3g") {
  char text[64];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

std::string column(std::string text, std::size_t width) {
  text.append(width - std::min(width, text.size()), ' ');
  return text + " ";
}

const PlaceInfo& info_of(const PlaceCost& cost) {
  return kPlaces[static_cast<std::size_t>(cost.place)];
}

// The table's rows: place, trainer's dtype, rollout's dtype, removed, added, what the place is.
std::vector<std::vector<std::string>> cost_rows(const Attribution& a) {
  std::vector<std::vector<std::string>> rows;
  for (const PlaceCost& cost : a.costs)
    rows.push_back({info_of(cost).name, std::string(dtype_name(cost.train)),
                    std::string(dtype_name(cost.rollout)), a.each_place ? cost_text(cost.removed) : "-",
                    a.each_place ? cost_text(cost.added) : "-", info_of(cost).what});
  return rows;
}

}  // namespace

std::string attribution_console(const Attribution& a) {
  std::string text = a.sentence + "\n\n";
  text += "  drift          " + cost_text(a.drift, "%.4g") + " nats, mean |train - rollout|\n";
  text +=
      "  equal dtypes   " + cost_text(a.same_policy, "%.4g") + " nats with " + a.rollout + " on both sides\n";
  if (!a.costs.empty()) {
    text += "\n  " + column("place", 15) + column("train", 9) + column("rollout", 9) + column("removed", 10) +
            column("added", 10) + "what is rounded\n";
    for (const auto& row : cost_rows(a))
      text += "  " + column(row[0], 15) + column(row[1], 9) + column(row[2], 9) + column(row[3], 10) +
              column(row[4], 10) + row[5] + "\n";
    if (a.each_place)
      text +=
          "  removed: the trainer takes the rollout's choice; added: a trainer equal to the rollout takes "
          "the trainer's\n";
  }
  text += "\n  by depth: relative difference of what blocks hand on, " + a.train + " against " + a.rollout +
          " on the training engine\n";
  for (const auto& [block, relative] : a.by_depth)
    text += "    " + column(block, 20) + cost_text(relative) + "\n";
  text += "\n  by position in the document: mean |d|, median |d|, tokens\n";
  for (const DriftBin& bin : a.by_position)
    text += "    " + column(bin.label, 20) + column(cost_text(bin.mean_abs), 11) +
            column(cost_text(bin.median_abs), 11) + std::to_string(bin.tokens) + "\n";
  return text;
}

std::string attribution_markdown(const Attribution& a) {
  std::string text = "# Drift between dtype policies\n\n" + a.sentence + ".\n\n";
  text += "| place | train | rollout | removed | added | what is rounded |\n|---|---|---|---|---|---|\n";
  for (const auto& row : cost_rows(a)) {
    text += "|";
    for (const auto& cell : row) text += " " + cell + " |";
    text += "\n";
  }
  text += "\n| block | relative difference |\n|---|---|\n";
  for (const auto& [block, relative] : a.by_depth)
    text += "| " + block + " | " + cost_text(relative) + " |\n";
  text += "\n| position | mean | median | tokens |\n|---|---|---|---|\n";
  for (const DriftBin& bin : a.by_position)
    text += "| " + bin.label + " | " + cost_text(bin.mean_abs) + " | " + cost_text(bin.median_abs) + " | " +
            std::to_string(bin.tokens) + " |\n";
  return text;
}

std::string attribution_json(const Attribution& a) {
  AttributionJson j = {{"train", a.train},
                       {"rollout", a.rollout},
                       {"sentence", a.sentence},
                       {"drift", json_number(a.drift)},
                       {"same_policy", json_number(a.same_policy)},
                       {"places", AttributionJson::array()},
                       {"by_depth", AttributionJson::array()},
                       {"by_position", AttributionJson::array()}};
  for (const PlaceCost& cost : a.costs) {
    AttributionJson place = {{"place", info_of(cost).name},
                             {"train", dtype_name(cost.train)},
                             {"rollout", dtype_name(cost.rollout)}};
    if (a.each_place) place["removed"] = json_number(cost.removed), place["added"] = json_number(cost.added);
    j["places"].push_back(place);
  }
  for (const auto& [block, relative] : a.by_depth)
    j["by_depth"].push_back({{"block", block}, {"relative", json_number(relative)}});
  for (const DriftBin& bin : a.by_position)
    j["by_position"].push_back({{"positions", bin.label},
                                {"tokens", bin.tokens},
                                {"mean_abs", json_number(bin.mean_abs)},
                                {"median_abs", json_number(bin.median_abs)}});
  return AttributionJson({{"schema", 1}, {"attribution", j}}).dump(2) + "\n";
}

}  // namespace meshparity::reports
