// meshparity-judge golden, export and report, run as a user runs them; and what the executable may be linked
// with.
#include <catch2/catch.hpp>
#include <cstdlib>

#include "golden/checkpoint.h"
#include "golden/safetensors.h"
#include "golden/store.h"
#include "harness/cli/command_fixture.h"
#include "reports/report.h"
#include "scenarios/initial_weights.h"
#include "scenarios/load.h"

namespace meshparity::cli::verb_golden_test {
namespace {

namespace fs = std::filesystem;

const std::string kData = MESHPARITY_SOURCE_DIR "/golden/data/";
const std::string kGolden = kData + "tiny-moe.single.h5";

Finished judge(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), MESHPARITY_JUDGE);
  return execute(arguments);
}

std::size_t entries(const std::string& folder) {
  return static_cast<std::size_t>(std::distance(fs::directory_iterator(folder), {}));
}

void check_refused(const Finished& done, const std::string& said) {
  INFO(done.out << done.err);
  CHECK(done.code == 2);
  CHECK(done.err.rfind("meshparity: ", 0) == 0);
  CHECK(done.err.find(said) != std::string::npos);
  CHECK(std::count(done.err.begin(), done.err.end(), '\n') == 1);
}

// How far two doubles are apart in representable numbers.
std::int64_t ulps(double a, double b) {
  if (a == b) return 0;
  std::int64_t x, y;
  std::memcpy(&x, &a, 8), std::memcpy(&y, &b, 8);
  return (x < 0) != (y < 0) ? INT64_MAX : std::abs(x - y);
}

}  // namespace

TEST_CASE("the judge needs no LibTorch") {
  ::setenv("LD_TRACE_LOADED_OBJECTS", "1", 1);
  const Finished listed = judge({});
  ::unsetenv("LD_TRACE_LOADED_OBJECTS");
  INFO(listed.out);
  CHECK(listed.out.find("libc.so") != std::string::npos);
  for (const char* library : {"libtorch", "libc10", "libgloo", "libnccl", "libcuda"})
    CHECK(listed.out.find(library) == std::string::npos);
}

TEST_CASE("every packaged golden verifies, and one damaged byte is found") {
  std::vector<std::string> arguments = {"golden", "verify"};
  for (const auto& entry : fs::directory_iterator(kData))
    if (entry.path().extension() == ".h5") arguments.push_back(entry.path().string());
  REQUIRE(arguments.size() == 15);
  const Finished good = judge(arguments);
  INFO(good.out << good.err);
  CHECK(good.code == 0);
  CHECK(std::count(good.out.begin(), good.out.end(), '\n') == 13);

  const ScratchFolder folder;
  std::string bytes = slurp(kGolden);
  bytes[bytes.size() / 2] ^= 4;
  const Finished bad = judge({"golden", "verify", folder.write("bad.h5", bytes), kGolden});
  check_refused(bad, "bad.h5");
  CHECK(bad.out.rfind("OK ", 0) == 0);  // the other file is still looked at
}

TEST_CASE("the weights of the packaged goldens are the loader's initial weights to the last bits") {
  for (const std::string model : {"tiny-dense", "tiny-moe", "tiny-vl", "tiny-vl-moe"}) {
    const char* batch = model.rfind("tiny-vl", 0) == 0 ? ".rows.h5" : ".single.h5";
    const golden::Store store = golden::read(kData + model + batch, golden::Kind::golden);
    const auto weights = scenarios::initial_weights(scenarios::load_model(model), 7);
    for (const auto& [name, weight] : weights) {
      const HostTensor& stored = store.tensors.at("weights/" + name);
      REQUIRE(stored.shape == weight.shape);
      std::int64_t most = 0;
      for (std::int64_t i = 0; i < weight.numel(); ++i)
        most = std::max(most, ulps(weight.as<double>()[i], stored.as<double>()[i]));
      INFO(name);
      CHECK(most <= 2);  // libm's last bit differs between machines
    }
  }
}

