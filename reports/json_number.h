// A number in JSON, which has no NaN and no infinities: those are the strings "nan", "inf" and "-inf".
#pragma once

#include <cmath>
#include <nlohmann/json.hpp>

namespace meshparity::reports {

inline nlohmann::ordered_json json_number(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  return value;
}

}  // namespace meshparity::reports
