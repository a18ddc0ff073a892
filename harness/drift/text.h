// A number in a sentence.
#pragma once

#include <cstdio>
#include <string>

namespace meshparity::drift {

// `format` holds one conversion of a double, as std::snprintf's ("%.3g").
inline std::string text(const char* format, double value) {
  char out[64];
  std::snprintf(out, sizeof out, format, value);
  return out;
}

}  // namespace meshparity::drift
