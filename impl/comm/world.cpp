// Bookkeeping of a world of rank threads: who is doing what, and the one failure that ends it.
#include "impl/comm/world.h"

#include <sstream>

#include "harness/types/error.h"

namespace meshparity::impl {

std::string group_text(const std::string& axis, const std::vector<int>& members) {
  std::string text = axis + " {";
  for (std::size_t i = 0; i < members.size(); ++i) text += (i ? "," : "") + std::to_string(members[i]);
  return text + "}";
}

std::string error_text(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const c10::Error& e) {
    return e.what_without_backtrace();
  } catch (const std::exception& e) {
    return e.what();
  } catch (...) {
    return "unknown exception";
  }
}

World::World(int size, const InProcessOptions& options) : options_(options), active_(size) {
  for (int i = 0; i < size; ++i) ranks_.push_back(std::make_unique<Rank>());
}

std::shared_ptr<Meeting> World::meeting(const std::string& axis, const std::vector<int>& members) {
  std::lock_guard lock(mutex_);
  auto& meeting = meetings_[{axis, members}];
  if (!meeting) {
    meeting = std::make_shared<Meeting>(*this, axis, members);
    if (failed_) meeting->interrupt();
  }
  return meeting;
}

void World::enter(int rank, const Meeting& meeting, const Call& call) {
  Rank& r = *ranks_[static_cast<std::size_t>(rank)];
  std::lock_guard lock(r.mutex);
  r.doing = Doing::waiting;
  r.meeting = &meeting;
  r.call = &call;
  r.last_site = *call.site;
}

void World::leave(int rank) {
  Rank& r = *ranks_[static_cast<std::size_t>(rank)];
  std::lock_guard lock(r.mutex);
  r.doing = Doing::running;
  r.meeting = nullptr;
  r.call = nullptr;
}

void World::idle(int) {
  // The last active rank to go idle knows that nobody is left to release anyone.
  if (active_.fetch_sub(1, std::memory_order_acq_rel) == 1) check_stuck("no rank can go on");
}

void World::check_stuck(const std::string& text) {
  std::lock_guard lock(mutex_);
  if (failed_) return;
  bool waiting = false;
  for (auto& r : ranks_) {
    std::lock_guard rank_lock(r->mutex);
    waiting = waiting || r->doing == Doing::waiting;
  }
  if (waiting) fail_locked("collective mismatch: " + text + everybody(), false);
}

void World::returned(int rank) {
  Rank& r = *ranks_[static_cast<std::size_t>(rank)];
  {
    std::lock_guard lock(r.mutex);
    r.doing = Doing::returned;
  }
  if (active_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
    check_stuck("rank " + std::to_string(rank) + " returned while others wait");
  }
}

void World::threw(int rank, std::exception_ptr error) {
  const std::string text = "rank " + std::to_string(rank) + ": " + error_text(error);
  std::lock_guard lock(mutex_);
  {
    Rank& r = *ranks_[static_cast<std::size_t>(rank)];
    std::lock_guard rank_lock(r.mutex);
    r.doing = Doing::threw;
    if (!r.told) r.error = std::move(error);
  }
  fail_locked(text, true);
}

void World::fail(const std::string& text) {
  std::lock_guard lock(mutex_);
  fail_locked(text, false);
}

void World::timed_out(int rank) {
  std::lock_guard lock(mutex_);
  if (failed_) return;
  std::ostringstream text;
  text << "desync: rank " << rank << " has waited " << options_.wait_limit_seconds << " s" << everybody();
  fail_locked(text.str(), false);
}

void World::fail_locked(const std::string& text, bool by_rank) {
  if (failed_) return;
  failed_ = true;
  failed_by_rank_ = by_rank;
  failure_ = text;
  for (auto& [key, meeting] : meetings_) meeting->interrupt();
}

void World::throw_failure(int rank) {
  std::lock_guard lock(mutex_);
  Rank& r = *ranks_[static_cast<std::size_t>(rank)];
  std::lock_guard rank_lock(r.mutex);
  r.told = true;
  throw RunError(failed_by_rank_ ? "given up at " + r.last_site + " because of " + failure_ : failure_);
}

std::string World::everybody() {
  std::string text;
  for (std::size_t i = 0; i < ranks_.size(); ++i) {
    text += "; rank " + std::to_string(i) + ": " + doing_text(*ranks_[i]);
  }
  return text;
}

std::string World::doing_text(Rank& rank) {
  std::lock_guard lock(rank.mutex);
  const std::string after =
      rank.last_site.empty() ? "before its first collective" : "after " + rank.last_site;
  switch (rank.doing) {
    case Doing::waiting:
      return rank.call->text() + " on " + group_text(rank.meeting->axis(), rank.meeting->members());
    case Doing::returned:
      return "returned " + after;
    case Doing::threw:
      return "threw " + after;
    case Doing::running:
      break;
  }
  return "running " + after;
}

void World::rethrow_cause() {
  std::lock_guard lock(mutex_);
  if (!failed_)
    for (auto& [key, meeting] : meetings_)
      if (const std::string left = meeting->undelivered(); !left.empty())
        throw RunError("message mismatch: " + left);
  if (!failed_) return;
  if (!failed_by_rank_) throw RunError(failure_);
  // Several ranks may fail on their own at once; the lowest is named, so that the message does not depend on
  // timing.
  for (std::size_t i = 0; i < ranks_.size(); ++i) {
    if (!ranks_[i]->error) continue;
    const std::string text = "rank " + std::to_string(i) + ": " + error_text(ranks_[i]->error);
    try {
      std::rethrow_exception(ranks_[i]->error);
    } catch (const InputError&) {
      throw InputError(text);
    } catch (...) {
      throw RunError(text);
    }
  }
  throw RunError(failure_);
}

}  // namespace meshparity::impl
