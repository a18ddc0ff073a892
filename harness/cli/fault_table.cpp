#include "harness/cli/fault_table.h"

#include <sstream>

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

// "dense rows tp2 sp; moe single uly3 gdn=heads".
std::string cases_text(const std::vector<std::string>& lines) {
  std::string text;
  for (const auto& line : lines) {
    text += (text.empty() ? "" : "; ") + reports::option_of(line, "model").substr(5) + " " +
            reports::option_of(line, "batch") + " " + reports::option_of(line, "mesh") +
            (reports::option_of(line, "sp") == "on" ? " sp" : "");
    for (const char* option : {"gdn", "attn", "layout", "schedule", "recompute", "pad", "vision", "loss",
                               "loss-form", "rollout-mesh", "rollout"})
      if (const std::string value = reports::option_of(line, option); !value.empty())
        text += " " + std::string(option) + "=" + value;
  }
  return text;
}

}  // namespace

bool FaultRun::cause_right() const {
  if (cause.empty()) return false;
  std::stringstream globs(fault->cause);
  for (std::string glob; std::getline(globs, glob, '|');)
    if (glob_match(glob, cause)) return true;
  return false;
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
  return "| `" + fault.id + "` | " + cell(fault.what) + " | " + fault.check + " `" + fault.tensor + "` | " +
         cases_text(fault.cases) + " | " + cases_text(fault.exact) + " |";
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
      "confidence. *Exact in* are cases in which the\nsame mistake is none, two context ranks for some: with "
      "the fault planted they pass, which the same run shows. "
      "To add one:\n[adding-a-fault.md](adding-a-fault.md).\n\n"
      "| fault | mechanism | detected by | model, batch, mesh | exact in | first observable | cause named "
      "|\n|---|---|---|---|---|---|---|\n";
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
