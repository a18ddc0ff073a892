// meshparity-h5guard FILE: reads an HDF5 file and writes its content to standard output in the form of
// flat.h. Started by guard.cpp for every file; whatever libhdf5 does with a damaged file happens here, under
// limits, and harms nobody.
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <exception>

#include "golden/flat.h"
#include "harness/types/error.h"

namespace {

void limit(int resource, rlim_t most) {
  const rlimit value{most, most};
  ::setrlimit(static_cast<__rlimit_resource>(resource), &value);
}

void set_limits(std::uint64_t file_bytes) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);  // never outlives its parent
  ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  limit(RLIMIT_CORE, 0);
  limit(RLIMIT_FSIZE, 0);  // it reads and writes to a pipe only
  limit(RLIMIT_NOFILE, 16);
  // Processor time: a packaged golden takes 0.01 s; 20 MB/s is a tenth of what deflate gives. The soft limit
  // ends it by SIGXCPU, which tells the parent why.
  const rlim_t seconds = 3 + file_bytes / 20'000'000;
  const rlimit processor_time{seconds, seconds + 1};
  ::setrlimit(RLIMIT_CPU, &processor_time);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  // Sanitizers reserve terabytes of address space.
  limit(RLIMIT_AS, meshparity::golden::Limits::content_bytes(file_bytes) + (rlim_t{256} << 20));
#endif
}

}  // namespace

int main(int argc, char** argv) {
  using namespace meshparity;
  if (argc != 2) return 2;
  struct stat info {};
  if (::stat(argv[1], &info) != 0) return 2;
  set_limits(static_cast<std::uint64_t>(info.st_size));
  int code = 1;
  try {
    golden::FlatWriter writer(STDOUT_FILENO);
    try {
      golden::read_hdf5(argv[1], writer);
      writer.end();
      code = 0;
    } catch (const InputError& error) {
      writer.error(error.what());
    } catch (const std::bad_alloc&) {
      writer.error(std::string(argv[1]) + ": damaged (claims more memory than a file of this size can need)");
    }
  } catch (const std::exception&) {
  }
  ::_exit(code);  // no exit handlers: libhdf5's may stumble over what a damaged file left behind
}
