// meshparity-judge report --html: the page of an earlier result.
#include <catch2/catch.hpp>

#include "harness/cli/command_fixture.h"
#include "reports/fixture.h"

namespace meshparity::cli::report_html_test {

TEST_CASE("report --html renders an earlier result, and a place that cannot be written is refused first") {
  const ScratchFolder folder;
  const std::string json = folder.write("r.json", reports::to_json(reports::mixed_run(), true));
  const Finished done =
      execute({MESHPARITY_JUDGE, "report", json, "--quiet", "--html", folder.file("r.html")});
  INFO(done.out << done.err);
  CHECK(done.code == 0);
  const std::string html = slurp(folder.file("r.html"));
  CHECK(html.rfind("<!doctype html>", 0) == 0);
  CHECK(html.find("<b>NOT PASSED</b> 4 listed  1 pass  1 fail") != std::string::npos);
  const Finished refused = execute({MESHPARITY_JUDGE, "report", json, "--html", folder.file("no/r.html")});
  CHECK(refused.code == 2);
  CHECK(refused.err.find("no/r.html: cannot be written") != std::string::npos);
}

}  // namespace meshparity::cli::report_html_test
