#include "golden/dumps/record.h"

#include <algorithm>
#include <numeric>

#include "harness/types/error.h"

namespace meshparity::dumps {
namespace {

using Names = std::vector<std::string>;
const Names kTrainNames = {"train_logprobs", "train_log_probs",  "prev_logprobs",  "old_log_probs",
                           "old_logprobs",   "trainer_logprobs", "actor_log_probs"};
const Names kRolloutNames = {"rollout_logprobs",   "rollout_log_probs", "generation_logprobs",
                             "inference_logprobs", "sampler_logprobs",  "behavior_logprobs",
                             "vllm_logprobs",      "sglang_logprobs"};
const Names kOnlyNames = {"logprobs", "log_probs", "token_logprobs", "logprob"};
const Names kIdNames = {"token_ids", "tokens", "responses", "response_ids", "output_ids", "input_ids", "ids"};
const Names kMaskNames = {"loss_mask",   "loss_masks", "token_loss_mask", "token_mask", "response_mask",
                          "action_mask", "mask"};
const Names kLengthNames = {"input_lengths", "total_lengths", "lengths", "length"};
const Names kResponseLengthNames = {"response_lengths", "response_length"};

// The fields of a record, found once; rows are read when a sample is asked for.
struct Fields {
  const Value *train = nullptr, *rollout = nullptr, *only = nullptr;
  std::vector<const Value*> ids;
  const Value *mask = nullptr, *attention = nullptr, *sample_mask = nullptr, *lengths = nullptr,
              *response_lengths = nullptr, *prompts = nullptr, *prompt_lengths = nullptr, *offsets = nullptr,
              *rows = nullptr, *labels = nullptr, *train_routes = nullptr, *rollout_routes = nullptr;
  const Value* logprobs() const { return train ? train : rollout ? rollout : only; }
};

bool holds_sequences(const Value* value) {
  return value && (value->kind == Value::Kind::array || value->kind == Value::Kind::list);
}

Fields find_fields(const Value& record) {
  Fields f;
  f.train = find_field(record, kTrainNames), f.rollout = find_field(record, kRolloutNames);
  f.only = find_field(record, kOnlyNames);
  if (!holds_sequences(f.only)) f.only = nullptr;
  // "log_probs" beside a rollout's are the trainer's.
  if (f.only && f.rollout && !f.train) f.train = f.only;
  if (f.train || f.rollout) f.only = nullptr;
  // A golden's old_logprobs are an input of its loss.
  if (const Value* golden = record.member("expected/logprobs"))
    f.only = golden, f.train = f.rollout = nullptr;
  for (const std::string& name : kIdNames)
    if (const Value* ids = find_field(record, {name}); holds_sequences(ids)) f.ids.push_back(ids);
  f.mask = find_field(record, kMaskNames), f.attention = find_field(record, {"attention_mask"});
  f.sample_mask = find_field(record, {"sample_loss_mask", "sample_mask"});
  f.lengths = find_field(record, kLengthNames), f.response_lengths = find_field(record, kResponseLengthNames);
  f.prompts = find_field(record, {"prompts"}),
  f.prompt_lengths = find_field(record, {"prompt_lengths", "prompt_length"});
  if (!holds_sequences(f.prompts)) f.prompts = nullptr;
  f.offsets = find_field(record, {"document_offsets", "offsets"}),
  f.rows = find_field(record, {"row_offsets"});
  f.labels = find_field(record, {"labels"});
  f.train_routes = find_field(record, {"train_routes", "train_routed_experts", "routes", "routed_experts"});
  f.rollout_routes = find_field(record, {"rollout_routes", "rollout_routed_experts"});
  return f;
}

bool is_flat(const Value& field) {
  return field.kind == Value::Kind::array ? field.array.shape.size() == 1 : field.items.empty();
}

std::vector<std::int64_t> integers_of(const Value* field) {
  if (!field) return {};
  if (field->kind == Value::Kind::number) return {static_cast<std::int64_t>(field->number)};
  if (field->kind == Value::Kind::array) return field->array.read_integers();
  return to_integers(field->numbers);
}

std::size_t flat_size(const Value& field) {
  return field.kind == Value::Kind::array ? static_cast<std::size_t>(field.array.numel())
                                          : field.numbers.size();
}

// One stream without documents is judged in blocks of this many tokens.
constexpr std::int64_t kBlock = std::int64_t{1} << 20;

class RecordBatch : public SampleBatch {
 public:
  RecordBatch(TreeRef tree, const Value& record, std::string where)
      : tree_(std::move(tree)), where_(std::move(where)), fields_(find_fields(record)) {
    const Value* logprobs = fields_.logprobs();
    if (!holds_sequences(logprobs))
      throw InputError(where_ + ": holds no logprobs: none of the fields " + join(kTrainNames) + ", " +
                       join(kRolloutNames) + ", " + join(kOnlyNames) + "; it has " + members(record));
    lengths_ = integers_of(fields_.lengths), response_lengths_ = integers_of(fields_.response_lengths);
    prompt_lengths_ = integers_of(fields_.prompt_lengths), sample_mask_ = integers_of(fields_.sample_mask);
    if (is_flat(*logprobs))
      cut_stream(static_cast<std::int64_t>(flat_size(*logprobs)));
    else
      count_ = row_count(*logprobs);
    for (const auto& [field, name] : {std::pair{fields_.train, "train"}, {fields_.rollout, "rollout"}})
      if (field && !is_flat(*logprobs) && row_count(*field) != count_)
        throw InputError(where_ + ": the " + name + " logprobs have " + std::to_string(row_count(*field)) +
                         " rows, the other side has " + std::to_string(count_));
  }

