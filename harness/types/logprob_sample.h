// Per-token logprobs as a dump of a trainer or a sampler holds them: what the readers of golden/dumps give
// and what harness/drift judges.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace meshparity {

// One sample of one side. `logprobs` in nats, one per slot; the other vectors are empty (unknown) or have one
// entry per slot. A slot without a logprob (JSON null) holds NaN and has `mask` 0.
struct LogprobSide {
  std::vector<double> logprobs;
  std::vector<std::int64_t> ids;     // the token whose logprob stands in the slot
  std::vector<std::uint8_t> mask;    // 1 = counts
  std::vector<std::int64_t> routes;  // [slots, route_width]: experts chosen, layer after layer
  std::int64_t route_width = 0;
  std::int64_t first = 0;  // index in its document of the token in slot 0 (the prompt's length, where known)
  std::int64_t document_tokens = 0;  // length of the document, prompt included; 0 = first + slots
  bool has_mask = false;             // the file says which slots count
  bool present() const { return !logprobs.empty(); }
};

// What one sample of a file says: two sides, or one of them.
struct LogprobSample {
  std::string name;  // "FILE: line 3" or "FILE: sample 3", for messages
  LogprobSide train, rollout;
  LogprobSide only;  // a side whose field does not say which it is ("logprobs")
  // Place in its packed row, where the file tells: index of its document in the row, tokens before it, tokens
  // of the row.
  std::int64_t document_in_row = -1, row_first = 0, row_tokens = 0;
  std::vector<std::string> wrong;  // lengths that fit nothing; such a sample is counted, never judged
};

// Several samples read together (a line, a file, a group of rank files); each is read when it is asked for.
class SampleBatch {
 public:
  virtual ~SampleBatch() = default;
  virtual std::size_t size() const = 0;
  // Throws InputError naming file and field.
  virtual LogprobSample sample(std::size_t index) const = 0;
};

// A dump: units in a fixed order. Reading a unit twice gives the same samples.
class SampleSource {
 public:
  virtual ~SampleSource() = default;
  virtual std::size_t units() const = 0;
  virtual std::shared_ptr<const SampleBatch> load(std::size_t unit) const = 0;
  virtual std::string name() const = 0;    // as the user named it
  virtual std::string format() const = 0;  // "slime/miles train dump (4 files)"
  virtual std::vector<std::string> notes()
      const = 0;  // what the reader did: ranks put together, replicas dropped
};

}  // namespace meshparity
