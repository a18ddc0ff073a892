// What a golden or dump holds, as text for a person: `meshparity golden inspect`.
#pragma once

#include <string>

#include "golden/store.h"

namespace meshparity::golden {

// Attributes, the batch in one paragraph (documents, rows, micro-batches, valid labels), the training, then
// one line per dataset: path, dtype, shape, first 12 digits of its sha256, range of its values. Needs no part
// to be there.
std::string inspect(const Store& store);

}  // namespace meshparity::golden
