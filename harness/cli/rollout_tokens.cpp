#include "harness/cli/rollout_tokens.h"

#include <algorithm>
#include <cmath>

namespace meshparity::cli {
namespace {

// How the tokens of a document are computed: its first ones once for all that share them, the prompt in
// chunks, the rest one by one.
struct Phases {
  std::int64_t prefix = 0, prompt = 0, chunk = 0;  // in tokens; prefix 0: none

  Phases(const RolloutSpec& spec, std::int64_t length) : prompt(spec.prompt_of(length)) {
    prefix = spec.prefix <= prompt ? spec.prefix : 0;
    chunk = spec.chunk > 0 ? spec.chunk : prompt;
  }
  bool decoded(std::int64_t position) const { return position >= prompt; }
  std::string text(std::int64_t position) const {
    if (decoded(position)) {
      const std::int64_t step = position - prompt + 1;
      return (step == 1 ? std::string("the first decoded token") : "decoded, step " + std::to_string(step)) +
             " (prompt of " + std::to_string(prompt) + ")";
    }
    const bool shared = position < prefix;
    const std::int64_t begin = shared ? 0 : prefix, end = shared ? prefix : prompt;
    const std::int64_t chunks = (end - begin + chunk - 1) / chunk;
    std::string out = shared ? "prefilled in the prefix" : "prefilled";
    if (chunks > 1) {
      out += shared ? ", chunk " : " in chunk ";
      out += std::to_string((position - begin) / chunk + 1) + " of " + std::to_string(chunks);
      if ((position - begin) % chunk == 0) out += ", its first token";
    }
    return out;
  }
};

std::int64_t document_of_token(const Batch& batch, std::int64_t token) {
  return std::upper_bound(batch.document_offsets.begin(), batch.document_offsets.end(), token) -
         batch.document_offsets.begin() - 1;
}

// Which tokens of a failing tensor [N, ...] are off, and how they were computed.
struct WrongTokens {
  std::int64_t prefilled = 0, decoded = 0, wrong_prefilled = 0, wrong_decoded = 0;
  std::int64_t first = -1;  // in the order in which an engine comes to them: the earliest position
};

WrongTokens wrong_tokens(const Batch& batch, const RolloutSpec& spec, const TensorView& got,
                         const TensorView& want, double most) {
  WrongTokens tokens;
  const std::int64_t width = batch.tokens() ? want.numel() / batch.tokens() : 0;
  std::int64_t first_position = -1;
  for (std::int64_t d = 0; d < batch.documents(); ++d) {
    const Range document = batch.document(d);
    const Phases phases(spec, document.size());
    for (std::int64_t t = document.begin; t < document.end; ++t) {
      const std::int64_t position = t - document.begin;
      const bool decoded = phases.decoded(position);
      ++(decoded ? tokens.decoded : tokens.prefilled);
      bool wrong = false;
      for (std::int64_t i = t * width; !wrong && i < (t + 1) * width; ++i)
        wrong = !(std::fabs(got.at(i) - want.at(i)) <= most);
      if (!wrong) continue;
      ++(decoded ? tokens.wrong_decoded : tokens.wrong_prefilled);
      if (first_position < 0 || position < first_position) first_position = position, tokens.first = t;
    }
  }
  return tokens;
}

}  // namespace

void describe_rollout_tokens(const Batch& batch, const RolloutSpec& spec, const TensorView& got,
                             const TensorView& want, CheckResult& result) {
  const bool outside = result.outside > 0 || result.nonfinite > 0;
  const WrongTokens wrong =
      wrong_tokens(batch, spec, got, want, outside ? result.bound : 0.5 * result.max_abs);
  const auto share = [](std::int64_t part, std::int64_t all) {
    return std::to_string(part) + " of " + std::to_string(all);
  };
  std::string line = "tokens  " +
                     std::string(outside ? "outside: " : "above half of the largest difference: ") +
                     share(wrong.wrong_prefilled, wrong.prefilled) + " prefilled, " +
                     share(wrong.wrong_decoded, wrong.decoded) + " decoded";
  if (wrong.first >= 0) line += "; earliest " + rollout_token_text(batch, spec, wrong.first);
  result.detail.insert(result.detail.begin(), line);
  if (result.worst >= 0 && batch.tokens())
    result.where += " " + rollout_token_text(batch, spec, result.worst * batch.tokens() / want.numel());
}

std::string rollout_token_text(const Batch& batch, const RolloutSpec& spec, std::int64_t token) {
  const std::int64_t d = document_of_token(batch, token);
  const Range document = batch.document(d);
  const std::int64_t position = token - document.begin;
  return "document " + std::to_string(d) + " position " + std::to_string(position) + ", " +
         Phases(spec, document.size()).text(position);
}

}  // namespace meshparity::cli
