// HDF5 goldens and dumps: read with every hash verified, written whole or not at all. Schema:
// docs/golden-format.md.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "harness/types/batch.h"
#include "harness/types/tensor.h"

namespace meshparity::golden {

// The content of a file, flat. Paths have no leading slash: "weights/model.norm.weight", "expected/logits".
struct Store {
  std::string file;  // where it was read from
  std::map<std::string, HostTensor> tensors;
  std::map<std::string, std::string> strings;  // string datasets: "config", "train"
  std::map<std::string, std::string>
      attributes;  // schema, generator, versions, seed, git_commit, created, reason, ...
  bool has(const std::string& path) const { return tensors.count(path) || strings.count(path); }
};

enum class Kind { golden, dump };  // a golden lacks nothing but /train; a dump may lack hashes and parts

// Reads and checks a file. Untrusted HDF5 is opened in a child process with time and memory limits first; a
// reader that dies is InputError "FILE: damaged". Every stored hash is verified; schema, dtypes and shapes
// are checked.
Store read(const std::string& path, Kind kind);
// Writes with hashes and content_sha256: core driver in memory, then temporary file, fsync, rename.
void write(const std::string& path, const Store& store);

Batch batch_of(const Store& store);  // throws InputError if an input is missing or inconsistent
// What batch_of reads, by name below /inputs: int64; pixels, advantages and logprobs float64. What a batch
// has not is not there.
std::map<std::string, HostTensor> inputs_of(const Batch& batch);
TrainSpec train_of(const Store& store);  // steps = number of expected/step<k>
std::string sha256_hex(const void* data, std::size_t bytes);
std::string content_hash(const Store& store);

}  // namespace meshparity::golden
