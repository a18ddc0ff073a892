// The two errors every folder throws. A numerical mismatch is never an exception: it is a verdict
// (verdict.h).
#pragma once

#include <stdexcept>
#include <string>

namespace meshparity {

// Wrong usage or wrong input: one clear line naming the file and the field; the program exits with 2.
class InputError : public std::runtime_error {
 public:
  explicit InputError(const std::string& message) : std::runtime_error(message) {}
  // "FILE: FIELD: what is wrong"
  InputError(const std::string& file, const std::string& field, const std::string& what)
      : std::runtime_error(file + ": " + field + ": " + what) {}
};

// Something went wrong while running (a rank died, a collective disagreed, a disk is full): exit 3.
class RunError : public std::runtime_error {
 public:
  explicit RunError(const std::string& message) : std::runtime_error(message) {}
};

}  // namespace meshparity
