// Proves the folder rules of docs/decisions/0001-folder-rules.md on every source file: what it includes, that
// reference/ and impl/ do not name each other, and that its first line says what it does. A new folder or
// library is a row below.
#include <algorithm>
#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <set>
#include <sstream>
#include <string>
#include <vector>

namespace {

namespace fs = std::filesystem;
using Names = std::vector<std::string>;

// Header names (up to and without '*') that belong to each library. What is in no row is the standard library
// or POSIX where is_system() says so, else a violation: an unknown library must be decided on, not slip in.
const std::map<std::string, Names>& libraries() {
  static const std::map<std::string, Names> table = {
      {"LibTorch", {"ATen/*", "c10/*", "torch/*", "caffe2/*"}},
      {"Eigen", {"Eigen/*", "unsupported/Eigen/*"}},
      {"nlohmann-json", {"nlohmann/*"}},
      {"fmt", {"fmt/*"}},
      {"toml++", {"toml++/*"}},
      {"yaml-cpp", {"yaml-cpp/*"}},
      {"HDF5", {"hdf5*", "H5*"}},
      {"OpenSSL", {"openssl/*"}},
      {"zlib", {"zlib.h", "zconf.h"}},
      {"Gloo", {"gloo/*"}},
      {"CUDA", {"cuda*", "cub/*", "thrust/*", "cublas*", "cooperative_groups*", "mma.h"}},
      {"NCCL", {"nccl*"}},
      {"CLI11", {"CLI/*"}},
      {"Catch2", {"catch2/*"}},
  };
  return table;
}

struct Row {
  std::string folder;  // the longest one that matches a file decides
  Names folders;       // folders whose headers it may include, each with what lies below it ...
  Names not_folders;   // ... but for these
  Names libraries;     // beside the standard library and POSIX; "*" = all
};

// Design: "Folders". A test obeys its folder's row plus Catch2.
const std::vector<Row>& rows() {
  static const std::vector<Row> table = {
      {"harness/types", {"harness/types"}, {}, {"Eigen"}},
      {"harness/layout", {"harness"}, {"harness/cli", "harness/run"}, {"Eigen"}},
      {"harness/compare", {"harness"}, {"harness/cli", "harness/run"}, {"Eigen"}},
      {"harness/compare/cuda", {"harness"}, {"harness/cli", "harness/run"}, {"Eigen", "CUDA"}},
      {"harness/tolerance", {"harness"}, {"harness/cli", "harness/run"}, {"Eigen"}},
      {"harness/diagnose", {"harness"}, {"harness/cli", "harness/run"}, {"Eigen"}},
      {"harness/drift", {"harness"}, {"harness/cli", "harness/run"}, {"Eigen"}},
      {"harness/weights", {"harness"}, {"harness/cli", "harness/run"}, {}},
      {"harness/run", {"harness"}, {"harness/cli"}, {"nlohmann-json", "fmt"}},
      {"harness/cli", {"harness", "reference", "impl", "scenarios", "golden", "reports"}, {}, {"*"}},
      {"reference", {"reference", "harness/types"}, {}, {"LibTorch", "Eigen"}},
      {"reference/oracle", {"reference/oracle", "harness/types"}, {}, {"Eigen"}},
      {"impl", {"impl", "harness/types"}, {}, {"LibTorch", "Gloo", "CUDA", "NCCL"}},
      {"scenarios",
       {"scenarios", "harness/types"},
       {"scenarios/faults", "scenarios/policies"},
       {"toml++", "nlohmann-json", "yaml-cpp"}},
      {"scenarios/faults", {"scenarios/faults", "harness/types", "impl"}, {}, {"LibTorch"}},
      {"scenarios/policies", {"scenarios/policies", "harness/types", "impl"}, {}, {"LibTorch"}},
      {"golden", {"golden", "harness/types"}, {}, {"HDF5", "OpenSSL", "nlohmann-json", "zlib"}},
      {"reports", {"reports", "harness/types"}, {}, {"nlohmann-json", "fmt"}},
  };
  return table;
}

// Includes that break a row and are known. Each has its reason; a new one needs a decision record.
const std::map<std::string, Names>& exceptions() {
  static const std::map<std::string, Names> table = {};
  return table;
}

bool is_below(const std::string& path, const std::string& folder) {
  return path.size() > folder.size() && path.compare(0, folder.size(), folder) == 0 &&
         path[folder.size()] == '/';
}

bool is_below_any(const std::string& path, const Names& folders) {
  return std::any_of(folders.begin(), folders.end(),
                     [&](const auto& folder) { return is_below(path, folder); });
}

bool contains(const Names& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

const Row* row_of(const std::string& path) {
  const Row* best = nullptr;
  for (const Row& row : rows())
    if (is_below(path, row.folder) && (!best || row.folder.size() > best->folder.size())) best = &row;
  return best;
}

bool matches(const std::string& header, const std::string& pattern) {
  if (pattern.back() != '*') return header == pattern;
  return header.compare(0, pattern.size() - 1, pattern, 0, pattern.size() - 1) == 0;
}

// The library of <header>: a name of libraries(), "" for the standard library and POSIX, nothing if unknown.
std::optional<std::string> library_of(const std::string& header) {
  for (const auto& [library, patterns] : libraries())
    for (const std::string& pattern : patterns)
      if (matches(header, pattern)) return library;
  static const std::set<std::string> kSystemFolders = {"sys", "linux", "netinet", "arpa", "net", "bits"};
  const std::size_t slash = header.find('/');
  if (slash == std::string::npos || kSystemFolders.count(header.substr(0, slash))) return "";
  return std::nullopt;
}

// What is wrong with one include, "" if nothing.
std::string judge_include(const Row& row, const std::string& path, bool is_test, const std::string& operand) {
  if (operand.size() < 3 || (operand[0] != '"' && operand[0] != '<')) return "includes by macro: " + operand;
  const std::size_t end = operand.find(operand[0] == '"' ? '"' : '>', 1);
  if (end == std::string::npos) return "has a broken include: " + operand;
  const std::string header = operand.substr(1, end - 1);
  if (header.find("..") != std::string::npos) return "climbs out of its folder: " + operand;
  if (operand[0] == '"') {
    if (!is_below_any(header, {"harness", "reference", "impl", "scenarios", "golden", "reports"}))
      return "must name project headers from the root, and others in <>: " + operand;
    const auto known = exceptions().find(path);
    if (known != exceptions().end() && contains(known->second, header)) return "";
    if (!is_below_any(header, row.folders) || is_below_any(header, row.not_folders))
      return row.folder + " may not include " + header;
    return "";
  }
  const std::optional<std::string> library = library_of(header);
  if (!library) return "includes a header of no known library: " + header;
  const bool allowed = library->empty() || contains(row.libraries, "*") ||
                       contains(row.libraries, *library) || (is_test && *library == "Catch2");
  return allowed ? "" : row.folder + " may not use " + *library + " (" + header + ")";
}

// What is wrong with a source file, one line each. `path` is relative to the root, '/'-separated.
std::vector<std::string> violations(const std::string& path, const std::string& text) {
  std::vector<std::string> found;
  const Row* row = row_of(path);
  if (!row) return {path + ": no rule for this folder"};
  const std::string stem = path.substr(0, path.rfind('.'));
  const bool is_test = ends_with(stem, "_test") || ends_with(stem, "_fixture") || ends_with(stem, "_testing");

  std::istringstream lines(text);
  std::string line;
  for (int number = 1; std::getline(lines, line); ++number) {
    const std::string where = path + ":" + std::to_string(number) + ": ";
    // Where X.cpp opens with its own X.h, that header says it for both.
    if (number == 1 && line.compare(0, 3, "// ") != 0 && line != "#include \"" + stem + ".h\"")
      found.push_back(where + "the first line must be a comment that says what the file does");
    // The two sides are written independently: not even a comment may lean on the other one.
    if (is_below(path, "reference") && (line.find("impl/") != line.npos || line.find("impl::") != line.npos))
      found.push_back(where + "reference names impl");
    if (is_below(path, "impl") &&
        (line.find("reference/") != line.npos || line.find("reference::") != line.npos))
      found.push_back(where + "impl names reference");
    std::size_t at = line.find_first_not_of(" \t");
    if (at == line.npos || line[at] != '#') continue;
    at = line.find_first_not_of(" \t", at + 1);
    if (at == line.npos || line.compare(at, 7, "include") != 0) continue;
    at = line.find_first_not_of(" \t", at + 7);
    const std::string wrong = judge_include(*row, path, is_test, at == line.npos ? "" : line.substr(at));
    if (!wrong.empty()) found.push_back(where + wrong);
  }
  if (text.empty()) found.push_back(path + ": empty file");
  return found;
}

bool is_source(const fs::path& path) {
  static const std::set<std::string> kEndings = {".h", ".hpp", ".cpp", ".cc", ".cu", ".cuh", ".inl"};
  return kEndings.count(path.extension().string()) > 0;
}

// Every C++ and CUDA file below the root but for what is built or installed there.
std::vector<fs::path> sources(const fs::path& root) {
  std::vector<fs::path> found;
  for (const auto& top : fs::directory_iterator(root)) {
    const std::string name = top.path().filename().string();
    if (!top.is_directory() || name[0] == '.' || name == "build") continue;
    for (const auto& entry : fs::recursive_directory_iterator(top))
      if (entry.is_regular_file() && is_source(entry.path())) found.push_back(entry.path());
  }
  return found;
}

std::string read(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

TEST_CASE("every source file keeps the include rules of its folder") {
  const fs::path root = MESHPARITY_SOURCE_DIR;
  std::vector<std::string> found;
  std::set<std::string> tops;
  for (const fs::path& source : sources(root)) {
    const std::string path = fs::relative(source, root).generic_string();
    tops.insert(path.substr(0, path.find('/')));
    for (std::string& violation : violations(path, read(source))) found.push_back(std::move(violation));
  }
  for (const std::string& violation : found) UNSCOPED_INFO(violation);
  CHECK(found.empty());
  // A walk that misses a folder would prove nothing about it.
  CHECK(tops == std::set<std::string>{"golden", "harness", "impl", "reference", "reports", "scenarios"});
}

TEST_CASE("planted violations of the folder rules are caught") {
  struct Planted {
    std::string path, line, named;
  };
  const std::vector<Planted> planted = {
      {"reference/model.cpp", "#include \"impl/seams.h\"", "reference may not include impl/seams.h"},
      {"impl/blocks/moe.cpp", "#include \"reference/reference.h\"",
       "impl may not include reference/reference.h"},
      {"impl/train/step.cpp", "#include \"harness/layout/layout.h\"", "impl may not include"},
      {"impl/train/step_test.cpp", "#include \"golden/store.h\"", "impl may not include"},
      {"reference/oracle/rope.cpp", "#include <ATen/ATen.h>", "reference/oracle may not use LibTorch"},
      {"reference/oracle/rope.cpp", "#include \"reference/model.h\"", "reference/oracle may not include"},
      {"harness/compare/metrics.cpp", "#include <hdf5.h>", "harness/compare may not use HDF5"},
      {"harness/compare/metrics.cpp", "  #  include <torch/torch.h>  // for a moment",
       "may not use LibTorch"},
      {"harness/layout/layout.cpp", "#include \"impl/parallel/plan.h\"", "harness/layout may not include"},
      {"harness/run/scheduler.cpp", "#include \"harness/cli/verbs.h\"", "harness/run may not include"},
      {"scenarios/load.cpp", "#include \"scenarios/faults/fault.h\"", "scenarios may not include"},
      {"scenarios/faults/x.cpp", "#include \"golden/store.h\"", "scenarios/faults may not include"},
      {"scenarios/policies/x.cpp", "#include \"golden/store.h\"", "scenarios/policies may not include"},
      {"golden/store.cpp", "#include <nccl.h>", "golden may not use NCCL"},
      {"reports/html.cpp", "#include \"golden/store.h\"", "reports may not include"},
      {"reports/html.cpp", "#include <catch2/catch.hpp>", "reports may not use Catch2"},
      {"reports/html.cpp", "#include <boost/any.hpp>", "no known library"},
      {"reports/html.cpp", "#include \"html.h\"", "from the root"},
      {"reports/html.cpp", "#include \"reports/../golden/store.h\"", "climbs"},
      {"reports/html.cpp", "#include HEADER", "by macro"},
      {"reference/model.cpp", "// as impl/blocks/moe.cpp does", "reference names impl"},
      {"impl/blocks/moe.cpp", "return reference::route(x);", "impl names reference"},
      {"tools/new.cpp", "int x;", "no rule for this folder"},
  };
  for (const Planted& plant : planted) {
    const auto found = violations(plant.path, "// Does something.\n" + plant.line + "\n");
    INFO(plant.path << ": " << plant.line);
    REQUIRE(!found.empty());
    CHECK_THAT(found.back(), Catch::Contains(plant.named));
  }
  CHECK(violations("reports/html.h", "#pragma once\n").size() == 1);
  CHECK(violations("reports/html.cpp", "#include \"reports/report.h\"\n").size() == 1);
  CHECK(violations("reports/html.cpp", "").size() == 1);
}

TEST_CASE("what the folder rules allow is not flagged") {
  const std::vector<std::pair<std::string, std::string>> fine = {
      {"reports/html_test.cpp", "#include <catch2/catch.hpp>"},
      {"reports/html.cpp", "#include <vector>"},
      {"reports/html.cpp", "#include <sys/stat.h>"},
      {"reports/html.cpp", "#include <fmt/format.h>"},
      {"reports/html.cpp", "const char* text = \"#include <ATen/ATen.h>\";"},
      {"harness/cli/run.cpp", "#include \"impl/train/program.h\""},
      {"harness/cli/run.cpp", "#include <ATen/ATen.h>"},
      {"harness/compare/cuda/metrics.cu", "#include <cuda_runtime.h>"},
      {"scenarios/faults/x.cpp", "#include \"impl/seams.h\""},
      {"reference/oracle/rope.cpp", "#include <Eigen/Core>"},
  };
  for (const auto& [path, line] : fine) {
    INFO(path << ": " << line);
    CHECK(violations(path, "// Does something.\n" + line + "\n").empty());
  }
  CHECK(violations("reports/html.cpp", "#include \"reports/html.h\"\n").empty());
}

}  // namespace
