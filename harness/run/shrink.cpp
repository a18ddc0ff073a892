#include "harness/run/shrink.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <set>

#include "harness/run/shrink_reductions.h"
#include "harness/types/error.h"
#include "harness/types/loss_sum.h"

namespace meshparity::run {
namespace {

std::int64_t beyond(std::int64_t value, std::int64_t plain) {
  return value > plain ? value - plain : plain - value;
}

std::int64_t size_of_model(const ModelShape& s) {
  const ModelShape plain;
  std::int64_t size = 16 * static_cast<std::int64_t>(s.layers.size()) + 8 * s.tied;
  size += beyond(s.heads, plain.heads) + beyond(s.kv_heads, plain.kv_heads);
  size += beyond(s.gdn_key_heads, plain.gdn_key_heads) + beyond(s.gdn_value_heads, plain.gdn_value_heads);
  size += beyond(s.hidden, plain.hidden) + beyond(s.head_dim, plain.head_dim) + beyond(s.rope, plain.rope);
  size += beyond(s.gdn_key_dim, plain.gdn_key_dim) + beyond(s.gdn_value_dim, plain.gdn_value_dim);
  size += beyond(s.conv, plain.conv) + beyond(s.vocab, plain.vocab);
  size += 16 * s.mtp;
  if (s.has_vision())
    size += 32 + 8 * s.vision_depth + s.vision_heads + s.vision_head_dim + s.vision_ffn +
            beyond(s.grid, plain.grid);
  return size + (s.is_moe() ? 32 + s.experts + s.top_k + s.expert_width + beyond(s.shared, plain.shared)
                            : beyond(s.ffn, plain.ffn));
}

std::int64_t size_of_batch(const BatchShape& b) {
  std::int64_t size = b.tokens() + (b.mask ? 8 : 0) + (b.seed ? 1 : 0);
  for (const auto& rows : b.micro_batches) {
    size += 8 + 8 * static_cast<std::int64_t>(rows.size());
    for (const auto& row : rows)
      for (const auto& document : row) {
        size += 4 + 2 * document.unlabelled;
        for (const auto& image : document.images) size += 4 + patches_of(image.grid) + image.video;
      }
  }
  return size;
}

// The case of a reduction where it is valid and smaller.
std::optional<CaseSpec> reduced(const CaseSpec& spec, const Reduction& reduction, const ConfigOf& config_of) {
  Opened opened(spec);
  if (!reduction(opened)) return std::nullopt;
  try {
    const CaseSpec smaller = opened.closed();
    if (size_of(smaller) >= size_of(spec)) return std::nullopt;
    const ModelConfig config = config_of(smaller.model, smaller.golden);
    if (is_batch_shape(smaller.batch)) BatchShape::parse(smaller.batch);
    if (!refusal(smaller.mesh, smaller.flags, config).empty()) return std::nullopt;
    if (!loss_refusal(parse_loss(smaller.loss), config).empty()) return std::nullopt;
    return smaller;
  } catch (const InputError&) {
    return std::nullopt;  // sizes that do not go together
  }
}

class Search {
 public:
  Search(const CaseSpec& failing, const ConfigOf& config_of,
         const std::function<std::vector<bool>(const std::vector<CaseSpec>&)>& fails,
         const ShrinkLimits& limits)
      : config_of_(config_of), fails_(fails), limits_(limits) {
    result_.spec = failing;
  }

  Shrunk run() {
    bool any = true;
    while (any && !spent()) {
      any = false;
      const std::size_t kinds = reductions_of(Opened(result_.spec)).size();
      for (std::size_t kind = 0; kind < kinds; ++kind) any |= pass(kind);
    }
    result_.minimal = !any && !spent_;
    return result_;
  }

 private:
  bool spent() {
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
    return spent_ |= result_.trials >= limits_.trials || seconds >= limits_.seconds;
  }

