// meshparity report: renders the result of an earlier --json; and the report files that verbs write.
#pragma once

#include <string>

#include "harness/cli/verbs.h"
#include "reports/report.h"

namespace meshparity::cli {

// Throws InputError where a file could not be written at `path`. Makes nothing: a run that fails later must
// not leave an empty report. An empty path is no file and fine.
void require_writable(const std::string& path);

// Adds a line to a file that grows by one line per run: the new content replaces the old as a whole.
void append_line(const std::string& path, const std::string& line);

// --json, --junit, --markdown, --html and --matrix of a verb.
struct ReportFiles {
  std::string json, junit, markdown, html, matrix;
  void add_to(CLI::App& verb);
  // Throws InputError naming the first file that could not be written, before work is spent on its content.
  void require_writable() const;
  void write(const reports::Run& run, bool every_tensor) const;
};

void add_report(CLI::App& app, Chosen& chosen);

}  // namespace meshparity::cli
