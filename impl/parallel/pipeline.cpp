#include "impl/parallel/pipeline.h"

#include <algorithm>

namespace meshparity::impl {
namespace {

using Actions = std::vector<PipelineAction>;

int chunks_of(const Flags& flags) {
  return flags.schedule == "interleaved" ? 2 : 1;
}

// (chunk, micro-batch) in the order in which forwards, or backwards, are taken.
Actions order_of(const Mesh& mesh, int chunks, int micro_batches, bool forward) {
  Actions order;
  for (int first = 0; first < micro_batches; first += mesh.pp)
    for (int c = 0; c < chunks; ++c)
      for (int m = first; m < std::min(first + mesh.pp, micro_batches); ++m)
        order.push_back({forward, forward ? c : chunks - 1 - c, m});
  return order;
}

// `ahead` forwards, then one of each, then the backwards that are left.
Actions one_after_another(const Actions& forwards, const Actions& backwards, std::size_t ahead) {
  Actions out(forwards.begin(), forwards.begin() + static_cast<std::ptrdiff_t>(ahead));
  std::size_t f = ahead, b = 0;
  while (f < forwards.size()) out.push_back(forwards[f++]), out.push_back(backwards[b++]);
  while (b < backwards.size()) out.push_back(backwards[b++]);
  return out;
}

std::size_t forwards_ahead(const Mesh& mesh, const Flags& flags, int index, int micro_batches) {
  const int total = micro_batches * chunks_of(flags), behind = mesh.pp - 1 - index;
  int ahead = behind;
  if (flags.schedule == "gpipe") ahead = total;
  if (flags.schedule == "interleaved") ahead = 2 * behind + mesh.pp;
  return static_cast<std::size_t>(std::min(ahead, total));
}

// Does every rank reach its end if each goes on whenever what it needs is there?
bool finishes(const Mesh& mesh, int chunks, int micro_batches, const std::vector<Actions>& schedules) {
  const int stages = mesh.pp * chunks;
  std::vector<char> forward(stages * micro_batches, 0), backward(stages * micro_batches, 0);
  std::vector<std::size_t> next(mesh.pp, 0);
  for (bool moved = true; moved;) {
    moved = false;
    for (int p = 0; p < mesh.pp; ++p)
      while (next[p] < schedules[p].size()) {
        const PipelineAction& a = schedules[p][next[p]];
        const int stage = a.chunk * mesh.pp + p;
        const auto done = [&](const std::vector<char>& of, int s) {
          return of[s * micro_batches + a.micro_batch];
        };
        const bool ready = a.forward
                               ? stage == 0 || done(forward, stage - 1)
                               : done(forward, stage) && (stage == stages - 1 || done(backward, stage + 1));
        if (!ready) break;
        (a.forward ? forward : backward)[stage * micro_batches + a.micro_batch] = 1;
        ++next[p], moved = true;
      }
  }
  for (int p = 0; p < mesh.pp; ++p)
    if (next[p] < schedules[p].size()) return false;
  return true;
}

}  // namespace

std::vector<PipelineStage> stages_of(const Mesh& mesh, const Flags& flags, std::int64_t layers, int index) {
  std::vector<PipelineStage> stages;
  const int count = mesh.pp * chunks_of(flags);
  for (int v = index; v < count; v += mesh.pp)
    stages.push_back({v, cut(layers, count, v), v == 0, v == count - 1});
  return stages;
}

std::vector<PipelineAction> pipeline_schedule(const Mesh& mesh, const Flags& flags, int index,
                                              int micro_batches) {
  const int chunks = chunks_of(flags);
  const Actions forwards = order_of(mesh, chunks, micro_batches, true),
                backwards = order_of(mesh, chunks, micro_batches, false);
  for (std::size_t extra = 0;; ++extra) {
    std::vector<Actions> schedules;
    for (int p = 0; p < mesh.pp; ++p)
      schedules.push_back(one_after_another(
          forwards, backwards,
          std::min(forwards_ahead(mesh, flags, p, micro_batches) + extra, forwards.size())));
    // With every forward ahead an order always finishes.
    if (extra >= forwards.size() || finishes(mesh, chunks, micro_batches, schedules)) return schedules[index];
  }
}

int most_in_flight(const std::vector<PipelineAction>& schedule) {
  int now = 0, most = 0;
  for (const auto& action : schedule) now += action.forward ? 1 : -1, most = std::max(most, now);
  return most;
}

}  // namespace meshparity::impl
