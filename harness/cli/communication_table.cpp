#include "harness/cli/communication_table.h"

#include <algorithm>
#include <cstdio>
#include <map>

namespace meshparity::cli {
namespace {

struct Line {
  std::string axis, op;
  std::vector<std::int64_t> calls, elements;  // per rank
  bool operator==(const Line&) const = default;
};

// "layers.3.mlp" -> {"3", ".mlp"}; other sites -> {"", site}.
std::pair<std::string, std::string> layer_of(const std::string& site) {
  if (site.rfind("layers.", 0) != 0) return {"", site};
  const auto dot = site.find('.', 7);
  return dot == std::string::npos ? std::pair<std::string, std::string>{"", site}
                                  : std::pair{site.substr(7, dot - 7), site.substr(dot)};
}

std::string numbers(const std::vector<std::int64_t>& values) {
  const bool equal = std::all_of(values.begin(), values.end(), [&](auto v) { return v == values.front(); });
  std::string text;
  for (std::size_t i = 0; i < (equal ? 1 : values.size()); ++i)
    text += (i ? " " : "") + std::to_string(values[i]);
  return text;
}

}  // namespace

std::string communication_table(const std::vector<impl::RankOutput>& outputs) {
  std::vector<std::string> order;
  std::map<std::string, Line> lines;  // by site
  for (std::size_t rank = 0; rank < outputs.size(); ++rank)
    for (const auto& event : outputs[rank].communication) {
      auto [at, fresh] = lines.emplace(event.site, Line{event.axis, event.op, {}, {}});
      Line& line = at->second;
      if (fresh) {
        order.push_back(event.site);
        line.calls.assign(outputs.size(), 0), line.elements.assign(outputs.size(), 0);
      }
      ++line.calls[rank];
      line.elements[rank] += event.elements_sent;
    }
  // Layers that do the same share a line, at the place of the first.
  std::vector<std::pair<std::string, std::vector<std::string>>> groups;  // suffix, layers
  std::vector<const Line*> of_group;
  for (const auto& site : order) {
    const auto [layer, suffix] = layer_of(site);
    const Line& line = lines.at(site);
    std::size_t g = 0;
    while (g < groups.size() && !(groups[g].first == suffix && *of_group[g] == line)) ++g;
    if (g == groups.size()) groups.push_back({suffix, {}}), of_group.push_back(&line);
    if (!layer.empty()) groups[g].second.push_back(layer);
  }
  std::string text = "axis        calls  elements sent per rank  site\n";
  for (std::size_t g = 0; g < groups.size(); ++g) {
    std::string site = groups[g].first;
    if (!groups[g].second.empty()) {
      std::string layers;
      for (const auto& layer : groups[g].second) layers += (layers.empty() ? "" : ",") + layer;
      site = "layers." + layers + site;
    }
    const Line& line = *of_group[g];
    char head[64];
    std::snprintf(head, sizeof head, "%-11s %5lld  ", line.axis.c_str(),
                  static_cast<long long>(*std::max_element(line.calls.begin(), line.calls.end())));
    std::string sent = numbers(line.elements);
    if (sent.size() < 22) sent.resize(22, ' ');
    text += head + sent + "  " + site + "\n";
  }
  return text;
}

}  // namespace meshparity::cli
