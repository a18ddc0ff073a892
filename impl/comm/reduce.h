// The arithmetic of reductions over host buffers, for the dtypes that collectives carry most. Other dtypes
// and devices go through ATen (call_perform.cpp). To add a dtype, add a case in reduce.cpp.
#pragma once

#include <c10/core/ScalarType.h>

#include <cstdint>
#include <vector>

namespace meshparity::impl {

enum class Reduction { sum, max };

// True if reduce_buffers knows the dtype: float64, float32, bfloat16, int64.
bool reduces_in_memory(c10::ScalarType dtype);

// targets[t][i] = sources[0][i] + sources[1][i] + ... (or their maximum; NaN wins), added in the order of
// `sources`, each partial sum rounded to the dtype. `count` elements each; a target may be one of the
// sources. Needs at least one source.
void reduce_buffers(c10::ScalarType dtype, Reduction reduction, const std::vector<const void*>& sources,
                    const std::vector<void*>& targets, std::int64_t count);

}  // namespace meshparity::impl
