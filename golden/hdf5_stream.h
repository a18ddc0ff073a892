// Writes a dump tensor by tensor, for results that memory cannot hold twice: each goes to the disk as it is
// given, and is known afterwards by its place in the file, so that the writer's own program can map it
// without opening HDF5 again. Unlike store.h's write() it keeps no hashes and the file grows under its own
// name: for files that one run makes, reads and removes.
#pragma once

#include <memory>
#include <string>

#include "harness/types/tensor.h"

namespace meshparity::golden {

// Where a dataset's contiguous data lie: bytes from the start of the file, a multiple of 64.
struct StoredPlace {
  std::string path;
  DType dtype = DType::float64;
  Shape shape;
  std::uint64_t offset = 0;
};

class StreamWriter {
 public:
  // Throws InputError where the file cannot be made; it must not exist.
  explicit StreamWriter(const std::string& file);
  ~StreamWriter();
  StreamWriter(const StreamWriter&) = delete;
  StreamWriter& operator=(const StreamWriter&) = delete;

  // Groups on the way are made. Throws RunError naming file and path where the disk is full or the path
  // stands already.
  StoredPlace tensor(const std::string& path, const TensorView& value);
  void text(const std::string& path, const std::string& value);
  // The file is whole. Throws RunError where the last bytes cannot be written.
  void close();

 private:
  struct Open;
  std::string file_;
  std::unique_ptr<Open> open_;
};

}  // namespace meshparity::golden
