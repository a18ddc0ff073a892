// Reads the pickle inside a torch .pt file without running anything in it. Accepted: None, booleans, numbers,
// texts, lists, tuples, dictionaries, collections.OrderedDict, tensors of torch's storages, arrays and
// numbers of numpy (pickle_objects.h). Anything else that a pickle can name (os.system, a project's own
// classes) is refused by that name.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "golden/dumps/value.h"

namespace meshparity::dumps {

// Where the bytes of storage `key` lie.
struct Storage {
  BytesRef bytes;
  std::uint64_t offset = 0, size = 0;
};
using FindStorage = std::function<Storage(const std::string& key)>;

// Throws InputError "FILE: data.pkl: ..." for what it does not accept and for a stream that is cut short.
std::shared_ptr<Tree> read_pickle(const std::string& file, const std::vector<std::byte>& stream,
                                  const FindStorage& find_storage);

}  // namespace meshparity::dumps
