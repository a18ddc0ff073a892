// For tests of the readers: files of every format made without Python, and what opening one says.
#pragma once

#include <catch2/catch.hpp>
#include <map>

#include "golden/dumps/dump.h"
#include "golden/test_files.h"
#include "harness/types/tensor.h"

namespace meshparity::dumps {

inline std::string fixture(const std::string& name) {
  return std::string(MESHPARITY_SOURCE_DIR) + "/golden/dumps/fixtures/" + name;
}

// Every sample of a dump; throws what reading throws.
inline std::vector<LogprobSample> samples_of(const std::string& argument) {
  std::vector<LogprobSample> samples;
  const auto dump = open_dump(argument);
  for (std::size_t unit = 0; unit < dump->units(); ++unit) {
    const auto batch = dump->load(unit);
    for (std::size_t i = 0; i < batch->size(); ++i) samples.push_back(batch->sample(i));
  }
  return samples;
}

// The message of the InputError that reading all of it gives; "" where it gives none.
inline std::string refusal(const std::string& argument) {
  return golden::input_error([&] { samples_of(argument); });
}

inline void put(std::string& out, std::uint64_t value, int bytes) {
  for (int i = 0; i < bytes; ++i) out += static_cast<char>(value >> (8 * i));
}

// A zip of stored entries.
inline std::string zip_of(const std::vector<std::pair<std::string, std::string>>& entries) {
  std::string out, directory;
  for (const auto& [name, content] : entries) {
    const std::size_t at = out.size();
    put(out, 0x04034b50, 4), put(out, 20, 2), put(out, 0, 8), put(out, 0, 4);
    put(out, content.size(), 4), put(out, content.size(), 4), put(out, name.size(), 2), put(out, 0, 2);
    out += name + content;
    put(directory, 0x02014b50, 4), put(directory, 20, 2), put(directory, 20, 2), put(directory, 0, 8),
        put(directory, 0, 4);
    put(directory, content.size(), 4), put(directory, content.size(), 4), put(directory, name.size(), 2);
    put(directory, 0, 8), put(directory, 0, 4), put(directory, at, 4);
    directory += name;
  }
  const std::size_t at = out.size();
  out += directory;
  put(out, 0x06054b50, 4), put(out, 0, 4), put(out, entries.size(), 2), put(out, entries.size(), 2);
  put(out, directory.size(), 4), put(out, at, 4), put(out, 0, 2);
  return out;
}

// A .pt file around a pickle written by hand.
inline std::string torch_file_of(const std::string& pickle,
                                 const std::string& storage = std::string(64, '\0')) {
  return zip_of({{"a/data.pkl", pickle}, {"a/byteorder", "little"}, {"a/data/0", storage}});
}

// A state dict as torch.save writes it: one storage a tensor, contiguous.
inline std::string state_dict_of(const std::map<std::string, HostTensor>& tensors) {
  const auto text = [](const std::string& value) {
    std::string out = "X";
    put(out, value.size(), 4);
    return out + value;
  };
  const auto integer = [](std::int64_t value) {
    std::string out = "J";
    put(out, static_cast<std::uint64_t>(value), 4);
    return out;
  };
  std::string pickle = "\x80\x02}(";
  std::vector<std::pair<std::string, std::string>> entries;
  for (const auto& [name, tensor] : tensors) {
    const std::string key = std::to_string(entries.size());
    const char* storage = tensor.dtype == DType::float64    ? "DoubleStorage"
                          : tensor.dtype == DType::float32  ? "FloatStorage"
                          : tensor.dtype == DType::bfloat16 ? "BFloat16Storage"
                                                            : "LongStorage";
    pickle += text(name) + "ctorch._utils\n_rebuild_tensor_v2\n((" + text("storage") + "ctorch\n" + storage +
              "\n" + text(key) + text("cpu") + integer(tensor.numel()) + "tQ" + integer(0) + "(";
    std::string strides;
    std::int64_t inner = 1;
    for (std::size_t i = tensor.shape.size(); i-- > 0;)
      strides = integer(inner) + strides, inner *= tensor.shape[i];
    for (const auto n : tensor.shape) pickle += integer(n);
    pickle += "t(" + strides + "t\x89}tR";
    entries.emplace_back("a/data/" + key, std::string(reinterpret_cast<const char*>(tensor.bytes.data()),
                                                      tensor.bytes.size()));
  }
  entries.emplace_back("a/data.pkl", pickle + "u.");
  entries.emplace_back("a/byteorder", "little");
  return zip_of(entries);
}

}  // namespace meshparity::dumps
