// A plan for people and for programs.
#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <span>

#include "harness/cli/verb_plan.h"

namespace meshparity::cli {
namespace {

using layout::RankMemory;
using nlohmann::ordered_json;

// The value in the largest unit of which it has one, each `step` times the one before; whole in the first.
std::string in_units(std::int64_t n, double step, std::span<const char* const> units) {
  double value = static_cast<double>(n);
  std::size_t unit = 0;
  while (value >= step && unit + 1 < units.size()) value /= step, ++unit;
  char text[32];
  std::snprintf(text, sizeof text, unit == 0 ? "%.0f%s" : "%.2f%s", value, units[unit]);
  return text;
}

// "1.41 GiB", "512 B".
std::string bytes_text(std::int64_t bytes) {
  static constexpr const char* kUnits[] = {" B", " KiB", " MiB", " GiB", " TiB", " PiB", " EiB"};
  return in_units(bytes, 1024, kUnits);
}

// "396.35 G", "1204".
std::string count_text(std::int64_t count) {
  static constexpr const char* kUnits[] = {"", " k", " M", " G", " T"};
  return in_units(count, 1000, kUnits);
}

std::string right(const std::string& text, std::size_t width) {
  return std::string(text.size() < width ? width - text.size() : 0, ' ') + text;
}
std::string left(std::string text, std::size_t width) {
  text.resize(std::max(width, text.size()), ' ');
  return text;
}

std::int64_t elements_of(const PlanRequest& request) {
  std::int64_t n = 0;
  for (const auto& p : request.placements) n += shape_numel(p.shape);
  return n;
}

// A quantity of RankMemory, in text and JSON.
struct Column {
  const char* json;
  std::string title;
  std::int64_t (*get)(const RankMemory&);
  bool bytes = true;
};

std::vector<Column> columns(const PlanRequest& r) {
  const auto named = [](const char* what, DType dtype) {
    return std::string(what) + ", " + std::string(dtype_name(dtype));
  };
  const bool master = r.dtypes.optimizer != r.dtypes.parameters;
  return {
      {"parameters", "parameters", [](const RankMemory& m) { return m.parameters; }, false},
      {"parameter_bytes", named("  stored", r.dtypes.parameters),
       [](const RankMemory& m) { return m.parameter_bytes; }},
      {"gradient_bytes", named("gradients", r.dtypes.gradients),
       [](const RankMemory& m) { return m.gradient_bytes; }},
      {"optimizer_bytes", named(master ? "moments and master copy" : "moments", r.dtypes.optimizer),
       [](const RankMemory& m) { return m.optimizer_bytes; }},
      {"gathered_bytes", "one unit gathered by fsdp", [](const RankMemory& m) { return m.gathered_bytes; }},
      {"activation_bytes", "activations (estimate)", [](const RankMemory& m) { return m.activation_bytes; }},
      {"bytes", "all together", [](const RankMemory& m) { return m.bytes(); }},
  };
}

std::string batch_text(const PlanRequest& r, const Mesh& mesh) {
  return std::to_string(r.batch.rows) + " rows of " + std::to_string(r.batch.row_tokens) + " tokens in " +
         std::to_string(r.batch.micro_batches(mesh)) + " micro-batches of " +
         std::to_string(data_ranks(mesh));
}

// Flags that are not at their defaults, as a command line has them.
std::string flags_text(const Flags& f) {
  const Flags plain;
  std::string text;
  const auto add = [&](const char* name, const std::string& value, const std::string& usual) {
    if (value != usual) text += " --" + std::string(name) + " " + value;
  };
  add("sp", f.sp ? "on" : "off", "off");
  add("gdn", f.gdn, plain.gdn);
  add("attn", f.attn, plain.attn);
  add("layout", f.layout, plain.layout);
  add("schedule", f.schedule, plain.schedule);
  add("recompute", f.recompute ? "on" : "off", "off");
  add("vision", f.vision, plain.vision);
  return text;
}

std::string owned_text(const PlanRequest& r, const std::string& problem, const std::string& where) {
  if (!problem.empty()) return "FAIL NOT owned as planned: " + problem + "\n";
  return "owned as planned" + where + ": every element of " + std::to_string(r.placements.size()) +
         " parameters, every one of " + std::to_string(r.batch.rows * r.batch.row_tokens) + " tokens\n";
}

ordered_json header(const PlanRequest& r) {
  const auto name = [](DType dtype) { return std::string(dtype_name(dtype)); };
  return {
      {"schema", 1},
      {"model", r.config.name},
      {"parameters", elements_of(r)},
      {"batch",
       {{"rows", r.batch.rows}, {"row_tokens", r.batch.row_tokens}, {"row_patches", r.batch.row_patches}}},
      {"dtypes",
       {{"parameters", name(r.dtypes.parameters)},
        {"gradients", name(r.dtypes.gradients)},
        {"optimizer", name(r.dtypes.optimizer)}}}};
}

ordered_json memory_json(const PlanRequest& r, const RankMemory& memory) {
  ordered_json out;
  for (const Column& c : columns(r)) out[c.json] = c.get(memory);
  return out;
}

}  // namespace

std::string plan_text(const PlanRequest& r, const MeshPlan& plan, bool every_rank) {
  std::string text = r.config.name + " on " + plan.mesh.text() + flags_text(plan.flags) + ": " +
                     count_text(elements_of(r)) + " parameters, " + std::to_string(plan.mesh.world()) +
                     " ranks, " + batch_text(r, plan.mesh) + "\n\n";
  text += left("a rank has", 36) + right("least", 12) + right("most", 12) + "  most on\n";
  for (const Column& c : columns(r)) {
    std::size_t most = 0;
    std::int64_t least = c.get(plan.ranks[0]);
    for (std::size_t i = 0; i < plan.ranks.size(); ++i) {
      least = std::min(least, c.get(plan.ranks[i]));
      if (c.get(plan.ranks[i]) > c.get(plan.ranks[most])) most = i;
    }
    const auto words = c.bytes ? bytes_text : count_text;
    const std::int64_t top = c.get(plan.ranks[most]);
    text += left(c.title, 36) + right(words(least), 12) + right(words(top), 12) + "  " +
            (least == top ? "every rank" : rank_text(plan.mesh, static_cast<int>(most))) + "\n";
  }
  text += "\n" + left("leaves a rank in one step, over", 36) + right("least", 12) + right("most", 12) + "\n";
  for (const auto& axis : plan.axes)
    text += left(axis.axis, 36) + right(bytes_text(axis.least), 12) + right(bytes_text(axis.most), 12) + "\n";
  if (plan.axes.empty()) text += "nothing: there is one rank\n";
  if (every_rank) {
    text += "\n" + left("rank", 24) + right("parameters", 12) + right("activations", 14) + right("all", 12) +
            "\n";
    for (std::size_t i = 0; i < plan.ranks.size(); ++i)
      text += left(std::to_string(i) + " " + rank_text(plan.mesh, static_cast<int>(i)), 24) +
              right(count_text(plan.ranks[i].parameters), 12) +
              right(bytes_text(plan.ranks[i].activation_bytes), 14) +
              right(bytes_text(plan.ranks[i].bytes()), 12) + "\n";
  }
  return text + "\n" + owned_text(r, plan.problem, "");
}

std::string plan_text(const PlanRequest& r, const MeshTable& table, std::size_t lines) {
  std::string text = r.config.name + " on " + std::to_string(table.world) +
                     " ranks: " + count_text(elements_of(r)) + " parameters, " +
                     std::to_string(r.batch.rows) + " rows of " + std::to_string(r.batch.row_tokens) +
                     " tokens; the rank with most of each mesh\n\n";
  const std::size_t shown = lines == 0 ? table.lines.size() : std::min(lines, table.lines.size());
  std::size_t width = 4;
  for (std::size_t i = 0; i < shown; ++i) width = std::max(width, table.lines[i].mesh.text().size());
  text += left("mesh", width) + right("parameters", 12) + right("states", 12) + right("gathered", 12) +
          right("activations", 13) + right("all", 12) + right("micro-batches", 15) + "\n";
  for (std::size_t i = 0; i < shown; ++i) {
    const MeshLine& line = table.lines[i];
    const std::int64_t states =
        line.most.parameter_bytes + line.most.gradient_bytes + line.most.optimizer_bytes;
    text += left(line.mesh.text(), width) + right(count_text(line.most.parameters), 12) +
            right(bytes_text(states), 12) + right(bytes_text(line.most.gathered_bytes), 12) +
            right(bytes_text(line.most.activation_bytes), 13) + right(bytes_text(line.most.bytes()), 12) +
            right(std::to_string(r.batch.micro_batches(line.mesh)), 15) + "\n";
  }
  if (shown < table.lines.size())
    text += "... " + std::to_string(table.lines.size() - shown) + " more (--list 0 prints all)\n";
  text += "\n" + std::to_string(table.lines.size()) + " valid meshes\n";
  for (const auto& [reason, count] : table.refused)
    text += right(std::to_string(count), 8) + " refused: " + reason + "\n";
  return text + owned_text(r, table.problem, " on each");
}

std::string plan_json(const PlanRequest& r, const MeshPlan& plan) {
  ordered_json out = header(r);
  out["mesh"] = plan.mesh.text();
  out["flags"] = flags_text(plan.flags);
  out["micro_batches"] = r.batch.micro_batches(plan.mesh);
  out["problem"] = plan.problem;
  out["axes"] = ordered_json::array();
  for (const auto& axis : plan.axes)
    out["axes"].push_back({{"axis", axis.axis}, {"least_bytes", axis.least}, {"most_bytes", axis.most}});
  out["ranks"] = ordered_json::array();
  for (const RankMemory& memory : plan.ranks) out["ranks"].push_back(memory_json(r, memory));
  return out.dump(1) + "\n";
}

std::string plan_json(const PlanRequest& r, const MeshTable& table) {
  ordered_json out = header(r);
  out["world"] = table.world;
  out["problem"] = table.problem;
  out["meshes"] = ordered_json::array();
  for (const MeshLine& line : table.lines) {
    ordered_json entry = {{"mesh", line.mesh.text()}, {"flags", flags_text(line.flags)}};
    entry.update(memory_json(r, line.most));
    out["meshes"].push_back(std::move(entry));
  }
  out["refused"] = ordered_json::array();
  for (const auto& [reason, count] : table.refused)
    out["refused"].push_back({{"reason", reason}, {"meshes", count}});
  return out.dump(1) + "\n";
}

}  // namespace meshparity::cli
