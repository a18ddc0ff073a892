#include "harness/cli/verb_report.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iostream>
#include <sstream>

#include "harness/types/error.h"
#include "reports/html.h"

namespace meshparity::cli {
namespace {

std::string read_whole(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) throw InputError(path + ": no such file");
  if (std::filesystem::is_directory(path, error)) throw InputError(path + ": is a directory");
  std::ifstream in(path, std::ios::binary);
  std::stringstream text;
  text << in.rdbuf();
  if (!in) throw InputError(path + ": cannot be read");
  return text.str();
}

int render(const std::string& path, const ReportFiles& files, bool quiet) {
  files.require_writable();
  const reports::Run run = reports::from_json(read_whole(path), path);
  if (!quiet)
    for (const auto& result : run.cases)
      if (result.state != State::pass && result.state != State::skip && result.state != State::waived)
        std::cout << reports::case_text(result);
  std::cout << reports::summary_text(run) << std::endl;
  files.write(run, true);
  return 0;
}

}  // namespace

void ReportFiles::add_to(CLI::App& verb) {
  verb.add_option("--json", json, "write the verdicts")->group("Reports");
  verb.add_option("--junit", junit, "write JUnit XML")->group("Reports");
  verb.add_option("--markdown", markdown, "write a Markdown summary")->group("Reports");
  verb.add_option("--html", html, "write one page, readable without a network")->group("Reports");
  verb.add_option("--matrix", matrix, "write the parity matrix (Markdown): every mesh and model")
      ->group("Reports");
}

void require_writable(const std::string& path) {
  namespace fs = std::filesystem;
  if (path.empty()) return;
  std::error_code error;
  const fs::path folder = fs::path(path).has_parent_path() ? fs::path(path).parent_path() : fs::path(".");
  if (fs::is_directory(path, error)) throw InputError(path + ": cannot be written: is a directory");
  if (!fs::is_directory(folder, error))
    throw InputError(path + ": cannot be written: no folder " + folder.string());
  // A file appears by a rename in its folder; a pipe or a device is written to as it is.
  const bool replaced = !fs::exists(path, error) || fs::is_regular_file(path, error);
  if (::access(replaced ? folder.c_str() : path.c_str(), W_OK) != 0)
    throw InputError(path + ": cannot be written: no permission");
}

void append_line(const std::string& path, const std::string& line) {
  std::error_code error;
  const std::string before = std::filesystem::exists(path, error) ? read_whole(path) : "";
  reports::write_file(path, before + line + "\n");
}

void ReportFiles::require_writable() const {
  for (const auto* path : {&json, &junit, &markdown, &html, &matrix}) cli::require_writable(*path);
}

void ReportFiles::write(const reports::Run& run, bool every_tensor) const {
  if (!json.empty()) reports::write_file(json, reports::to_json(run, every_tensor));
  if (!junit.empty()) reports::write_file(junit, reports::to_junit(run));
  if (!markdown.empty()) reports::write_file(markdown, reports::to_markdown(run));
  if (!html.empty()) reports::write_file(html, reports::to_html(run));
  if (!matrix.empty()) reports::write_file(matrix, reports::to_parity_matrix(run));
}

void add_report(CLI::App& app, Chosen& chosen) {
  struct Options {
    std::string file;
    ReportFiles files;
    bool quiet = false;
  };
  auto o = std::make_shared<Options>();
  auto* verb =
      app.add_subcommand("report", "Render the result of an earlier --json; 0 whatever its verdicts say");
  verb->add_option("file", o->file, "what --json wrote")->required();
  verb->add_flag("--quiet", o->quiet, "only the summary");
  o->files.add_to(*verb);
  verb->callback([o, &chosen] { chosen.run = [o] { return render(o->file, o->files, o->quiet); }; });
}

}  // namespace meshparity::cli
