// Every entry of the rollout's table is what the engine does: a wrong one moves what it says, and only there.
#include "impl/rollout/edit.h"

#include "impl/rollout/rollout_fixture.h"
#include "impl/rollout/sampling.h"

namespace meshparity::impl::edit_test {
namespace {

using namespace rollout_testing;

// The largest difference from training with an edit, of sequences of which some begin alike.
double edited(const std::string& spec, std::function<void(RolloutEdit&)> edit,
              const std::string& mesh = "tp2") {
  Rollout rollout;
  rollout.tokens = "tokens:9/5+12/4/6", rollout.spec = spec, rollout.mesh = mesh, rollout.train = "fsdp2";
  rollout.seams.rollout = std::move(edit);
  Batch batch = rollout.batch();
  for (const std::int64_t begin : {14, 30})
    for (std::int64_t i = 0; i < 4; ++i) batch.token_ids[begin + i] = batch.token_ids[i];
  for (std::int64_t d = 0; d < batch.documents(); ++d)
    for (std::int64_t t = batch.document(d).begin; t + 1 < batch.document(d).end; ++t)
      batch.labels[t] = batch.token_ids[t + 1];
  const Weights weights = random_weights(rollout.config);
  const auto got = rollout.run(batch, weights);
  const Mesh on = Mesh::parse(mesh);
  const at::Tensor want = trained(rollout.config, batch, weights).at("logits");
  const at::Tensor scaled = want / RolloutSpec::parse(spec).temperature;
  return std::max(largest(gathered(got, "rollout/logits", batch, on) - want),
                  largest(gathered(got, "rollout/logprobs", batch, on) - logprobs_of(scaled, batch)));
}

std::vector<char> all_ones(const RolloutPass& /*pass*/, std::vector<char> real) {
  std::fill(real.begin(), real.end(), char{1});
  return real;
}

}  // namespace

TEST_CASE("a wrong entry of the rollout's table shows, and not where it does nothing wrong") {
  struct Wrong {
    const char *name, *shows, *exact;  // specifications
    std::function<void(RolloutEdit&)> edit;
  };
  const std::vector<Wrong> all = {
      {"shard_of", "plain", nullptr,
       [](RolloutEdit& e) {
         e.shard_of = [](const std::string& name, int rank) {
           return name.ends_with("q_proj.weight") ? rank ^ 1 : rank;
         };
       }},
      {"received", "plain", nullptr,
       [](RolloutEdit& e) {
         e.received = [](const std::string& name, const at::Tensor& before, const at::Tensor& shard) {
           return name.ends_with("A_log") ? before : shard;
         };
       }},
      {"start", "batch=2", "plain", [](RolloutEdit& e) { e.start = [](LayerCache&, std::int64_t) {}; }},
      {"resume", "prefix=3", "plain",
       [](RolloutEdit& e) { e.resume = [](LayerCache&, std::int64_t, const LayerCache&) {}; }},
      {"key_slot", "plain", "batch=1",
       [](RolloutEdit& e) {
         e.key_slot = [](const RolloutPass& pass, const PassRow& row) {
           return pass.rows[(&row - pass.rows.data() + 1) % pass.rows.size()].slot;
         };
       }},
      {"next_tail", "plain", "prompt=100",
       [](RolloutEdit& e) {
         e.next_tail = [](const RolloutPass&, const PassRow&, Range window) {
           return Range{window.begin, window.begin + 3};
         };
       }},
      {"keep_tail", "plain", "prompt=100",
       [](RolloutEdit& e) {
         e.keep_tail = [](const RolloutPass&, const at::Tensor& before, const at::Tensor&) { return before; };
       }},
      {"keep_state", "plain", "prompt=100",
       [](RolloutEdit& e) {
         e.keep_state = [](const RolloutPass&, const at::Tensor& before, const at::Tensor&) {
           return before;
         };
       }},
      {"read", "pad=left", "plain", [](RolloutEdit& e) { e.read = all_ones; }},
      // Padding in front of a sequence decays a state of zero.
      {"decays", "prefix=2:pad=left", "pad=left", [](RolloutEdit& e) { e.decays = all_ones; }},
      {"positions", "pad=left", "plain",
       [](RolloutEdit& e) {
         e.positions = [](const RolloutPass& pass, std::vector<std::int64_t> positions) {
           for (std::size_t i = 0; pass.decode && i < positions.size(); ++i)
             positions[i] += pass.rows[i % pass.rows.size()].padding_cached;
           return positions;
         };
       }},
      {"same_prefix", "prompt=6:prefix=5", "prompt=6:prefix=4",
       [](RolloutEdit& e) {
         e.same_prefix = [](const PrefixKey& a, const PrefixKey& b) { return a.tokens[1] == b.tokens[1]; };
       }},
      {"sample", "temperature=0.7", "plain",
       [](RolloutEdit& e) {
         e.sample = [right = e.sample](const SampledTokens& tokens, const at::Tensor& logits,
                                       double temperature, double top_p) {
           SampledLogprobs said = right(tokens, logits, 1, top_p);
           said.logprobs = said.logprobs / temperature;
           return said;
         };
       }},
  };
  for (const Wrong& wrong : all) {
    CAPTURE(wrong.name);
    CHECK(edited(wrong.shows, nullptr) <= 1e-11);
    CHECK(edited(wrong.shows, wrong.edit) > 1e-6);
    if (wrong.exact) CHECK(edited(wrong.exact, wrong.edit) <= 1e-11);
  }
}

}  // namespace meshparity::impl::edit_test
