// `drift --series`: many steps of train against rollout, what changed over them and when.
#pragma once

#include <string>

#include "harness/types/series_result.h"

namespace meshparity::cli {

// One pattern whose matches hold both sides, or two (`both` empty). A file that cannot be read is left out
// and named in the result. Throws InputError where fewer than three steps, or fewer than half of them, are
// left.
SeriesResult judge_drift_series(const std::string& both, const std::string& train,
                                const std::string& rollout);

}  // namespace meshparity::cli
