// The rendezvous of the in-process engine: one futex word per group.
#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>
#include <climits>
#include <numeric>
#include <utility>

#include "harness/types/generator.h"
#include "impl/comm/world.h"

namespace meshparity::impl {
namespace {

using Clock = std::chrono::steady_clock;

void futex_wake_all(std::atomic<std::uint32_t>& word) {
  syscall(SYS_futex, reinterpret_cast<std::uint32_t*>(&word), FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr,
          0);
}

// Sleeps while `word` holds `value`; false once `deadline` has passed.
bool futex_wait(std::atomic<std::uint32_t>& word, std::uint32_t value, Clock::time_point deadline) {
  const auto left = std::chrono::duration_cast<std::chrono::nanoseconds>(deadline - Clock::now()).count();
  if (left <= 0) return false;
  timespec limit{static_cast<time_t>(left / 1000000000), static_cast<long>(left % 1000000000)};
  const long rc = syscall(SYS_futex, reinterpret_cast<std::uint32_t*>(&word), FUTEX_WAIT_PRIVATE, value,
                          &limit, nullptr, 0);
  return !(rc == -1 && errno == ETIMEDOUT);
}

// A waiting rank offers its core this often before it sleeps: enough for the others to arrive if they are
// about to, little enough to leave the core to ranks that compute (there are usually more ranks than cores).
constexpr int kYields = 8;

}  // namespace

Meeting::Meeting(World& world, std::string axis, std::vector<int> members)
    : world_(world),
      axis_(std::move(axis)),
      members_(std::move(members)),
      calls_(members_.size(), nullptr),
      boxes_(members_.size() * members_.size()) {}

void Meeting::interrupt() {
  {
    const std::lock_guard lock(mail_);
    mail_closed_ = true;
  }
  mail_arrived_.notify_all();
  word_.fetch_or(kFailed, std::memory_order_acq_rel);
  futex_wake_all(word_);
}

void Meeting::meet(int member, const Call& call) {
  const int rank = members_[static_cast<std::size_t>(member)];
  world_.enter(rank, *this, call);
  calls_[static_cast<std::size_t>(member)] = &call;
  std::uint32_t word = word_.load(std::memory_order_acquire);
  do {
    if (word & kFailed) {
      world_.leave(rank);
      world_.throw_failure(rank);
    }
  } while (
      !word_.compare_exchange_weak(word, word + 1, std::memory_order_acq_rel, std::memory_order_acquire));

  bool done = true;
  if (arrived(word) + 1 == members_.size()) {
    complete(member);
  } else {
    world_.idle(rank);
    done = wait_for_round(round(word), member);
  }
  world_.leave(rank);
  if (!done || (word_.load(std::memory_order_acquire) & kFailed)) world_.throw_failure(rank);
}

void Meeting::complete(int member) {
  // Nobody can leave between here and the release below, not even a rank whose world has failed: the buffers
  // stay valid.
  try {
    const std::string reason = mismatch(calls_);
    if (reason.empty()) {
      perform(calls_, reduction_order());
    } else {
      std::string text = "collective mismatch on " + group_text(axis_, members_) + ": " + reason;
      for (std::size_t i = 0; i < members_.size(); ++i) {
        text += "; rank " + std::to_string(members_[i]) + ": " + calls_[i]->text();
      }
      world_.fail(text);
    }
  } catch (...) {
    world_.fail(calls_[static_cast<std::size_t>(member)]->text() + " on " + group_text(axis_, members_) +
                ": " + error_text(std::current_exception()));
  }
  ++rounds_;
  world_.release(static_cast<int>(members_.size()) - 1);
  std::uint32_t word = word_.load(std::memory_order_relaxed);
  std::uint32_t next;
  do {
    next = (word & kFailed) | (((word & ~kFailed) + kRound - arrived(word)) & ~kFailed);
  } while (!word_.compare_exchange_weak(word, next, std::memory_order_acq_rel, std::memory_order_relaxed));
  if (members_.size() > 1) futex_wake_all(word_);
}

bool Meeting::wait_for_round(std::uint32_t my_round, int member) {
  // Sleeping at once costs two context switches and, on an idle machine, the wake-up of a core.
  for (int i = 0; i < kYields; ++i) {
    if (round(word_.load(std::memory_order_acquire)) != my_round) return true;
    sched_yield();
  }
  const auto limit = std::chrono::duration_cast<Clock::duration>(
      std::chrono::duration<double>(world_.options().wait_limit_seconds));
  auto deadline = Clock::now() + limit;
  for (;;) {
    std::uint32_t word = word_.load(std::memory_order_acquire);
    if (round(word) != my_round) return true;
    if ((word & kFailed) && arrived(word) < members_.size()) {
      // Withdraw, unless the last member arrives first: then it is using our buffers and will release us.
      if (word_.compare_exchange_strong(word, word - 1, std::memory_order_acq_rel)) return false;
      continue;
    }
    if (!futex_wait(word_, word, deadline)) {
      world_.timed_out(members_[static_cast<std::size_t>(member)]);
      deadline = Clock::now() + limit;
    }
  }
}

std::vector<int> Meeting::reduction_order() const {
  std::vector<int> order(members_.size());
  std::iota(order.begin(), order.end(), 0);
  if (world_.options().permute_seed == 0) return order;
  // Depends on the round and the group only, so that the same seed gives the same bits, run after run.
  const Generator generator(world_.options().permute_seed + rounds_, group_text(axis_, members_));
  for (std::size_t i = order.size(); i > 1; --i) {
    std::swap(order[i - 1],
              order[static_cast<std::size_t>(generator.below(i, static_cast<std::int64_t>(i)))]);
  }
  return order;
}

}  // namespace meshparity::impl