TEST_CASE("the batches of the packaged goldens are the loader's") {
  for (const char* model : {"tiny-dense", "tiny-moe"})
    for (const char* name : {"single", "packed-odd", "rows", "boundaries", "grids"}) {
      INFO(model << " " << name);
      const auto path = kData + model + "." + name + ".h5";
      const Batch stored = golden::batch_of(golden::read(path, golden::Kind::golden));
      const Batch loaded = scenarios::load_batch(name, scenarios::load_model(model));
      CHECK(stored.token_ids == loaded.token_ids);
      CHECK(stored.labels == loaded.labels);
      CHECK(stored.document_offsets == loaded.document_offsets);
      CHECK(stored.row_offsets == loaded.row_offsets);
      CHECK(stored.micro_batch_offsets == loaded.micro_batch_offsets);
      CHECK(stored.position_ids == loaded.position_ids);
    }
}

TEST_CASE("the batches of the packaged goldens with images are the loader's, pixels bit by bit") {
  for (const char* model : {"tiny-vl", "tiny-vl-moe"}) {
    INFO(model);
    const auto path = kData + model + ".rows.h5";
    const Batch stored = golden::batch_of(golden::read(path, golden::Kind::golden));
    const Batch loaded = scenarios::load_batch("rows", scenarios::load_model(model));
    CHECK((stored.images.grids.size() == 8 && stored.videos.grids.size() == 1));
    CHECK(stored.token_ids == loaded.token_ids);
    CHECK(stored.labels == loaded.labels);
    CHECK(stored.images.grids == loaded.images.grids);
    CHECK(stored.videos.grids == loaded.videos.grids);
    CHECK(stored.images.pixels == loaded.images.pixels);
    CHECK(stored.videos.pixels == loaded.videos.pixels);
  }
}

TEST_CASE("images that do not fit the tokens or the pixels are refused with both counts") {
  const ScratchFolder folder;
  const auto refused = [&](const char* path, const HostTensor& tensor) {
    golden::Store store = golden::read(kData + "tiny-vl.rows.h5", golden::Kind::golden);
    store.tensors[path] = tensor;
    golden::write(folder.file("wrong.h5"), store);
    const Finished done = judge({"golden", "verify", folder.file("wrong.h5")});
    check_refused(done, "wrong.h5");
    return done.err;
  };
  const golden::Store store = golden::read(kData + "tiny-vl.rows.h5", golden::Kind::golden);
  HostTensor grids = store.tensors.at("inputs/image_grid_thw");
  const HostTensor pixels = store.tensors.at("inputs/pixel_values");
  grids.as<std::int64_t>()[1] = 6;  // 6 x 4 for 2 x 4 patches
  CHECK_THAT(refused("inputs/image_grid_thw", grids),
             Catch::Contains("pixel_values: has 104 rows") && Catch::Contains("120 patches"));
  grids.as<std::int64_t>()[1] = -2;
  CHECK_THAT(refused("inputs/image_grid_thw", grids), Catch::Contains("image_grid_thw: entry 0 holds -2"));
  HostTensor narrow = HostTensor::zeros(DType::float64, {104, 23});
  CHECK_THAT(refused("inputs/pixel_values", narrow),
             Catch::Contains("pixel_values: has 2392 elements") && Catch::Contains("104 patches of 24"));
  HostTensor ids = store.tensors.at("inputs/token_ids");
  ids.as<std::int64_t>()[14] = 61;  // a placeholder too many
  REQUIRE(store.tensors.at("inputs/labels").to_int64()[13] == kIgnoreLabel);
  CHECK_THAT(refused("inputs/token_ids", ids),
             Catch::Contains("has 27 image tokens (id 61)") && Catch::Contains("fills 26"));
}

TEST_CASE("inspect names what a file holds") {
  const Finished done = judge({"golden", "inspect", kGolden});
  CHECK(done.code == 0);
  CHECK(done.out.find("expected/logits") != std::string::npos);
  CHECK(done.out.find("weights/lm_head.weight") != std::string::npos);
}

