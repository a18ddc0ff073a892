// Opens HDF5 of unknown origin in a process of its own (meshparity-h5guard), with limits on time, memory and
// files, and receives what it read in the flat form of flat.h. The parent never runs libhdf5 on bytes it did
// not write.
#pragma once

#include <string>

#include "golden/flat.h"

namespace meshparity::golden {

// Where the guard program is: MESHPARITY_H5GUARD, or beside the running executable, or in golden/ next to or
// one level above its folder (a build tree). Throws RunError if there is none.
std::string guard_program();

// The content of an HDF5 file; hashes are not verified yet. Safe while LibTorch and other threads run
// (posix_spawn). Throws InputError for a file that is missing, not regular, damaged (the guard refused it,
// died or ran out of time) or that holds what no golden can hold.
RawContent read_guarded(const std::string& file);

}  // namespace meshparity::golden
