// Timing of collectives. To add a measure: a field in CollectiveTiming and a loop over both engines here.
#include "impl/comm/bench.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <chrono>
#include <numeric>
#include <thread>
#include <torch/csrc/distributed/c10d/HashStore.hpp>
#include <vector>

#include "harness/types/error.h"
#include "impl/comm/comm.h"
#include "impl/comm/process_groups.h"
#include "impl/comm/world.h"

namespace meshparity::impl {
namespace {

using Clock = std::chrono::steady_clock;

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

// One rank's share; returns the median time.
double time_rank(const Group& group, std::int64_t elements, int repeats) {
  auto collectives = make_collectives(nullptr, false);
  const at::Tensor x = at::full({elements}, group.rank() + 1, at::kDouble);
  const double want = 0.5 * group.size() * (group.size() + 1);
  std::vector<double> times;
  for (int i = -std::min(repeats, 20); i < repeats; ++i) {
    const auto begin = Clock::now();
    const at::Tensor sum = collectives->all_reduce(group, x, "bench");
    const double us = std::chrono::duration<double, std::micro>(Clock::now() - begin).count();
    if (i < 0 && !sum.eq(want).all().item<bool>()) throw RunError("bench: an all-reduce gave a wrong sum");
    if (i >= 0) times.push_back(us);
  }
  return median(std::move(times));
}

double time_in_process(int ranks, std::int64_t elements, int repeats) {
  double us = 0;
  std::vector<int> members(static_cast<std::size_t>(ranks));
  std::iota(members.begin(), members.end(), 0);
  run_in_process(ranks, {}, [&](Engine& engine) {
    const double mine = time_rank(*engine.group("world", members), elements, repeats);
    if (engine.rank() == 0) us = mine;
  });
  return us;
}

double time_gloo(int ranks, std::int64_t elements, int repeats) {
  constexpr double kTimeoutSeconds = 60;
  double us = 0;
  auto store = c10::make_intrusive<c10d::HashStore>();
  std::vector<std::exception_ptr> errors(static_cast<std::size_t>(ranks));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank) {
    threads.emplace_back([&, rank] {
      try {
        at::set_num_threads(1);
        const Group group("world", rank, ranks, make_gloo_backend(store, rank, ranks, kTimeoutSeconds));
        const double mine = time_rank(group, elements, repeats);
        if (rank == 0) us = mine;
      } catch (...) {
        errors[static_cast<std::size_t>(rank)] = std::current_exception();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::exception_ptr& error : errors) {
    if (error) throw RunError("bench: gloo: " + error_text(error));
  }
  return us;
}

}  // namespace

CollectiveTiming time_collectives(int ranks, std::int64_t bytes, int repeats) {
  if (ranks < 2 || bytes < 1 || repeats < 1) {
    throw InputError("bench collectives: needs at least 2 ranks, 1 byte and 1 repeat");
  }
  const std::int64_t elements = (bytes + 7) / 8;
  CollectiveTiming timing;
  timing.ranks = ranks;
  timing.bytes = elements * 8;
  timing.in_process_us = time_in_process(ranks, elements, repeats);
  timing.gloo_us = time_gloo(ranks, elements, repeats);
  return timing;
}

}  // namespace meshparity::impl