  std::size_t size() const override { return count_; }

  LogprobSample sample(std::size_t index) const override {
    LogprobSample sample;
    sample.name = count_ == 1 ? where_ : where_ + ": sample " + std::to_string(index);
    if (fields_.train) sample.train = side(fields_.train, fields_.train_routes, index, "train", sample.wrong);
    if (fields_.rollout)
      sample.rollout = side(fields_.rollout, fields_.rollout_routes, index, "rollout", sample.wrong);
    if (fields_.only)
      sample.only = side(fields_.only, fields_.train_routes ? fields_.train_routes : fields_.rollout_routes,
                         index, "logprobs", sample.wrong);
    if (!place_.empty()) {
      const Place& place = place_[index];
      sample.document_in_row = place.document, sample.row_first = place.first,
      sample.row_tokens = place.tokens;
    }
    return sample;
  }

 private:
  static std::string join(const Names& names) {
    std::string out;
    for (const auto& name : names) out += (out.empty() ? "" : ", ") + name;
    return out;
  }
  static std::string members(const Value& record) {
    std::string out;
    for (const auto& [key, value] : record.members)
      if (out.size() < 200) out += (out.empty() ? "" : ", ") + key.substr(0, 60);
    return out.empty() ? "none" : out;
  }

  // One stream: documents by offsets, by lengths that add up, or blocks.
  void cut_stream(std::int64_t tokens) {
    stream_ = true;
    const std::vector<std::int64_t> offsets = integers_of(fields_.offsets);
    if (!offsets.empty()) {
      bool good = offsets.front() == 0 && offsets.back() == tokens;
      for (std::size_t i = 1; i < offsets.size(); ++i) good &= offsets[i] >= offsets[i - 1];
      if (!good)
        throw InputError(where_ + ": document_offsets: must rise from 0 to the " + std::to_string(tokens) +
                         " tokens");
      starts_ = offsets;
      const std::vector<std::int64_t> rows = integers_of(fields_.rows);
      const auto documents = static_cast<std::int64_t>(starts_.size()) - 1;
      for (std::size_t r = 0; r + 1 < rows.size(); ++r)
        for (std::int64_t d = rows[r]; d < rows[r + 1] && rows[r] >= 0 && rows[r + 1] <= documents; ++d) {
          const auto start = [&](std::int64_t of) { return starts_[static_cast<std::size_t>(of)]; };
          place_.push_back({d - rows[r], start(d) - start(rows[r]), start(rows[r + 1]) - start(rows[r])});
        }
      if (place_.size() + 1 != starts_.size()) place_.clear();
    } else {
      const auto& lengths = response_lengths_.size() > 1 ? response_lengths_ : lengths_;
      std::int64_t sum = 0;
      bool good = lengths.size() > 1;
      for (const auto length : lengths) good &= length >= 0 && length <= tokens, sum += good ? length : 0;
      starts_ = {0};
      if (good && sum == tokens) {
        for (const auto length : lengths) starts_.push_back(starts_.back() + length);
      } else {
        for (std::int64_t end = std::min(kBlock, tokens);; end = std::min(end + kBlock, tokens)) {
          starts_.push_back(end);
          if (end == tokens) break;
        }
        blocks_ = starts_.size() > 2;
      }
    }
    count_ = starts_.size() - 1;
  }

