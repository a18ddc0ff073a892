// run --dump, run as a user runs it: what the ranks computed is a dump that compare judges, with everything
// it was computed from.
#include <catch2/catch.hpp>

#include "golden/store.h"
#include "harness/cli/command_fixture.h"

namespace meshparity::cli::dump_test {
namespace {

Finished dump(const std::string& model, const std::string& batch, const std::string& file,
              std::vector<std::string> more) {
  std::vector<std::string> words = {MESHPARITY_EXECUTABLE,
                                    "run",
                                    "--model",
                                    model,
                                    "--batch",
                                    batch,
                                    "--mesh",
                                    "tp2",
                                    "--dump",
                                    file,
                                    "--steps",
                                    "0"};
  words.insert(words.end(), more.begin(), more.end());
  return execute(words);
}

Finished compared(const std::string& model, const std::string& batch, const std::string& file,
                  std::vector<std::string> more = {}) {
  std::vector<std::string> words = {
      MESHPARITY_EXECUTABLE, "compare", "--golden",
      std::string(MESHPARITY_SOURCE_DIR) + "/golden/data/" + model + "." + batch + ".h5", file};
  words.insert(words.end(), more.begin(), more.end());
  return execute(words);
}

}  // namespace

TEST_CASE("a dump holds the inputs of its run, images and positions included") {
  const ScratchFolder folder;
  const std::string file = folder.file("dump.h5");
  for (const auto& [model, batch] : {std::pair{"tiny-vl", "rows"}, {"tiny-dense", "grids"}}) {
    const Finished run = dump(model, batch, file, {});
    INFO(run.out << run.err);
    REQUIRE(run.code == 0);
    const golden::Store got = golden::read(file, golden::Kind::dump);
    const golden::Store want =
        golden::read(std::string(MESHPARITY_SOURCE_DIR) + "/golden/data/" + model + "." + batch + ".h5",
                     golden::Kind::golden);
    std::size_t inputs = 0;
    for (const auto& [path, tensor] : want.tensors) {
      if (path.rfind("inputs/", 0) != 0) continue;
      ++inputs;
      INFO(path);
      REQUIRE(got.has(path));
      const bool same = got.tensors.at(path).bytes == tensor.bytes;
      CHECK(same);
    }
    CHECK(inputs >= 6);
    const Finished judged = compared(model, batch, file);
    INFO(judged.out << judged.err);
    CHECK(judged.code == 0);
  }
}

TEST_CASE("gradients of multi-token prediction are dumped as such and judged") {
  const ScratchFolder folder;
  const std::string file = folder.file("dump.h5");
  const Finished run = dump("tiny-vl", "rows", file, {"--loss", "mtp"});
  INFO(run.out << run.err);
  REQUIRE(run.code == 0);
  const golden::Store got = golden::read(file, golden::Kind::dump);
  CHECK(got.has("expected/grads_mtp/mtp.fc.weight"));
  CHECK(!got.has("expected/grads/mtp.fc.weight"));
  CHECK(!got.has("expected/grad_norm"));
  const Finished judged = compared("tiny-vl", "rows", file, {"--check", "inputs,logits,grads_mtp"});
  INFO(judged.out << judged.err);
  CHECK(judged.code == 0);
  CHECK(judged.out.find("grads_mtp    PASS          118") != std::string::npos);
}

}  // namespace meshparity::cli::dump_test
