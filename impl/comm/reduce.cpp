// Reductions over host buffers, block by block so that partial sums stay in the first-level cache. Compiled
// at -O3 without the precompiled header (impl/CMakeLists.txt): this is the only arithmetic of the folder.
#include "impl/comm/reduce.h"

#include <c10/util/BFloat16.h>

#include <algorithm>
#include <cstring>

namespace meshparity::impl {
namespace {

constexpr std::int64_t kBlockBytes = 8192;

template <class T>
T larger(T a, T b) {
  return (a < b || b != b) ? b : a;  // NaN wins, as in ATen
}

template <class T>
void reduce_typed(Reduction reduction, const std::vector<const void*>& sources,
                  const std::vector<void*>& targets, std::int64_t count) {
  constexpr std::int64_t kBlock = kBlockBytes / static_cast<std::int64_t>(sizeof(T));
  alignas(64) T partial[kBlock];
  for (std::int64_t begin = 0; begin < count; begin += kBlock) {
    const std::int64_t n = std::min(kBlock, count - begin);
    const std::size_t bytes = static_cast<std::size_t>(n) * sizeof(T);
    std::memcpy(static_cast<void*>(partial), static_cast<const T*>(sources[0]) + begin, bytes);
    for (std::size_t s = 1; s < sources.size(); ++s) {
      const T* source = static_cast<const T*>(sources[s]) + begin;
      if (reduction == Reduction::sum) {
        for (std::int64_t i = 0; i < n; ++i) partial[i] = static_cast<T>(partial[i] + source[i]);
      } else {
        for (std::int64_t i = 0; i < n; ++i) partial[i] = larger(partial[i], source[i]);
      }
    }
    for (void* target : targets) {
      std::memcpy(static_cast<void*>(static_cast<T*>(target) + begin), static_cast<const void*>(partial),
                  bytes);
    }
  }
}

}  // namespace

bool reduces_in_memory(c10::ScalarType dtype) {
  return dtype == c10::ScalarType::Double || dtype == c10::ScalarType::Float ||
         dtype == c10::ScalarType::BFloat16 || dtype == c10::ScalarType::Long;
}

void reduce_buffers(c10::ScalarType dtype, Reduction reduction, const std::vector<const void*>& sources,
                    const std::vector<void*>& targets, std::int64_t count) {
  switch (dtype) {
    case c10::ScalarType::Double:
      return reduce_typed<double>(reduction, sources, targets, count);
    case c10::ScalarType::Float:
      return reduce_typed<float>(reduction, sources, targets, count);
    case c10::ScalarType::BFloat16:
      return reduce_typed<c10::BFloat16>(reduction, sources, targets, count);
    default:
      return reduce_typed<std::int64_t>(reduction, sources, targets, count);
  }
}

}  // namespace meshparity::impl
