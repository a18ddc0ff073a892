// How every report of drift words its numbers.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "harness/types/drift_result.h"

namespace meshparity::reports {

std::string drift_number(double value, const char* format = "%.4g");
// (name, value) of the metrics, in the order of every output.
std::vector<std::pair<std::string, std::string>> drift_rows(const DriftResult& result);
std::string drift_samples(const DriftResult& result);
std::string drift_check(const DriftCheck& check);
// The sentence of the verdict with its confidence, on one line.
std::string drift_headline(const DriftResult& result);

}  // namespace meshparity::reports
