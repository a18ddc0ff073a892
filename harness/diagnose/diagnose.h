// From the shape of an error to a named cause: what a failing tensor's difference looks like and which
// mistake of parallel training looks like that. Every cause carries its evidence and a confidence. To add a
// cause: a function in one of the files beside this one that fills Cause from an ErrorShape, its line in
// diagnose.cpp, and a planted fault in diagnose_test.cpp.
#pragma once

#include <string>
#include <vector>

#include "harness/layout/layout.h"

namespace meshparity::diagnose {

// A failing tensor and what is known about it.
struct Suspect {
  std::string key;           // path below /expected: "grads/model.norm.weight"
  TensorView got, want;      // global, same shape, floating
  double norm_bound = 0;     // what the policy allows on the norm of the difference
  double element_bound = 0;  // and on each element
  // Optional: how the tensor is cut over the mesh, and what each rank emitted. Without them only global
  // shapes are tried.
  const layout::LayoutMap* map = nullptr;
  std::vector<layout::RankTensor> locals;
  // Optional: a value that `got` would equal if it were not updated (weights one step earlier).
  const TensorView* previous = nullptr;
};

struct Cause {
  std::string name;      // "all-reduce over tp missing"
  std::string evidence;  // "the sum over tp of what the ranks hold equals want (difference 3.1e-16 of it)"
  double confidence =
      0;  // 0..1: how much of the difference the cause explains, and how few others would look the same
};

// Causes whose error shape fits, the most confident first; empty where nothing fits or the tensors cannot be
// compared.
std::vector<Cause> causes(const Suspect& suspect);
// The order in which causes are given; equal ones keep theirs.
void most_confident_first(std::vector<Cause>& causes);

// "cause   NAME (confidence 0.97: EVIDENCE)" for the failing-case block.
std::string cause_line(const Cause& cause);
// Its inverse; false for any other line.
bool parse_cause_line(const std::string& line, Cause& cause);

}  // namespace meshparity::diagnose
