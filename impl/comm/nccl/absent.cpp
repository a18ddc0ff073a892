// What builds without CUDA say to --engine nccl.
#include "harness/types/error.h"
#include "impl/comm/comm.h"

namespace meshparity::impl {

std::unique_ptr<Engine> make_nccl_engine(int, int, const std::string&, double) {
  throw InputError("engine nccl: built without CUDA: use the cuda preset");
}

}  // namespace meshparity::impl
