// What each choice of dtype costs between a trainer and a rollout, as text: console, Markdown, JSON.
#pragma once

#include <string>

#include "harness/types/attribution.h"

namespace meshparity::reports {

// One sentence, then the table of choices, then where in depth and position the difference grows.
std::string attribution_console(const Attribution& attribution);
// {"schema": 1, "attribution": {...}}; fields: docs/precision.md.
std::string attribution_json(const Attribution& attribution);
std::string attribution_markdown(const Attribution& attribution);

}  // namespace meshparity::reports
