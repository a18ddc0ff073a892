// Reads scenarios/faults/not_planted.toml. What the words of waits_for mean stands at the top of that file.
#include "harness/types/error.h"
#include "scenarios/fields.h"
#include "scenarios/load.h"

namespace meshparity::scenarios {

std::vector<UnplantedFault> load_unplanted_faults() {
  const std::string file = (scenarios_dir() / "faults" / "not_planted.toml").string();
  const Json json = parse_toml(read_text(file), file);
  const Fields top(json, file);
  top.only({"row"});
  std::vector<UnplantedFault> rows;
  for (const Fields& row : top.tables("row")) {
    row.only({"id", "class", "waits_for", "why"});
    rows.push_back({row.text("id"), row.text("class"), row.text("waits_for"), row.text_or("why", "")});
    for (std::size_t i = 0; i + 1 < rows.size(); ++i)
      if (rows[i].id == rows.back().id) row.fail("id", "stands twice: " + rows.back().id);
  }
  return rows;
}

}  // namespace meshparity::scenarios