  // Asks about the cases that were not asked about before.
  void ask(const std::vector<CaseSpec>& cases) {
    std::vector<CaseSpec> fresh;
    for (const auto& spec : cases)
      if (answers_.emplace(spec.line(), false).second) fresh.push_back(spec);
    if (fresh.empty()) return;
    result_.trials += fresh.size();
    const auto answers = fails_(fresh);
    for (std::size_t i = 0; i < fresh.size(); ++i) answers_[fresh[i].line()] = answers[i];
  }
  bool fails(const CaseSpec& spec) const {
    const auto known = answers_.find(spec.line());
    return known != answers_.end() && known->second;
  }

  // Tries every reduction of one kind, some at a time; those that fail alone are then tried on top of each
  // other.
  bool pass(std::size_t kind) {
    bool any = false;
    const auto list = reductions_of(Opened(result_.spec))[kind];
    for (std::size_t at = 0; at < list.size() && !spent();) {
      std::vector<CaseSpec> cases;
      std::vector<const Reduction*> of;
      for (; at < list.size() && cases.size() < limits_.together; ++at)
        if (const auto smaller = reduced(result_.spec, list[at], config_of_))
          cases.push_back(*smaller), of.push_back(&list[at]);
      ask(cases);
      std::vector<const Reduction*> failing;
      for (std::size_t i = 0; i < cases.size(); ++i)
        if (fails(cases[i])) failing.push_back(of[i]);
      if (failing.empty()) continue;
      any = true;
      adopt(failing);
    }
    return any;
  }

  // The first of these fails alone. Of all the cases that they make one after another the smallest that
  // fails.
  void adopt(const std::vector<const Reduction*>& failing) {
    std::vector<CaseSpec> chain;
    CaseSpec now = result_.spec;
    for (const auto* reduction : failing)
      if (const auto smaller = reduced(now, *reduction, config_of_)) chain.push_back(now = *smaller);
    if (!spent()) ask(chain);
    for (const auto& spec : chain)
      if (fails(spec)) result_.spec = spec;
  }

  const ConfigOf& config_of_;
  const std::function<std::vector<bool>(const std::vector<CaseSpec>&)>& fails_;
  const ShrinkLimits limits_;
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  std::map<std::string, bool> answers_;  // by line
  Shrunk result_;
  bool spent_ = false;
};

}  // namespace

std::int64_t size_of(const CaseSpec& spec) {
  const CaseSpec plain;
  const Opened opened(spec);
  // The text counts axes: fsdp2.tp2 holds more than tp4.
  const std::string mesh = spec.mesh.text();
  std::int64_t size = 32 * spec.mesh.world() + 16 * std::count(mesh.begin(), mesh.end(), '.');
  for (const auto& flag : flag_options()) size += flag.get(spec.flags) == flag.values.front() ? 0 : 16;
  size += spec.loss == plain.loss ? 0 : 7 + static_cast<std::int64_t>(parse_loss(spec.loss).terms.size());
  size += spec.loss_form == plain.loss_form ? 0 : 8;
  size += 8 * std::max(spec.steps, 0) + (spec.seed ? 1 : 0);
  if (opened.model) size += size_of_model(*opened.model);
  if (opened.batch) size += size_of_batch(*opened.batch);
  return size;
}

std::vector<CaseSpec> smaller_cases(const CaseSpec& spec, const ConfigOf& config_of) {
  std::vector<CaseSpec> cases;
  std::set<std::string> lines;
  for (const auto& kind : reductions_of(Opened(spec)))
    for (const auto& reduction : kind)
      if (const auto smaller = reduced(spec, reduction, config_of))
        if (lines.insert(smaller->line()).second) cases.push_back(*smaller);
  return cases;
}

Shrunk shrink(const CaseSpec& failing, const ConfigOf& config_of,
              const std::function<std::vector<bool>(const std::vector<CaseSpec>&)>& fails,
              const ShrinkLimits& limits) {
  return Search(failing, config_of, fails, limits).run();
}

}  // namespace meshparity::run
