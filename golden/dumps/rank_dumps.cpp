// slime's --save-debug-train-data and miles' like it: torch.save of {"rollout_id", "rank", "rollout_data"}
// per rank; rollout_data holds lists with one tensor per sample: tokens (prompt and response), log_probs and
// rollout_log_probs (response), loss_masks (response), total_lengths, response_lengths. With context
// parallelism a rank's log_probs are its two zigzag chunks of ceil(total/(2 cp)) tokens. Source: slime and
// miles, train_dump_utils.py and cp_utils.py.
#include <algorithm>
#include <map>

#include "golden/dumps/record.h"
#include "harness/types/error.h"

namespace meshparity::dumps {
namespace {

// One sample of one rank.
struct Piece {
  const Value* data = nullptr;
  std::size_t index = 0;
};

// Where rank `index` of `cp` holds logprobs of a response, as slots of the response: two half-open ranges.
std::vector<std::int64_t> zigzag_slots(std::int64_t total, std::int64_t response, std::int64_t cp,
                                       std::int64_t index) {
  const std::int64_t chunk = (total + 2 * cp - 1) / (2 * cp), prompt = total - response;
  std::vector<std::int64_t> slots;
  for (const std::int64_t part : {index, 2 * cp - 1 - index})
    for (std::int64_t t = std::max(part * chunk, prompt - 1); t < std::min((part + 1) * chunk, total - 1);
         ++t)
      slots.push_back(t - (prompt - 1));
  return slots;
}

class RankSamples : public SampleBatch {
 public:
  explicit RankSamples(std::vector<TreeRef> trees) : trees_(std::move(trees)) {}
  std::size_t size() const override { return samples_.size(); }

  LogprobSample sample(std::size_t at) const override {
    const std::vector<Piece>& pieces = samples_[at];
    const Piece& first = pieces[0];
    LogprobSample sample;
    sample.name = trees_[0]->file() + ": sample " + std::to_string(at);
    const auto tokens = to_integers(row(first, "tokens"));
    for (const bool train : {true, false}) {
      RawSide raw;
      raw.logprobs = joined(pieces, train ? "log_probs" : "rollout_log_probs",
                            static_cast<std::int64_t>(tokens.size()), sample);
      raw.ids = tokens, raw.mask = to_integers(row(first, "loss_masks"));
      (train ? sample.train : sample.rollout) =
          make_side(std::move(raw), train ? "log_probs" : "rollout_log_probs", sample.wrong);
    }
    return sample;
  }

  void collect(std::vector<std::string>& notes) {
    std::map<std::pair<std::uint64_t, std::size_t>, std::size_t>
        known;  // (tokens, how often seen in this file) -> sample
    std::size_t without = 0;
    for (const TreeRef& tree : trees_) {
      const Value& data = *tree->root->member("rollout_data");
      if (!find_field(data, {"log_probs"}) || !find_field(data, {"rollout_log_probs"}) ||
          !find_field(data, {"tokens"})) {
        ++without;  // ranks before the last pipeline stage have no logprobs
        continue;
      }
      std::map<std::uint64_t, std::size_t> seen;
      const Value& tokens = *find_field(data, {"tokens"});
      for (std::size_t i = 0; i < row_count(tokens); ++i) {
        const std::uint64_t hash = hash_of(to_integers(read_row(tokens, i)));
        const auto [at, fresh] = known.emplace(std::pair(hash, seen[hash]++), samples_.size());
        if (fresh) samples_.emplace_back();
        samples_[at->second].push_back({&data, i});
      }
    }
    if (samples_.empty())
      throw InputError(trees_[0]->file() + ": rollout_data: has no tokens, log_probs and rollout_log_probs");
    if (without)
      notes.push_back(std::to_string(without) + " of " + std::to_string(trees_.size()) +
                      " rank files hold no logprobs (earlier pipeline stages)");
    std::size_t most = 0;
    for (const auto& pieces : samples_) most = std::max(most, pieces.size());
    if (most > 1)
      notes.push_back("a sample stands in up to " + std::to_string(most) +
                      " rank files: replicas dropped, context-parallel pieces joined");
  }

 private:
  static std::vector<double> row(const Piece& piece, const std::string& name) {
    const Value* field = piece.data->member(name);
    return field && piece.index < row_count(*field) ? read_row(*field, piece.index) : std::vector<double>{};
  }

  static std::vector<double> joined(const std::vector<Piece>& pieces, const std::string& name,
                                    std::int64_t total, LogprobSample& sample) {
    std::vector<double> whole = row(pieces[0], name);
    const Value* lengths = pieces[0].data->member("response_lengths");
    const auto responses =
        lengths ? lengths->kind == Value::Kind::array ? lengths->array.read() : lengths->numbers
                : std::vector<double>{};
    const std::int64_t response = pieces[0].index < responses.size()
                                      ? static_cast<std::int64_t>(responses[pieces[0].index])
                                      : static_cast<std::int64_t>(whole.size());
    if (static_cast<std::int64_t>(whole.size()) == response) return whole;
    std::vector<std::vector<double>> parts;
    for (const Piece& piece : pieces) parts.push_back(row(piece, name));
    const auto files = static_cast<std::int64_t>(pieces.size());
    for (std::int64_t cp = files; cp >= 2; --cp) {
      if (files % cp != 0) continue;
      const std::int64_t copies = files / cp;
      for (const bool copies_fastest :
           {true, false}) {  // Megatron: tensor-parallel ranks vary faster than context's
        std::vector<double> put(static_cast<std::size_t>(std::max<std::int64_t>(response, 0)));
        bool fits = response > 0 && response < total;
        for (std::int64_t f = 0; f < files && fits; ++f) {
          const auto slots = zigzag_slots(total, response, cp, copies_fastest ? f / copies : f % cp);
          const auto& part = parts[static_cast<std::size_t>(f)];
          fits = slots.size() == part.size();
          for (std::size_t i = 0; i < slots.size() && fits; ++i)
            put[static_cast<std::size_t>(slots[i])] = part[i];
        }
        if (fits) return put;
      }
    }
    sample.wrong.push_back(name + ": pieces from " + std::to_string(files) +
                           " rank file(s) are no context-parallel cut of " + std::to_string(response) +
                           " tokens; give all rank files at once");
    return {};
  }

  std::vector<TreeRef> trees_;
  std::vector<std::vector<Piece>> samples_;
};

}  // namespace

bool is_rank_dump(const Value& record) {
  const Value* data = record.member("rollout_data");
  return data && data->kind == Value::Kind::dictionary;
}

std::shared_ptr<const SampleBatch> read_rank_dumps(const std::vector<TreeRef>& files,
                                                   std::vector<std::string>& notes) {
  auto samples = std::make_shared<RankSamples>(files);
  samples->collect(notes);
  return samples;
}

}  // namespace meshparity::dumps
