// A report appears whole or not at all: temporary file beside it, fsync, rename.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "harness/types/atomic_file.h"
#include "harness/types/error.h"
#include "reports/report.h"

namespace meshparity::reports {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void fail(const std::string& path, int error) {
  throw InputError(path + ": cannot be written: " + std::strerror(error));
}

// 0 or the error number.
int write_all(int fd, const std::string& text) {
  for (std::size_t done = 0; done < text.size();) {
    const ssize_t n = ::write(fd, text.data() + done, text.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return n < 0 ? errno : EIO;
    done += static_cast<std::size_t>(n);
  }
  return 0;
}

}  // namespace

void write_file(const std::string& path, const std::string& text) {
  struct stat status {};
  // A pipe or a device cannot be replaced; it gets the text as it is.
  if (::stat(path.c_str(), &status) == 0 && !S_ISREG(status.st_mode)) {
    const int fd = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
    if (fd < 0) fail(path, errno);
    const int error = write_all(fd, text);
    ::close(fd);
    if (error) fail(path, error);
    return;
  }
  // What a link points to is replaced, not the link.
  std::error_code ignored;
  const fs::path target =
      fs::is_symlink(path, ignored) ? fs::weakly_canonical(path, ignored) : fs::path(path);
  write_atomically(target.empty() ? path : target.string(), text.data(), text.size());
}

}  // namespace meshparity::reports
