#include "harness/layout/placement_check.h"

#include <algorithm>
#include <set>

#include "harness/types/error.h"

namespace meshparity::layout {
namespace {

class PlacementCheck {
 public:
  PlacementCheck(const LayoutMap& map, const std::vector<RankHoldings>& ranks, DType dtype)
      : map_(map), ranks_(ranks), dtype_(dtype) {}

  std::vector<CheckResult> run() {
    if (!every_rank_once()) return std::move(results_);
    for (const auto& p : map_.placements()) parameter(p);
    strangers();
    bytes();
    emitted();
    const Mesh& mesh = map_.mesh();
    if (mesh.pp > 1) stages();
    if (mesh.dp > 1) axis("dp", &Mesh::dp);
    if (mesh.fsdp > 1) axis("fsdp", &Mesh::fsdp);
    if (mesh.ring > 1) axis("ring", &Mesh::ring);
    if (mesh.uly > 1) axis("uly", &Mesh::uly);
    if (mesh.ep > 1) axis("ep", &Mesh::ep);
    if (mesh.tp > 1) axis("tp", &Mesh::tp);
    if (map_.flags().sp && mesh.tp > 1) sequence();
    return std::move(results_);
  }

 private:
  CheckResult& add(const std::string& tensor) {
    results_.push_back({});
    results_.back().check = "placement";
    results_.back().tensor = tensor;
    results_.back().against = "plan";
    return results_.back();
  }

  static void fail(CheckResult& r, State state, const std::string& reason) {
    if (r.state == State::pass || worse(state, r.state)) r.state = state, r.reason = reason;
    r.detail.push_back("where   " + reason);
    ++r.outside;
    r.bound_used = 0;
  }

  bool every_rank_once() {
    std::vector<int> seen(static_cast<std::size_t>(map_.world()), 0);
    std::string wrong;
    for (const auto& r : ranks_)
      if (r.rank < 0 || r.rank >= map_.world() || seen[r.rank]++)
        wrong =
            "rank " + std::to_string(r.rank) + " is not on mesh " + map_.mesh().text() + " or reported twice";
    for (int rank = 0; rank < map_.world(); ++rank)
      if (!seen[rank]) wrong = "rank " + std::to_string(rank) + " reported nothing";
    if (!wrong.empty()) fail(add("ranks"), State::invalid, wrong);
    return wrong.empty();
  }

  static std::string on_rank(const RankHoldings& r) { return "rank " + std::to_string(r.rank); }

  void compare(CheckResult& result, const RankHoldings& r, const char* verb, const Shape* got,
               const Shape& want) {
    ++result.elements;
    if (!got) {
      if (shape_numel(want) > 0)
        fail(result, State::invalid, on_rank(r) + " " + verb + " nothing, its part is " + shape_text(want));
    } else if (*got != want) {
      fail(result, State::fail,
           on_rank(r) + " " + verb + " " + shape_text(*got) + ", its part is " + shape_text(want));
    }
  }

  static const Shape* find(const std::map<std::string, Shape>& shapes, const std::string& name) {
    const auto found = shapes.find(name);
    return found == shapes.end() ? nullptr : &found->second;
  }

  void parameter(const ParameterPlacement& p) {
    CheckResult& result = add(p.name);
    for (const auto& r : ranks_) {
      compare(result, r, "stores", find(r.stored, p.name),
              map_.local("weights/" + p.name, r.rank).local_shape());
      // No block used multi-token prediction where the loss has no such term.
      const bool unused = p.name.rfind("mtp.", 0) == 0 && !find(r.gathered, p.name);
      if (!r.gathered.empty() && !unused)
        compare(result, r, "computes with", find(r.gathered, p.name),
                map_.local("gathered/" + p.name, r.rank).local_shape());
    }
  }

  void strangers() {
    std::set<std::string> placed;
    for (const auto& p : map_.placements()) placed.insert(p.name);
    std::set<std::string> strangers;
    for (const auto& r : ranks_)
      for (const auto& [name, shape] : r.stored)
        if (!placed.count(name)) strangers.insert(name);
    for (const auto& name : strangers)
      fail(add(name), State::invalid, "is stored but is no parameter of this model");
  }

  void bytes() {
    CheckResult& result = add("parameter bytes");
    for (const auto& r : ranks_) {
      std::int64_t want = 0;
      for (const auto& p : map_.placements())
        want += shape_numel(map_.local("weights/" + p.name, r.rank).local_shape());
      want *= static_cast<std::int64_t>(dtype_size(dtype_));
      ++result.elements;
      if (r.parameter_bytes == want) continue;
      if (result.state == State::pass) {
        result.got = static_cast<double>(r.parameter_bytes), result.want = static_cast<double>(want);
        result.max_abs = std::abs(result.got - result.want);
        result.where = on_rank(r);
      }
      fail(result, State::fail,
           on_rank(r) + " stores " + std::to_string(r.parameter_bytes) +
               " bytes of parameters, its parts are " + std::to_string(want));
    }
  }

  static bool is_cut(const std::string& key) {
    return key == "logits" || key == "logprobs" || key.rfind("activations/", 0) == 0;
  }

  std::set<std::string> emitted_keys() const {
    std::set<std::string> keys;
    for (const auto& r : ranks_)
      for (const auto& [key, shape] : r.emitted)
        if (is_cut(key)) keys.insert(key);
    return keys;
  }

