// Words of a command line as a shell takes them: how case lines are read and printed.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace meshparity {

// Splits as a shell does: blanks separate, single and double quotes group, a backslash keeps the next
// character, '#' at the start of a word begins a comment. Throws InputError on an open quote.
std::vector<std::string> split_words(std::string_view line);

// A word as a shell must be given it: in single quotes where it is empty or a shell would split or expand it.
std::string quoted(const std::string& word);

}  // namespace meshparity
