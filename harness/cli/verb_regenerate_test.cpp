// golden regenerate with a generator that gives what the test puts before it: what is reproduced, refused,
// replaced and left alone. The real generator is in golden/upstream/test_compare.py.
#include <algorithm>
#include <catch2/catch.hpp>

#include "golden/store.h"
#include "harness/cli/command_fixture.h"

namespace meshparity::cli::verb_regenerate_test {
namespace {

namespace fs = std::filesystem;

const std::string kPackaged = MESHPARITY_SOURCE_DIR "/golden/data/tiny-dense.single.h5";

// Runs `golden regenerate` with a "Python" that runs `body`: $to is the file to write, $reason what --reason
// says.
Finished regenerate(const ScratchFolder& folder, const std::string& body,
                    const std::vector<std::string>& more = {}) {
  const std::string python = folder.write(
      "python",
      "#!/bin/bash\n[[ $1 == */golden/upstream/generate.py ]] || exit 9\nshift\nreason=\n"
      "while [ $# -gt 0 ]; do\n  case $1 in\n    --to) to=$2 ;;\n    --reason) reason=$2 ;;\n"
      "    --model) [ \"$2\" = tiny-dense ] || exit 9 ;;\n    --batch) [ \"$2\" = single ] || exit 9 ;;\n"
      "    *) exit 9 ;;\n  esac\n  shift 2\ndone\n" +
          body + "\n");
  fs::permissions(python, fs::perms::owner_all);
  std::vector<std::string> argv = {"/usr/bin/env", "MESHPARITY_UPSTREAM_PYTHON=" + python,
                                   MESHPARITY_EXECUTABLE, "golden", "regenerate"};
  std::vector<std::string> arguments = {"--model", "tiny-dense", "--batch",
                                        "single",  "--to",       folder.file("g.h5")};
  if (!more.empty() && more[0] == "--model") arguments.clear();
  argv.insert(argv.end(), arguments.begin(), arguments.end());
  argv.insert(argv.end(), more.begin(), more.end());
  return execute(argv);
}

std::string changed_golden(const ScratchFolder& folder, const std::string& name, double factor,
                           const std::string& reason = "") {
  golden::Store store = golden::read(kPackaged, golden::Kind::golden);
  HostTensor& logits = store.tensors.at("expected/logits");
  for (std::int64_t i = 0; i < logits.numel(); ++i) logits.as<double>()[i] *= factor;
  if (!reason.empty()) store.attributes["reason"] = reason;
  golden::write(folder.file(name), store);
  return folder.file(name);
}

std::ptrdiff_t files(const ScratchFolder& folder) {
  return std::distance(fs::directory_iterator(folder.file("")), {});
}

void check_one_line(const Finished& done, int code, const std::string& said) {
  INFO(done.out << done.err);
  CHECK(done.code == code);
  CHECK(std::count(done.err.begin(), done.err.end(), '\n') == 1);
  CHECK(done.err.find(said) != std::string::npos);
}

}  // namespace

TEST_CASE("regenerate: what is reproduced to rounding is left as it is") {
  const ScratchFolder folder;
  fs::copy_file(kPackaged, folder.file("g.h5"));
  changed_golden(folder, "new.h5", 1 + 4e-16);
  const Finished done = regenerate(folder, "cp '" + folder.file("new.h5") + "' \"$to\"");
  INFO(done.out << done.err);
  CHECK(done.code == 0);
  CHECK(done.out.find("reproduced within the float64 bounds") != std::string::npos);
  CHECK(slurp(folder.file("g.h5")) == slurp(kPackaged));
  CHECK(files(folder) == 3);  // g.h5, new.h5, python
}

TEST_CASE("regenerate: a change without a reason is refused and one with a reason replaces the file") {
  const ScratchFolder folder;
  fs::copy_file(kPackaged, folder.file("g.h5"));
  const std::string fresh = changed_golden(folder, "new.h5", 1 + 1e-9, "a reason of its own");
  const std::string copy = "cp '" + fresh + "' \"$to\"";
  const Finished refused = regenerate(folder, copy);
  check_one_line(refused, 1, "--reason");
  CHECK(refused.out.find("expected/logits") != std::string::npos);
  CHECK(slurp(folder.file("g.h5")) == slurp(kPackaged));
  // The generator stores the reason; it must have been given to it.
  const Finished replaced =
      regenerate(folder, "[ \"$reason\" = 'as asked for' ] && " + copy, {"--reason", "as asked for"});
  INFO(replaced.out << replaced.err);
  CHECK(replaced.code == 0);
  CHECK(slurp(folder.file("g.h5")) == slurp(fresh));
  CHECK(files(folder) == 3);
}

TEST_CASE("regenerate: where there was no file there is one, made whole") {
  const ScratchFolder folder;
  const Finished done = regenerate(folder, "cp '" + kPackaged + "' \"$to\"");
  INFO(done.out << done.err);
  CHECK(done.code == 0);
  CHECK(slurp(folder.file("g.h5")) == slurp(kPackaged));
}

TEST_CASE("regenerate: a generator that fails or writes no golden changes nothing") {
  const ScratchFolder folder;
  fs::copy_file(kPackaged, folder.file("g.h5"));
  check_one_line(regenerate(folder, "echo 'generate: no' >&2; exit 2"), 2, "generate: no");
  check_one_line(regenerate(folder, "exit 1"), 3, "generator failed");
  check_one_line(regenerate(folder, "kill -9 $$"), 3, "signal 9");
  check_one_line(regenerate(folder, ":"), 2, "cannot be read");
  check_one_line(regenerate(folder, "echo torn >\"$to\""), 2, "damaged");
  CHECK(slurp(folder.file("g.h5")) == slurp(kPackaged));
  CHECK(files(folder) == 2);
}

TEST_CASE("regenerate: what cannot be meant is refused before the generator starts") {
  const ScratchFolder folder;
  const std::string never = "touch '" + folder.file("started") + "'";
  check_one_line(regenerate(folder, never, {"--model", "tiny-dens", "--batch", "single"}), 2, "tiny-dens");
  check_one_line(regenerate(folder, never, {"--model", "tiny-dense", "--batch", "singel"}), 2, "singel");
  check_one_line(regenerate(folder, never, {"--model", "tiny-dense"}), 2, "--batch");
  check_one_line(
      regenerate(folder, never,
                 {"--model", MESHPARITY_SOURCE_DIR "/scenarios/models/tiny-dense.json", "--batch", "single"}),
      2, "--to");
  check_one_line(regenerate(folder, never,
                            {"--model", "tiny-dense", "--batch", "single", "--to", folder.file("none/g.h5")}),
                 2, "none/g.h5");
  folder.write("g.h5", "no golden");
  check_one_line(regenerate(folder, never), 2, "g.h5");
  CHECK(!fs::exists(folder.file("started")));
}

}  // namespace meshparity::cli::verb_regenerate_test
