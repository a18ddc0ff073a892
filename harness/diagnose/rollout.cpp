#include "harness/diagnose/rollout.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

namespace meshparity::diagnose {
namespace {

using Flags = std::vector<char>;

// The nearest bfloat16, ties to even; x is finite.
double to_bfloat16(double x) {
  const auto single = static_cast<float>(x);
  std::uint32_t bits = 0;
  std::memcpy(&bits, &single, sizeof bits);
  bits += 0x7fff + ((bits >> 16) & 1);
  bits &= 0xffff0000u;
  float rounded = 0;
  std::memcpy(&rounded, &bits, sizeof rounded);
  return rounded;
}

// Of the elements that differ by more than `slack` of their size, how many does `like(index)` explain, as a
// share.
template <class Like>
double share(const TensorView& got, const TensorView& want, double slack, Like&& like) {
  std::int64_t differ = 0, explained = 0;
  for (std::int64_t i = 0; i < want.numel(); ++i) {
    if (std::fabs(got.at(i) - want.at(i)) <= slack * std::fabs(want.at(i))) continue;
    ++differ, explained += like(i);
  }
  return differ ? static_cast<double>(explained) / static_cast<double>(differ) : 0;
}

std::vector<double> sorted(const TensorView& x) {
  std::vector<double> values;
  for (std::int64_t i = 0; i < x.numel(); ++i) values.push_back(x.at(i));
  std::sort(values.begin(), values.end());
  return values;
}

Cause weight_cause(const std::string& name, const RolloutTensor& t) {
  const auto said = [&](const char* what, const char* evidence, double confidence) {
    return Cause{what, name + ": " + evidence, confidence};
  };
  if (share(t.got, t.want, 0, [&](auto i) { return t.got.at(i) == to_bfloat16(t.want.at(i)); }) == 1)
    return said("weight rounded to bfloat16 on its way to the rollout", "every element is", 0.95);
  if (share(t.got, t.want, 0, [&](auto i) { return t.got.at(i) == 0; }) == 1)
    return said("weight of the rollout never written", "what is not training's is zero", 0.9);
  if (sorted(t.got) == sorted(t.want))
    return said("shards of a resharded weight swapped", "all elements are there, in other places", 0.9);
  return said("resharded weight is not training's", "neither rounded, nor missing, nor moved", 0.6);
}

// Of replayed routes. Others follow from what is routed.
Cause route_cause(const std::string& name, const RolloutTensor& t) {
  const std::int64_t k = t.want.shape[1];
  if (share(t.got, t.want, 0, [&](auto i) { return i >= k && t.got.at(i) == t.want.at(i - k); }) > 0.6)
    return {"replayed routes shifted by one token", name + ": most tokens have the experts of the one before",
            0.85};
  return {"replayed routes not taken", name + ": other experts than those given", 0.6};
}

// Wrong tokens of a tensor [N, ...]: those whose difference is not small beside the largest.
Flags wrong_tokens(const RolloutTensor& t, std::int64_t tokens) {
  const std::int64_t width = tokens ? t.want.numel() / tokens : 0;
  std::vector<double> worst(tokens, 0);
  double largest = 0, scale = 0;
  for (std::int64_t i = 0; i < t.want.numel(); ++i) {
    const double difference = std::fabs(t.got.at(i) - t.want.at(i));
    // NaN counts as the largest of all.
    worst[i / width] = difference <= worst[i / width] ? worst[i / width] : difference;
    if (difference > largest) largest = difference;
    scale = std::max(scale, std::fabs(t.want.at(i)));
  }
  Flags wrong;
  for (const double w : worst) wrong.push_back(!(w <= std::max(1e-5 * largest, 1e-11 * scale)));
  return wrong;
}

// How a document's tokens are computed.
struct Sequence {
  Range tokens;
  std::int64_t prompt = 0;
  std::int64_t number = 0;   // among those of its data rank
  std::int64_t resumes = 0;  // tokens taken from another's prefix
};

std::vector<Sequence> sequences_of(const RolloutEvidence& e) {
  std::vector<Sequence> list;
  for (std::int64_t d = 0; d < e.batch.documents(); ++d) {
    Sequence s{e.batch.document(d), 0, d / e.mesh.dp, 0};
    s.prompt = e.spec.prompt_of(s.tokens.size());
    const std::int64_t p = e.spec.prefix;
    for (std::int64_t other = d % e.mesh.dp; p > 0 && p <= s.prompt && other < d; other += e.mesh.dp) {
      const auto ids = e.batch.token_ids.begin();
      if (list[other].prompt >= p &&
          std::equal(ids + s.tokens.begin, ids + s.tokens.begin + p, ids + list[other].tokens.begin))
        s.resumes = p;
    }
    list.push_back(s);
  }
  return list;
}

struct Count {
  std::int64_t wrong = 0, all = 0;
  void add(bool is_wrong) { wrong += is_wrong, ++all; }
  bool none() const { return wrong == 0; }
  std::string text() const { return std::to_string(wrong) + " of " + std::to_string(all); }
};

// Where in the engine's work the first wrong tokens lie.
Cause model_cause(const RolloutEvidence& e, const RolloutTensor& logits) {
  const Flags wrong = wrong_tokens(logits, e.batch.tokens());
  const RolloutSpec& spec = e.spec;
  Count prefilled, first_chunk, first_decoded, decoded, resumed, alone, first_taken;
  for (const Sequence& s : sequences_of(e))
    for (std::int64_t t = s.tokens.begin; t < s.tokens.end; ++t) {
      const std::int64_t position = t - s.tokens.begin;
      const bool decode = position >= s.prompt;
      (decode ? decoded : prefilled).add(wrong[t]);
      if (position == s.prompt) first_decoded.add(wrong[t]);
      if (!decode && spec.chunk > 0 && position < spec.chunk) first_chunk.add(wrong[t]);
      (s.resumes ? resumed : alone).add(wrong[t]);
      if (spec.batch > 0 && s.number < spec.batch) first_taken.add(wrong[t]);
    }
  const std::string counts =
      "wrong are " + prefilled.text() + " prefilled tokens, " + decoded.text() + " decoded";
  if (resumed.all && alone.none())
    return {"caches of a shared prefix", counts + ", all of sequences that begin with another's", 0.7};
  if (first_taken.all && first_taken.none())
    return {"caches that the slot's last sequence left", counts + ", none of the first sequences of a slot",
            0.7};
  if (prefilled.none() && first_decoded.none())
    return {"what decoding leaves in the caches", counts + ", no first one", 0.7};
  if (prefilled.none())
    return {"what decoding finds in the caches, or where it stands", counts + ", first ones among them", 0.6};
  if (first_chunk.all && first_chunk.none())
    return {"a later chunk of a prompt", counts + ", none of a first chunk", 0.6};
  return {"prefill", counts, 0.3};
}

Cause sampling_cause(const RolloutEvidence& e) {
  const auto find = [&](const char* name) { return e.tensors.find(std::string("rollout/") + name); };
  const auto said = find("logprobs"), kept = find("sampling_logprobs");
  if (said == e.tensors.end()) return {"what is said of right logits", "logits agree", 0.4};
  const RolloutTensor& t = said->second;
  if (t.wrong && kept != e.tensors.end() && e.spec.top_p < 1 &&
      share(t.got, t.want, 1e-9, [&](auto i) {
        return std::fabs(t.got.at(i) - kept->second.want.at(i)) <= 1e-6 * std::fabs(t.got.at(i));
      }) == 1)
    return {"log-probabilities renormalised over the top-p set", "each that differs is that of the sampler",
            0.9};
  if (t.wrong && e.spec.temperature != 1)
    return {"log-probabilities of another temperature", "logits agree, log-probabilities do not", 0.7};
  return {"what is said of right logits", "logits agree", 0.4};
}

}  // namespace

std::optional<Cause> rollout_cause(const RolloutEvidence& evidence) {
  const auto first_wrong = [&](const char* prefix) {
    return std::find_if(evidence.tensors.begin(), evidence.tensors.end(), [&](const auto& entry) {
      return entry.first.rfind(prefix, 0) == 0 && entry.second.wrong;
    });
  };
  const auto end = evidence.tensors.end();
  if (const auto t = first_wrong("rollout/weights/"); t != end) return weight_cause(t->first, t->second);
  if (const auto t = first_wrong("rollout/routes/"); t != end && evidence.spec.replay)
    return route_cause(t->first, t->second);
  if (const auto t = first_wrong("rollout/logits"); t != end) return model_cause(evidence, t->second);
  for (const char* of_sampler : {"rollout/in_support", "rollout/logprobs", "rollout/sampling_logprobs"})
    if (first_wrong(of_sampler) != end) return sampling_cause(evidence);
  return std::nullopt;
}

}  // namespace meshparity::diagnose
