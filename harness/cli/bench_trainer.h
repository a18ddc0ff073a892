// The sweep beside the way a mesh is usually tried: torchrun, Hugging Face transformers and FSDP2, one
// process per rank. `meshparity bench trainer`.
#pragma once

namespace meshparity::cli {

struct TrainerBench {
  int ranks = 4;
  int repeats = 3;  // torchrun jobs, the fastest counts
  int jobs = 0;     // worker processes of the sweep, 0 = one per core
};

// Exports tiny-dense.rows, runs its check.py under torchrun as FSDP2 over `ranks` Gloo processes (forward and
// backward of one mesh, no optimizer step) and judges what it dumped; then sweeps every mesh of exactly
// `ranks` ranks, both models, batch rows, default flags, three AdamW steps, all checks. Prints meshes per
// minute of both and their ratio. Returns 0, or 1 where either was judged red. Throws InputError without a
// Python that has transformers (MESHPARITY_UPSTREAM_PYTHON), RunError where torchrun fails.
int bench_trainer(const TrainerBench& bench);

}  // namespace meshparity::cli
