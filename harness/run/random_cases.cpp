// How random cases are drawn: a model, a batch, then a mesh that the model takes and flags that the mesh
// takes. Sizes are small and odd on purpose: faults of a parallel configuration sit in remainders, and a
// small case is quick.
#include "harness/run/random_cases.h"

#include <algorithm>

#include "harness/types/error.h"

namespace meshparity::run {
namespace {

constexpr int kAttempts = 400;
constexpr int kAttemptsForMesh = 200;  // then any mesh will do

std::vector<std::int64_t> divisors(std::int64_t n) {
  std::vector<std::int64_t> list;
  for (std::int64_t d = 1; d <= n; ++d)
    if (n % d == 0) list.push_back(d);
  return list;
}

std::string random_layers(Draw& draw) {
  const auto count = draw.of({1, 1, 2, 2, 3, 4, 4, 5, 6, 6});
  const bool periodic = draw.percent(50);
  const auto period = draw.between(1, 4);
  std::string layers;
  for (std::int64_t i = 0; i < count; ++i) {
    const bool attention = periodic ? (i + 1) % period == 0 : draw.percent(50);
    layers += attention ? 'a' : 'g';
  }
  return layers;
}

RowShape random_row(Draw& draw) {
  RowShape row;
  const auto documents = draw.of({1, 1, 1, 2, 2, 3, 4});
  for (std::int64_t d = 0; d < documents; ++d) {
    const auto kind = draw.between(1, 10);
    const auto tokens = kind <= 5   ? draw.between(1, 3)
                        : kind <= 8 ? draw.between(4, 12)
                                    : draw.between(13, 40);
    row.push_back({tokens, draw.percent(8)});
  }
  return row;
}

// First how many ranks, so that sizes with few meshes occur as often, then which mesh: one of a single axis,
// which are few and test that axis hardest, or of nine the one with more context axes, which have the most
// ways to be wrong together, or now and then one with a pipeline.
Mesh random_mesh(Draw& draw) {
  const auto world = draw.of({1, 2, 2, 3, 3, 4, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 8});
  auto meshes = enumerate_meshes(static_cast<int>(world));
  if (draw.percent(48)) {
    std::erase_if(meshes, [](const Mesh& mesh) { return mesh.text().find('.') != std::string::npos; });
    return draw.of(meshes);
  }
  const bool pipeline = draw.percent(30);
  const auto wanted = [&](const Mesh& mesh) {
    return pipeline ? mesh.pp > 1 : 2 * (mesh.ring > 1 && mesh.uly > 1) + (mesh.cp() > 1);
  };
  Mesh best = draw.of(meshes);
  for (int i = 0; i < 8; ++i)
    if (const Mesh other = draw.of(meshes); wanted(other) > wanted(best)) best = other;
  return best;
}

// Flags that this mesh takes: of a flag the first of three drawn values that it neither refuses nor ignores,
// else its default.
Flags random_flags(const Mesh& mesh, const ModelConfig& config, const CaseOptions& options, Draw& draw) {
  Flags flags;
  for (const auto& flag : flag_options()) {
    // Nothing is drawn for it, so that text models' cases stay what they are.
    if (std::string(flag.name) == "vision" && !config.has_vision()) continue;
    const auto values = (options.*flag.given).empty() ? flag.values : values_asked(flag, options);
    bool taken = false;
    for (int i = 0; i < 3 && !taken; ++i) {
      Flags tried = flags;
      flag.set(tried, draw.of(values));
      taken = canonical_flags(mesh, tried, nullptr) == tried && refusal(mesh, tried, config).empty();
      if (taken) flags = tried;
    }
  }
  return flags;
}

// Of three losses one gets further terms, of weights from small to as large as the policy's own.
std::string with_random_terms(const std::string& policy, const ModelConfig& config, Draw& draw) {
  const std::vector<std::string> weights = {"0.001*", "0.1*", ""};
  std::string loss = draw.percent(12) ? "policy_gradient" : policy;
  if (!draw.percent(35)) return loss;
  for (const char* term : {"lm_z", "router_z", "aux"}) {
    const std::string weighed = "+" + draw.of(weights) + term;
    if (draw.percent(50) && (config.is_moe() || std::string(term) == "lm_z")) loss += weighed;
  }
  return loss;
}

// With multi-token prediction in the model, mostly its term too.
std::string with_random_mtp(const std::string& loss, const ModelConfig& config, Draw& draw) {
  if (config.mtp_num_hidden_layers == 0 || draw.percent(20)) return loss;
  return loss + draw.of(std::vector<std::string>{"+0.1*mtp", "+mtp"});
}

// Has every flag a value that was asked for?
bool as_asked(const Flags& flags, const CaseOptions& options) {
  for (const auto& flag : flag_options()) {
    if ((options.*flag.given).empty()) continue;
    const auto asked = values_asked(flag, options);
    if (std::find(asked.begin(), asked.end(), flag.get(flags)) == asked.end()) return false;
  }
  return true;
}

// Now and then multi-token prediction, a tower, and images in documents that become longer by them: drawn
// apart, so that what a case is otherwise does not depend on them. A text model reads the images' tokens as
// text.
void add_vision(Draw& draw, ModelShape& shape, BatchShape& batch) {
  shape.mtp = draw.percent(20);
  if (!draw.percent(25)) return;
  shape.vision_depth = draw.between(1, 2), shape.vision_heads = draw.of({1, 2, 2, 3, 4, 4, 6});
  shape.vision_head_dim = draw.of({4, 4, 8}), shape.vision_ffn = draw.between(1, 10);
  shape.grid = draw.between(1, 6);
  shape.vocab += 4;
  if (draw.percent(15)) return;  // text in a multimodal model
  for (auto& rows : batch.micro_batches)
    for (auto& row : rows)
      for (auto& document : row) {
        if (!draw.percent(35)) continue;
        const auto images = draw.of({1, 1, 1, 2});
        for (std::int64_t i = 0; i < images; ++i) {
          const bool video = draw.percent(25);
          const auto side = [&] { return 2 * draw.of({1, 1, 2, 2, 3}); };
          const Grid grid = {video ? draw.between(1, 3) : 1, side(), side()};
          document.images.push_back({grid, video});
        }
        // Also documents that are nothing but an image.
        document.tokens = document.image_tokens() + (draw.percent(20) ? 0 : document.tokens);
      }
}

// The options with one value, drawn, where they hold a list, and without flags: what `expand` checks and
// turns into one case per mesh.
CaseOptions one_of_each(const CaseOptions& options, Draw& draw, Draw& more) {
  CaseOptions one = options;
  for (const auto& flag : flag_options()) {
    values_asked(flag, options);  // throws on an unknown value
    (one.*flag.given).clear();
  }
  const auto choose = [&](std::vector<std::string>& list, std::vector<std::string> open) {
    list = {draw.of(list.empty() ? open : list)};
  };
  // Both are always drawn, so that naming one leaves the draw of the other as it was.
  ModelShape shape = random_shape(draw);
  BatchShape batch = random_batch(draw);
  add_vision(more, shape, batch);
  choose(one.model, {shape.text()});
  choose(one.batch, {batch.text()});
  choose(one.loss, {"token_mean", "token_mean", "sum", "sequence_mean", "micro_batch_mean", "num_tokens"});
  choose(one.loss_form, {"sharded", "replicated"});
  choose(one.dtype, {"float64"});
  choose(one.engine, {"inprocess"});
  choose(one.reduce, {"engine"});
  if (one.mesh.empty()) one.mesh = {"world<=8"};
  const auto steps = draw.of({0, 0, 1, 2, 3, 3});
  if (one.steps < 0) one.steps = static_cast<int>(steps);
  one.seed = draw.between(1, 999);
  return one;
}

}  // namespace

ModelShape random_shape(Draw& draw) {
  ModelShape s;
  s.layers = random_layers(draw);
  s.hidden = draw.between(4, 20);
  s.heads = draw.of({1, 2, 3, 4, 4, 5, 6, 6, 7, 8, 8, 12});
  s.kv_heads = draw.of(divisors(s.heads));
  s.head_dim = draw.between(2, 10);
  s.rope = 2 * draw.between(1, s.head_dim / 2);
  s.gdn_key_heads = draw.of({1, 2, 2, 3, 4, 4, 5, 6, 6, 7, 8, 8});
  s.gdn_value_heads = s.gdn_key_heads * draw.of({1, 1, 2, 2, 3});
  // A norm over one number is its sign: where that number is near zero it amplifies by up to 1 / sqrt(eps) =
  // 1000, more than the condition behind the bounds (docs/tolerance.md#condition).
  s.gdn_key_dim = std::max<std::int64_t>(2, draw.between(1, 6));
  s.gdn_value_dim = std::max<std::int64_t>(2, draw.between(1, 6));
  s.conv = draw.of({1, 2, 3, 4, 4, 4, 5});
  s.vocab = draw.between(3, 40);
  s.tied = draw.percent(35);
  const auto ffn = draw.between(1, 16);
  const auto experts = draw.between(1, 12), shared = draw.between(1, 8);
  if (draw.percent(45)) {
    s.experts = experts, s.top_k = draw.between(1, std::min<std::int64_t>(experts, 4));
    s.expert_width = draw.between(1, 8), s.shared = shared;
  } else {
    s.ffn = ffn;
  }
  return s;
}

BatchShape random_batch(Draw& draw) {
  BatchShape shape;
  const auto micro_batches = draw.between(1, 3);
  // Sometimes one micro-batch has no label at all.
  const auto silent = draw.percent(15) ? draw.between(0, micro_batches - 1) : -1;
  shape.micro_batches.clear();
  for (std::int64_t m = 0; m < micro_batches; ++m) {
    shape.micro_batches.emplace_back();
    const auto rows = draw.of({1, 1, 2, 2, 3});
    for (std::int64_t r = 0; r < rows; ++r) shape.micro_batches.back().push_back(random_row(draw));
    if (m == silent)
      for (auto& row : shape.micro_batches.back())
        for (auto& document : row) document.unlabelled = true;
  }
  shape.mask = draw.of({0, 0, 0, 25, 60, 95});
  shape.seed = draw.between(1, 999);
  return shape;
}

CaseSpec random_case(const CaseOptions& options, std::uint64_t seed, std::uint64_t index,
                     const std::function<ModelConfig(const std::string&, const std::string&)>& config_of) {
  if (!options.golden.empty())
    throw InputError(
        "--random draws its batches and has no golden; --model and --batch restrict what it draws");
  Draw draw(seed, "random case " + std::to_string(index));
  // The mesh is drawn before the model: of random models few take tp7, and it should occur as often as dp7.
  const std::string wanted = random_mesh(draw).text();
  const bool any_mesh = options.mesh.empty() && options.axes.empty();
  Draw more(seed, "random vision " + std::to_string(index));
  std::string refused = "no mesh takes these flags";
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    CaseOptions one = one_of_each(options, draw, more);
    if (any_mesh && attempt < kAttemptsForMesh) one.mesh = {wanted};
    Expansion meshes;
    try {
      meshes = expand(one, config_of);
    } catch (const InputError& error) {
      refused = error.what();
      continue;
    }
    CaseSpec spec = draw.of(meshes.cases);
    spec.flags = random_flags(spec.mesh, config_of(spec.model, spec.golden), options, draw);
    if (!as_asked(spec.flags, options)) continue;
    if (options.loss.empty()) {
      // Drawn apart, so that what a case is otherwise does not depend on them.
      Draw terms(seed, "random loss " + std::to_string(index));
      const ModelConfig config = config_of(spec.model, spec.golden);
      spec.loss = with_random_mtp(with_random_terms(spec.loss, config, terms), config, terms);
    }
    return spec;
  }
  throw InputError("--random: nothing that was drawn fits the options: " + refused);
}

}  // namespace meshparity::run
