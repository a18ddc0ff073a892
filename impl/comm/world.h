// The shared state of ranks that are threads of one process: where they meet, what each is doing, and the
// failure that ends them all. A failure (a rank threw, calls do not fit, nobody can go on, a wait took too
// long) is recorded once; after it every pending and later collective throws, so a world never hangs.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "impl/comm/call.h"
#include "impl/comm/comm.h"

namespace meshparity::impl {

class World;

// The place where the members of one group meet for their collectives, one after another.
class Meeting {
 public:
  Meeting(World& world, std::string axis, std::vector<int> members);

  // Blocks until all members have called; the last one carries the collective out for all. Throws RunError on
  // every member if the calls do not fit together or the world has failed.
  void meet(int member, const Call& call);
  // Leaves a copy of call.input for member call.root; never blocks. What one member sends another arrives in
  // order.
  void send(int member, const Call& call);
  // Waits for the next letter from member call.root and copies it to call.input. Throws RunError on both
  // sides' world if its site, dtype or shape is not what `call` expects.
  void receive(int member, const Call& call);
  // What was sent and never received, or "".
  std::string undelivered();

  const std::string& axis() const { return axis_; }
  const std::vector<int>& members() const { return members_; }
  // From now on every wait here ends. Called by World only.
  void interrupt();

 private:
  // One word holds all that a waiting rank must see change: it is what the kernel sleeps on.
  static constexpr std::uint32_t kFailed = 1u << 31;
  static constexpr std::uint32_t kRound = 1u << 8;  // bits 8..30 count rounds (they wrap), bits 0..7 arrivals
  static std::uint32_t arrived(std::uint32_t word) { return word & (kRound - 1); }
  static std::uint32_t round(std::uint32_t word) { return (word & ~kFailed) / kRound; }

  // A value on its way between two members, and the call that sent it.
  struct Letter {
    std::string site;
    Call call;
  };
  struct Box {
    std::deque<Letter> letters;
    bool awaited = false;  // its receiver waits and counts as idle
  };
  Box& box(int from, int to) { return boxes_[static_cast<std::size_t>(from) * members_.size() + to]; }

  void complete(int member);
  // False if the wait was given up because the world failed.
  bool wait_for_round(std::uint32_t my_round, int member);
  std::vector<int> reduction_order() const;

  World& world_;
  const std::string axis_;
  const std::vector<int> members_;
  std::vector<const Call*> calls_;  // by member, valid while that member waits
  std::uint64_t rounds_ = 0;        // completed; touched by the last arriver only
  alignas(64) std::atomic<std::uint32_t> word_{0};
  std::mutex mail_;  // guards what follows; no other lock is taken while it is held
  std::condition_variable mail_arrived_;
  std::vector<Box> boxes_;  // [from][to]
  bool mail_closed_ = false;
};

class World {
 public:
  World(int size, const InProcessOptions& options);

  int size() const { return static_cast<int>(ranks_.size()); }
  const InProcessOptions& options() const { return options_; }
  // The same meeting for every member that asks with this axis and these members (world ranks in group
  // order).
  std::shared_ptr<Meeting> meeting(const std::string& axis, const std::vector<int>& members);

  // Bookkeeping of Meeting: a rank is idle from its arrival until the last arriver releases it.
  void enter(int rank, const Meeting& meeting, const Call& call);
  void leave(int rank);
  void idle(int rank);  // after arriving; finds out whether anybody is left who could release us
  void release(int ranks) { active_.fetch_add(ranks, std::memory_order_acq_rel); }

  // The program of `rank` has ended: normally, or with an error.
  void returned(int rank);
  void threw(int rank, std::exception_ptr error);

  // A failure that concerns all ranks alike; the first failure of any kind stands.
  void fail(const std::string& text);
  void timed_out(int rank);
  // Throws RunError telling `rank` why the world has failed.
  [[noreturn]] void throw_failure(int rank);
  // After all ranks have ended: rethrows what went wrong, if anything did.
  void rethrow_cause();

 private:
  enum class Doing { running, waiting, returned, threw };
  struct Rank {
    std::mutex mutex;
    Doing doing = Doing::running;
    const Meeting* meeting = nullptr;  // while waiting
    const Call* call = nullptr;        // while waiting
    std::string last_site;             // last collective entered
    bool told = false;         // has been told of a failure: what it throws afterwards is a consequence
    std::exception_ptr error;  // what it threw before it was told of any failure
  };

  void fail_locked(const std::string& text, bool by_rank);
  std::string everybody();  // per rank what it is doing
  std::string doing_text(Rank& rank);
  void check_stuck(const std::string& text);

  const InProcessOptions options_;
  std::vector<std::unique_ptr<Rank>> ranks_;
  std::atomic<int> active_;
  std::mutex mutex_;  // guards what follows; taken before a Rank's mutex
  std::map<std::pair<std::string, std::vector<int>>, std::shared_ptr<Meeting>> meetings_;
  bool failed_ = false;
  bool failed_by_rank_ = false;
  std::string failure_;
};

// What an exception says, without LibTorch's backtrace.
std::string error_text(const std::exception_ptr& error);
// "tp {0,1}"
std::string group_text(const std::string& axis, const std::vector<int>& members);

}  // namespace meshparity::impl
