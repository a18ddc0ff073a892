// Making pairs of dumps from runs: a kind is a function that draws and runs both sides.
#include "harness/cli/drift_pairs.h"

#include <algorithm>
#include <functional>

#include "harness/cli/pair_run.h"
#include "harness/types/error.h"
#include "scenarios/load.h"

namespace meshparity::cli {
namespace {

const std::vector<std::string> kTrainPolicies = {"huggingface", "megatron", "torchtitan", "miles"};
const std::vector<std::string> kRolloutPolicies = {"vllm", "sglang"};

// The dtypes of a pair whose fault must be seen above them: exact, float32, or a trainer's and a sampler's.
std::pair<PrecisionPolicy, PrecisionPolicy> drawn_policies(PairRun& run) {
  switch (run.below(3)) {
    case 0:
      return {};
    case 1:
      return {scenarios::load_policy("float32"), scenarios::load_policy("float32")};
    default:
      return {scenarios::load_policy(run.one_of(kTrainPolicies)),
              scenarios::load_policy(run.one_of(kRolloutPolicies))};
  }
}

// Exact or float32: of a fault whose effect fades within some tokens of these models, or is itself the size
// of bfloat16's rounding.
std::pair<PrecisionPolicy, PrecisionPolicy> narrow_policies(PairRun& run) {
  const PrecisionPolicy policy =
      scenarios::load_policy(run.one_of(std::vector<std::string>{"float64", "float32"}));
  return {policy, policy};
}

Mesh drawn_rollout_mesh(PairRun& run) {
  return Mesh::parse(run.one_of(std::vector<std::string>{"dp1", "dp2", "tp2", "pp2"}));
}

// A maker finishes the pair: runs both sides and says what the verdict must be.
using Maker = std::function<void(PairRun& run, RunPair& pair)>;

std::string words(const std::pair<PrecisionPolicy, PrecisionPolicy>& policies) {
  return policies.first.name + " against " + policies.second.name;
}

void finish(PairRun& run, RunPair& pair, const Logprobs& train, const Logprobs& rollout,
            const Routes& train_routes = {}, const Routes& rollout_routes = {}) {
  pair.source = std::make_shared<drift::MemorySource>(
      pair.kind, run.samples(train, rollout, train_routes, rollout_routes));
}

void make_benign_policies(PairRun& run, RunPair& pair) {
  const PrecisionPolicy train = scenarios::load_policy(run.one_of(kTrainPolicies));
  const PrecisionPolicy rollout = scenarios::load_policy(run.one_of(kRolloutPolicies));
  const Mesh mesh = drawn_rollout_mesh(run);
  run.spec().mesh = Mesh::parse(run.one_of(std::vector<std::string>{"dp1", "tp2", "ring2", "uly2"}));
  run.draw_tokens(8, 1 + run.below(3), 72, 140);
  pair.cause = "rounding",
  pair.made_of = words({train, rollout}) + ", " + run.spec().mesh.text() + " against " + mesh.text();
  finish(run, pair, run.train(train), run.sampler(mesh, rollout, ""));
}

void make_benign_engines(PairRun& run, RunPair& pair) {
  const PrecisionPolicy policy = scenarios::load_policy(
      run.one_of(std::vector<std::string>{"float64", "float32", "vllm", "torchtitan"}));
  const Mesh mesh = drawn_rollout_mesh(run);
  run.spec().mesh =
      Mesh::parse(run.one_of(std::vector<std::string>{"ring2", "ring3", "ring4", "uly2.ring2"}));
  run.spec().flags.layout = "zigzag";
  run.rollout().chunk = 16 * run.below(3);
  run.draw_tokens(16, 1, 96, 150);
  pair.cause = "rounding";
  pair.made_of = policy.name + " on both sides, zigzag " + run.spec().mesh.text() + " against " + mesh.text();
  finish(run, pair, run.train(policy), run.sampler(mesh, policy, ""));
}

// Of a trainer on spec().mesh with spec().fault, whose cut the verdict must name.
void finish_layout(PairRun& run, RunPair& pair, std::int64_t rows,
                   const std::pair<PrecisionPolicy, PrecisionPolicy>& policies) {
  run.draw_tokens(rows, 1, 120, 200);
  pair.cause = "layout", pair.detail = "cp=" + std::to_string(run.spec().mesh.ring);
  pair.made_of = run.spec().fault + " on " + run.spec().mesh.text() + ", " + words(policies);
  finish(run, pair, run.train(policies.first), run.sampler(Mesh{}, policies.second, ""));
}

// Context parallelism over 2 to 4 ranks.
Mesh drawn_ring(PairRun& run) {
  return Mesh::parse("ring" + std::to_string(2 + run.below(3)));
}

void make_layout(PairRun& run, RunPair& pair) {
  run.spec().mesh = drawn_ring(run), run.spec().flags.layout = "zigzag";
  run.spec().fault = "gdn-cp-zigzag-as-contiguous";
  finish_layout(run, pair, 20, drawn_policies(run));
}

// Shards of one order after the other, of which each begins its convolution without the tokens before.
void make_halo(PairRun& run, RunPair& pair) {
  run.spec().mesh = drawn_ring(run);
  const auto policies = narrow_policies(run);
  run.spec().fault =
      run.one_of(std::vector<std::string>{"conv1d-cp-no-halo", "conv1d-cp-local-seqidx-reset"});
  finish_layout(run, pair, 20, policies);
}

// Every shard counts positions from its own first token.
void make_positions(PairRun& run, RunPair& pair) {
  run.spec().mesh = drawn_ring(run), run.spec().flags.attn = "gather";
  run.spec().fault = "cp-positions-local";
  finish_layout(run, pair, 40, narrow_policies(run));
}

// Decoding continues from caches that the prompt did not leave.
void make_cache(PairRun& run, RunPair& pair) {
  const auto policies = narrow_policies(run);
  const std::string fault = run.one_of(std::vector<std::string>{
      "conv-state-off-by-one", "chunked-prefill-pad-mask-none", "hybrid-prefix-cache-mtp"});
  if (fault == "chunked-prefill-pad-mask-none")
    run.rollout().prompt = 0, run.rollout().chunk = 5, run.rollout().left_pad = true;
  if (fault == "hybrid-prefix-cache-mtp")
    run.rollout().prefix = run.rollout().prompt, run.rollout().batch = 1,
    run.share_prefix(run.rollout().prompt);
  run.draw_tokens(48, 1, 90, 140);
  pair.cause = "cache", pair.made_of = fault + ", " + words(policies);
  finish(run, pair, run.train(policies.first), run.sampler(Mesh{}, policies.second, fault));
}

void make_precision(PairRun& run, RunPair& pair) {
  const auto policies = narrow_policies(run);
  // A state of 64 keys: one of the tiny models' 6 is written over within some ten tokens, and errors with it.
  run.remember();
  run.spec().model =
      "shape:layers=gga:hidden=48:heads=4/2:head_dim=16:gdn=2/4:key=64:value=16:ffn=40:vocab=61";
  const bool decay = run.below(2);
  const std::string fault = decay ? "a-log-bf16" : "decode-state-bf16";
  if (decay) run.spec().fault = fault;
  run.draw_tokens(36, 1, 180, 240);
  pair.cause = "precision growing with position", pair.made_of = fault + ", " + words(policies);
  finish(run, pair, run.train(policies.first), run.sampler(Mesh{}, policies.second, decay ? "" : fault));
}

void make_boundary(PairRun& run, RunPair& pair) {
  const auto policies = narrow_policies(run);
  run.spec().fault = "gdn-packed-no-reset";
  run.rollout().prompt = 2;
  run.draw_tokens(10, 3, 90, 140);
  pair.cause = "boundary leak", pair.made_of = run.spec().fault + ", " + words(policies);
  finish(run, pair, run.train(policies.first), run.sampler(Mesh{}, policies.second, ""));
}

void make_temperature(PairRun& run, RunPair& pair) {
  auto policies = drawn_policies(run);
  run.rollout().temperature = run.one_of(std::vector<double>{0.6, 0.7, 0.8, 1.2, 1.4});
  run.draw_tokens(12, 2, 80, 140);
  pair.cause = "temperature";
  pair.made_of = "temperature " + std::to_string(run.rollout().temperature) + ", " + words(policies);
  finish(run, pair, run.train(policies.first), run.sampler(Mesh{}, policies.second, ""));
}

void make_stale(PairRun& run, RunPair& pair) {
  // A small step is below the rounding of bfloat16: nobody can see it there.
  const auto policies = narrow_policies(run);
  run.draw_tokens(250, 1, 120, 180);
  const double lr = run.one_of(std::vector<double>{1e-6, 1e-5, 1e-4});
  const auto newer = run.stepped(lr);
  pair.cause = "stale weights", pair.made_of = "one step of " + std::to_string(lr) + ", " + words(policies);
  // The rollout drew with the weights it has; the trainer has taken a step since.
  const Logprobs train = run.sampler(Mesh{}, policies.first, "", &newer);
  finish(run, pair, train, run.sampler(Mesh{}, policies.second, ""));
}

// A sampler that reports the logprobs of the set that top-p kept, and a trainer that knows no top-p.
void make_top_p(PairRun& run, RunPair& pair) {
  auto policies = drawn_policies(run);
  run.sharpen();
  run.rollout().top_p = run.one_of(std::vector<double>{0.6, 0.7, 0.8, 0.9, 0.95});
  run.draw_tokens(24, 1, 100, 160);
  pair.cause = "top-p";
  pair.made_of = "top-p " + std::to_string(run.rollout().top_p) + ", " + words(policies);
  finish(run, pair, run.train(policies.first), run.sample(Mesh{}, policies.second, "").within_top);
}

// A sampler that was to take the trainer's experts: it takes its own, or those of the token before. The
// trainer's are the reference's: under exact arithmetic and float32 there are no others.
void make_routing(PairRun& run, RunPair& pair) {
  const auto policies = narrow_policies(run);
  run.spec().model = "tiny-moe", run.rollout().replay = true;
  const std::string fault = run.one_of(std::vector<std::string>{"router-mismatch-baseline", "r3-misaligned"});
  run.draw_tokens(64, 1, 90, 140);
  pair.cause = "routing", pair.made_of = fault + ", " + words(policies);
  const Logprobs train = run.train(policies.first);
  const Sampled rolled = run.sample(Mesh{}, policies.second, fault);
  finish(run, pair, train, rolled.logprobs, run.routes(), rolled.routes);
}

void make_shift(PairRun& run, RunPair& pair) {
  auto policies = drawn_policies(run);
  run.draw_tokens(12, 2, 80, 140);
  const Logprobs rollout = run.sampler(Mesh{}, policies.second, "");
  Logprobs train = run.train(policies.first);
  const bool left = run.below(2);
  for (std::int64_t d = 0; d < run.batch().documents(); ++d) {
    const Range tokens = run.batch().document(d);
    const auto begin = train.begin() + tokens.begin, end = train.begin() + tokens.end - 1;
    left ? std::rotate(begin, begin + 1, end) : std::rotate(begin, end - 1, end);
  }
  pair.cause = "token shift", pair.made_of = "shifted by one, " + words(policies);
  finish(run, pair, train, rollout);
}

void make_mask(PairRun& run, RunPair& pair) {
  auto policies = drawn_policies(run);
  run.draw_tokens(16, 1, 80, 140);
  const Logprobs rollout = run.sampler(Mesh{}, policies.second, "");
  Logprobs train = run.train(policies.first);
  // The trainer masks a stretch that the rollout counts, and stores zeros there.
  for (std::int64_t d = 0; d < run.batch().documents(); d += 2) {
    const Range tokens = run.batch().document(d);
    const std::int64_t from = tokens.begin + 40, count = 6 + run.below(20);
    for (std::int64_t t = from; t < std::min(from + count, tokens.end); ++t) train[t] = 0;
  }
  pair.cause = "mask", pair.made_of = "zeros where the trainer masks, " + words(policies);
  finish(run, pair, train, rollout);
}

struct PairKind {
  const char* name;
  bool benign;
  Maker make;
};

const std::vector<PairKind>& pair_kinds() {
  static const std::vector<PairKind> kinds = {{"benign-policies", true, make_benign_policies},
                                              {"benign-engines", true, make_benign_engines},
                                              {"layout-zigzag", false, make_layout},
                                              {"layout-halo", false, make_halo},
                                              {"layout-positions", false, make_positions},
                                              {"boundary-leak", false, make_boundary},
                                              {"cache", false, make_cache},
                                              {"precision", false, make_precision},
                                              {"temperature", false, make_temperature},
                                              {"top-p", false, make_top_p},
                                              {"routing", false, make_routing},
                                              {"stale-weights", false, make_stale},
                                              {"token-shift", false, make_shift},
                                              {"mask", false, make_mask}};
  return kinds;
}

}  // namespace

std::vector<std::string> run_pair_kinds(bool benign) {
  std::vector<std::string> names;
  for (const PairKind& kind : pair_kinds())
    if (kind.benign == benign) names.push_back(kind.name);
  return names;
}

RunPair make_run_pair(const std::string& kind, std::uint64_t seed) {
  for (const PairKind& known : pair_kinds())
    if (kind == known.name) {
      PairRun run(kind, seed);
      RunPair pair;
      pair.kind = kind;
      known.make(run, pair);
      return pair;
    }
  throw InputError("bench drift: no kind '" + kind + "'");
}

}  // namespace meshparity::cli
