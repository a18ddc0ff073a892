// A case of a model that fills the memory (--apart): the reference runs first, alone, in a process of its
// own, then the ranks, and each tensor is judged against the mapped file.
#pragma once

#include "harness/types/case.h"
#include "harness/types/verdict.h"

namespace meshparity::cli {

// Runs and judges one case without optimizer steps and without a golden; its result says what each part took.
// Bounds of float32 rest on conditions measured on this very model and batch. Throws InputError for what
// --apart cannot do.
CaseResult run_apart(const CaseSpec& spec);

}  // namespace meshparity::cli
