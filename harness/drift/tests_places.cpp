// Tests of where |d| is large: edges of candidate cuts, document starts, prompts, chunks of the delta rule.
// They look at ranks of |d| among tokens of like logprob, so that neither heavy tails nor easy stretches of
// text count as structure.
#include <algorithm>
#include <cmath>

#include "harness/drift/contrast.h"
#include "harness/drift/tests.h"
#include "harness/drift/text.h"

namespace meshparity::drift {
namespace {

constexpr double kDecayTokens = 16;  // what a lost state costs fades over about this many tokens
constexpr std::int64_t kAtEdge = 4;  // tokens behind an edge within which what it costs must begin
// What a lost state costs fades behind the edge (mean rank, and how surely) or is many times what was there
// before. A small step for good is no loss: on both sides of the cut the same arithmetic rounds the same way
// before it and otherwise behind it.
constexpr double kFades = 0.03, kFadesProbability = 3e-3, kSmallStep = 16;
// Zigzag breaks the order anew at every cut: least jump of its later half, and that as a share of the earlier
// half's, behind which |d| is large already.
constexpr double kLateJump = 0.04, kLateShare = 0.25;
constexpr std::int64_t kChunk = 64;  // of the chunked delta rule

// A cut of a span of tokens among context-parallel ranks.
struct Cut {
  bool zigzag, row;  // row: of the packed row, else of each document
  int cp;
  bool padded = false;  // to a multiple of pieces() first, as slime and miles do
  int pieces() const { return zigzag ? 2 * cp : cp; }
  std::string name() const {
    return std::string(zigzag ? "zigzag" : "contiguous") + " cp=" + std::to_string(cp) +
           (row ? " of rows" : "");
  }
  std::int64_t edge(std::int64_t length, int k) const {
    if (!padded) return k * length / pieces();
    return std::min(length, k * ((length + pieces() - 1) / pieces()));
  }
  // In zigzag order 0, 2cp-1, 1, 2cp-2, ... only chunk cp follows its true predecessor (both are the last
  // rank's).
  bool loses_state(int k) const { return !zigzag || k != cp; }
};

std::vector<Cut> cuts(bool rows) {
  std::vector<Cut> all;
  for (const int cp : {2, 3, 4, 6, 8, 16}) all.push_back({false, rows, cp});
  for (const int cp : {2, 3, 4, 6, 8}) all.push_back({true, rows, cp});
  return all;
}

// Mean rank of the sample's tokens whose place is in [begin, end); false with fewer than four.
class Places {
 public:
  Places(const KeptTokens& kept, const KeptSample& sample, std::int64_t shift)
      : kept_(kept), sample_(sample), shift_(shift) {}
  std::int64_t place(std::size_t i) const { return kept_.tokens[i].position + shift_; }
  // `mean_log`: of log |d| where d is not 0; minus infinity where it is nowhere.
  bool mean(std::int64_t begin, std::int64_t end, double& out, double* mean_log = nullptr) const {
    const auto& tokens = kept_.tokens;
    // Positions rise within a sample.
    const auto from = tokens.begin() + static_cast<std::ptrdiff_t>(sample_.begin),
               to = tokens.begin() + static_cast<std::ptrdiff_t>(sample_.end);
    auto at = std::lower_bound(from, to, begin - shift_,
                               [](const Token& t, std::int64_t p) { return t.position < p; });
    double sum = 0, count = 0, logs = 0, unequal = 0;
    for (; at != to && at->position + shift_ < end; ++at) {
      sum += static_cast<double>(at->rank), count += 1;
      if (mean_log && at->d != 0) logs += std::log(static_cast<double>(std::fabs(at->d))), unequal += 1;
    }
    if (count < 4) return false;
    out = sum / count;
    if (mean_log) *mean_log = unequal > 0 ? logs / unequal : -HUGE_VAL;
    return true;
  }

