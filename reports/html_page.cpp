#include "reports/html_page.h"

#include "reports/words.h"

namespace meshparity::reports {
namespace {

// Contrast of text on its background is at least 4.5 in both schemes (WCAG 2.1, 1.4.3).
constexpr const char* kStyle = R"(
:root{color-scheme:light dark;--bg:#fff;--fg:#1f2328;--muted:#57606a;--grid:#d8dee4;--panel:#f6f8fa;--a:#0550ae;--b:#953800;
--bad:#b3261e;--good:#116329;--s1:#cfe1f7;--s2:#a3c6ee;--s3:#6fa3dd;--s4:#3f7cc4;--s5:#1f57a0;--s6:#0b3470}
@media (prefers-color-scheme:dark){:root{--bg:#0d1117;--fg:#e6edf3;--muted:#9aa4af;--grid:#2d333b;--panel:#161b22;--a:#79c0ff;
--b:#ffa657;--bad:#ff8a80;--good:#56d364;--s1:#12304f;--s2:#1b4a78;--s3:#2a6aa6;--s4:#4490d2;--s5:#7ab8ee;--s6:#c3e0fb}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--fg);font:16px/1.5 system-ui,sans-serif}
main{max-width:960px;margin:0 auto;padding:24px 16px 64px}
h1{font-size:15px;font-weight:600;color:var(--muted);margin:0 0 12px}
h2{font-size:18px;margin:36px 0 8px}
.verdict{font-size:20px;line-height:1.4;margin:0 0 8px;padding:14px 16px;background:var(--panel);border-left:6px solid var(--good);border-radius:4px;overflow-wrap:anywhere}
.verdict.bad{border-color:var(--bad)}
.verdict b{color:var(--good)}.verdict.bad b{color:var(--bad)}
p{margin:8px 0}ul{margin:8px 0;padding-left:22px}li{overflow-wrap:anywhere}
.muted,figcaption{color:var(--muted);font-size:14px}
figure{margin:24px 0 0}
svg{display:block;width:100%;height:auto;font:12px system-ui,sans-serif}
svg text{fill:var(--fg)}svg .tick{fill:var(--muted)}
.scroll{overflow-x:auto;margin-top:12px}
table{border-collapse:collapse;font-size:14px;font-variant-numeric:tabular-nums;width:100%}
caption{text-align:left;color:var(--muted);padding:0 0 6px}
th,td{text-align:left;padding:5px 14px 5px 0;border-bottom:1px solid var(--grid);vertical-align:top;overflow-wrap:anywhere}
thead th{color:var(--muted);font-weight:600;white-space:nowrap}
tbody th{font-weight:400}
tr.bad th,tr.bad td{color:var(--bad)}
code,pre{font:13px/1.45 ui-monospace,monospace}
pre{background:var(--panel);padding:12px;border-radius:4px;white-space:pre-wrap;overflow-wrap:anywhere;margin:8px 0}
details{margin-top:20px}summary{cursor:pointer}
@media print{details>*{display:block}}
)";

}  // namespace

std::string html_safe(std::string_view text) {
  std::string out;
  for (const char c : one_line(text)) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

std::string html_page(std::string_view title, const std::string& body) {
  const std::string name = html_safe(title);
  // Nothing may be loaded, whatever a file name in the page says.
  return "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
         "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src "
         "'unsafe-inline'\">\n"
         "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n<title>" +
         name + "</title>\n<style>" + kStyle + "</style>\n</head>\n<body>\n<main>\n<h1>" + name + "</h1>\n" +
         body + "</main>\n</body>\n</html>\n";
}

std::string html_table(std::string_view caption, const std::vector<std::string>& columns,
                       const std::vector<std::vector<std::string>>& rows,
                       const std::vector<std::string>& classes) {
  std::string text = "<div class=\"scroll\"><table><caption>" + html_safe(caption) + "</caption>\n";
  if (!columns.empty()) {
    text += "<thead><tr>";
    for (const std::string& column : columns) text += "<th scope=\"col\">" + html_safe(column) + "</th>";
    text += "</tr></thead>\n";
  }
  text += "<tbody>\n";
  for (std::size_t i = 0; i < rows.size(); ++i) {
    text +=
        i < classes.size() && !classes[i].empty() ? "<tr class=\"" + classes[i] + "\">" : std::string("<tr>");
    for (std::size_t j = 0; j < rows[i].size(); ++j)
      text += (j == 0 ? "<th scope=\"row\">" : "<td>") + html_safe(rows[i][j]) + (j == 0 ? "</th>" : "</td>");
    text += "</tr>\n";
  }
  return text + "</tbody></table></div>\n";
}

std::string html_verdict(bool good, std::string_view word, std::string_view sentence) {
  return std::string("<p class=\"verdict") + (good ? "" : " bad") + "\"><b>" + html_safe(word) + "</b> " +
         html_safe(sentence) + "</p>\n";
}

}  // namespace meshparity::reports