TEST_CASE("diff is 0 for equal files and rounding, 1 for a difference, 2 for no file") {
  const ScratchFolder folder;
  golden::Store store = golden::read(kGolden, golden::Kind::golden);
  CHECK(judge({"golden", "diff", kGolden, kGolden}).code == 0);
  double* logits = store.tensors.at("expected/logits").as<double>();
  logits[3] *= 1 + 4e-16;
  golden::write(folder.file("rounded.h5"), store);
  CHECK(judge({"golden", "diff", kGolden, folder.file("rounded.h5")}).code == 0);
  CHECK(judge({"golden", "diff", "--bitwise", kGolden, folder.file("rounded.h5")}).code == 1);
  logits[3] += 1e-3;
  golden::write(folder.file("other.h5"), store);
  const Finished differ = judge({"golden", "diff", kGolden, folder.file("other.h5")});
  CHECK(differ.code == 1);
  CHECK(differ.out.find("expected/logits") != std::string::npos);
  check_refused(judge({"golden", "diff", kGolden, folder.file("none.h5")}), "none.h5");
}

TEST_CASE("export writes a checkpoint, the batch and a check of at most 40 lines") {
  const ScratchFolder folder;
  const std::string to = folder.file("out");
  const Finished done = judge({"export", "--golden", kGolden, "--to", to + "/"});
  INFO(done.out << done.err);
  REQUIRE(done.code == 0);
  CHECK(entries(to) == 6);
  CHECK(entries(folder.file("")) == 1);  // no staging folder left
  const golden::Store store = golden::read(kGolden, golden::Kind::golden);
  const ModelConfig config = scenarios::load_model(to);
  CHECK(config.json == store.strings.at("config"));
  const auto weights = golden::load_checkpoint(to, config);
  CHECK(weights.size() == parameters_of(config).size());
  for (const auto& [name, weight] : weights) CHECK(weight.bytes == store.tensors.at("weights/" + name).bytes);
  const golden::SafetensorsFile batch(to + "/batch.safetensors");
  CHECK(batch.tensor("token_ids").to_int64() == store.tensors.at("inputs/token_ids").to_int64());
  CHECK(batch.tensor("labels").to_int64() == store.tensors.at("inputs/labels").to_int64());
  const std::string check = slurp(to + "/check.py");
  CHECK(std::count(check.begin(), check.end(), '\n') <= 40);
  CHECK(done.out.find("compare --golden") != std::string::npos);
}

TEST_CASE("a multimodal golden is exported with its images, under the names of the multimodal class") {
  const ScratchFolder folder;
  const std::string golden_file = kData + "tiny-vl.rows.h5", to = folder.file("out");
  const Finished done = judge({"export", "--golden", golden_file, "--to", to});
  INFO(done.out << done.err);
  REQUIRE(done.code == 0);
  CHECK(done.out.find("expected/grads_mtp") != std::string::npos);
  const golden::Store store = golden::read(golden_file, golden::Kind::golden);
  const ModelConfig config = scenarios::load_model(to);
  const auto weights = golden::load_checkpoint(to, config);
  CHECK(weights.size() == 118);
  for (const auto& [name, weight] : weights) CHECK(weight.bytes == store.tensors.at("weights/" + name).bytes);
  const golden::SafetensorsFile stored(to + "/model.safetensors"), batch(to + "/batch.safetensors");
  for (const char* name : {"model.language_model.layers.0.mlp.up_proj.weight",
                           "model.visual.merger.linear_fc2.bias", "mtp.fc.weight"})
    CHECK(stored.has(name));
  for (const char* name : {"token_ids", "labels", "position_ids", "pixel_values", "image_grid_thw",
                           "pixel_values_videos", "video_grid_thw"}) {
    INFO(name);
    const HostTensor& want = store.tensors.at("inputs/" + std::string(name));
    REQUIRE(batch.has(name));
    CHECK(batch.tensor(name).shape == want.shape);
    CHECK(batch.tensor(name).bytes == want.bytes);
  }
}

