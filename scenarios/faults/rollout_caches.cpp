// Rollout: caches that hold something else than the tokens before, or not all of it.
#include <algorithm>
#include <map>

#include "impl/rollout/cache.h"
#include "scenarios/faults/decorators.h"
#include "scenarios/faults/rollout_edit.h"

namespace meshparity::faults {
namespace {

using impl::LayerCache;
using impl::PassRow;
using impl::RolloutEdit;
using impl::RolloutPass;

// All of a pass's tokens where any of its rows has something cached.
std::vector<char> all_with_cache(const RolloutPass& pass, std::vector<char> real) {
  const bool cached =
      std::any_of(pass.rows.begin(), pass.rows.end(), [](const PassRow& row) { return row.cached > 0; });
  if (cached) std::fill(real.begin(), real.end(), char{1});
  return real;
}

}  // namespace

Fault decode_state_bf16() {
  return {"decode-state-bf16",
          "the recurrent state is written back in bfloat16 after every decoded token",
          "ollama/ollama#15865",
          "rollout",
          "rollout/log*",
          "what decoding leaves in the caches",
          {"--model tiny-dense --batch single --mesh fsdp2 --rollout-mesh tp2",
           "--model tiny-moe --batch rows --mesh dp1 --rollout-mesh tp2.ep2"},
          edit_rollout([](RolloutEdit& edit) {
            edit.keep_state = [](const RolloutPass& pass, const at::Tensor&, const at::Tensor& after) {
              return pass.decode ? after.to(at::kBFloat16).to(after.scalar_type()) : after;
            };
          }),
          // Nothing is decoded.
          {"--model tiny-dense --batch single --mesh fsdp2 --rollout-mesh tp2 --rollout prompt=1000"}};
}

Fault prefill_vs_recurrent() {
  return {
      "prefill-vs-recurrent",
      "decoding does not move the convolution's window on: every decoded token sees the prompt's last inputs",
      "huggingface/transformers#46190",
      "rollout",
      "rollout/log*",
      "what decoding leaves in the caches",
      {"--model tiny-dense --batch rows --mesh tp2 --rollout-mesh tp2",
       "--model tiny-moe --batch packed-odd --mesh fsdp2 --rollout-mesh dp2"},
      edit_rollout([](RolloutEdit& edit) {
        edit.keep_tail = [](const RolloutPass& pass, const at::Tensor& before, const at::Tensor& after) {
          return pass.decode ? before : after;
        };
      }),
      {"--model tiny-dense --batch rows --mesh tp2 --rollout-mesh tp2 --rollout prompt=1000:chunk=4"}};
}

Fault conv_state_off_by_one() {
  return {
      "conv-state-off-by-one",
      "prefill leaves the convolution's inputs one token short: the window that decoding continues lacks the "
      "prompt's last token",
      "constructed",
      "rollout",
      "rollout/log*",
      "what decoding finds in the caches*|prefill",
      {"--model tiny-dense --batch rows --mesh dp2 --rollout-mesh dp1",
       "--model tiny-moe --batch single --mesh tp2 --rollout-mesh pp2"},
      edit_rollout([](RolloutEdit& edit) {
        edit.next_tail = [right = edit.next_tail](const RolloutPass& pass, const PassRow& row, Range window) {
          Range kept = right(pass, row, window);
          if (!pass.decode && kept.begin > window.begin) --kept.begin, --kept.end;
          return kept;
        };
      }),
      {"--model tiny-dense --batch rows --mesh dp2 --rollout-mesh dp1 --rollout prompt=1000"}};
}

Fault chunked_prefill_pad_mask_none() {
  return {"chunked-prefill-pad-mask-none",
          "once there is a cache, padding is no longer masked for convolution and recurrence: its chunk "
          "writes into "
          "the state",
          "huggingface/transformers#47086",
          "rollout",
          "rollout/log*",
          "prefill|a later chunk of a prompt",
          {"--model tiny-dense --batch rows --mesh tp2 --rollout-mesh dp1 --rollout chunk=3:pad=left",
           "--model tiny-moe --batch packed-odd --mesh dp2 --rollout-mesh dp2 --rollout chunk=2:pad=left"},
          edit_rollout([](RolloutEdit& edit) { edit.read = edit.decays = all_with_cache; }),
          // Padding is all in the first chunk.
          {"--model tiny-dense --batch rows --mesh tp2 --rollout-mesh dp1 --rollout pad=left"}};
}

Fault gdn_pad_decay_unmasked() {
  return {"gdn-pad-decay-unmasked",
          "padding writes nothing but decays: behind a warm cache it scales the state that was cached",
          "fla-org/flash-linear-attention#1272",
          "rollout",
          "rollout/log*",
          "prefill",
          {"--model tiny-dense --batch prompts --mesh tp2 --rollout-mesh dp1 --rollout prefix=4:pad=left",
           "--model tiny-moe --batch prompts --mesh dp1 --rollout-mesh tp2 --rollout prefix=4:pad=left"},
          edit_rollout([](RolloutEdit& edit) {
            edit.decays = [](const RolloutPass&, std::vector<char> real) {
              std::fill(real.begin(), real.end(), char{1});
              return real;
            };
          }),
          // In front of a sequence there is nothing to decay.
          {"--model tiny-dense --batch prompts --mesh tp2 --rollout-mesh dp1 --rollout pad=left"}};
}

Fault kv_neighbour_slot() {
  return {"kv-neighbour-slot",
          "decoding writes keys and values to the cache of the next sequence of the batch",
          "constructed",
          "rollout",
          "rollout/log*",
          "what decoding *",
          {"--model tiny-dense --batch rows --mesh dp1 --rollout-mesh tp2",
           "--model tiny-moe --batch packed-odd --mesh fsdp2 --rollout-mesh dp2 --rollout batch=3"},
          edit_rollout([](RolloutEdit& edit) {
            edit.key_slot = [](const RolloutPass& pass, const PassRow& row) {
              const auto own = static_cast<std::size_t>(&row - pass.rows.data());
              return pass.decode ? pass.rows[(own + 1) % pass.rows.size()].slot : row.slot;
            };
          }),
          // Every sequence is alone.
          {"--model tiny-dense --batch rows --mesh dp1 --rollout-mesh tp2 --rollout batch=1"}};
}

Fault recurrent_state_not_reset() {
  return {"recurrent-state-not-reset",
          "a sequence begins with the recurrent state that the last one left in its slot",
          "constructed",
          "rollout",
          "rollout/log*",
          "caches that the slot's last sequence left",
          {"--model tiny-dense --batch rows --mesh dp1 --rollout-mesh tp2 --rollout batch=4",
           "--model tiny-moe --batch packed-odd --mesh fsdp2 --rollout-mesh dp2 --rollout batch=1"},
          edit_rollout([](RolloutEdit& edit) {
            edit.start = [](LayerCache& cache, std::int64_t slot) {
              if (cache.tail.defined()) cache.tail.select(0, slot).zero_();
            };
          }),
          // Every slot is taken once.
          {"--model tiny-dense --batch rows --mesh dp1 --rollout-mesh tp2"}};
}

Fault prefix_cache_stale() {
  return {"prefix-cache-stale",
          "a shared prefix is taken from a cache that weights of before an update have filled, here a "
          "thousandth off",
          "PrimeIntellect-ai/prime-rl#1650",
          "rollout",
          "rollout/log*",
          "caches of a shared prefix",
          {"--model tiny-dense --batch prompts --mesh fsdp2 --rollout-mesh tp2 --rollout prefix=4",
           "--model tiny-moe --batch prompts --mesh dp1 --rollout-mesh pp2 --rollout prefix=5:batch=1"},
          edit_rollout([](RolloutEdit& edit) {
            edit.resume = [right = edit.resume](LayerCache& cache, std::int64_t slot,
                                                const LayerCache& kept) {
              LayerCache stale = kept;
              for (at::Tensor* t : {&stale.keys, &stale.values, &stale.tail, &stale.state})
                if (t->defined()) *t = *t * 0.999;
              right(cache, slot, stale);
            };
          }),
          {"--model tiny-dense --batch prompts --mesh fsdp2 --rollout-mesh tp2"}};
}

Fault hybrid_prefix_cache_mtp() {
  return {"hybrid-prefix-cache-mtp",
          "with a prefix's keys comes the recurrent state of tokens behind it: that in which the slot's last "
          "sequence "
          "ended",
          "vllm-project/vllm#43559",
          "rollout",
          "rollout/log*",
          "caches of a shared prefix",
          {"--model tiny-dense --batch prompts --mesh fsdp2 --rollout-mesh tp2 --rollout prefix=4:batch=1",
           "--model tiny-moe --batch prompts --mesh dp1 --rollout-mesh pp2 --rollout prefix=5:batch=1"},
          edit_rollout([](RolloutEdit& edit) {
            // By the layer's cache: one rank has several.
            auto ended = std::make_shared<std::map<const LayerCache*, at::Tensor>>();
            edit.start = [ended, right = edit.start](LayerCache& cache, std::int64_t slot) {
              if (cache.state.defined()) (*ended)[&cache] = cache.state[slot].clone();
              right(cache, slot);
            };
            edit.resume = [ended, right = edit.resume](LayerCache& cache, std::int64_t slot,
                                                       const LayerCache& kept) {
              right(cache, slot, kept);
              if (const auto left = ended->find(&cache); left != ended->end())
                cache.state[slot].copy_(left->second);
            };
          }),
          {"--model tiny-dense --batch prompts --mesh fsdp2 --rollout-mesh tp2 --rollout batch=1"}};
}

}  // namespace meshparity::faults
