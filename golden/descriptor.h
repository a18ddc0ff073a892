// An open file descriptor with an owner.
#pragma once

#include <unistd.h>

namespace meshparity::golden {

// Owns a file descriptor: closed when it goes out of scope. Negative means none.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() { close(); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }
  void close() {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
  }

 private:
  int fd_;
};

}  // namespace meshparity::golden
