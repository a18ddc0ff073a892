// Pipeline parallelism: which layers a rank holds and in which order it runs its micro-batches. Virtual stage
// v of V holds the layers cut(layers, V, v) and lies on pp index v mod pp; V = pp, and 2 pp where
// interleaved. The first also embeds, the last also has the final norm, the head and the loss.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "harness/types/cut.h"
#include "harness/types/mesh.h"

namespace meshparity::impl {

struct PipelineStage {
  int number = 0;  // of all virtual stages
  Range layers;
  bool first = true, last = true;
};

// The stages that pp index `index` holds, ascending.
std::vector<PipelineStage> stages_of(const Mesh& mesh, const Flags& flags, std::int64_t layers, int index);

struct PipelineAction {
  bool forward = true;
  int chunk = 0;        // index in stages_of
  int micro_batch = 0;  // of the batch
};

// What carries out one action on this rank: a forward with its messages, or a backward with its. An entry, so
// that timing and tracing are decorators.
struct PipelineRunner {
  std::function<void(const PipelineAction&)> run;
};

// What pp index `index` does, in order. gpipe: all forwards, then all backwards. 1f1b: as many forwards ahead
// as there are stages behind, then one backward after each forward. interleaved: the same over two chunks,
// taking up to pp micro-batches through a chunk before the next; any number of micro-batches. Sends do not
// wait, so an order is sound if every rank can always go on; one that is not gets more forwards ahead, on all
// ranks alike.
std::vector<PipelineAction> pipeline_schedule(const Mesh& mesh, const Flags& flags, int index,
                                              int micro_batches);

// Most forwards of a schedule whose backward has not run yet: the micro-batches whose activations are kept.
int most_in_flight(const std::vector<PipelineAction>& schedule);

}  // namespace meshparity::impl
