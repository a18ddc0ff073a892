// A file that appears under its name only when all of it is on the disk: temporary file in the same folder,
// fsync, rename. A full disk leaves what stood there before.
#pragma once

#include <cstddef>
#include <string>

namespace meshparity {

class AtomicFile {
 public:
  // Throws InputError "PATH: cannot be written: cause" where the temporary file cannot be made.
  explicit AtomicFile(const std::string& path);
  // Without commit() nothing remains.
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  // Throws InputError on a full disk, also where it shows as RLIMIT_FSIZE (the signal is held back).
  void write(const void* data, std::size_t bytes);
  void commit();

 private:
  [[noreturn]] void fail(int error) const;
  std::string path_, temporary_;
  int fd_ = -1;
};

// One call for content that is whole in memory.
void write_atomically(const std::string& path, const void* data, std::size_t bytes);

}  // namespace meshparity