  std::vector<double> values(const Value* field, std::size_t index) const {
    if (!holds_sequences(field)) return {};
    if (!stream_) return index < row_count(*field) ? read_row(*field, index) : std::vector<double>{};
    const auto begin = starts_[index], end = starts_[index + 1];
    if (field->kind == Value::Kind::array) {
      if (field->array.shape.empty() || end > field->array.shape[0]) {
        if (count_ == 1) return field->array.read();
        return {};
      }
      return count_ == 1 ? field->array.read() : field->array.rows(begin, end).read();
    }
    if (count_ == 1) return read_row(*field, 0);
    if (static_cast<std::size_t>(end) > field->numbers.size()) return {};
    return {field->numbers.begin() + begin, field->numbers.begin() + end};
  }

  static bool nulls_of(const Value& field) { return field.kind == Value::Kind::list; }

  std::int64_t length_of(const std::vector<std::int64_t>& lengths, std::size_t index) const {
    if (lengths.size() == count_ && !stream_) return lengths[index];
    return stream_ && count_ == 1 && lengths.size() == 1 ? lengths[0] : -1;
  }

  LogprobSide side(const Value* field, const Value* routes, std::size_t index, const std::string& name,
                   std::vector<std::string>& wrong) const {
    RawSide raw;
    raw.logprobs = values(field, index), raw.nulls = nulls_of(*field);
    if (fields_.labels && fields_.only) {  // our goldens: slot t is about the token after t
      raw.ids = to_integers(values(fields_.labels, index));
      for (const auto id : raw.ids) raw.mask.push_back(id >= 0);
      raw.prompt_tokens = 1;
      return make_side(std::move(raw), name, wrong);
    }
    for (const Value* ids : fields_.ids) {
      const auto candidate = to_integers(values(ids, index));
      if (raw.ids.empty() || candidate.size() == raw.logprobs.size()) raw.ids = candidate;
      if (raw.ids.size() == raw.logprobs.size()) break;
    }
    raw.mask = to_integers(values(fields_.mask, index));
    apply_attention(raw, index);
    truncate(raw, length_of(lengths_, index));
    if (const auto length = length_of(response_lengths_, index);
        length >= 0 && raw.ids.size() == raw.logprobs.size())
      truncate_to_response(raw, length);
    if (const auto length = length_of(prompt_lengths_, index); length >= 0) raw.prompt_tokens = length;
    if (const auto keep = length_of(sample_mask_, index); keep == 0) raw.mask.assign(raw.logprobs.size(), 0);
    if (blocks_) raw.prompt_tokens = starts_[index];
    read_routes(raw, routes, index);
    return make_side(std::move(raw), name, wrong);
  }

  // verl: attention over prompt and response; its tail masks padding of the response, its head tells the
  // prompt.
  void apply_attention(RawSide& raw, std::size_t index) const {
    const auto attention = to_integers(values(fields_.attention, index));
    const std::size_t n = raw.logprobs.size();
    if (attention.size() < n || n == 0) return;
    const std::size_t skip = attention.size() - n;
    if (raw.mask.empty()) raw.mask.assign(n, 1);
    if (raw.mask.size() != n) return;
    for (std::size_t i = 0; i < n; ++i) raw.mask[i] = raw.mask[i] && attention[skip + i];
    if (fields_.prompts)
      raw.prompt_tokens =
          std::count(attention.begin(), attention.begin() + static_cast<std::ptrdiff_t>(skip), 1);
  }