  void emitted() {
    for (const auto& key : emitted_keys()) {
      CheckResult& result = add(key);
      try {
        for (const auto& r : ranks_)
          compare(result, r, "emits", find(r.emitted, key), map_.local(key, r.rank).local_shape());
      } catch (const InputError& error) {
        fail(result, State::invalid, error.what());
      }
    }
  }

  // Whether some observed dimension has the size that it has because of the axis: the mesh's, and not that of
  // the mesh `without` it. Dimension by dimension, so that one axis is seen where another fails. `compared`
  // counts the dimensions that the axis cuts among the keys that `counts` admits.
  template <class Admit>
  bool changes(const LayoutMap& without, int Mesh::*size, Admit&& counts, std::int64_t& compared) const {
    bool changed = false;
    const auto look = [&](const RankHoldings& r, const std::string& key, const Shape& shape) {
      if (!counts(key)) return;
      RankCoordinate at = coordinate_of(map_.mesh(), r.rank);
      if (size == &Mesh::dp) at.dp = 0;
      if (size == &Mesh::fsdp) at.fsdp = 0;
      if (size == &Mesh::ring) at.ring = 0;
      if (size == &Mesh::uly) at.uly = 0;
      if (size == &Mesh::tp) at.tp = 0;
      Shape cut, whole;
      try {
        cut = map_.local(key, r.rank).local_shape();
        whole = without.local(key, rank_of(without.mesh(), at)).local_shape();
      } catch (const InputError&) {
        return;  // no rule: already reported as INVALID
      }
      for (std::size_t d = 0; d < cut.size() && d < shape.size(); ++d) {
        if (cut[d] == whole[d]) continue;
        ++compared;
        changed |= shape[d] == cut[d];
      }
    };
    for (const auto& r : ranks_) {
      for (const auto& [name, shape] : r.stored) look(r, "weights/" + name, shape);
      for (const auto& [name, shape] : r.gathered) look(r, "gathered/" + name, shape);
      for (const auto& [key, shape] : r.emitted)
        if (is_cut(key)) look(r, key, shape);
    }
    return changed;
  }

  void verdict(const std::string& name, bool changed, std::int64_t compared, const std::string& none) {
    CheckResult& result = add(name);
    result.elements = compared;
    if (compared == 0)
      fail(result, State::untrusted, none);
    else if (!changed)
      fail(result, State::fail,
           "changes no local shape: every rank holds and computes what it would without it");
  }

  // pp cuts no parameter, it leaves whole ones to other ranks.
  void stages() {
    std::int64_t absent = 0;
    bool changed = false;
    for (const auto& p : map_.placements())
      for (const auto& r : ranks_) {
        if (shape_numel(map_.local("weights/" + p.name, r.rank).local_shape()) > 0) continue;
        ++absent;
        changed |= r.stored.count(p.name) == 0;
      }
    verdict("axis pp", changed, absent, "every stage holds every parameter");
  }

  void axis(const char* name, int Mesh::*size) {
    Mesh mesh = map_.mesh();
    // Without the axis the experts keep what they can of theirs.
    const int etp = mesh.expert_tp();
    mesh.*size = 1;
    mesh.etp = std::min(etp, mesh.tp);
    while (mesh.expert_group() % (mesh.ep * mesh.expert_tp()) != 0) --mesh.ep;
    Flags flags = map_.flags();
    if (mesh.tp == 1) flags.sp = false;
    const LayoutMap without(map_.config(), mesh, flags, map_.batch(), map_.placements());
    // dp and the context axes cut tokens, ep cuts parameters, the others both.
    const bool tokens_only = size == &Mesh::dp || size == &Mesh::ring || size == &Mesh::uly;
    // Where experts are sharded, edp may take exactly what ep gives, so only what the blocks use shows ep;
    // and it shows nothing of fsdp.
    const auto counts = [&](const std::string& key) {
      if (tokens_only) return is_cut(key);
      const bool gathered = key.rfind("gathered/", 0) == 0;
      if (size == &Mesh::ep && map_.mesh().fsdp > 1) return gathered;
      return !gathered || size != &Mesh::fsdp;
    };
    std::int64_t compared = 0;
    const bool changed = changes(without, size, counts, compared);
    verdict(std::string("axis ") + name, changed, compared,
            "no local shape was recorded that this axis cuts");
  }

  void sequence() {
    Flags flags = map_.flags();
    flags.sp = false;
    const LayoutMap without(map_.config(), map_.mesh(), flags, map_.batch(), map_.placements());
    std::int64_t compared = 0;
    const bool changed = changes(
        without, nullptr, [](const std::string& key) { return key.rfind("activations/", 0) == 0; }, compared);
    verdict("sp", changed, compared,
            "no activation was emitted, so no shape shows whether sp cuts the stream");
  }

  const LayoutMap& map_;
  const std::vector<RankHoldings>& ranks_;
  DType dtype_;
  std::vector<CheckResult> results_;
};

}  // namespace

std::vector<CheckResult> check_placement(const LayoutMap& map, const std::vector<RankHoldings>& ranks,
                                         DType dtype) {
  return PlacementCheck(map, ranks, dtype).run();
}

}  // namespace meshparity::layout
