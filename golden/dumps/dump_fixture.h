// For tests of the readers: files of every format made without Python, and what opening one says.
#pragma once

#include <catch2/catch.hpp>

#include "golden/dumps/dump.h"
#include "golden/test_files.h"

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

}  // namespace meshparity::dumps
