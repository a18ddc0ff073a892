// Reports as one self-contained HTML file each: no script, no font, no image, nothing from a network;
// drawings are inline SVG. Light and dark by the reader's setting. The size does not depend on the number of
// tokens.
#pragma once

#include <string>

#include "harness/types/drift_result.h"
#include "harness/types/series_result.h"
#include "reports/report.h"

namespace meshparity::reports {

std::string drift_html(const DriftResult& result);
std::string series_html(const SeriesResult& result);
// A gate's or report's run: counts, every check with its worst verdict, a state per mesh and model, what is
// bad.
std::string to_html(const Run& run);

}  // namespace meshparity::reports