TEST_CASE("export never touches a folder that is not empty unless told, and leaves nothing half-written") {
  const ScratchFolder folder;
  const std::string mine = folder.write("mine", "keep");
  const std::string all = folder.file("");
  check_refused(judge({"export", "--golden", kGolden, "--to", all}), "--force");
  CHECK(entries(all) == 1);
  CHECK(judge({"export", "--golden", kGolden, "--to", all, "--force"}).code == 0);
  CHECK(slurp(mine) == "keep");
  CHECK(entries(all) == 7);
  check_refused(judge({"export", "--golden", kGolden, "--to", mine}), "is no folder");
  check_refused(judge({"export", "--golden", folder.file("none.h5"), "--to", folder.file("new")}), "none.h5");
  check_refused(judge({"export", "--golden", kGolden, "--to", mine + "/below"}), "below");
  check_refused(
      execute_on_full_disk({MESHPARITY_JUDGE, "export", "--golden", kGolden, "--to", folder.file("new")}),
      "cannot be written");
  CHECK(entries(all) == 7);
}

TEST_CASE("on a full disk every report is one line and exit 2, and what stood there stays") {
  const ScratchFolder folder;
  const std::string result = folder.file("r.json");
  REQUIRE(judge({"compare", "--golden", kGolden, kGolden, "--json", result}).code == 0);
  for (const char* option : {"--json", "--junit", "--markdown"})
    for (const bool before : {false, true}) {
      INFO(option);
      const std::string file = folder.file("report");
      if (before) folder.write("report", "before");
      for (const auto& arguments : {std::vector<std::string>{"compare", "--golden", kGolden, kGolden},
                                    std::vector<std::string>{"report", result}}) {
        std::vector<std::string> argv = {MESHPARITY_JUDGE};
        argv.insert(argv.end(), arguments.begin(), arguments.end());
        argv.insert(argv.end(), {option, file});
        check_refused(execute_on_full_disk(argv), file + ": cannot be written");
        CHECK(slurp(file) == (before ? "before" : ""));
        CHECK(entries(folder.file("")) == (before ? 2 : 1));
      }
      fs::remove(file);
    }
  // A verdict needs no disk.
  CHECK(execute_on_full_disk({MESHPARITY_JUDGE, "compare", "--golden", kGolden, kGolden}).code == 0);
}

TEST_CASE("report renders an earlier result to every format") {
  const ScratchFolder folder;
  const std::string json = folder.file("r.json");
  REQUIRE(judge({"compare", "--golden", kGolden, kData + "tiny-moe.packed-odd.h5", "--json", json}).code ==
          1);
  const Finished done = judge({"report", json, "--junit", folder.file("r.xml"), "--markdown",
                               folder.file("r.md"), "--json", folder.file("2.json")});
  INFO(done.err);
  CHECK(done.code == 0);
  CHECK(done.out.find("INVALID ") != std::string::npos);
  CHECK(done.out.find("1 listed  0 pass") != std::string::npos);
  CHECK(slurp(folder.file("r.xml")).find("<failure") != std::string::npos);
  CHECK(slurp(folder.file("r.md")).find("### Not passed") != std::string::npos);
  CHECK(slurp(folder.file("2.json")) == slurp(json));
  check_refused(judge({"report", folder.file("none.json")}), "none.json: no such file");
  check_refused(judge({"report", folder.file("")}), "is a directory");
  check_refused(judge({"report", folder.write("cut.json", slurp(json).substr(0, 400))}),
                "cut.json: not JSON");
  check_refused(judge({"report", folder.write("old.json", "{\"schema\": 7}")}), "old.json: schema");
}

TEST_CASE("wrong words on the command line are one line and exit 2") {
  check_refused(judge({}), "ubcommand");
  check_refused(judge({"golde"}),
                "unknown verb 'golde'; there are compare, drift, golden, export, report, plan, cut");
  check_refused(judge({"golden", "very"}),
                "unknown verb 'golden very'; there are verify, regenerate, inspect, diff");
  check_refused(judge({"golden", "regenerate", "--model", "tiny-dense"}), "./meshparity golden regenerate");
  check_refused(judge({"golden"}), "ubcommand");
  check_refused(judge({"golden", "verify"}), "files");
  check_refused(judge({"golden", "inspect", kGolden, "--colour"}), "--colour");
  check_refused(judge({"export", "--golden", kGolden}), "--to");
  CHECK(judge({"--version"}).out.rfind("meshparity ", 0) == 0);
  CHECK(judge({"compare", "--help"}).code == 0);
}

}  // namespace meshparity::cli::verb_golden_test
