// Constructs ProcessGroupGloo and nothing else: its header needs Gloo's, whose code is inside libtorch_cpu.
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

#include "impl/comm/process_groups.h"

namespace meshparity::impl {

c10::intrusive_ptr<c10d::Backend> make_gloo_backend(const c10::intrusive_ptr<c10d::Store>& store, int rank,
                                                    int size, double timeout_seconds) {
  const auto timeout = std::chrono::milliseconds(static_cast<std::int64_t>(timeout_seconds * 1000));
  auto options = c10d::ProcessGroupGloo::Options::create(timeout);
  // By name of the address, not of the host: a machine whose own name does not resolve must work.
  options->devices.push_back(c10d::ProcessGroupGloo::createDeviceForHostname("127.0.0.1"));
  return c10::make_intrusive<c10d::ProcessGroupGloo>(store, rank, size, options);
}

}  // namespace meshparity::impl
