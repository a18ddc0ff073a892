#include "golden/dumps/patterns.h"

#include <glob.h>

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <map>
#include <regex>
#include <set>

#include "harness/types/error.h"

namespace meshparity::dumps {
namespace {

constexpr const char* kStepWord = "{step}";
constexpr std::size_t kMostDigits = 15;

bool is_digit(char c) {
  return std::isdigit(static_cast<unsigned char>(c)) != 0;
}

std::vector<std::string> matches_of(const std::string& pattern) {
  glob_t found{};
  std::vector<std::string> files;
  if (::glob(pattern.c_str(), 0, nullptr, &found) == 0)
    files.assign(found.gl_pathv, found.gl_pathv + found.gl_pathc);
  ::globfree(&found);
  std::sort(files.begin(), files.end(), natural_less);
  return files;
}

std::vector<std::string> files_in(const std::string& folder) {
  std::vector<std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    if (entry.is_regular_file() && entry.path().filename().string()[0] != '.')
      files.push_back(entry.path().string());
  std::sort(files.begin(), files.end(), natural_less);
  if (files.empty()) throw InputError(folder + ": holds no files");
  return files;
}

std::int64_t number_from(const std::string& digits, const std::string& name) {
  if (digits.size() > kMostDigits) throw InputError(name + ": its step number has more than 15 digits");
  return std::stoll(digits);
}

std::vector<std::string> digit_runs(const std::string& name) {
  std::vector<std::string> runs;
  for (std::size_t i = 0; i < name.size(); ++i) {
    if (!is_digit(name[i])) continue;
    if (i == 0 || !is_digit(name[i - 1])) runs.emplace_back();
    runs.back() += name[i];
  }
  return runs;
}

// A glob pattern as a regular expression in which {step} is a group of digits.
std::regex step_expression(const std::string& pattern) {
  std::string out;
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    if (pattern.compare(i, 6, kStepWord) == 0) {
      out += out.find('(') == std::string::npos ? "([0-9]+)" : "\\1";
      i += 5;
    } else if (pattern[i] == '*') {
      out += "[^/]*";
    } else if (pattern[i] == '?') {
      out += "[^/]";
    } else if (pattern[i] == '[' && pattern.find(']', i) != std::string::npos) {
      const std::size_t end = pattern.find(']', i);
      std::string set = pattern.substr(i, end + 1 - i);
      if (set.size() > 2 && set[1] == '!') set[1] = '^';
      out += set, i = end;
    } else {
      if (!std::isalnum(static_cast<unsigned char>(pattern[i])) && pattern[i] != '_') out += '\\';
      out += pattern[i];
    }
  }
  return std::regex(out);
}

std::vector<StepFiles> steps_by_word(const std::string& pattern) {
  std::string glob = pattern;
  for (std::size_t at = glob.find(kStepWord); at != std::string::npos; at = glob.find(kStepWord))
    glob.replace(at, 6, "[0-9]*");
  const std::regex expression = step_expression(pattern);
  std::map<std::int64_t, StepFiles> steps;
  for (const std::string& file : matches_of(glob)) {
    std::smatch parts;
    if (!std::regex_match(file, parts, expression)) continue;
    const std::int64_t number = number_from(parts[1], file);
    StepFiles& step = steps[number];
    step.number = number;
    if (step.files.empty()) {
      step.name = pattern;
      for (std::size_t at = step.name.find(kStepWord); at != std::string::npos;
           at = step.name.find(kStepWord))
        step.name.replace(at, 6, parts[1]);
    }
    if (std::filesystem::is_directory(file))
      for (std::string& inner : files_in(file)) step.files.push_back(std::move(inner));
    else
      step.files.push_back(file);
  }
  std::vector<StepFiles> out;
  for (auto& [number, step] : steps) out.push_back(std::move(step));
  return out;
}

// Which of the numbers in every name is the step's: the one that differs.
std::vector<std::int64_t> step_numbers(const std::string& pattern, const std::vector<std::string>& names) {
  std::vector<std::vector<std::string>> runs;
  for (const std::string& name : names) runs.push_back(digit_runs(name));
  const auto ambiguous = [&](const std::string& why) {
    throw InputError(pattern + ": " + why +
                     "; write {step} where the step's number stands, as in 'dump_{step}_rank*.pt'");
  };
  std::vector<std::int64_t> numbers;
  for (std::size_t i = 0; i < names.size(); ++i) numbers.push_back(static_cast<std::int64_t>(i) + 1);
  if (std::all_of(runs.begin(), runs.end(), [](const auto& run) { return run.empty(); })) return numbers;
  for (std::size_t i = 1; i < names.size(); ++i)
    if (runs[i].size() != runs[0].size())
      ambiguous("'" + names[0] + "' and '" + names[i] + "' do not hold equally many numbers");
  std::size_t differs = runs[0].size(), count = 0;
  for (std::size_t at = 0; at < runs[0].size(); ++at)
    for (const auto& run : runs)
      if (run[at] != runs[0][at]) {
        differs = at, ++count;
        break;
      }
  if (count > 1) ambiguous("more than one number differs between the names");
  if (count == 0) return numbers;
  for (std::size_t i = 0; i < names.size(); ++i) numbers[i] = number_from(runs[i][differs], names[i]);
  return numbers;
}

}  // namespace

