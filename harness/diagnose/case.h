// From everything that one case shows to where it starts and what causes it: the tensors are ordered as they
// come into being (weights as loaded, counts, forward, backward, norm, update, then the next step), the first
// wrong one is the place, and rules look at it together with what is right and wrong around it. The rules
// stand in case_inputs.cpp, case_forward.cpp, case_backward.cpp, case_experts.cpp, case_pipeline.cpp and
// case_update.cpp; to add one: a function
// there, its line in case.cpp, and a planted case in case_test.cpp.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "harness/diagnose/diagnose.h"
#include "harness/types/batch.h"

namespace meshparity::diagnose {

// One tensor of a case, judged. Keys are paths below /expected, or below "trace/" (harness/layout/layout.h).
struct CaseTensor {
  std::string key;
  TensorView got, want;  // global; got has no data where it could not be put together
  double norm_bound = 0, element_bound = 0;
  bool wrong = false;   // outside its bound, or `invalid`
  std::string invalid;  // why it could not be compared
  // Where ranks are known: what each emitted, and how many elements that two ranks hold differ bitwise.
  std::vector<layout::RankTensor> locals;
  std::int64_t replicas_differ = 0;
  std::string replicas_where;
};

struct CaseEvidence {
  const layout::LayoutMap* map = nullptr;
  TrainSpec train;
  std::string loss = "token_mean";  // policy whose gradients were taken
  std::vector<CaseTensor> tensors;
  std::vector<std::pair<std::string, std::string>> placement;  // failed placement verdicts: tensor, reason
};

struct Diagnosis {
  std::string first_key;      // the first wrong tensor; empty where none is
  std::string first;          // its place in words
  std::vector<Cause> causes;  // most confident first
};

Diagnosis diagnose_case(const CaseEvidence& evidence);

// "first   PLACE" for the failing-case block.
std::string first_line(const Diagnosis& diagnosis);

}  // namespace meshparity::diagnose
