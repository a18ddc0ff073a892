// How a fault of rollout is planted: it replaces or wraps entries of the table of what the engine does.
#pragma once

#include <functional>
#include <utility>

#include "impl/rollout/edit.h"
#include "impl/seams.h"

namespace meshparity::faults {

inline auto edit_rollout(std::function<void(impl::RolloutEdit&)> edit) {
  return [edit = std::move(edit)](impl::Seams& seams) { seams.rollout = edit; };
}

}  // namespace meshparity::faults
