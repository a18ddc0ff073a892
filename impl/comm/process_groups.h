// Engines whose ranks are processes: LibTorch's own c10d process groups, made here and used through
// c10d::Backend only. To add one: a make_..._backend in a file of its own (its headers are heavy) and an
// engine function in comm.h.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include "impl/comm/comm.h"

namespace meshparity::impl {

// c10d Gloo over TCP on 127.0.0.1. `store` belongs to this group alone; blocks until all `size` ranks have
// called.
c10::intrusive_ptr<c10d::Backend> make_gloo_backend(const c10::intrusive_ptr<c10d::Store>& store, int rank,
                                                    int size, double timeout_seconds);

// Makes the backend of one group of at least two ranks.
using BackendMaker = std::function<c10::intrusive_ptr<c10d::Backend>(
    const c10::intrusive_ptr<c10d::Store>& store, int rank, int size)>;

// Rank `rank` of a world of processes that meet in `store_file`, which must be new for every run. Groups
// asked for twice are made once. Throws InputError naming the file or the option where they cannot be used.
std::unique_ptr<Engine> make_process_engine(int rank, int world, const std::string& store_file,
                                            double timeout_seconds, BackendMaker maker);

}  // namespace meshparity::impl