bool natural_less(const std::string& a, const std::string& b) {
  std::size_t i = 0, j = 0;
  while (i < a.size() && j < b.size()) {
    if (is_digit(a[i]) && is_digit(b[j])) {
      std::size_t ie = i, je = j;
      while (ie < a.size() && is_digit(a[ie])) ++ie;
      while (je < b.size() && is_digit(b[je])) ++je;
      std::string x = a.substr(i, ie - i), y = b.substr(j, je - j);
      x.erase(0, std::min(x.find_first_not_of('0'), x.size())),
          y.erase(0, std::min(y.find_first_not_of('0'), y.size()));
      if (x.size() != y.size()) return x.size() < y.size();
      if (x != y) return x < y;
      i = ie, j = je;
    } else {
      if (a[i] != b[j]) return a[i] < b[j];
      ++i, ++j;
    }
  }
  return a.size() - i < b.size() - j;
}

std::vector<std::string> expand(const std::string& argument) {
  std::error_code error;
  if (std::filesystem::exists(argument, error) || argument.find_first_of("*?[") == std::string::npos)
    return {argument};
  std::vector<std::string> files = matches_of(argument);
  if (files.empty()) throw InputError(argument + ": no such file");
  return files;
}

std::vector<StepFiles> find_steps(const std::string& pattern) {
  std::vector<StepFiles> steps;
  if (pattern.find(kStepWord) != std::string::npos) {
    steps = steps_by_word(pattern);
  } else {
    const std::vector<std::string> names = expand(pattern);
    const std::vector<std::int64_t> numbers = step_numbers(pattern, names);
    for (std::size_t i = 0; i < names.size(); ++i)
      steps.push_back({numbers[i], names[i],
                       std::filesystem::is_directory(names[i]) ? files_in(names[i])
                                                               : std::vector<std::string>{names[i]}});
    std::stable_sort(steps.begin(), steps.end(),
                     [](const StepFiles& a, const StepFiles& b) { return a.number < b.number; });
    for (std::size_t i = 1; i < steps.size(); ++i)
      if (steps[i].number == steps[i - 1].number)
        throw InputError(pattern + ": step " + std::to_string(steps[i].number) +
                         " stands twice: " + steps[i - 1].name + " and " + steps[i].name);
  }
  if (steps.empty()) throw InputError(pattern + ": no such file");
  if (steps.size() > kMostSteps)
    throw InputError(pattern + ": names " + std::to_string(steps.size()) + " steps, at most " +
                     std::to_string(kMostSteps) + " are judged together");
  return steps;
}

}  // namespace meshparity::dumps
