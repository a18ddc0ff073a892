// HDF5 in and out, without any judgement of what a file must hold (that is schema.h). Reading runs libhdf5 on
// bytes of unknown origin and happens only inside the guard process (h5guard_main.cpp); writing happens
// anywhere.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "golden/limits.h"
#include "golden/store.h"
#include "harness/types/tensor.h"

namespace meshparity::golden {

// Receives a file's content, object by object. Paths have no leading slash; `sha256` is the stored hash or
// empty.
class ContentSink {
 public:
  virtual ~ContentSink() = default;
  virtual void attribute(const std::string& name, const std::string& value) = 0;
  virtual void text(const std::string& path, const std::string& value, const std::string& sha256) = 0;
  virtual void tensor(const std::string& path, HostTensor value, const std::string& sha256) = 0;
};

// Streams every root attribute and dataset of `file` into `sink`, each group in the order of names.
// Contiguous, compact and chunked datasets (deflate, shuffle, fletcher32), fixed and variable strings, either
// byte order. Links out of the file and external storage are refused. Throws InputError "FILE: damaged
// (cause)" or "FILE: PATH: what is wrong".
void read_hdf5(const std::string& file, ContentSink& sink);

// The bytes of an HDF5 file that holds `store` and its hashes: contiguous datasets, checksummed metadata, no
// time stamps, so equal stores give equal bytes. Throws InputError for an impossible path.
std::vector<std::byte> hdf5_image(const Store& store);

}  // namespace meshparity::golden
