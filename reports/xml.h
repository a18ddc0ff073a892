// Text inside XML 1.0: escapes for attributes and content; what XML cannot hold at all becomes U+FFFD.
#pragma once

#include <string>
#include <string_view>

namespace meshparity::reports {

std::string xml_escaped(std::string_view text);

}  // namespace meshparity::reports
