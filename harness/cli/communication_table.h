// The communication log of a case as text, beside the plan: what leaves every rank, site by site.
#pragma once

#include <string>
#include <vector>

#include "harness/layout/communication_plan.h"
#include "impl/train/program.h"

namespace meshparity::cli {

// The log of all ranks, one entry per site in the order of its first call.
std::vector<layout::SiteTraffic> logged_traffic(const std::vector<impl::RankOutput>& outputs);

// What of the log is not the plan's: a line per site with the first rank whose calls or elements differ, a
// site that only one of them has, or an axis. Empty where every site of every rank agrees.
std::string communication_difference(const std::vector<layout::SiteTraffic>& planned,
                                     const std::vector<layout::SiteTraffic>& logged);

// One line per site: calls on the rank that makes most, elements leaving each rank, and what the plan says
// ("=" where it says the same on every rank). Layers with the same numbers are one line
// ("layers.0,1,2.linear_attn"). Ranks in order; equal counts are one number. The last line says whether log
// and plan agree, and where they do not first.
std::string communication_table(const std::vector<layout::SiteTraffic>& planned,
                                const std::vector<layout::SiteTraffic>& logged);

}  // namespace meshparity::cli
