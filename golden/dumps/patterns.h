// Names of dump files: a file, a glob pattern of many, and the steps of a series.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace meshparity::dumps {

// "rank2" before "rank10".
bool natural_less(const std::string& a, const std::string& b);

// `argument` itself where it is a file or no pattern, else what matches, in natural order. Throws InputError
// where nothing does.
std::vector<std::string> expand(const std::string& argument);

struct StepFiles {
  std::int64_t number = 0;
  std::string name;  // the file, the folder, or the pattern with the step's number in it
  std::vector<std::string> files;
};

// The steps that a pattern names, by number. With `{step}` in it ("data_{step}_rank*.pt") files of one number
// are one step; without, every match is one (a folder: the files in it), and its number is the one that
// differs between the names (where none does: 1, 2, ...). Throws InputError where nothing matches, where
// that number is not unique, or for more than kMostSteps.
inline constexpr std::size_t kMostSteps = 2000;
std::vector<StepFiles> find_steps(const std::string& pattern);

}  // namespace meshparity::dumps
