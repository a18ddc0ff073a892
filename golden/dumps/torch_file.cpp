// torch.save's files: a zip of data.pkl and one entry per storage. Source: torch/serialization.py (2.11.0).
#include "golden/dumps/formats.h"
#include "golden/dumps/pickle.h"
#include "golden/dumps/zip.h"
#include "harness/types/error.h"

namespace meshparity::dumps {
namespace {

constexpr std::uint64_t kMostPickle = std::uint64_t{256} << 20;

std::vector<std::byte> whole_entry(const ZipFile::Content& content) {
  std::vector<std::byte> out(content.size);
  content.bytes->read(content.offset, out.data(), out.size());
  return out;
}

}  // namespace

TreeRef read_torch(const std::string& file) {
  const BytesRef bytes = open_bytes(file);
  char magic[4] = {};
  if (bytes->size() >= 4) bytes->read(0, magic, 4);
  if (std::string(magic, 2) == "\x80\x02")
    throw InputError(
        file +
        ": is in torch's format from before 1.6 or a plain pickle; write it with torch.save of torch >= 1.6");
  const ZipFile zip(bytes);
  std::string root;
  for (const std::string& name : zip.names())
    if (name == "data.pkl" || (name.size() > 9 && name.compare(name.size() - 9, 9, "/data.pkl") == 0))
      root = name.substr(0, name.size() - 8);
  if (!zip.has(root + "data.pkl")) throw InputError(file, "data.pkl", "is missing: not a file of torch.save");
  if (zip.has(root + "byteorder")) {
    const auto order = whole_entry(zip.content(root + "byteorder"));
    if (std::string(reinterpret_cast<const char*>(order.data()), order.size()) != "little")
      throw InputError(file, "byteorder", "is not little");
  }
  const auto pickle = zip.content(root + "data.pkl");
  if (pickle.size > kMostPickle)
    throw InputError(file, "data.pkl", "is larger than 256 MiB: keep logprobs in tensors");
  return read_pickle(file, whole_entry(pickle), [&](const std::string& key) {
    const auto content = zip.content(root + "data/" + key);
    return Storage{content.bytes, content.offset, content.size};
  });
}

}  // namespace meshparity::dumps
