// Which files a pattern names, and which of them are one step.
#include "golden/dumps/patterns.h"

#include <filesystem>

#include "golden/dumps/dump_fixture.h"

namespace meshparity::dumps::patterns_test {

using Catch::Contains;
using golden::input_error;
using golden::spill;
using golden::TemporaryFolder;

std::vector<std::int64_t> numbers_of(const std::string& pattern) {
  std::vector<std::int64_t> numbers;
  for (const StepFiles& step : find_steps(pattern)) numbers.push_back(step.number);
  return numbers;
}

TEST_CASE("steps come in the order of their numbers, whatever their digits") {
  const TemporaryFolder folder;
  for (const char* name :
       {"run7_step_10.jsonl", "run7_step_9.jsonl", "run7_step_0100.jsonl", "run7_other.txt"})
    spill(folder.file(name), "x");
  CHECK(numbers_of(folder.file("run7_step_*.jsonl")) == std::vector<std::int64_t>{9, 10, 100});
  CHECK(numbers_of(folder.file("run7_step_{step}.jsonl")) == std::vector<std::int64_t>{9, 10, 100});
}

TEST_CASE(
    "files of ranks are one step where {step} says which number counts, and refused where nothing does") {
  const TemporaryFolder folder;
  for (const char* name : {"data_3_0.pt", "data_3_1.pt", "data_4_0.pt", "data_4_1.pt", "data_x_1.pt"})
    spill(folder.file(name), "x");
  const auto steps = find_steps(folder.file("data_{step}_*.pt"));
  REQUIRE(steps.size() == 2);
  CHECK(steps[0].number == 3);
  CHECK(steps[0].files.size() == 2);
  CHECK(steps[1].files[1] == folder.file("data_4_1.pt"));
  CHECK_THAT(input_error([&] { find_steps(folder.file("data_[34]_*.pt")); }),
             Contains("more than one number differs") && Contains("{step}"));
  CHECK_THAT(input_error([&] { find_steps(folder.file("data_*.pt")); }),
             Contains("do not hold equally many numbers"));
}

TEST_CASE("a folder is a step, without digits the order counts, the same number twice is an error") {
  const TemporaryFolder folder;
  for (const char* name : {"step_1", "step_2"}) {
    std::filesystem::create_directory(folder.file(name));
    spill(folder.file(std::string(name) + "/b.jsonl"), "x");
    spill(folder.file(std::string(name) + "/a.jsonl"), "x");
  }
  const auto steps = find_steps(folder.file("step_*"));
  REQUIRE(steps.size() == 2);
  CHECK(steps[1].files ==
        std::vector<std::string>{folder.file("step_2/a.jsonl"), folder.file("step_2/b.jsonl")});
  std::filesystem::create_directory(folder.file("step_3"));
  CHECK_THAT(input_error([&] { find_steps(folder.file("step_*")); }), Contains("step_3: holds no files"));
  for (const char* name : {"a.jsonl", "b.jsonl"}) spill(folder.file(name), "x");
  CHECK(numbers_of(folder.file("[ab].jsonl")) == std::vector<std::int64_t>{1, 2});
  spill(folder.file("t_03.jsonl"), "x"), spill(folder.file("t_3.jsonl"), "x");
  CHECK_THAT(input_error([&] { find_steps(folder.file("t_*.jsonl")); }), Contains("step 3 stands twice"));
  CHECK_THAT(input_error([&] { find_steps(folder.file("none_*")); }), Contains("none_*: no such file"));
  CHECK_THAT(input_error([&] { find_steps(folder.file("none_{step}")); }), Contains("no such file"));
}

}  // namespace meshparity::dumps::patterns_test
