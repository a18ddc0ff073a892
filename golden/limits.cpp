#include "golden/limits.h"

#include <string_view>

namespace meshparity::golden {

bool valid_path(const std::string& path) {
  if (path.empty() || path.size() > Limits::kNameBytes || path.front() == '/' || path.back() == '/')
    return false;
  std::size_t part = 0;  // start of the current component; "" "." and ".." are none
  for (std::size_t i = 0; i <= path.size(); ++i) {
    if (i < path.size() && path[i] != '/') {
      if (path[i] <= 0x20 || path[i] >= 0x7f) return false;
      continue;
    }
    const std::string_view component(path.data() + part, i - part);
    if (component.empty() || component == "." || component == "..") return false;
    part = i + 1;
  }
  return true;
}

}  // namespace meshparity::golden
