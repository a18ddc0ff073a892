// Letters between two members of a group: sent without waiting, received in order.
#include <chrono>
#include <utility>

#include "impl/comm/world.h"

namespace meshparity::impl {

void Meeting::send(int member, const Call& call) {
  const int rank = members_[static_cast<std::size_t>(member)];
  world_.enter(rank, *this, call);
  Letter letter{*call.site, call};
  letter.call.input = call.input.clone();
  bool closed, awaited = false;
  {
    const std::lock_guard lock(mail_);
    closed = mail_closed_;
    if (!closed) {
      Box& to = box(member, static_cast<int>(call.root));
      to.letters.push_back(std::move(letter));
      to.letters.back().call.site = &to.letters.back().site;
      awaited = std::exchange(to.awaited, false);
      // The receiver goes on from here: it counts as active before anybody can find that nobody is.
      if (awaited) world_.release(1);
    }
  }
  if (awaited) mail_arrived_.notify_all();
  world_.leave(rank);
  if (closed) world_.throw_failure(rank);
}

void Meeting::receive(int member, const Call& call) {
  const int rank = members_[static_cast<std::size_t>(member)];
  world_.enter(rank, *this, call);
  std::unique_lock lock(mail_);
  Box& from = box(static_cast<int>(call.root), member);
  if (from.letters.empty() && !mail_closed_) {
    from.awaited = true;
    lock.unlock();
    world_.idle(rank);  // may find that nobody can go on, and close the mail
    lock.lock();
    const auto limit = std::chrono::duration<double>(world_.options().wait_limit_seconds);
    while (from.letters.empty() && !mail_closed_)
      if (mail_arrived_.wait_for(lock, limit) == std::cv_status::timeout && from.letters.empty() &&
          !mail_closed_) {
        lock.unlock();
        world_.timed_out(rank);
        lock.lock();
      }
  }
  if (from.letters.empty()) {
    lock.unlock();
    world_.leave(rank);
    world_.throw_failure(rank);
  }
  const Letter letter = std::move(from.letters.front());
  from.letters.pop_front();
  lock.unlock();
  Call sent = letter.call;
  sent.site = &letter.site;
  const std::string reason = mismatch(sent, call);
  if (reason.empty()) {
    call.input.copy_(sent.input);
  } else {
    const int sender = members_[static_cast<std::size_t>(call.root)];
    world_.fail("message mismatch on " + group_text(axis_, members_) + ": " + reason + "; rank " +
                std::to_string(sender) + ": " + sent.text() + "; rank " + std::to_string(rank) + ": " +
                call.text());
  }
  world_.leave(rank);
  if (!reason.empty()) world_.throw_failure(rank);
}

std::string Meeting::undelivered() {
  const std::lock_guard lock(mail_);
  for (std::size_t i = 0; i < boxes_.size(); ++i)
    if (!boxes_[i].letters.empty())
      return "rank " + std::to_string(members_[i / members_.size()]) + ": " +
             boxes_[i].letters.front().call.text() + " on " + group_text(axis_, members_) +
             ", which nobody received";
  return "";
}

}  // namespace meshparity::impl
