// Fully sharded parameters. The parameters of a unit (the embedding, one layer, the final norm with the head,
// the vision tower, multi-token prediction) lie in one flat tensor per rank: its shards, cut after tp along
// dimension 0 over fsdp. Gathering a unit is one all-gather inside the graph; its backward is one
// reduce-scatter that leaves each rank its shard's gradient, summed over the fsdp group. The gathered
// parameters live from the unit's forward to the end of its backward. Values, gradients and optimizer state
// of all units are slices of flat buffers (ShardedParameters), so that zeroing, the norm and the optimizer
// are a few operations whatever the number of parameters.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "impl/autograd.h"
#include "impl/blocks/dtype_policy.h"
#include "impl/comm/comm.h"
#include "impl/parallel/plan.h"

namespace meshparity::impl {

// The full tensor of a parameter by checkpoint name; undefined where there is none.
using WeightSource = std::function<at::Tensor(const std::string& name)>;

// The parameters of one unit as its blocks use them: whole after gathering over fsdp, this rank's part after
// tp.
class UnitWeights {
 public:
  void add(std::string name, at::Tensor value) { list_.emplace_back(std::move(name), std::move(value)); }
  // By the end of the checkpoint name, from a dot on: "mlp.gate.weight". Throws RunError if there is none.
  const at::Tensor& operator[](const char* suffix) const;

 private:
  std::vector<std::pair<std::string, at::Tensor>> list_;
};

class ShardedParameters {
 public:
  // One parameter's place in the flat buffers.
  struct Entry {
    const PlanRow* row = nullptr;
    std::int64_t offset = 0, numel = 0;
    Shape shape;  // of the shard
  };

  // Cuts this rank's shards out of the full weights, which are asked for one after the other and not kept.
  // Throws RunError naming a parameter that is missing or misshapen. The shards are stored as `options` says
  // (dtype, device).
  ShardedParameters(const Plan& plan, const WeightSource& full, const at::TensorOptions& options,
                    const DtypePolicy& policy, std::shared_ptr<Collectives> collectives,
                    std::shared_ptr<Group> fsdp, std::shared_ptr<Group> experts);

  // Gathers the unit "embed", "layers.<i>", "head", "visual" or "mtp" for one micro-batch; where experts are
  // sharded over another group than the rest, theirs is a gather of its own. Throws RunError for a unit this
  // rank does not hold.
  UnitWeights gather(const std::string& unit) const;

  const std::vector<Entry>& entries() const { return entries_; }
  // The shape in which every parameter was last handed to its blocks, by name.
  const std::map<std::string, Shape>& gathered_shapes() const { return gathered_shapes_; }
  const at::Tensor& values() const { return values_; }        // [all shards of this rank]
  const at::Tensor& gradients() const { return gradients_; }  // same layout; backward adds into it
  // One parameter's shard in a tensor laid out like the buffers.
  static at::Tensor part(const at::Tensor& flat, const Entry& e) {
    return flat.slice(0, e.offset, e.offset + e.numel).view(e.shape);
  }

 private:
  struct Unit {
    std::string name;
    std::shared_ptr<Group> group;      // over which it is sharded
    std::size_t first = 0, count = 0;  // entries
    at::Tensor leaf;            // slice of values_ that requires grad; its grad is a slice of gradients_
    std::vector<Shape> shapes;  // of the gathered parameters
    std::vector<std::int64_t> numels;  // of the gathered parameters
    std::vector<std::int64_t> sizes;   // [rank of the group] elements of that rank's flat part
    // Where the group has more than one rank: element of the all-gather's result (rank after rank) for each
    // element of the parameters (one after another), and the reverse. One indexed copy instead of one
    // concatenation per parameter.
    at::Tensor order, inverse;
  };
  void load(const Plan& plan, const WeightSource& full, const at::TensorOptions& options);
  void arrange(const Plan& plan, Unit& unit) const;
  Tensors split(const Unit& unit) const;

  DtypePolicy policy_;
  std::shared_ptr<Collectives> collectives_;
  std::vector<Entry> entries_;
  std::vector<Unit> units_;
  std::map<std::string, std::vector<std::size_t>> together_;  // units that are gathered as one
  mutable std::map<std::string, Shape> gathered_shapes_;      // a record, no state
  at::Tensor values_, gradients_;
};

}  // namespace meshparity::impl
