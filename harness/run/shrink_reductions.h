// The reductions that shrinking knows, each a change of one thing that makes a case smaller.
#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "harness/run/shrink.h"
#include "harness/types/batch_shape.h"
#include "harness/types/model_shape.h"

namespace meshparity::run {

// A case with its model and batch opened where they are text.
struct Opened {
  CaseSpec spec;
  std::optional<ModelShape> model;
  std::optional<BatchShape> batch;

  explicit Opened(const CaseSpec& case_spec);
  // The case again, with what the mesh ignores at its default.
  CaseSpec closed() const;
};

// Changes a case and says whether there was anything to change. Applied to another case than the one it was
// made for it does what still makes sense, or nothing.
using Reduction = std::function<bool(Opened&)>;

// Changes the batch where it is text; an empty row or micro-batch goes with its last document.
Reduction of_batch(std::function<bool(BatchShape&)> change);
// Whole micro-batches and rows.
std::vector<Reduction> reductions_of_rows(const Opened& opened);
// Documents, their lengths and images.
std::vector<Reduction> reductions_of_documents(const Opened& opened);

// Reductions of one kind for this case, the largest first. Kinds are tried one after another: many things at
// once, mesh and flags, rows, layers, documents, sizes.
std::vector<std::vector<Reduction>> reductions_of(const Opened& opened);

}  // namespace meshparity::run
