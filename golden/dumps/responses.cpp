// The JSON of servers. vLLM (OpenAI form): choices[].logprobs.token_logprobs with tokens or token_ids, or
// choices[].logprobs.content[], or prompt_logprobs. SGLang: meta_info.output_token_logprobs and
// input_token_logprobs, entries [logprob, token id, text].
#include <cmath>

#include "golden/dumps/record.h"
#include "harness/types/error.h"

namespace meshparity::dumps {
namespace {

class Responses : public SampleBatch {
 public:
  Responses(TreeRef tree, std::string where) : tree_(std::move(tree)), where_(std::move(where)) {}
  std::size_t size() const override { return samples_.size(); }
  LogprobSample sample(std::size_t index) const override {
    LogprobSample sample;
    sample.name = where_ + (samples_.size() > 1 ? ": response " + std::to_string(index) : "");
    RawSide raw = samples_[index];
    raw.nulls = true;
    sample.only = make_side(std::move(raw), "logprobs", sample.wrong);
    return sample;
  }

  void add(const Value& response) {
    if (const Value* meta = response.member("meta_info")) return add_sglang(*meta);
    const Value* choices = response.member("choices");
    if (!choices || choices->kind != Value::Kind::list) missing("choices or meta_info");
    for (const Value* choice : choices->items) add_choice(*choice, response);
  }

 private:
  [[noreturn]] void missing(const std::string& field) const {
    throw InputError(where_ + ": " + field + ": is missing (ask the server for logprobs)");
  }

  static std::vector<std::int64_t> whole(const Value* value) {
    return value && value->kind == Value::Kind::list ? to_integers(value->numbers)
                                                     : std::vector<std::int64_t>{};
  }

  void entries(const Value* list, bool counts, RawSide& raw) const {
    if (!list || list->kind != Value::Kind::list) return;
    for (const Value* entry : list->items) {
      const auto at = [&](std::size_t i) {
        if (i < entry->numbers.size()) return entry->numbers[i];
        return i < entry->items.size() && entry->items[i]->kind == Value::Kind::number
                   ? entry->items[i]->number
                   : std::nan("");
      };
      raw.logprobs.push_back(at(0));
      const double id = at(1);
      if (!(id >= 0 && id < 1e15)) throw InputError(where_ + ": meta_info: an entry has no token id");
      raw.ids.push_back(static_cast<std::int64_t>(id));
      raw.mask.push_back(counts);
    }
  }
  void add_sglang(const Value& meta) {
    const Value *input = meta.member("input_token_logprobs"), *output = meta.member("output_token_logprobs");
    const bool has_output = output && !output->items.empty();
    RawSide raw;
    entries(input, !has_output, raw);
    entries(output, true, raw);
    if (raw.logprobs.empty()) missing("meta_info.output_token_logprobs");
    samples_.push_back(std::move(raw));
  }

  // [null, {"9707": {"logprob": -1.2, ...}, ...}, ...]: the prompt's own token is the first of its entry, or
  // the one that prompt_token_ids names.
  RawSide prompt_side(const Value& list, const std::vector<std::int64_t>& ids) const {
    RawSide raw;
    for (std::size_t i = 0; i < list.items.size(); ++i) {
      const Value& entry = *list.items[i];
      double logprob = std::nan("");
      std::int64_t id = i < ids.size() ? ids[i] : -1;
      if (entry.kind == Value::Kind::dictionary && !entry.members.empty()) {
        const Value* chosen = id >= 0 ? entry.member(std::to_string(id)) : nullptr;
        if (!chosen) {
          chosen = entry.members[0].second;
          id = id_of_text("token_id:" + entry.members[0].first);
        }
        if (const Value* number = chosen->member("logprob")) logprob = number->number;
        if (chosen->kind == Value::Kind::number) logprob = chosen->number;
      }
      raw.logprobs.push_back(logprob), raw.ids.push_back(id);
    }
    return raw;
  }

  void add_choice(const Value& choice, const Value& response) {
    RawSide raw;
    const Value* logprobs = choice.member("logprobs");
    if (logprobs && logprobs->kind == Value::Kind::dictionary) {
      raw.ids = whole(choice.member("token_ids"));
      const Value *numbers = logprobs->member("token_logprobs"), *content = logprobs->member("content"),
                  *tokens = logprobs->member("tokens");
      std::vector<std::int64_t> named;
      if (numbers && numbers->kind == Value::Kind::list) {
        raw.logprobs = numbers->numbers;
        if (tokens)
          for (const Value* token : tokens->items) named.push_back(id_of_text(token->text));
      } else if (content) {
        for (const Value* entry : content->items) {
          const Value *number = entry->member("logprob"), *token = entry->member("token");
          raw.logprobs.push_back(number ? number->number : std::nan(""));
          named.push_back(id_of_text(token ? token->text : ""));
        }
      }
      if (raw.ids.size() != raw.logprobs.size()) raw.ids = std::move(named);
    }
    if (raw.logprobs.empty()) {
      const Value* prompt = choice.member("prompt_logprobs");
      if (!prompt) prompt = response.member("prompt_logprobs");
      const Value* ids = choice.member("prompt_token_ids");
      if (!ids) ids = response.member("prompt_token_ids");
      if (prompt && prompt->kind == Value::Kind::list) raw = prompt_side(*prompt, whole(ids));
    }
    if (raw.logprobs.empty()) missing("choices[].logprobs");
    samples_.push_back(std::move(raw));
  }

  TreeRef tree_;
  std::string where_;
  std::vector<RawSide> samples_;
};

}  // namespace

bool is_response(const Value& record) {
  if (record.kind == Value::Kind::list && !record.items.empty()) return is_response(*record.items[0]);
  return record.kind == Value::Kind::dictionary && (record.member("choices") || record.member("meta_info"));
}

std::shared_ptr<const SampleBatch> read_responses(const TreeRef& tree, const Value& record,
                                                  const std::string& where) {
  auto responses = std::make_shared<Responses>(tree, where);
  if (record.kind == Value::Kind::list)
    for (const Value* item : record.items) responses->add(*item);
  else
    responses->add(record);
  return responses;
}

}  // namespace meshparity::dumps
