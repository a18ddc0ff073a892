// What `meshparity drift --series` found, as text: the first screen of a console, JSON, Markdown.
#pragma once

#include <string>

#include "harness/types/series_result.h"

namespace meshparity::reports {

// The sentence with its confidence, then evidence and a table of the steps (long ones: the ends and where
// steps are bad).
std::string series_console(const SeriesResult& result);
// The sentence with its confidence, alone.
std::string series_headline(const SeriesResult& result);
// {"schema": 1, "series": {...}}; fields: docs/drift-series.md#json.
std::string series_json(const SeriesResult& result);
std::string series_markdown(const SeriesResult& result);

}  // namespace meshparity::reports
