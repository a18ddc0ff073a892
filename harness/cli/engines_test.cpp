// The same rank program as processes over c10d Gloo: same verdicts as in one process, on worlds 2 to 4.
#include <catch2/catch.hpp>

#include "harness/cli/command_fixture.h"
#include "reports/report.h"

namespace meshparity::cli {

TEST_CASE("gloo processes give the verdicts of the in-process engine") {
  struct Row {
    const char *model, *mesh, *sp, *spawn;
  };
  for (const Row& row :
       {Row{"tiny-dense", "tp2", "off", "2"}, Row{"tiny-dense", "fsdp2", "off", "2"},
        Row{"tiny-moe", "tp3", "on", "3"}, Row{"tiny-dense", "dp3", "off", "3"},
        Row{"tiny-moe", "fsdp2.tp2", "off", "4"}, Row{"tiny-dense", "dp2.tp2", "on", "4"},
        Row{"tiny-moe", "pp2.fsdp2.ep2", "off", "4"}, Row{"tiny-moe", "ring2.uly2", "off", "4"}}) {
    INFO(row.model << " " << row.mesh << " sp " << row.sp);
    const ScratchFolder folder;
    const auto run = [&](std::vector<std::string> engine, const std::string& json) {
      std::vector<std::string> argv = {MESHPARITY_EXECUTABLE,
                                       "run",
                                       "--model",
                                       row.model,
                                       "--batch",
                                       "rows",
                                       "--mesh",
                                       row.mesh,
                                       "--json",
                                       json};
      if (std::string(row.sp) == "on") argv.insert(argv.end(), {"--sp", "on"});
      argv.insert(argv.end(), engine.begin(), engine.end());
      const Finished finished = execute(argv);
      INFO(finished.out << finished.err);
      CHECK(finished.code == 0);
      return reports::from_json(slurp(json), json).cases.at(0);
    };
    const auto threads = run({}, folder.file("threads.json"));
    const auto processes = run({"--engine", "gloo", "--spawn", row.spawn}, folder.file("gloo.json"));
    REQUIRE(threads.checks.size() == processes.checks.size());
    for (std::size_t i = 0; i < threads.checks.size(); ++i) {
      CHECK(threads.checks[i].tensor == processes.checks[i].tensor);
      CHECK(threads.checks[i].state == processes.checks[i].state);
    }
  }
}

}  // namespace meshparity::cli
