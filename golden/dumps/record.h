// From the tree of a file or a line to samples: recognises by field names what wrote it. Names and meanings:
// docs/drift.md#formats.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "golden/dumps/value.h"
#include "harness/types/logprob_sample.h"

namespace meshparity::dumps {

// What is known of one side before slots are matched; empty = not there.
struct RawSide {
  std::vector<double> logprobs;
  bool nulls = false;  // NaN means null
  std::vector<std::int64_t> ids, mask, routes;
  std::int64_t route_width = 0, prompt_tokens = -1;
};
// Slots by the lengths: as many ids as logprobs (slot by slot), one more (the first token has no logprob), or
// more (logprobs of the last ones); masks likewise. Says what fits nothing in `wrong`.
LogprobSide make_side(RawSide raw, const std::string& field, std::vector<std::string>& wrong);

// The samples of a record, with its kind ("NeMo-RL train data"). Throws InputError naming where and field for
// what is no record of logprobs.
std::shared_ptr<const SampleBatch> read_record(const TreeRef& tree, const Value& record,
                                               const std::string& where);
std::string record_kind(const Value& record);

// Responses of servers, each entry of a list one: null where `record` is none.
std::shared_ptr<const SampleBatch> read_responses(const TreeRef& tree, const Value& record,
                                                  const std::string& where);
bool is_response(const Value& record);

// slime's and miles' train dumps: {"rollout_id", "rank", "rollout_data": {"tokens": [...], "log_probs":
// [...], ...}}.
bool is_rank_dump(const Value& record);
// Puts the files of all ranks together: replicas are dropped, the zigzag pieces of context-parallel ranks
// joined. Adds what was done to `notes`.
std::shared_ptr<const SampleBatch> read_rank_dumps(const std::vector<TreeRef>& files,
                                                   std::vector<std::string>& notes);

// Sequences of a field: rows of an array or of a list. A single flat sequence is one row.
std::size_t row_count(const Value& field);
std::vector<double> read_row(const Value& field, std::size_t row);
std::vector<std::int64_t> to_integers(const std::vector<double>& values);
// First member with one of the names (the last part of a path counts); null if there is none.
const Value* find_field(const Value& record, const std::vector<std::string>& names);
// FNV-1a over ids; for matching, not for security.
std::uint64_t hash_of(const std::vector<std::int64_t>& ids);
// An id for a token known only by its text: "token_id:5" is 5, others a hash beyond every vocabulary.
std::int64_t id_of_text(const std::string& text);

}  // namespace meshparity::dumps
