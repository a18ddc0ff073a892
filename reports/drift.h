// What `meshparity drift` found, as text: the first screen of a console, JSON, Markdown.
#pragma once

#include <string>

#include "harness/types/drift_result.h"

namespace meshparity::reports {

// One sentence of verdict, then the table; tables of where |d| is large and the worst tokens below it.
std::string drift_console(const DriftResult& result);
// {"schema": 1, "drift": {...}}; fields: docs/drift.md#json. NaN and infinities are strings, as elsewhere.
std::string drift_json(const DriftResult& result);
std::string drift_markdown(const DriftResult& result);

}  // namespace meshparity::reports
