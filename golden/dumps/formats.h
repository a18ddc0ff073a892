// One function per format of file: its content as a tree whose arrays stay in the file.
#pragma once

#include <string>

#include "golden/dumps/value.h"

namespace meshparity::dumps {

TreeRef read_torch(const std::string& file);  // zip + pickle (pickle.h)
TreeRef read_npz(const std::string& file);    // numpy.savez, savez_compressed
TreeRef read_safetensors(const std::string& file);
TreeRef read_hdf5(const std::string& file);  // read whole, in the guarded process of golden/guard.h
// One JSON text. Lists of nothing but numbers and null become arrays of doubles. Throws InputError "WHERE:
// ..." for what is not JSON (NaN is not) and for nesting deeper than 64.
TreeRef read_json(const std::string& where, const std::string& text);

}  // namespace meshparity::dumps
