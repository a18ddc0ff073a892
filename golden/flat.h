// The flat form in which the guard process hands a file's content to its parent: records of fixed layout,
// little-endian, every length checked against Limits before anything is allocated, so that the parent never
// parses HDF5 and a guard that went wrong cannot harm it.
//   stream  = "MPFLAT01" record* end
//   record  = 'A' name value | 'S' name value hash | 'T' name hash dtype:u8 rank:u8 dimension:i64* data | 'E'
//   message end     = 'Z' records:u64, and nothing after it;   name, value, hash, message = length:u32 bytes
#pragma once

#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>

#include "golden/hdf5_io.h"

namespace meshparity::golden {

// The stream is cut short or breaks a rule of its form.
class FlatError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

inline constexpr char kMagic[] = "MPFLAT01";
inline constexpr std::size_t kMagicBytes = sizeof kMagic - 1;

// A file's content and hashes by path, not yet compared with each other. Hashes are computed as the data
// arrives, while the guard reads on.
struct RawContent {
  Store store;
  std::map<std::string, std::string> stored;    // lacks what has no sha256 in the file
  std::map<std::string, std::string> computed;  // every dataset
};

// Writes the stream to a file descriptor. Throws FlatError if the descriptor cannot be written.
class FlatWriter : public ContentSink {
 public:
  explicit FlatWriter(int descriptor);
  void attribute(const std::string& name, const std::string& value) override;
  void text(const std::string& path, const std::string& value, const std::string& sha256) override;
  void tensor(const std::string& path, HostTensor value, const std::string& sha256) override;
  void error(const std::string& message);
  void end();

 private:
  void put(const void* data, std::size_t bytes);
  void put_text(const std::string& text);
  void begin(char kind);
  void flush();

  int descriptor_;
  std::string buffer_;
  std::uint64_t records_ = 0;
};

// Where the stream comes from.
class ByteSource {
 public:
  virtual ~ByteSource() = default;
  // Exactly `bytes` bytes, or FlatError.
  virtual void read(void* out, std::size_t bytes) = 0;
  // Nothing is left.
  virtual bool at_end() = 0;
};

// Reads one whole stream whose tensors and strings occupy at most `content_bytes`. Throws FlatError where the
// stream breaks its form, InputError with the guard's message where the guard sent one.
RawContent read_flat(ByteSource& source, std::uint64_t content_bytes);

}  // namespace meshparity::golden
