// The NCCL engine, one GPU per process: compiled in CUDA builds only; absent.cpp stands in otherwise.
#include <c10/cuda/CUDAFunctions.h>

#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

#include "harness/types/error.h"
#include "impl/comm/process_groups.h"

namespace meshparity::impl {

std::unique_ptr<Engine> make_nccl_engine(int rank, int world, const std::string& store_file,
                                         double timeout_seconds) {
  const int devices = c10::cuda::device_count();
  if (devices == 0) throw InputError("engine nccl: this machine has no CUDA device");
  auto engine = make_process_engine(
      rank, world, store_file, timeout_seconds,
      [timeout_seconds](const c10::intrusive_ptr<c10d::Store>& store, int index, int size) {
        auto options = c10d::ProcessGroupNCCL::Options::create();
        options->timeout = std::chrono::milliseconds(static_cast<std::int64_t>(timeout_seconds * 1000));
        return c10::intrusive_ptr<c10d::Backend>(
            c10::make_intrusive<c10d::ProcessGroupNCCL>(store, index, size, options));
      });
  // Before any communicator is made: NCCL binds it to the current device.
  c10::cuda::set_device(static_cast<c10::DeviceIndex>(rank % devices));
  return engine;
}

}  // namespace meshparity::impl
