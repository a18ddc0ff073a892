// A case's tensors in the order in which they come into being, and the questions that rules ask about them.
#pragma once

#include <map>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "harness/diagnose/case.h"
#include "harness/diagnose/error_shape.h"

namespace meshparity::diagnose {

enum class Phase { load, counts, forward, logits, logprobs, loss, backward, norm, update };

// When a tensor comes into being. Step 1 holds loading; `within` orders a phase (layers upwards in forward,
// downwards in backward).
struct Moment {
  int step = 1;
  Phase phase = Phase::load;
  int within = 0;
  std::string name;  // without phase and step: "model.norm.weight", "layers.0.mixer", "logits"
  auto order() const { return std::tuple(step, phase, within, name); }
};
Moment moment_of(const std::string& key, std::int64_t layers);

class CaseView {
 public:
  explicit CaseView(const CaseEvidence& evidence);

  const CaseEvidence& evidence;
  const layout::LayoutMap& map;
  const Batch& batch;
  const ModelConfig& config;
  struct Entry {
    Moment moment;
    const CaseTensor* tensor;
  };
  std::vector<Entry> order;
  // The first tensor that is wrong or whose replicas differ; null where none is.
  const Entry* first = nullptr;

  // Null if the case has no such tensor, or none that could be compared.
  const CaseTensor* find(const std::string& key) const;
  bool right(const std::string& key) const;
  // Of the entries of one phase and step: how many are wrong, how many there are.
  std::pair<int, int> wrong_of(Phase phase, int step = 1) const;

  // Data ranks' token streams, micro-batch by micro-batch: [data rank][micro-batch] global tokens in order.
  std::vector<std::vector<std::vector<std::int64_t>>> streams() const;
};

// Causes that the tensor's own error has, as diagnose.h finds them.
std::vector<Cause> shape_causes(const CaseView& view, const CaseTensor& tensor);
// ||got - want|| over both as they are; and whether it is explained by `residual` being this small.
double difference_of(const CaseTensor& tensor);
bool explains(const CaseTensor& tensor, double residual);
// The global tokens (dimension 0) at which a tensor differs by more than its element bound.
std::set<std::int64_t> wrong_tokens(const CaseTensor& tensor);

// Rules, by phase of the first wrong tensor. Each appends the causes it finds.
void load_rules(const CaseView& view, std::vector<Cause>& causes);
void count_rules(const CaseView& view, std::vector<Cause>& causes);
void input_rules(const CaseView& view, std::vector<Cause>& causes);   // counts of other tokens
void row_rules(const CaseView& view, std::vector<Cause>& causes);     // rows on the wrong ranks
void policy_rules(const CaseView& view, std::vector<Cause>& causes);  // losses but token_mean
void forward_rules(const CaseView& view, std::vector<Cause>& causes);
void label_rules(const CaseView& view, std::vector<Cause>& causes);
void loss_rules(const CaseView& view, std::vector<Cause>& causes);
void backward_rules(const CaseView& view, std::vector<Cause>& causes);
void expert_rules(const CaseView& view, std::vector<Cause>& causes);    // gradients of experts
void pipeline_rules(const CaseView& view, std::vector<Cause>& causes);  // micro-batches, tied embeddings
void norm_rules(const CaseView& view, std::vector<Cause>& causes);
void update_rules(const CaseView& view, std::vector<Cause>& causes);
void replica_rules(const CaseView& view, std::vector<Cause>& causes);
void shape_rules(const CaseView& view, std::vector<Cause>& causes);  // missing tokens, axes without effect

}  // namespace meshparity::diagnose
