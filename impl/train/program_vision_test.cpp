// The rank program of a model with a vision tower: on meshes against itself on one rank, for both ways to
// share the tower, and on one rank against directional derivatives.
#include <ATen/CPUGeneratorImpl.h>

#include <catch2/catch.hpp>

#include "impl/parallel/plan.h"
#include "impl/parallel/token_layout.h"
#include "impl/parallel/vision.h"
#include "impl/train/program_fixture.h"

namespace meshparity::impl::program_vision_test {
namespace {

using program_testing::by_key;
using program_testing::Records;
using program_testing::vision_config;
using program_testing::Weights;

const std::int64_t kImage = vision_config().image_token_id, kVideo = vision_config().video_token_id;

Weights random_weights(const ModelConfig& config) {
  Weights weights;
  auto generator = at::make_generator<at::CPUGeneratorImpl>(29);
  for (const auto& p : parameters_of(config))
    weights[p.name] = at::randn(p.shape, generator, at::kDouble).mul_(p.shape.size() > 2 ? 0.3 : 0.5);
  return weights;
}

VisionInput input_of(std::vector<Grid> grids, const VisionConfig& vision) {
  VisionInput input;
  input.grids = std::move(grids);
  for (std::int64_t i = 0; i < input.patches() * vision.patch_width(); ++i)
    input.pixels.push_back(std::sin(1.7 * static_cast<double>(i) + 0.3));
  return input;
}

// Four micro-batches: images of two sizes and a video of two frames in one row; an image that is all of its
// document in the second of two rows; text alone; one row of two documents with an image each.
Batch batch_with_images(const ModelConfig& config) {
  Batch b;
  b.token_ids = {1,  15, 13, 13, 13, 13, 16, 2,  15, 13, 16,
                 3,  15, 14, 14, 16, 4,  15, 14, 14, 16, 5,  // document 0
                 6,  7,  8,                                  // 1
                 9,  10, 11, 12, 1,                          // 2
                 13, 13,                                     // 3
                 2,  3,  4,  5,                              // 4
                 13, 6,  7,                                  // 5
                 15, 13, 13, 16, 8};                         // 6
  b.document_offsets = {0, 22, 25, 30, 32, 36, 39, 44};
  b.row_offsets = {0, 2, 3, 4, 5, 7};
  b.micro_batch_offsets = {0, 1, 3, 4, 5};
  b.labels.assign(44, kIgnoreLabel);
  for (std::int64_t d = 0; d < b.documents(); ++d)
    for (std::int64_t t = b.document(d).begin; t + 1 < b.document(d).end; ++t)
      if (b.token_ids[t + 1] != kImage && b.token_ids[t + 1] != kVideo) b.labels[t] = b.token_ids[t + 1];
  b.images = input_of({{1, 4, 4}, {1, 2, 2}, {1, 2, 4}, {1, 2, 2}, {1, 4, 2}}, config.vision);
  b.videos = input_of({{2, 4, 2}}, config.vision);
  b.validate("test", config);
  return b;
}

struct Run : program_testing::Run {
  Run() { config = vision_config(), batch = batch_with_images(config); }
  std::vector<RankOutput> on(const std::string& mesh, const Weights& weights) const {
    return program_testing::Run::on(mesh, flags.sp, weights);
  }
};

// This rank's part of what one rank computes; undefined for activations, which the judge places.
at::Tensor part_of(const std::string& key, const at::Tensor& full, const Plan& plan,
                   const TokenLayout& layout) {
  std::vector<std::int64_t> tokens;
  for (const auto& part : layout.micro_batches)
    for (const std::int64_t i : part.real()) tokens.push_back(part.global[i]);
  const auto own = [&] { return full.index_select(0, at::tensor(tokens, at::kLong)); };
  if (key == "logits") {
    const Range columns = cut(full.size(1), plan.mesh.tp, plan.at.tp);
    return own().slice(1, columns.begin, columns.end);
  }
  if (key == "logprobs") return own();
  if (key.starts_with("activations/")) return {};
  for (const std::string kind : {"grads/", "weights/"})
    if (const auto at = key.find(kind); at != std::string::npos)
      return plan.shard(plan.row(key.substr(at + kind.size())), full);
  return full;
}

void check_same(const Run& run, const std::string& mesh_text, const Records& want, const Weights& weights) {
  const Mesh mesh = Mesh::parse(mesh_text);
  const double norm = want.at("grad_norm").item<double>();
  const auto outputs = run.on(mesh_text, weights);
  for (int rank = 0; rank < mesh.world(); ++rank) {
    const Plan plan = make_plan(run.config, mesh, run.flags, rank);
    const TokenLayout layout = make_token_layout(run.batch, mesh, run.flags, rank);
    for (const auto& [key, got] : by_key(outputs[rank])) {
      CAPTURE(key, mesh_text, rank, run.flags.sp, run.flags.vision, run.flags.layout);
      REQUIRE(want.count(key) == 1);
      const at::Tensor full = want.at(key), part = part_of(key, full, plan, layout);
      if (!part.defined()) continue;
      REQUIRE(got.sizes() == part.sizes());
      if (got.numel() == 0) continue;
      const double floor = key.starts_with("grads/") ? 1e-3 * norm : 1e-3;
      const double bound =
          (key.starts_with("step") ? 1e-11 : 1e-12) * std::max(floor, full.abs().max().item<double>());
      CHECK((got - part).abs().max().item<double>() <= bound);
    }
  }
}

}  // namespace

TEST_CASE("a vision tower computes what one rank computes, on every mesh and in both ways") {
  Run run;
  const Weights weights = random_weights(run.config);
  const Records want = by_key(run.on("dp1", weights)[0]);
  REQUIRE(want.at("grads/model.visual.patch_embed.proj.weight").abs().max().item<double>() > 1e-4);
  for (const char* vision : {"tensor", "images"}) {
    run.flags = {};
    run.flags.vision = vision;
    for (const char* mesh : {"dp2", "fsdp2", "tp2", "tp3", "ring2", "uly3", "pp2", "ring2.tp2", "dp2.uly2",
                             "fsdp2.tp2", "pp2.tp2", "dp3.fsdp2"})
      check_same(run, mesh, want, weights);
    run.flags.sp = true;
    for (const char* mesh : {"tp2", "tp3", "ring2.tp2", "fsdp2.tp2"}) check_same(run, mesh, want, weights);
    run.flags.sp = false, run.flags.layout = "zigzag";
    for (const char* mesh : {"ring3", "ring2.uly2"}) check_same(run, mesh, want, weights);
    run.flags.layout = "zigzag-document", run.flags.sp = true, run.flags.pad = "document";
    check_same(run, "ring2.tp2", want, weights);
  }
  run.flags = {};
  run.flags.vision = "images";
  check_same(run, "tp4", want, weights);  // 4 does not divide the tower's heads
}

TEST_CASE("gradients of a vision tower are directional derivatives of the loss") {
  Run run;
  run.steps = 0;
  const Weights weights = random_weights(run.config);
  const Records at_weights = by_key(run.on("dp1", weights)[0]);
  auto generator = at::make_generator<at::CPUGeneratorImpl>(41);
  for (const auto& [name, value] : weights) {
    if (!name.starts_with("model.visual.") && name != "model.embed_tokens.weight") continue;
    CAPTURE(name);
    const at::Tensor direction = at::randn(value.sizes(), generator, at::kDouble);
    const auto loss_at = [&](double h) {
      Weights moved = weights;
      moved[name] = value + direction * h;
      return by_key(run.on("dp1", moved)[0]).at("loss/token_mean").item<double>();
    };
    // Of fourth order: two points leave the third derivative, or with a smaller step the roundoff, above the
    // bound.
    const double h = 5e-6;
    const double slope = (8 * (loss_at(h) - loss_at(-h)) - (loss_at(2 * h) - loss_at(-2 * h))) / (12 * h);
    const double got = (at_weights.at("grads/" + name) * direction).sum().item<double>();
    CHECK(std::abs(got - slope) <= 1e-8);
  }
}

TEST_CASE("a batch of text alone leaves the tower's gradients exactly zero, on every mesh") {
  Run run;
  run.steps = 0;
  run.batch.images = {}, run.batch.videos = {};
  for (auto& id : run.batch.token_ids) id %= kImage;
  for (auto& label : run.batch.labels) label = label == kIgnoreLabel ? label : label % kImage;
  const Weights weights = random_weights(run.config);
  for (const char* vision : {"tensor", "images"})
    for (const char* mesh : {"dp1", "tp2", "ring2", "fsdp2.tp2"}) {
      run.flags.vision = vision;
      for (const auto& output : run.on(mesh, weights))
        for (const auto& record : output.records) {
          if (!record.key.starts_with("grads/model.visual.")) continue;
          CAPTURE(record.key, mesh, vision);
          CHECK(record.value.eq(0).all().item<bool>());
        }
    }
}

TEST_CASE("positions of images follow their grids where a batch brings none") {
  const ModelConfig config = vision_config();
  const Batch batch = batch_with_images(config);
  const auto positions = rope_index(batch, config);
  const auto axis = [&](int a, std::int64_t begin, std::int64_t end) {
    return std::vector<std::int64_t>(positions.begin() + a * 44 + begin, positions.begin() + a * 44 + end);
  };
  using List = std::vector<std::int64_t>;
  // Text, a 2 x 2 image, text, a 1 x 1 image, text, two frames of 2 x 1 with text between, text.
  CHECK(axis(0, 0, 22) == List{0, 1, 2, 2, 2, 2, 4, 5, 6, 7, 8, 9, 10, 11, 11, 13, 14, 15, 16, 16, 18, 19});
  CHECK(axis(1, 0, 22) == List{0, 1, 2, 2, 3, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19});
  CHECK(axis(2, 0, 22) == List{0, 1, 2, 3, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 11, 13, 14, 15, 16, 16, 18, 19});
  CHECK(axis(2, 30, 32) == List{0, 1});
}

TEST_CASE("positions that a batch brings are those that are taken") {
  Run run;
  run.steps = 0;
  const Weights weights = random_weights(run.config);
  const at::Tensor own = by_key(run.on("dp1", weights)[0]).at("logits");
  run.batch.position_ids = rope_index(run.batch, run.config);
  CHECK(at::equal(by_key(run.on("dp1", weights)[0]).at("logits"), own));
  for (auto& position : run.batch.position_ids) position *= 2;
  CHECK((by_key(run.on("dp1", weights)[0]).at("logits") - own).abs().max().item<double>() > 1e-4);
}

}  // namespace meshparity::impl::program_vision_test
