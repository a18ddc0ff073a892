// What the rank program is given as objects, so that tracing, accounting and planted faults enter as
// decorators and no block ever asks "is there a fault?".
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "harness/types/batch.h"
#include "harness/types/mesh.h"
#include "impl/comm/comm.h"

namespace meshparity::impl {

struct Primitives;      // impl/blocks/primitives.h: the ~20 functions of the model
struct Plan;            // impl/parallel/plan.h: the one sharding table
struct TokenLayout;     // impl/parallel/token_layout.h: which tokens a rank holds
struct PackingEdit;     // impl/blocks/packed_tokens.h: what the layers know about the tokens
struct ContextEdit;     // impl/blocks/context_tables.h: how tokens and heads travel over ring and uly
struct Normaliser;      // impl/train/loss.h: counts and scales
struct Optimizer;       // impl/train/optimizer.h: AdamW, zeroing, norm and clipping
struct GradientGroups;  // impl/parallel/data.h: the ranks over which gradients are summed
struct PipelineRunner;  // impl/parallel/pipeline.h: what carries out the schedule's actions
struct DtypePolicy;     // impl/blocks/dtype_policy.h
struct RolloutEdit;     // impl/rollout/edit.h: what rollout does around the model

// Each hook edits the object just built for this rank, before it is used. Null = leave as it is.
struct Seams {
  std::function<std::shared_ptr<Collectives>(std::shared_ptr<Collectives>)> collectives;
  std::function<void(Primitives&)> primitives;
  std::function<void(Plan&, const Mesh&)> plan;
  std::function<void(TokenLayout&, const Mesh&, int rank)> layout;
  std::function<void(PackingEdit&)> packing;  // once per micro-batch
  std::function<void(ContextEdit&)> context;  // once per micro-batch
  std::function<void(Normaliser&)> normaliser;
  std::function<void(Optimizer&)> optimizer;
  std::function<void(GradientGroups&)> gradient_groups;
  std::function<void(PipelineRunner&)> pipeline;  // once per pass
  std::function<void(DtypePolicy&)> dtypes;
  std::function<void(RolloutEdit&)> rollout;
};

}  // namespace meshparity::impl
