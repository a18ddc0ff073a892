// JUnit is XML whatever the verdicts say, Markdown keeps its tables, and a report file appears whole or not
// at all.
#include <sys/resource.h>

#include <catch2/catch.hpp>
#include <cctype>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "harness/types/error.h"
#include "reports/fixture.h"
#include "reports/xml.h"

namespace meshparity::reports {
namespace {

namespace fs = std::filesystem;

// Well-formedness of the part of XML that JUnit needs: one root, elements closed in order, attributes quoted,
// known entities, allowed characters. Returns what is wrong, or empty.
std::string xml_fault(const std::string& text) {
  std::vector<std::string> open;
  bool root_seen = false;
  std::size_t i = text.rfind("<?xml", 0) == 0 ? text.find("?>") + 2 : 0;
  const auto text_fault = [](const std::string& part) -> std::string {
    for (std::size_t k = 0; k < part.size(); ++k) {
      const unsigned char c = static_cast<unsigned char>(part[k]);
      if (c < 0x20 && c != '\n' && c != '\t' && c != '\r') return "control character " + std::to_string(c);
      if (c == '<') return "bare <";
      if (c == '&') {
        const std::string entity = part.substr(k, part.find(';', k) - k + 1);
        bool known = false;
        for (const char* e : {"&amp;", "&lt;", "&gt;", "&quot;", "&apos;", "&#10;", "&#13;", "&#9;"})
          known |= entity == e;
        if (!known) return "entity " + entity;
      }
    }
    return "";
  };
  while (i < text.size()) {
    const std::size_t tag = text.find('<', i);
    const std::string between = text.substr(i, tag - i);
    if (auto fault = text_fault(between); !fault.empty()) return fault;
    if (tag == std::string::npos) break;
    if (open.empty() && between.find_first_not_of(" \n") != std::string::npos) return "text outside the root";
    std::size_t end = tag + 1;
    for (char quote = 0; end < text.size() && (quote || text[end] != '>'); ++end)
      if (text[end] == '"') quote = quote ? 0 : '"';
    if (end == text.size()) return "tag not closed";
    std::string inside = text.substr(tag + 1, end - tag - 1);
    const bool closing = inside[0] == '/', single = inside.back() == '/';
    if (closing) {
      if (open.empty() || open.back() != inside.substr(1)) return "closes " + inside;
      open.pop_back();
    } else {
      if (single) inside.pop_back();
      const std::size_t name_end = std::min(inside.find(' '), inside.size());
      if (open.empty() && root_seen) return "two roots";
      root_seen = true;
      for (std::size_t a = name_end; a < inside.size();) {
        const std::size_t equals = inside.find("=\"", a), quote = inside.find('"', equals + 2);
        if (equals == std::string::npos || quote == std::string::npos) break;
        if (auto fault = text_fault(inside.substr(equals + 2, quote - equals - 2)); !fault.empty())
          return fault;
        a = quote + 1;
      }
      if (!single) open.push_back(inside.substr(0, name_end));
    }
    i = end + 1;
  }
  if (!open.empty()) return "open " + open.back();
  return root_seen ? "" : "no root";
}

std::size_t occurrences(const std::string& text, const std::string& word) {
  std::size_t n = 0;
  for (std::size_t at = text.find(word); at != std::string::npos; at = text.find(word, at + 1)) ++n;
  return n;
}

class Folder {
 public:
  Folder() {
    char name[] = "/tmp/meshparity-reports-XXXXXX";
    REQUIRE(mkdtemp(name));
    path_ = name;
  }
  ~Folder() { fs::remove_all(path_); }
  std::string file(const char* name) const { return (path_ / name).string(); }
  std::size_t entries() const {
    return static_cast<std::size_t>(std::distance(fs::directory_iterator(path_), {}));
  }