 private:
  const KeptTokens& kept_;
  const KeptSample& sample_;
  std::int64_t shift_;
};

struct Span {
  std::int64_t shift, length;
};

Span span_of(const KeptSample& sample, const Cut& cut) {
  if (cut.row) return {sample.row_first, sample.row_tokens};
  return {0, sample.document_tokens};
}

DriftTest test_edges_at(const KeptTokens& kept, const Cut& cut) {
  DriftTest test =
      bounded("edges of " + cut.name(), "mean rank of |d| after an edge minus before it", kRankEffect);
  Contrast contrast, kept_edges, fading, ratio, early, late;
  TwoFeatureFit fit;
  std::size_t parted = 0, parted_at_edge = 0;
  for (const KeptSample& sample : kept.samples) {
    const Span span = span_of(sample, cut);
    if (span.length < 4 * cut.pieces()) continue;
    if (sample.parted >= 0) {
      const std::int64_t place = sample.parted + span.shift;
      ++parted;
      for (int k = 1; k < cut.pieces(); ++k)
        if (cut.loses_state(k) && place >= cut.edge(span.length, k) - 1 &&
            place < cut.edge(span.length, k) + kAtEdge) {
          ++parted_at_edge;
          break;
        }
    }
    const Places places(kept, sample, span.shift);
    const std::int64_t window = std::min<std::int64_t>(32, span.length / cut.pieces() / 2);
    for (int k = 1; k < cut.pieces(); ++k) {
      const std::int64_t edge = cut.edge(span.length, k);
      const std::int64_t next = k + 1 < cut.pieces() ? cut.edge(span.length, k + 1) : span.length;
      double after = 0, before = 0, log_after = 0, log_before = 0, end = 0;
      if (!places.mean(edge, edge + window, after, &log_after) ||
          !places.mean(edge - window, edge, before, &log_before))
        continue;
      (cut.loses_state(k) ? contrast : kept_edges).add(after - before);
      if (!cut.loses_state(k)) continue;
      (2 * k < cut.pieces() ? early : late).add(after - before);
      // Equality bit for bit has no size to compare with.
      if (std::isfinite(log_after) && std::isfinite(log_before)) ratio.add(log_after - log_before);
      if (places.mean(next - window / 2, next, end)) fading.add(after - end);
    }
    int k = 0;
    std::int64_t last = -1;
    for (std::size_t i = sample.begin; i < sample.end; ++i) {
      const std::int64_t place = places.place(i);
      while (k + 1 < cut.pieces() && place >= cut.edge(span.length, k + 1)) {
        ++k;
        if (cut.loses_state(k)) last = cut.edge(span.length, k);
      }
      fit.add(static_cast<double>(kept.tokens[i].rank),
              last < 0 ? 0 : std::exp(-static_cast<double>(place - last) / kDecayTokens), last >= 0);
    }
  }
  conclude(test, contrast.mean(), contrast.p(), contrast.count());
  test.fired = test.fired && test.effect > 0;
  test.explained = fit.explained();
  // Sides that are bit for bit the same up to somewhere must part at the edge, if the edge is to blame: two
  // engines of the same low precision part where a first number is rounded the other way.
  if (parted >= Contrast::kFewest && 2 * parted_at_edge < parted) {
    test.fired = false;
    test.detail = "the sides part elsewhere";
    return test;
  }
  const bool fades = fading.mean() >= kFades && fading.p() <= kFadesProbability;
  if (test.fired && !fades && ratio.mean() < std::log(kSmallStep)) {
    test.fired = false, test.harmless = true;
    test.detail = 2 * ratio.count() < contrast.count()
                      ? "a step for good behind tokens that are equal bit for bit: another order of sums, if "
                        "both sides round alike in low precision"
                      : "a small step that does not fade";
    return test;
  }
  // Chunks cp-1 and cp of zigzag are neighbours on one rank: a jump there as well is another cut's.
  if (kept_edges.mean() >= kRankEffect && kept_edges.p() <= 1e-3) test.fired = false;
  // Jumps in one half alone are another cut's first ones.
  if (cut.zigzag &&
      (early.mean() < kRankEffect || late.mean() < std::max(kLateJump, kLateShare * early.mean())))
    test.fired = false;
  if (kept_edges.count() > 0) {
    test.detail = text("%.3g at the edges that keep their order", kept_edges.mean());
  }
  return test;
}

// Where the length is no multiple of the pieces, stacks differ in the edges: the better of both is the test.
DriftTest test_cut(const KeptTokens& kept, Cut cut) {
  DriftTest plain = test_edges_at(kept, cut);
  cut.padded = true;
  DriftTest padded = test_edges_at(kept, cut);
  if (plain.fired != padded.fired) return plain.fired ? plain : padded;
  return plain.explained > padded.explained ? plain : padded;
}

}  // namespace

std::vector<DriftTest> test_edges(const KeptTokens& kept) {
  std::vector<DriftTest> tests;
  for (const Cut& cut : cuts(false)) tests.push_back(test_cut(kept, cut));
  const bool rows = std::any_of(kept.samples.begin(), kept.samples.end(),
                                [](const KeptSample& s) { return s.row_tokens > s.document_tokens; });
  if (rows)
    for (const Cut& cut : cuts(true)) tests.push_back(test_cut(kept, cut));
  return tests;
}

DriftTest test_start(const KeptTokens& kept) {
  DriftTest test =
      bounded("document start", "mean rank of |d| in the first 16 tokens minus after the 64th", kRankEffect);
  Contrast contrast;
  TwoFeatureFit fit;
  for (const KeptSample& sample : kept.samples) {
    for (std::size_t i = sample.begin; i < sample.end; ++i) {
      const bool leaks = sample.document_in_row != 0;  // the first document of a row has nothing before it
      fit.add(static_cast<double>(kept.tokens[i].rank),
              leaks ? std::exp(-kept.tokens[i].position / kDecayTokens) : 0, 0);
    }
    if (sample.document_in_row == 0) continue;
    const Places places(kept, sample, 0);
    double start = 0, rest = 0;
    if (places.mean(0, 16, start) && places.mean(64, std::int64_t{1} << 40, rest)) contrast.add(start - rest);
  }
  conclude(test, contrast.mean(), contrast.p(), contrast.count());
  test.fired = test.fired && test.effect > 0;
  test.explained = fit.explained();
  return test;
}

// The first tokens behind tokens that do not count: a prompt, or what a tool answered in between. There
// decoding continues from what prefilling left in the caches.
DriftTest test_prompt_edge(const KeptTokens& kept) {
  constexpr std::int64_t kNear = 8, kFar = 32, kShortestPrompt = 4;
  DriftTest test =
      bounded("prompt edge", "mean rank of |d| in the first 8 tokens behind a prompt minus after the 32nd",
              kRankEffect);
  Contrast contrast;
  TwoFeatureFit fit;
  for (const KeptSample& sample : kept.samples) {
    double near = 0, far = 0, n_near = 0, n_far = 0;
    std::int64_t edge = -1, before = -1;
    for (std::size_t i = sample.begin; i < sample.end; ++i) {
      const std::int64_t position = kept.tokens[i].position;
      if (position != before + 1 && position >= kShortestPrompt) edge = position;
      before = position;
      const auto rank = static_cast<double>(kept.tokens[i].rank);
      const std::int64_t behind = position - edge;
      fit.add(rank, edge < 0 ? 0 : std::exp(-static_cast<double>(behind) / kDecayTokens), 0);
      if (edge < 0) continue;
      if (behind < kNear) near += rank, n_near += 1;
      if (behind >= kFar) far += rank, n_far += 1;
    }
    if (n_near >= 4 && n_far >= 8) contrast.add(near / n_near - far / n_far);
  }
  if (contrast.count() == 0) test.detail = "no prompt in the dumps";
  conclude(test, contrast.mean(), contrast.p(), contrast.count());
  test.fired = test.fired && test.effect > 0;
  test.explained = fit.explained();
  return test;
}

DriftTest test_chunk(const KeptTokens& kept) {
  DriftTest test =
      bounded("chunk edges (64)", "mean rank of |d| in the first 16 tokens of a chunk minus the last 32",
              kRankEffect);
  Contrast contrast, jump;
  TwoFeatureFit fit;
  for (const KeptSample& sample : kept.samples) {
    double start = 0, rest = 0, n_start = 0, n_rest = 0;
    const Places places(kept, sample, 0);
    for (std::int64_t edge = kChunk; edge < sample.document_tokens; edge += kChunk) {
      double after = 0, before = 0;
      if (places.mean(edge, edge + 16, after) && places.mean(edge - 16, edge, before))
        jump.add(after - before);
    }
    for (std::size_t i = sample.begin; i < sample.end; ++i) {
      const std::int64_t position = kept.tokens[i].position, in_chunk = position % kChunk;
      const auto rank = static_cast<double>(kept.tokens[i].rank);
      fit.add(rank, position >= kChunk ? std::exp(-static_cast<double>(in_chunk) / kDecayTokens) : 0,
              position >= kChunk);
      if (position < kChunk) continue;
      if (in_chunk < 16) start += rank, n_start += 1;
      if (in_chunk >= 32) rest += rank, n_rest += 1;
    }
    if (n_start >= 8 && n_rest >= 8) contrast.add(start / n_start - rest / n_rest);
  }
  conclude(test, contrast.mean(), contrast.p(), contrast.count());
  // What fades from the prompt on falls within every chunk, and jumps at none.
  test.fired = test.fired && test.effect > 0 && jump.mean() >= kRankEffect / 2;
  test.explained = fit.explained();
  return test;
}

}  // namespace meshparity::drift
