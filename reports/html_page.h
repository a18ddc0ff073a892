// The frame of every HTML report: head, style, escaping, small tables.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace meshparity::reports {

// Text for element content and for quoted attributes; control characters become blanks.
std::string html_safe(std::string_view text);
// A whole page around `body`. `title` is escaped here.
std::string html_page(std::string_view title, const std::string& body);
// <table> with a caption; header cells are columns, the first cell of a row names it. Cells are escaped here;
// `classes` (one per row, may be empty) go on the rows.
std::string html_table(std::string_view caption, const std::vector<std::string>& columns,
                       const std::vector<std::vector<std::string>>& rows,
                       const std::vector<std::string>& classes = {});
// "<p class=verdict ...>" with a word before the sentence that says the state without colour.
std::string html_verdict(bool good, std::string_view word, std::string_view sentence);

}  // namespace meshparity::reports
