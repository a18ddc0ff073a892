// The lines of a .cases file: one set of case options per line, '#' starts a comment, blank lines are
// skipped. What the options mean is harness/cli's business; this only finds the lines and their numbers for
// error messages.
#include <sstream>

#include "scenarios/fields.h"
#include "scenarios/load.h"
#include "scenarios/paths.h"

namespace meshparity::scenarios {
namespace {

// Drops a comment that stands outside quotes and the blanks around the rest.
std::string without_comment(const std::string& line) {
  char quote = 0;
  std::size_t end = line.size();
  for (std::size_t i = 0; i < line.size(); ++i) {
    const char c = line[i];
    if (quote) {
      if (c == quote) quote = 0;
    } else if (c == '\'' || c == '"') {
      quote = c;
    } else if (c == '#' && (i == 0 || line[i - 1] == ' ' || line[i - 1] == '\t')) {
      end = i;
      break;
    }
  }
  const std::size_t first = line.find_first_not_of(" \t\r");
  if (first == std::string::npos || first >= end) return "";
  const std::size_t last = line.find_last_not_of(" \t\r", end - 1);
  return line.substr(first, last - first + 1);
}

}  // namespace

std::vector<CaseLine> load_cases(const std::string& name_or_path) {
  std::istringstream text(read_text(find_scenario(name_or_path, ".", ".cases", "case file").string()));
  std::vector<CaseLine> lines;
  std::string line;
  for (int number = 1; std::getline(text, line); ++number)
    if (std::string content = without_comment(line); !content.empty())
      lines.push_back({number, std::move(content)});
  return lines;
}

}  // namespace meshparity::scenarios
