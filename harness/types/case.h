// One case: a model, a batch, a mesh and how to run and judge it. Its line is what reports print and what
// re-runs it.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "harness/types/mesh.h"
#include "harness/types/rollout.h"
#include "harness/types/tensor.h"

namespace meshparity {

struct CaseSpec {
  std::string model = "tiny-dense";  // a name in scenarios/models, a config.json or a Hugging Face directory
  std::string batch = "rows";        // a name in scenarios/batches or a TOML
  std::string golden;                // a golden file; empty = golden/data/<model>.<batch>.h5 where it exists
  Mesh mesh;
  Flags flags;
  std::string loss = "token_mean";
  std::string loss_form = "sharded";
  int steps = -1;  // -1 = as many as the golden holds (none without one)
  DType dtype = DType::float64;
  std::vector<std::string> checks;   // empty = all that apply
  std::string tensor = "*";          // glob over tensor names
  std::string engine = "inprocess";  // inprocess | gloo | nccl
  std::string reduce = "engine";     // engine | ordered | permuted
  int spawn = 0;                     // processes for gloo and nccl
  std::string device = "cpu";
  std::string fault;  // id of a planted fault, or empty
  long long seed = 0;
  // The reference runs first, in a process of its own, and leaves weights and results on the disk: for models
  // that fill the memory.
  bool apart = false;
  // A rollout case has the mesh of its rollout engine, beside `mesh` and `flags` of training, whose forward
  // alone is run.
  std::optional<Mesh> rollout_mesh;
  RolloutSpec rollout;

  // "--model tiny-moe --batch rows --mesh tp2 --sp on": options that differ from their defaults, model, batch
  // and mesh always, in a fixed order. Parsing the line gives the same case (tested by round trip).
  std::string line() const;
  bool operator==(const CaseSpec&) const = default;
};

}  // namespace meshparity
