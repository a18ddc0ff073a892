// meshparity-judge compare on dumps of multimodal models: the vision tower's gradients, the inputs it was
// computed from, and gradients of multi-token prediction where a trainer has that layer and where it has not.
#include "harness/cli/compare_fixture.h"

namespace meshparity::cli::verb_compare_vision_test {
namespace {

using namespace compare_test;

const std::string kVision = MESHPARITY_SOURCE_DIR "/golden/data/tiny-vl.rows.h5";
constexpr const char* kTower = "model.visual.blocks.1.attn.qkv.weight";
constexpr const char* kLayer = "mtp.layers.0.self_attn.k_proj.weight";

// What a trainer without multi-token prediction writes: transformers has none.
golden::Store without_mtp() {
  golden::Store dump = trainer_dump(kVision);
  std::erase_if(dump.tensors, [](const auto& entry) {
    const std::string& path = entry.first;
    return path.find("grads_mtp/") != std::string::npos || path.rfind("expected/grads/mtp.", 0) == 0 ||
           path.ends_with("/mtp");
  });
  return dump;
}

std::size_t count(const Judged& judged, const std::string& check, State state) {
  std::size_t n = 0;
  for (const auto& c : judged.run.cases.at(0).checks) n += c.check == check && c.state == state;
  return n;
}

// The verdict of a check on a tensor; grads and grads_mtp call theirs alike.
const CheckResult* verdict(const Judged& judged, const std::string& check, const std::string& tensor) {
  for (const auto& c : judged.run.cases.at(0).checks)
    if (c.check == check && c.tensor == tensor) return &c;
  return nullptr;
}

std::string lines(const CheckResult& check) {
  std::string text = check.reason;
  for (const auto& line : check.detail) text += "\n" + line;
  return text;
}

}  // namespace

TEST_CASE("a dump without multi-token prediction passes, its images and its tower judged") {
  const Judged judged = judge(without_mtp(), {}, kVision);
  INFO(judged.finished.out);
  CHECK(judged.finished.code == 0);
  for (const char* input : {"inputs/pixel_values", "inputs/image_grid_thw", "inputs/pixel_values_videos",
                            "inputs/video_grid_thw", "inputs/position_ids"})
    CHECK(judged.state_of(input) == State::pass);
  CHECK(count(judged, "grads", State::pass) == 103);
  CHECK(count(judged, "grads", State::skip) == 15);
  CHECK(count(judged, "grads_mtp", State::skip) == 118);
  CHECK(judged.state_of(kScale) == State::pass);
  CHECK(judged.state_of("loss/mtp") == State::skip);
}

TEST_CASE("a gradient of the vision tower that is wrong, zero or missing is named") {
  golden::Store dump = without_mtp();
  HostTensor& gradient = dump.tensors.at(grads(kTower));
  const HostTensor right = gradient;
  gradient.as<double>()[5] += 1e-3;
  const auto state = [&] {
    const Judged judged = judge(dump, {}, kVision);
    CHECK(judged.finished.code == 1);
    return judged.state_of(kTower);
  };
  CHECK(state() == State::fail);
  gradient = HostTensor::zeros(DType::float64, right.shape);
  CHECK(state() == State::invalid);
  dump.tensors.erase(grads(kTower));
  CHECK(state() == State::invalid);
}

TEST_CASE("pictures may be rounded once, and no more") {
  golden::Store dump = without_mtp();
  HostTensor& pixels = dump.tensors.at("inputs/pixel_values");
  HostTensor narrow = HostTensor::zeros(DType::float32, pixels.shape);
  for (std::int64_t i = 0; i < pixels.numel(); ++i)
    narrow.as<float>()[i] = static_cast<float>(pixels.as<double>()[i]);
  pixels = narrow;
  CHECK(judge(dump, {}, kVision).state_of("inputs/pixel_values") == State::pass);
  pixels.as<float>()[7] += 1e-5F;
  const Judged other = judge(dump, {}, kVision);
  CHECK(other.state_of("inputs/pixel_values") == State::fail);
  CHECK(other.find("inputs/pixel_values")->reason == "is not the input rounded to float32");
  CHECK(other.finished.code == 1);
  dump.tensors.at("inputs/image_grid_thw").as<std::int64_t>()[1] += 2;
  CHECK(judge(dump, {}, kVision).state_of("inputs/image_grid_thw") == State::fail);
  dump.tensors.at("inputs/position_ids").as<std::int64_t>()[3] += 1;
  CHECK(judge(dump, {}, kVision).state_of("inputs/position_ids") == State::fail);
}

TEST_CASE("dumped gradients of multi-token prediction are judged, each by name") {
  golden::Store dump = trainer_dump(kVision);
  const std::string path = std::string("expected/grads_mtp/") + kLayer;
  const Judged right = judge(dump, {}, kVision);
  INFO(right.finished.out);
  CHECK(right.finished.code == 0);
  CHECK(count(right, "grads_mtp", State::pass) == 118);
  CHECK(count(right, "grads", State::pass) == 118);
  CHECK(right.state_of("loss/mtp") == State::pass);
  CHECK(right.state_of("loss/gradient_scale/mtp") == State::pass);

  dump.tensors.at(path).as<double>()[2] += 1e-3;
  const Judged wrong = judge(dump, {}, kVision);
  CHECK(wrong.finished.code == 1);
  CHECK(count(wrong, "grads", State::pass) == 118);
  REQUIRE(verdict(wrong, "grads_mtp", kLayer));
  CHECK(verdict(wrong, "grads_mtp", kLayer)->state == State::fail);
  CHECK(wrong.finished.out.find(std::string("check=grads_mtp tensor=") + kLayer) != std::string::npos);
  CHECK(lines(*verdict(wrong, "grads_mtp", kLayer)).find("first   ") != std::string::npos);
  CHECK(wrong.finished.out.find("--check grads_mtp") != std::string::npos);

  dump.tensors.erase(path);
  const Judged missing = judge(dump, {}, kVision);
  CHECK(missing.finished.code == 1);
  CHECK(verdict(missing, "grads_mtp", kLayer)->state == State::invalid);
  CHECK(verdict(missing, "grads_mtp", kLayer)->reason.find("does not hold " + path) != std::string::npos);
}

TEST_CASE("a factor that all gradients of multi-token prediction carry is told as one") {
  golden::Store dump = trainer_dump(kVision);
  for (auto& [path, tensor] : dump.tensors)
    if (path.rfind("expected/grads_mtp/", 0) == 0)
      for (std::int64_t i = 0; i < tensor.numel(); ++i) tensor.as<double>()[i] *= 0.1;
  const Judged judged = judge(dump, {}, kVision);
  CHECK(judged.finished.code == 1);
  REQUIRE(judged.find("loss/gradient_scale/mtp"));
  CHECK(judged.state_of("loss/gradient_scale/mtp") == State::fail);
  CHECK(judged.find("loss/gradient_scale/mtp")->reason.find("0.1") != std::string::npos);
  CHECK(judged.state_of(kScale) == State::pass);
}

TEST_CASE("the check grads_mtp demands them where it is named, and a name that no parameter has is extra") {
  CHECK(judge(without_mtp(), {"--check", "grads_mtp"}, kVision).finished.code == 1);
  golden::Store dump = trainer_dump(kVision);
  dump.tensors["expected/grads_mtp/mtp.layers.0.gate"] = HostTensor::scalar(0);
  const Judged judged = judge(dump, {"--check", "grads_mtp"}, kVision);
  CHECK(judged.finished.code == 1);
  CHECK(judged.state_of("mtp.layers.0.gate") == State::invalid);
  CHECK(count(judged, "grads_mtp", State::pass) == 118);
}

TEST_CASE("gradients of a layer of multi-token prediction that some are dumped of are all demanded") {
  golden::Store dump = trainer_dump(kVision);
  dump.tensors.erase(grads(kLayer));
  const Judged judged = judge(dump, {}, kVision);
  CHECK(judged.finished.code == 1);
  CHECK(verdict(judged, "grads", kLayer)->state == State::invalid);
}

}  // namespace meshparity::cli::verb_compare_vision_test
