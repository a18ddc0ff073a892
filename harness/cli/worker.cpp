#include "harness/cli/worker.h"

#include <iostream>
#include <string>

#include "harness/cli/case_arguments.h"
#include "harness/cli/run_case.h"
#include "harness/run/scheduler.h"
#include "harness/types/error.h"
#include "reports/report.h"

namespace meshparity::cli {

int worker_main() {
  run::apply_worker_limits();
  std::string line;
  while (std::getline(std::cin, line)) {
    CaseResult result;
    try {
      result = run_case(single_case(line));
    } catch (const std::exception& error) {
      result.case_line = line, result.id = case_id(line);
      result.state = State::error, result.reason = error.what();
    }
    std::cout << reports::case_to_json(result) << std::endl;
  }
  return 0;
}

}  // namespace meshparity::cli
