// Counter-based random numbers: every value is a pure function of (seed, name, index), so no rank needs
// another to build its shard and Python (golden/upstream) draws the same numbers. SplitMix64 finaliser; no
// state.
#pragma once

#include <cmath>
#include <cstdint>
#include <string_view>

namespace meshparity {

constexpr std::uint64_t mix64(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

// FNV-1a over the UTF-8 bytes.
constexpr std::uint64_t name_hash(std::string_view name) {
  std::uint64_t hash = 0xCBF29CE484222325ull;
  for (unsigned char c : name) hash = (hash ^ c) * 0x100000001B3ull;
  return hash;
}

class Generator {
 public:
  constexpr Generator(std::uint64_t seed, std::string_view name)
      : key_(mix64(mix64(seed + 0x9E3779B97F4A7C15ull) ^ name_hash(name))) {}

  constexpr std::uint64_t bits(std::uint64_t index) const {
    return mix64(key_ + (index + 1) * 0x9E3779B97F4A7C15ull);
  }
  // In (0, 1), never 0 or 1.
  constexpr double uniform(std::uint64_t index) const { return unit_of(bits(index)); }
  // The middle of the 2^-53 wide interval that the upper 53 bits name; the last one's middle rounds to 1, so
  // it gives the largest number below.
  static constexpr double unit_of(std::uint64_t bits) {
    const double u = (static_cast<double>(bits >> 11) + 0.5) * 0x1p-53;
    return u < 1 ? u : 1 - 0x1p-53;
  }
  // Integer in [0, n).
  constexpr std::int64_t below(std::uint64_t index, std::int64_t n) const {
    return static_cast<std::int64_t>(bits(index) % static_cast<std::uint64_t>(n));
  }
  // Standard normal (Box-Muller over draws 2*index and 2*index+1); libm may differ in the last bit between
  // machines.
  double normal(std::uint64_t index) const {
    return std::sqrt(-2.0 * std::log(uniform(2 * index))) *
           std::cos(6.283185307179586 * uniform(2 * index + 1));
  }

 private:
  std::uint64_t key_;
};

}  // namespace meshparity