 private:
  fs::path path_;
};

std::string content(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

}  // namespace

TEST_CASE("the well-formedness check itself refuses broken XML") {
  CHECK(xml_fault("<a><b c=\"x &lt; y\"/></a>").empty());
  for (const char* bad :
       {"<a>", "<a></b>", "<a/><a/>", "<a>&x;</a>", "<a b=\"<\"/>", "<a>\x01</a>", "text", "<a><b></a></b>"})
    CHECK(!xml_fault(bad).empty());
}

TEST_CASE("JUnit has one testcase per case and check and is well formed") {
  const std::string xml = to_junit(mixed_run());
  INFO(xml);
  CHECK(xml_fault(xml).empty());
  CHECK(occurrences(xml, "<testcase ") == 6);  // two checks, two checks, one skip, one error
  CHECK(occurrences(xml, "tests=\"6\" failures=\"1\" errors=\"1\" skipped=\"1\" time=\"3.750\"") == 2);
  CHECK(occurrences(xml, "<failure type=\"INVALID\" message=\"INVALID 5c1e9a2 ") == 1);
  CHECK(occurrences(xml, "<error type=\"ERROR\"") == 1);
  CHECK(occurrences(xml, "classname=\"tiny-dense.packed-odd\"") == 2);
  CHECK(occurrences(xml, "rerun") >= 2);
}

TEST_CASE("a case whose state no check explains still fails in JUnit") {
  Run run = mixed_run();
  run.cases.resize(1);
  run.cases[0].state = State::untrusted;
  const std::string xml = to_junit(run);
  CHECK(occurrences(xml, "<failure type=\"UNTRUSTED\"") == 1);
}

TEST_CASE("XML text keeps what XML can hold and replaces the rest") {
  CHECK(xml_escaped("a<b>&\"'") == "a&lt;b&gt;&amp;&quot;&apos;");
  CHECK(xml_escaped("\n\t") == "&#10;&#9;");
  const std::string replacement = "\xef\xbf\xbd";
  CHECK(xml_escaped(std::string("\0\x01\x1b", 3)) == replacement + replacement + replacement);
  CHECK(xml_escaped("\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80") == "\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80");
  for (const char* bad :
       {"\xff", "\xc3", "\xc0\xaf", "\xed\xa0\x80", "\xef\xbf\xbf", "\xf5\x80\x80\x80", "\xe2\x82"}) {
    const std::string out = xml_escaped(bad);
    CHECK(out.size() % 3 == 0);
    CHECK(out.substr(0, 3) == replacement);
  }
}

TEST_CASE("Markdown counts, ranks bounds per check and shows meshes against models") {
  const std::string text = to_markdown(mixed_run());
  INFO(text);
  CHECK(
      text.find("| listed | PASS | FAIL | SKIP | ERROR |\n|---|---|---|---|---|\n| 4 | 1 | 1 | 1 | 1 |\n") !=
      std::string::npos);
  CHECK(text.find("| logits | 2 | 3 % | `logits` | `--model tiny-moe --batch rows --mesh fsdp2.tp2` |") !=
        std::string::npos);
  CHECK(text.find("| mesh | tiny-moe | tiny-dense |\n|---|---|---|\n| fsdp2.tp2 | PASS 1 | - |\n| tp2 | - | "
                  "FAIL 1 |\n") != std::string::npos);
  CHECK(text.find("| 1 | tp8: tp must divide linear_num_key_heads=6 |") != std::string::npos);
  CHECK(text.find("````text\nINVALID 5c1e9a2") != std::string::npos);
  Run hostile = mixed_run();
  hostile.cases[0].checks[0].tensor = "a|b`c\nd";
  hostile.cases[0].checks[0].bound_used = 9;
  CHECK(to_markdown(hostile).find("`` a\\|b`c d ``") != std::string::npos);
}

TEST_CASE("the parity matrix has a row per mesh under its world size and a row per option") {
  const std::string text = to_parity_matrix(mixed_run());
  INFO(text);
  CHECK(text.find("Generated by `meshparity gate --cases 'a & b'`") != std::string::npos);
  CHECK(text.find("Checks:\nlogits, grads.\n") != std::string::npos);
  CHECK(text.find("## 2 ranks\n\n| mesh | tiny-moe | tiny-dense |\n|---|---|---|\n"
                  "| `tp2` | - | **1 not passed**, 3.0x |\n") != std::string::npos);
  CHECK(text.find("## 4 ranks\n\n| mesh | tiny-moe | tiny-dense |\n|---|---|---|\n"
                  "| `fsdp2.tp2` | PASS, 12 % | - |\n| `tp4` | - | **1 not passed**, 0 % |\n") !=
        std::string::npos);
  CHECK(text.find("tp8") == std::string::npos);  // skipped
  CHECK(text.find("| `--batch rows` | PASS, 12 % | **1 not passed**, 0 % |\n") != std::string::npos);
  CHECK(text.find("| `--sp on` | - | **1 not passed**, 3.0x |\n") != std::string::npos);
}

TEST_CASE("an empty run makes valid reports") {
  const Run run;
  CHECK(xml_fault(to_junit(run)).empty());
  CHECK(to_markdown(run).find("| listed | PASS | FAIL |") != std::string::npos);
  CHECK(to_parity_matrix(run).rfind("# Parity matrix\n", 0) == 0);
  CHECK(from_json(to_json(run, false), "f").cases.empty());
  CHECK(summary_text(run).rfind("0 listed  0 pass", 0) == 0);
}

TEST_CASE("a report replaces what stood there, also through a link, and leaves no temporary file") {
  const Folder folder;
  const std::string path = folder.file("r.json");
  write_file(path, "first");
  write_file(path, "second");
  CHECK(content(path) == "second");
  fs::create_symlink(path, folder.file("link"));
  write_file(folder.file("link"), "third");
  CHECK(content(path) == "third");
  CHECK(fs::is_symlink(folder.file("link")));
  CHECK(folder.entries() == 2);
  write_file("/dev/null", "x");
  CHECK(fs::is_character_file("/dev/null"));
}

TEST_CASE("a report that cannot be written is one clear error and leaves what stood there") {
  const Folder folder;
  CHECK_THROWS_WITH(write_file(folder.file("no/such/r.json"), "x"),
                    Catch::Contains("no/such/r.json: cannot be written"));
  CHECK_THROWS_AS(write_file(folder.file("."), "x"), InputError);
  const std::string path = folder.file("r.json");
  write_file(path, "old");
  // A file-size limit is what a full disk looks like to one process.
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  rlimit small = before;
  small.rlim_cur = 1000;
  setrlimit(RLIMIT_FSIZE, &small);
  CHECK_THROWS_WITH(write_file(path, std::string(5000, 'x')),
                    Catch::Contains("the file size limit (ulimit -f) is reached"));
  setrlimit(RLIMIT_FSIZE, &before);
  CHECK(content(path) == "old");
  CHECK(folder.entries() == 1);
}

}  // namespace meshparity::reports
