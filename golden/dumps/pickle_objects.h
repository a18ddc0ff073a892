// What a pickle may name, and what becomes of it: tensors of torch and arrays of numpy as data. Nothing is
// called; a name that is not known here is refused.
#pragma once

#include <string>

#include "golden/dumps/pickle.h"

namespace meshparity::dumps {

[[noreturn]] void pickle_damaged(const std::string& file, const std::string& what);
[[noreturn]] void pickle_refused(const std::string& file, const std::string& what);

class PickleObjects {
 public:
  // `stream_bytes`: of the whole pickle; what is copied out of it is bounded by it.
  PickleObjects(const std::string& file, Tree& tree, const FindStorage& find, std::uint64_t stream_bytes)
      : file_(file), tree_(tree), find_(find), most_copied_(3 * stream_bytes + (1 << 16)) {}
  // Throws InputError naming what is not accepted.
  const Value* global(const std::string& name);
  // ('storage', torch.FloatStorage, key, location, elements) -> the storage as an array of one dimension.
  const Value* persistent(const Value* id);
  // What calling an accepted name would give, made of its arguments.
  const Value* reduce(const Value& callee, const Value& arguments);
  // Attributes of an object that was just made: an array of numpy gets its content, a dtype its byte order.
  // For anything else they hold nothing that is asked for.
  void build(Value& object, const Value* state);

 private:
  const Value* rebuild_tensor(const Value& arguments);
  const Value* opaque(std::string name);
  const Value* bytes_of_text(const Value& arguments);
  const Value* scalar(const Value& arguments);
  void build_array(Value& object, const Value& state);
  void count_bytes(std::uint64_t bytes);
  std::vector<std::int64_t> integers(const Value* list) const;

  const std::string& file_;
  Tree& tree_;
  const FindStorage& find_;
  std::uint64_t most_copied_, copied_ = 0;
};

// An array of numpy from its bytes: `type` as dtype.str without byte order ("f4"). False where the type holds
// no numbers (texts, dates, records). Throws InputError for bytes that are not what the shape needs.
bool numpy_array(const std::string& file, const std::string& type, const std::vector<std::int64_t>& shape,
                 bool fortran, const std::string& content, Array& out);

}  // namespace meshparity::dumps
