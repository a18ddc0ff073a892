#include "harness/cli/communication_table.h"

#include <algorithm>
#include <cstdio>
#include <map>

namespace meshparity::cli {
namespace {

using layout::SiteTraffic;

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

const SiteTraffic* find(const std::vector<SiteTraffic>& list, const std::string& site) {
  for (const auto& line : list)
    if (line.site == site) return &line;
  return nullptr;
}

// The first rank at which two counts differ, or -1.
int first_difference(const std::vector<std::int64_t>& a, const std::vector<std::int64_t>& b) {
  if (a.size() != b.size()) return static_cast<int>(std::min(a.size(), b.size()));
  const auto found = std::mismatch(a.begin(), a.end(), b.begin());
  return found.first == a.end() ? -1 : static_cast<int>(found.first - a.begin());
}

// What of one site differs, or nothing.
std::string site_difference(const SiteTraffic& plan, const SiteTraffic& log) {
  if (plan.axis != log.axis) return "on " + log.axis + ", planned on " + plan.axis;
  if (plan.op != log.op) return log.op + ", planned " + plan.op;
  const auto said = [](const char* what, const auto& got, const auto& want, int rank) {
    return std::to_string(got[rank]) + what + std::to_string(rank) + ", planned " +
           std::to_string(want[rank]);
  };
  if (const int rank = first_difference(plan.calls, log.calls); rank >= 0)
    return said(" calls on rank ", log.calls, plan.calls, rank);
  if (const int rank = first_difference(plan.elements, log.elements); rank >= 0)
    return said(" elements leave rank ", log.elements, plan.elements, rank);
  return "";
}

// A line of the table: what was logged, and what was planned ("=", numbers, or "nothing").
struct Line {
  std::string axis, sent, planned;
  std::int64_t calls = 0;
  bool operator==(const Line&) const = default;
};

Line line_of(const SiteTraffic* plan, const SiteTraffic* log) {
  const SiteTraffic& any = log ? *log : *plan;
  const bool same = plan && log && site_difference(*plan, *log).empty();
  return {any.axis, log ? numbers(log->elements) : "nothing",
          same   ? "="
          : plan ? numbers(plan->elements)
                 : "nothing",
          log ? *std::max_element(log->calls.begin(), log->calls.end()) : 0};
}

// Lines of sites that do the same in several layers, at the place of the first.
struct LineGroup {
  std::string suffix;
  Line line;
  std::string layers;
};

std::vector<LineGroup> grouped(const std::vector<std::pair<std::string, Line>>& lines) {
  std::vector<LineGroup> groups;
  for (const auto& [site, line] : lines) {
    const auto [layer, suffix] = layer_of(site);
    auto at = groups.begin();
    while (at != groups.end() && !(at->suffix == suffix && at->line == line)) ++at;
    if (at == groups.end()) at = groups.insert(at, {suffix, line, ""});
    if (!layer.empty()) at->layers += (at->layers.empty() ? "" : ",") + layer;
  }
  return groups;
}

}  // namespace

std::vector<SiteTraffic> logged_traffic(const std::vector<impl::RankOutput>& outputs) {
  std::vector<SiteTraffic> lines;
  std::map<std::string, std::size_t> places;
  for (std::size_t rank = 0; rank < outputs.size(); ++rank)
    for (const auto& event : outputs[rank].communication) {
      const auto [at, fresh] = places.emplace(event.site, lines.size());
      if (fresh) {
        const std::vector<std::int64_t> none(outputs.size(), 0);
        lines.push_back({event.site, event.axis, event.op, none, none});
      }
      ++lines[at->second].calls[rank];
      lines[at->second].elements[rank] += event.elements_sent;
    }
  return lines;
}

std::string communication_difference(const std::vector<SiteTraffic>& planned,
                                     const std::vector<SiteTraffic>& logged) {
  std::string text;
  for (const auto& plan : planned) {
    const SiteTraffic* log = find(logged, plan.site);
    const std::string what = log ? site_difference(plan, *log) : "planned, and in no rank's log";
    if (!what.empty()) text += plan.site + ": " + what + "\n";
  }
  for (const auto& log : logged)
    if (!find(planned, log.site)) text += log.site + ": " + log.op + " over " + log.axis + ", not planned\n";
  return text;
}

std::string communication_table(const std::vector<SiteTraffic>& planned,
                                const std::vector<SiteTraffic>& logged) {
  std::vector<std::pair<std::string, Line>> lines;
  for (const auto& log : logged) lines.emplace_back(log.site, line_of(find(planned, log.site), &log));
  for (const auto& line : planned)
    if (!find(logged, line.site)) lines.emplace_back(line.site, line_of(&line, nullptr));
  const auto groups = grouped(lines);
  std::size_t sent = 22, expected = 7;
  for (const auto& group : groups) {
    sent = std::max(sent, group.line.sent.size());
    expected = std::max(expected, group.line.planned.size());
  }
  const auto padded = [](std::string text, std::size_t width) {
    text.resize(std::max(width, text.size()), ' ');
    return text;
  };
  std::string text = "axis        calls  " + padded("elements sent per rank", sent) + "  " +
                     padded("planned", expected) + "  site\n";
  for (const auto& group : groups) {
    char head[64];
    std::snprintf(head, sizeof head, "%-11s %5lld  ", group.line.axis.c_str(),
                  static_cast<long long>(group.line.calls));
    text += head + padded(group.line.sent, sent) + "  " + padded(group.line.planned, expected) + "  " +
            (group.layers.empty() ? "" : "layers." + group.layers) + group.suffix + "\n";
  }
  const std::string differs = communication_difference(planned, logged);
  if (differs.empty())
    return text + "communication as planned at all " + std::to_string(planned.size()) + " sites\n";
  const auto count = std::count(differs.begin(), differs.end(), '\n');
  return text + "communication NOT as planned at " + std::to_string(count) +
         " sites, the first: " + differs.substr(0, differs.find('\n') + 1);
}

}  // namespace meshparity::cli
