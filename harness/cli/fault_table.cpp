#include "harness/cli/fault_table.h"

#include "harness/diagnose/diagnose.h"
#include "harness/types/glob.h"
#include "reports/words.h"
#include "scenarios/load.h"

namespace meshparity::cli {
namespace {

constexpr double kConfident = 0.8;

std::string cell(const std::string& text) {
  std::string out;
  for (const char c : text) out += c == '|' ? std::string("\\|") : std::string(1, c);
  return out;
}

// The place alone: what stands before the count of right tensors.
std::string place(const std::string& first) {
  return first.substr(0, first.find("; "));
}

}  // namespace

bool FaultRun::cause_right() const {
  return !cause.empty() && glob_match(fault->cause, cause);
}

bool FaultRun::misled() const {
  return confidence >= kConfident && !cause_right();
}

void read_explanation(const CheckResult& check, FaultRun& run) {
  diagnose::Cause cause;
  for (const auto& line : check.detail) {
    if (line.rfind("first   ", 0) == 0) run.first = line.substr(8);
    if (diagnose::parse_cause_line(line, cause)) run.cause = cause.name, run.confidence = cause.confidence;
  }
}

std::string static_cells(const faults::Fault& fault) {
  std::string meshes;
  for (const auto& line : fault.cases) {
    const std::string sp = reports::option_of(line, "sp");
    meshes += (meshes.empty() ? "" : "; ") + reports::option_of(line, "model").substr(5) + " " +
              reports::option_of(line, "batch") + " " + reports::option_of(line, "mesh") +
              (sp == "on" ? " sp" : "");
  }
  return "| `" + fault.id + "` | " + cell(fault.what) + " | " + fault.check + " `" + fault.tensor + "` | " +
         meshes + " |";
}

std::string faults_markdown(const std::vector<FaultRun>& runs) {
  std::string text =
      "# Faults this program is proven to catch\n\n"
      "Written by `./meshparity faults run --markdown docs/faults.md`. Each row is a decorator in "
      "`scenarios/faults/` that "
      "re-creates a\npublic silent fault; the same case without it passes. *First observable* is the "
      "earliest tensor in the "
      "order in which tensors come\ninto being that is outside its bound; *cause named* is what the failing "
      "block says, with its "
      "confidence. To add one:\n[adding-a-fault.md](adding-a-fault.md).\n\n"
      "| fault | mechanism | detected by | model, batch, mesh | first observable | cause named "
      "|\n|---|---|---|---|---|---|\n";
  const faults::Fault* last = nullptr;
  for (const auto& run : runs) {
    if (run.fault == last) continue;  // one row per fault: its first case
    last = run.fault;
    char confidence[32];
    std::snprintf(confidence, sizeof confidence, " (%.2f)", run.confidence);
    text += static_cells(*run.fault) + " " + cell(place(run.first)) + " | " + cell(run.cause) + confidence +
            " |\n";
  }
  text += "\n## Not planted yet\n\n| fault | class | waits for |\n|---|---|---|\n";
  for (const auto& row : scenarios::load_unplanted_faults())
    text += "| `" + row.id + "` | " + row.kind + " | " + row.waits_for +
            (row.why.empty() ? "" : ": " + cell(row.why)) + " |\n";
  return text;
}

}  // namespace meshparity::cli
