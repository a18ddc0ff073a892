// Reads and writes words as a shell does.
#include "harness/types/command_line.h"

#include "harness/types/error.h"

namespace meshparity {

std::vector<std::string> split_words(std::string_view line) {
  std::vector<std::string> words;
  std::string word;
  bool open = false;
  char quote = 0;
  for (std::size_t i = 0; i < line.size(); ++i) {
    const char c = line[i];
    if (quote) {
      if (c == quote)
        quote = 0;
      else
        word += c;
    } else if (c == '\'' || c == '"') {
      quote = c, open = true;
    } else if (c == '\\' && i + 1 < line.size()) {
      word += line[++i], open = true;
    } else if (c == '#' && !open) {
      break;
    } else if (c == ' ' || c == '\t' || c == '\r') {
      if (open) words.push_back(word);
      word.clear(), open = false;
    } else {
      word += c, open = true;
    }
  }
  if (quote) throw InputError("open quote in: " + std::string(line));
  if (open) words.push_back(word);
  return words;
}

std::string quoted(const std::string& word) {
  if (!word.empty() && word.find_first_of(" \t*?[]{}()'\"$&;<>|\\#~!`") == std::string::npos) return word;
  std::string out = "'";
  for (char c : word) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

}  // namespace meshparity
