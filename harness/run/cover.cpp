#include "harness/run/cover.h"

#include <algorithm>
#include <set>

#include "harness/types/error.h"
#include "harness/types/loss_sum.h"

namespace meshparity::run {
namespace {

// Cases as the numbers of their values, and pairs as bits of a table values x values.
class Table {
 public:
  explicit Table(const std::vector<CaseSpec>& cases) {
    for (const auto& spec : cases) {
      std::vector<int> row;
      int place = 0;
      for (const auto& [factor, value] : factors_of(spec)) row.push_back(number(place++, factor, value));
      rows_.push_back(std::move(row));
    }
  }
  const std::vector<std::vector<int>>& rows() const { return rows_; }
  std::size_t values() const { return names_.size(); }
  const std::string& name(int value) const { return names_[value]; }
  int factor(int value) const { return factors_[value]; }  // its place among the factors
  std::size_t bit(int a, int b) const {
    return static_cast<std::size_t>(std::min(a, b)) * values() + std::max(a, b);
  }

  template <class Visit>
  void each_pair(const std::vector<int>& row, Visit&& visit) const {
    for (std::size_t i = 0; i < row.size(); ++i)
      for (std::size_t j = i + 1; j < row.size(); ++j) visit(row[i], row[j]);
  }

 private:
  int number(int place, const std::string& factor, const std::string& value) {
    const std::string name = factor + "=" + value;
    const auto [at, fresh] = numbers_.emplace(name, static_cast<int>(names_.size()));
    if (fresh) names_.push_back(name), factors_.push_back(place);
    return at->second;
  }
  std::map<std::string, int> numbers_;
  std::vector<std::string> names_;
  std::vector<int> factors_;
  std::vector<std::vector<int>> rows_;
};

// Gives a case the value "gdn=heads" or "tp=4".
void set_factor(CaseSpec& s, const std::string& text) {
  const std::string factor = text.substr(0, text.find('=')), value = text.substr(text.find('=') + 1);
  const std::pair<const char*, int Mesh::*> axes[] = {
      {"pp", &Mesh::pp},   {"dp", &Mesh::dp}, {"fsdp", &Mesh::fsdp}, {"ring", &Mesh::ring},
      {"uly", &Mesh::uly}, {"tp", &Mesh::tp}, {"ep", &Mesh::ep}};
  for (const auto& [name, field] : axes)
    if (factor == name) s.mesh.*field = std::stoi(value);
  if (factor == "etp") s.mesh.etp = value == "1" ? 1 : s.mesh.tp;
  const std::pair<const char*, std::string*> words[] = {
      {"gdn", &s.flags.gdn},       {"attn", &s.flags.attn},
      {"layout", &s.flags.layout}, {"schedule", &s.flags.schedule},
      {"pad", &s.flags.pad},       {"loss", &s.loss},
      {"vision", &s.flags.vision}, {"loss-form", &s.loss_form},
      {"model", &s.model},         {"batch", &s.batch}};
  for (const auto& [name, field] : words)
    if (factor == name) *field = value;
  if (factor == "sp") s.flags.sp = value == "on";
  if (factor == "recompute") s.flags.recompute = value == "on";
  if (factor == "rollout-mesh")
    s.rollout_mesh = value == "none" ? std::nullopt : std::optional(Mesh::parse(value));
  if (factor == "rollout") s.rollout = RolloutSpec::parse(value);
}

}  // namespace

std::vector<std::pair<std::string, std::string>> factors_of(const CaseSpec& s) {
  const auto n = [](int v) { return std::to_string(v); };
  const auto on = [](bool b) { return std::string(b ? "on" : "off"); };
  return {{"pp", n(s.mesh.pp)},
          {"dp", n(s.mesh.dp)},
          {"fsdp", n(s.mesh.fsdp)},
          {"ring", n(s.mesh.ring)},
          {"uly", n(s.mesh.uly)},
          {"tp", n(s.mesh.tp)},
          {"ep", n(s.mesh.ep)},
          {"etp", s.mesh.expert_tp() == 1 ? "1" : "tp"},
          {"sp", on(s.flags.sp)},
          {"gdn", s.flags.gdn},
          {"attn", s.flags.attn},
          {"layout", s.flags.layout},
          {"schedule", s.flags.schedule},
          {"recompute", on(s.flags.recompute)},
          {"pad", s.flags.pad},
          {"vision", s.flags.vision},
          {"loss", s.loss},
          {"loss-form", s.loss_form},
          {"rollout-mesh", s.rollout_mesh ? s.rollout_mesh->text() : "none"},
          {"rollout", s.rollout.text()},
          {"model", s.model},
          {"batch", s.batch}};
}

std::vector<Pair> pairs_of(const std::vector<CaseSpec>& cases) {
  const Table table(cases);
  std::set<Pair> pairs;
  for (const auto& row : table.rows())
    table.each_pair(row, [&](int a, int b) { pairs.insert({table.name(a), table.name(b)}); });
  return {pairs.begin(), pairs.end()};
}

std::vector<CaseSpec> cover(const std::vector<CaseSpec>& all) {
  const Table table(all);
  std::vector<char> open(table.values() * table.values(), 0);
  for (const auto& row : table.rows()) table.each_pair(row, [&](int a, int b) { open[table.bit(a, b)] = 1; });
  std::vector<char> chosen(all.size(), 0);
  const auto gain = [&](std::size_t i) {
    int count = 0;
    table.each_pair(table.rows()[i], [&](int a, int b) { count += open[table.bit(a, b)]; });
    return count;
  };
  const auto choose = [&](std::size_t i) {
    chosen[i] = 1;
    table.each_pair(table.rows()[i], [&](int a, int b) { open[table.bit(a, b)] = 0; });
  };
  // Of every model and mesh the case that meets most; the first of equals.
  std::map<std::string, std::vector<std::size_t>> meshes;
  std::vector<std::string> order;
  for (std::size_t i = 0; i < all.size(); ++i) {
    const std::string key = all[i].model + all[i].golden + " " + all[i].mesh.text();
    if (!meshes.count(key)) order.push_back(key);
    meshes[key].push_back(i);
  }
  const auto best_of = [&](const std::vector<std::size_t>& candidates) {
    std::size_t best = candidates.front();
    int most = -1;
    for (const std::size_t i : candidates)
      if (const int g = gain(i); g > most) best = i, most = g;
    return std::pair(best, most);
  };
  for (const auto& key : order) choose(best_of(meshes.at(key)).first);
  std::vector<std::size_t> rest(all.size());
  for (std::size_t i = 0; i < all.size(); ++i) rest[i] = i;
  while (!rest.empty()) {
    const auto [best, most] = best_of(rest);
    if (most <= 0) break;
    choose(best);
    // What gains nothing now never will.
    std::erase_if(rest, [&](std::size_t i) { return gain(i) == 0; });
  }
  std::vector<CaseSpec> out;
  for (std::size_t i = 0; i < all.size(); ++i)
    if (chosen[i]) out.push_back(all[i]);
  return out;
}

std::vector<Pair> missing_pairs(const std::vector<CaseSpec>& all, const std::vector<CaseSpec>& chosen) {
  const std::vector<Pair> want = pairs_of(all), have = pairs_of(chosen);
  const std::set<Pair> met(have.begin(), have.end());
  std::vector<Pair> missing;
  for (const auto& pair : want)
    if (!met.count(pair)) missing.push_back(pair);
  return missing;
}

std::vector<Impossible> impossible_pairs(
    const std::vector<CaseSpec>& all,
    const std::function<ModelConfig(const std::string&, const std::string&)>& config_of) {
  const Table table(all);
  std::vector<char> met(table.values() * table.values(), 0);
  for (const auto& row : table.rows()) table.each_pair(row, [&](int a, int b) { met[table.bit(a, b)] = 1; });
  int largest = 0;
  for (const auto& spec : all) largest = std::max(largest, spec.mesh.world());
  // Every model with its smallest mesh, to put the two values into.
  std::map<std::string, CaseSpec> plain;
  for (const auto& spec : all) {
    CaseSpec base = spec;
    base.mesh = Mesh{}, base.flags = Flags{}, base.loss = CaseSpec{}.loss;
    plain.emplace(spec.model + spec.golden, base);
  }
  const auto reason_of = [&](const Pair& pair) {
    std::string reason;
    for (const auto& [name, base] : plain) {
      CaseSpec spec = base;
      // Twice: what etp=tp means is known once tp is set.
      for (int pass = 0; pass < 2; ++pass) set_factor(spec, pair.first), set_factor(spec, pair.second);
      std::string why;
      const auto has = [&](const std::string& value) {
        for (const auto& [factor, held] : factors_of(spec))
          if (factor + "=" + held == value) return true;
        return false;
      };
      if (!has(pair.first) || !has(pair.second))
        why = spec.mesh.text() + ": means the same as another value";
      else if (spec.mesh.world() > largest)
        why = "needs " + std::to_string(spec.mesh.world()) + " ranks, the largest mesh has " +
              std::to_string(largest);
      else if (!(canonical_flags(spec.mesh, spec.flags, &why,
                                 config_of(spec.model, spec.golden).has_vision()) == spec.flags))
        why = spec.mesh.text() + ": " + why;
      else
        why = refusal(spec.mesh, spec.flags, config_of(spec.model, spec.golden));
      if (why.empty()) why = loss_refusal(parse_loss(spec.loss), config_of(spec.model, spec.golden));
      if (why.empty() && spec.rollout_mesh)
        why = rollout_refusal(*spec.rollout_mesh, spec.rollout, config_of(spec.model, spec.golden));
      if (why.empty() && !spec.rollout_mesh && !(spec.rollout == RolloutSpec{})) why = "is no rollout case";
      if (why.empty()) return std::string();
      if (reason.empty()) reason = why;
    }
    return reason;
  };
  std::vector<Impossible> out;
  for (int a = 0; a < static_cast<int>(table.values()); ++a)
    for (int b = a + 1; b < static_cast<int>(table.values()); ++b) {
      if (table.factor(a) == table.factor(b) || met[table.bit(a, b)]) continue;
      const bool ordered = table.factor(a) < table.factor(b);
      const Pair pair{table.name(ordered ? a : b), table.name(ordered ? b : a)};
      const std::string reason = reason_of(pair);
      if (reason.empty())
        throw RunError("cover: " + pair.first + " with " + pair.second + " is possible and missing");
      out.push_back({pair, reason});
    }
  return out;
}

}  // namespace meshparity::run