  // Rows padded on the right to the longest of the batch.
  static void truncate(RawSide& raw, std::int64_t length) {
    if (length < 0) return;
    const auto n = static_cast<std::size_t>(length);
    if (raw.ids.size() == raw.logprobs.size() || raw.ids.empty()) {
      if (raw.mask.size() == raw.logprobs.size() && raw.mask.size() > n) raw.mask.resize(n);
      if (raw.logprobs.size() > n) raw.logprobs.resize(n);
    }
    if (raw.ids.size() > n) raw.ids.resize(n);
  }
  // ids and logprobs both of the whole response row, padded.
  static void truncate_to_response(RawSide& raw, std::int64_t length) {
    if (static_cast<std::size_t>(length) >= raw.logprobs.size() || !raw.mask.empty()) return;
    raw.ids.resize(static_cast<std::size_t>(length)), raw.logprobs.resize(static_cast<std::size_t>(length));
  }

  void read_routes(RawSide& raw, const Value* field, std::size_t index) const {
    if (!holds_sequences(field)) return;
    raw.routes = to_integers(values(field, index));
    const std::size_t tokens = std::max(raw.ids.size(), raw.logprobs.size());
    for (const std::size_t rows : {tokens, tokens - 1, raw.logprobs.size()})
      if (rows > 0 && raw.routes.size() % rows == 0) {
        raw.route_width = static_cast<std::int64_t>(raw.routes.size() / rows);
        return;
      }
  }

  TreeRef tree_;
  std::string where_;
  Fields fields_;
  std::size_t count_ = 0;
  bool stream_ = false, blocks_ = false;
  struct Place {
    std::int64_t document, first, tokens;
  };
  std::vector<Place> place_;
  std::vector<std::int64_t> starts_, lengths_, response_lengths_, prompt_lengths_, sample_mask_;
};

// A list of records, as slime's rollout dump ("samples") and JSON arrays are.
class RecordList : public SampleBatch {
 public:
  RecordList(const TreeRef& tree, const Value& list, const std::string& where) {
    for (std::size_t i = 0; i < list.items.size(); ++i) {
      if (list.items[i]->kind != Value::Kind::dictionary)
        throw InputError(where + ": entry " + std::to_string(i) + ": is no dictionary of fields");
      records_.push_back(
          std::make_shared<RecordBatch>(tree, *list.items[i], where + ": entry " + std::to_string(i)));
      ends_.push_back((ends_.empty() ? 0 : ends_.back()) + records_.back()->size());
    }
  }
  std::size_t size() const override { return ends_.empty() ? 0 : ends_.back(); }
  LogprobSample sample(std::size_t index) const override {
    const auto at =
        static_cast<std::size_t>(std::upper_bound(ends_.begin(), ends_.end(), index) - ends_.begin());
    return records_.at(at)->sample(index - (at > 0 ? ends_[at - 1] : 0));
  }

 private:
  std::vector<std::shared_ptr<const RecordBatch>> records_;
  std::vector<std::size_t> ends_;
};

}  // namespace

std::string record_kind(const Value& record) {
  if (is_response(record)) return "a server's responses";
  if (is_rank_dump(record)) return "slime/miles train dump";
  if (record.member("samples") && record.member("rollout_id")) return "slime/miles rollout dump";
  if (record.member("generation_logprobs") && record.member("prev_logprobs")) return "NeMo-RL train data";
  if (record.member("rollout_log_probs") && record.member("old_log_probs")) return "verl batch";
  if (record.member("expected/logprobs")) return "golden or dump of meshparity";
  return "fields by name";
}

std::shared_ptr<const SampleBatch> read_record(const TreeRef& tree, const Value& record,
                                               const std::string& where) {
  if (is_response(record)) return read_responses(tree, record, where);
  if (record.kind == Value::Kind::list && !record.items.empty())
    return std::make_shared<RecordList>(tree, record, where);
  if (record.kind != Value::Kind::dictionary)
    throw InputError(where + ": is no dictionary of fields and no list of them");
  if (const Value* samples = record.member("samples");
      samples && samples->kind == Value::Kind::list && !samples->items.empty())
    return std::make_shared<RecordList>(tree, *samples, where);
  // verl keeps its tensors under "batch".
  if (const Value* batch = record.member("batch"); batch && batch->kind == Value::Kind::dictionary)
    return std::make_shared<RecordBatch>(tree, *batch, where);
  return std::make_shared<RecordBatch>(tree, record, where);
}

}  // namespace meshparity::dumps
