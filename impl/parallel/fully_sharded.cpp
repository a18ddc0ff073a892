#include "impl/parallel/fully_sharded.h"

#include "harness/types/error.h"
#include "impl/parallel/index_tensor.h"

namespace meshparity::impl {
namespace {

// "model.layers.3.mlp.gate.weight" -> "layers.3"; the final norm and the head share a unit, the vision tower
// is one, and multi-token prediction is one.
std::string unit_of(const std::string& name) {
  if (name.starts_with("model.visual.")) return "visual";
  if (name.starts_with("mtp.")) return "mtp";
  if (name.ends_with("embed_tokens.weight")) return "embed";
  const auto at = name.find("layers.");
  if (at == std::string::npos) return "head";
  return name.substr(at, name.find('.', at + 7) - at);
}

// The plan's rows unit by unit; a layer's experts come after the rest of the layer where they are sharded
// over a group of their own.
std::vector<const PlanRow*> unit_order(const Plan& plan) {
  std::vector<const PlanRow*> rows, experts;
  std::string unit;
  const auto flush = [&] {
    rows.insert(rows.end(), experts.begin(), experts.end());
    experts.clear();
  };
  for (const auto& row : plan.rows) {
    if (unit_of(row.name) != unit) flush();
    unit = unit_of(row.name);
    (row.expert && plan.experts_apart() ? experts : rows).push_back(&row);
  }
  flush();
  return rows;
}

}  // namespace

const at::Tensor& UnitWeights::operator[](const char* suffix) const {
  const std::string_view wanted(suffix);
  for (const auto& [name, value] : list_) {
    if (!name.ends_with(wanted)) continue;
    if (name.size() == wanted.size() || name[name.size() - wanted.size() - 1] == '.') return value;
  }
  throw RunError(std::string("no parameter ") + suffix + " in this unit");
}

ShardedParameters::ShardedParameters(const Plan& plan, const WeightSource& full,
                                     const at::TensorOptions& options, const DtypePolicy& policy,
                                     std::shared_ptr<Collectives> collectives, std::shared_ptr<Group> fsdp,
                                     std::shared_ptr<Group> experts)
    : policy_(policy), collectives_(std::move(collectives)) {
  for (const PlanRow* const next : unit_order(plan)) {
    const PlanRow& row = *next;
    const bool apart = row.expert && plan.experts_apart();
    const std::string gathered = unit_of(row.name), name = apart ? gathered + ".experts" : gathered;
    if (units_.empty() || units_.back().name != name) {
      together_[gathered].push_back(units_.size());
      units_.emplace_back();
      units_.back().name = name;
      units_.back().group = apart ? experts : fsdp;
      units_.back().first = entries_.size();
    }
    Unit& unit = units_.back();
    ++unit.count;
    unit.shapes.push_back(plan.tp_shape(row));
    unit.numels.push_back(shape_numel(unit.shapes.back()));
    const std::int64_t offset = entries_.empty() ? 0 : entries_.back().offset + entries_.back().numel;
    Shape shape = plan.shard_shape(row, plan.shard_index(row));
    const std::int64_t numel = shape_numel(shape);
    entries_.push_back({&row, offset, numel, std::move(shape)});
  }
  load(plan, full, options);
  gradients_ = at::zeros_like(values_);
  for (auto& unit : units_) {
    arrange(plan, unit);
    const Entry &first = entries_[unit.first], &last = entries_[unit.first + unit.count - 1];
    unit.leaf = values_.slice(0, first.offset, last.offset + last.numel).detach().requires_grad_(true);
    unit.leaf.mutable_grad() = gradients_.slice(0, first.offset, last.offset + last.numel);
  }
}

// Each shard is copied to its place before the next weight is asked for: a rank never holds its parameters
// twice.
void ShardedParameters::load(const Plan& plan, const WeightSource& full, const at::TensorOptions& options) {
  const at::ScalarType dtype = c10::typeMetaToScalarType(options.dtype());
  const std::int64_t total = entries_.empty() ? 0 : entries_.back().offset + entries_.back().numel;
  values_ = at::empty({total}, at::TensorOptions(dtype));
  for (const Entry& e : entries_) {
    const at::Tensor whole = full(e.row->name);
    if (!whole.defined()) throw RunError("weights: parameter " + e.row->name + " is missing");
    at::Tensor shard = plan.shard(*e.row, whole);
    if (shard.sizes() != at::IntArrayRef(e.shape))
      throw RunError("weights: parameter " + e.row->name + " has a shard " + shape_text(shard.sizes().vec()) +
                     ", the plan says " + shape_text(e.shape));
    if (policy_.stored) shard = policy_.stored(e.row->name, shard.to(dtype));
    part(values_, e).copy_(shard);
  }
  values_ = values_.to(options.device());
}

// The sizes of the ranks' parts, and where every element of the parameters lies in their concatenation.
void ShardedParameters::arrange(const Plan& plan, Unit& unit) const {
  const int ranks = unit.group->size();
  std::vector<std::vector<std::int64_t>> begin(ranks);  // [rank][parameter] its shard in the concatenation
  std::int64_t total = 0;
  for (int r = 0; r < ranks; ++r) {
    const std::int64_t before = total;
    for (std::size_t p = 0; p < unit.count; ++p) {
      begin[r].push_back(total);
      total += shape_numel(plan.shard_shape(*entries_[unit.first + p].row, r));
    }
    unit.sizes.push_back(total - before);
  }
  if (ranks == 1) return;
  std::vector<std::int64_t> order, inverse(total);
  order.reserve(total);
  for (std::size_t p = 0; p < unit.count; ++p) {
    const PlanRow& row = *entries_[unit.first + p].row;
    const Shape& shape = unit.shapes[p];
    std::int64_t outer = 1, inner = 1;
    for (int d = 0; d < static_cast<int>(shape.size()); ++d)
      if (d != row.fsdp_dim) (d < row.fsdp_dim ? outer : inner) *= shape[d];
    for (std::int64_t o = 0; o < outer; ++o)
      for (int r = 0; r < ranks; ++r) {
        const std::int64_t run = plan.shard_range(row, r).size() * inner;
        for (std::int64_t i = 0; i < run; ++i) order.push_back(begin[r][p] + o * run + i);
      }
  }
  for (std::int64_t i = 0; i < total; ++i) inverse[order[i]] = i;
  unit.order = index_tensor(order, values_.device());
  unit.inverse = index_tensor(inverse, values_.device());
}

// The unit's leaf as parameters.
Tensors ShardedParameters::split(const Unit& unit) const {
  const bool sharded = unit.group->size() > 1;
  const Site site = unit.name + ".parameters";
  Tensors outputs;
  {
    const BelowAutograd guard;
    at::Tensor flat = shared_view(unit.leaf);
    if (sharded)
      flat = collectives_->all_gather(*unit.group, flat, unit.sizes, 0, site).index_select(0, unit.order);
    outputs = flat.split_with_sizes(unit.numels, 0);
    for (std::size_t p = 0; p < unit.count; ++p) outputs[p] = outputs[p].view(unit.shapes[p]);
  }
  const auto backward = [this, &unit, sharded, site](const Tensors& grads) {
    Tensors parts;
    for (const auto& g : grads) parts.push_back(g.reshape({-1}));
    const at::Tensor flat = at::cat(parts);
    if (!sharded) return Tensors{flat};
    return Tensors{collectives_->reduce_scatter(*unit.group, flat.index_select(0, unit.inverse), unit.sizes,
                                                0, site + ":backward")};
  };
  return attach("parameters", {unit.leaf}, std::move(outputs), backward);
}

UnitWeights ShardedParameters::gather(const std::string& name_of_unit) const {
  const auto found = together_.find(name_of_unit);
  if (found == together_.end()) throw RunError("parameters: this rank holds no unit " + name_of_unit);
  UnitWeights weights;
  for (const std::size_t i : found->second) {
    const Unit& unit = units_[i];
    Tensors parameters = split(unit);
    for (std::size_t p = 0; p < unit.count; ++p) {
      const std::string& name = entries_[unit.first + p].row->name;
      const at::Tensor used = policy_.computed ? policy_.computed(name, parameters[p]) : parameters[p];
      gathered_shapes_[name] = used.sizes().vec();
      weights.add(name, used);
    }
  }
  return weights;
}

}  // namespace meshparity::impl
