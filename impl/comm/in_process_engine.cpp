// Running a program on a world of threads, and handing each thread its groups.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/AutogradState.h>

#include <algorithm>
#include <system_error>
#include <thread>
#include <utility>

#include "harness/types/error.h"
#include "impl/comm/group.h"
#include "impl/comm/in_process.h"

namespace meshparity::impl {
namespace {

class InProcessEngine final : public Engine {
 public:
  InProcessEngine(std::shared_ptr<World> world, int rank) : world_(std::move(world)), rank_(rank) {}

  int rank() const override { return rank_; }
  int world() const override { return world_->size(); }
  std::shared_ptr<Group> group(const std::string& axis, const std::vector<int>& members) override {
    const int member = member_index(axis, members, rank_, world());
    auto backend = c10::make_intrusive<InProcessBackend>(world_, world_->meeting(axis, members), member);
    return std::make_shared<Group>(axis, member, static_cast<int>(members.size()), std::move(backend));
  }

 private:
  std::shared_ptr<World> world_;
  int rank_;
};

// The product library settles its mode (MKL_CBWR) in its first call. Ranks that made that call together were
// seen to get other bits from it than later ones, once in some 60 fresh processes on a busy machine.
void settle_products() {
  static const bool once = [] {
    for (const auto dtype : {at::kDouble, at::kFloat}) {
      const at::Tensor square = at::ones({64, 64}, dtype);
      at::mm(square, square), at::mv(square, square.select(0, 0)),
          at::bmm(square.view({1, 64, 64}), square.view({1, 64, 64}));
    }
    return true;
  }();
  static_cast<void>(once);
}

void run_rank(const std::shared_ptr<World>& world, int rank, const std::function<void(Engine&)>& program) {
  try {
    at::set_num_threads(1);
    // Backward waits inside collectives. On a GPU it would do so in the one thread per device that all ranks
    // share, and the first rank to wait would stop the others for good.
    c10::AutogradState::get_tls_state().set_multithreading_enabled(false);
    InProcessEngine engine(world, rank);
    program(engine);
    world->returned(rank);
  } catch (...) {
    world->threw(rank, std::current_exception());
  }
}

}  // namespace

void run_in_process(int world_size, const InProcessOptions& options,
                    const std::function<void(Engine&)>& program) {
  if (world_size < 1 || world_size > kLargestWorld) {
    throw RunError("a world in one process has 1 to " + std::to_string(kLargestWorld) + " ranks, not " +
                   std::to_string(world_size));
  }
  settle_products();
  auto world = std::make_shared<World>(world_size, options);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < world_size; ++rank) {
    try {
      threads.emplace_back([&, rank] { run_rank(world, rank, program); });
    } catch (const std::system_error& e) {
      world->fail("cannot start rank " + std::to_string(rank) + ": " + e.what());
      break;
    }
  }
  for (std::thread& thread : threads) thread.join();
  world->rethrow_cause();
}

}  // namespace meshparity::impl
