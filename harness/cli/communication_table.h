// The communication log of a case as text: what leaves every rank, site by site.
#pragma once

#include <string>
#include <vector>

#include "impl/train/program.h"

namespace meshparity::cli {

// One line per site, axis and operation: calls on the rank that makes most, elements leaving each rank.
// Layers with the same numbers are one line ("layers.0,1,2.linear_attn"). Ranks in order; equal counts are
// one number.
std::string communication_table(const std::vector<impl::RankOutput>& outputs);

}  // namespace meshparity::cli
