// Puts local tensors together bit by bit and compares replicas, run by run: consecutive elements are copied
// or compared at once and only a run that differs, or is held in part, is looked at element by element.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "harness/layout/layout.h"
#include "harness/layout/runs.h"

namespace meshparity::layout {
namespace {

// Bits of an element's state.
constexpr std::uint8_t kHeld = 1, kReplicated = 2, kDiffers = 4;

void fill_unheld(HostTensor& t) {
  const auto fill = [&](auto value) {
    auto* p = t.as<decltype(value)>();
    std::fill(p, p + t.numel(), value);
  };
  switch (t.dtype) {
    case DType::float64:
      fill(std::numeric_limits<double>::quiet_NaN());
      break;
    case DType::float32:
      fill(std::numeric_limits<float>::quiet_NaN());
      break;
    case DType::float16:
      fill(std::uint16_t{0x7E00});
      break;
    case DType::bfloat16:
      fill(std::uint16_t{0x7FC0});
      break;
    default:
      std::fill(t.bytes.begin(), t.bytes.end(), std::byte{0xFF});  // -1
  }
}

bool all_equal(const std::uint8_t* state, std::int64_t n, std::uint8_t value) {
  // Equal to its own shift by one and to `value` at the front: the fast test memcmp gives for free.
  return state[0] == value && (n == 1 || std::memcmp(state, state + 1, static_cast<std::size_t>(n - 1)) == 0);
}

class Gatherer {
 public:
  Gatherer(const LayoutMap& map, const std::string& key) : map_(map), key_(key) {}

  Gathered gather(const std::vector<RankTensor>& locals) {
    const std::vector<const RankTensor*> by_rank = admit(locals);
    out_.global = HostTensor::zeros(dtype_, map_.local(key_, 0).global_shape);
    fill_unheld(out_.global);
    state_.assign(static_cast<std::size_t>(out_.global.numel()), 0);
    for (int rank = 0; rank < map_.world(); ++rank)
      if (by_rank[rank]) place_rank(*by_rank[rank]);
    for (const auto s : state_) {
      out_.uncovered += s == 0;
      out_.replica_elements += (s & kReplicated) != 0;
      out_.replica_differ += (s & kDiffers) != 0;
    }
    return std::move(out_);
  }

 private:
  void refuse(int rank, const std::string& what) {
    out_.invalid.push_back(key_ + ": rank " + std::to_string(rank) + " " + what);
  }

  // The one valid tensor of each rank, or null; the reasons against the others go to `invalid`.
  std::vector<const RankTensor*> admit(const std::vector<RankTensor>& locals) {
    std::vector<const RankTensor*> by_rank(static_cast<std::size_t>(map_.world()), nullptr);
    for (const auto& local : locals) {
      if (local.rank < 0 || local.rank >= map_.world())
        refuse(local.rank, "is not on mesh " + map_.mesh().text());
      else if (by_rank[local.rank])
        refuse(local.rank, "emitted it twice");
      else
        by_rank[local.rank] = &local;
    }
    bool known = false;
    for (int rank = 0; rank < map_.world(); ++rank) {
      const RankTensor*& local = by_rank[rank];
      const Shape want = map_.local(key_, rank).local_shape();
      if (!local) {
        if (shape_numel(want) > 0) refuse(rank, "emitted nothing, its part is " + shape_text(want));
        continue;
      }
      if (local->view.shape != want) {
        refuse(rank,
               "emitted local shape " + shape_text(local->view.shape) + ", its part is " + shape_text(want));
        local = nullptr;
      } else if (known && local->view.dtype != dtype_) {
        refuse(rank, "emitted " + std::string(dtype_name(local->view.dtype)) + ", a lower rank " +
                         std::string(dtype_name(dtype_)));
        local = nullptr;
      } else if (!local->view.data && local->view.numel() > 0) {
        refuse(rank, "emitted no data");
        local = nullptr;
      } else {
        dtype_ = local->view.dtype;
        known = true;
      }
    }
    return by_rank;
  }

  void place_rank(const RankTensor& local) {
    const std::size_t size = dtype_size(dtype_);
    const std::byte* source = local.view.data;
    for (const Run& run : runs_of(map_.local(key_, local.rank))) {
      std::byte* const target = out_.global.bytes.data() + static_cast<std::size_t>(run.offset) * size;
      std::uint8_t* const state = state_.data() + run.offset;
      const std::size_t bytes = static_cast<std::size_t>(run.length) * size;
      if (all_equal(state, run.length, 0)) {
        std::memcpy(target, source, bytes);
        std::memset(state, kHeld, static_cast<std::size_t>(run.length));
      } else if ((all_equal(state, run.length, kHeld) || all_equal(state, run.length, kHeld | kReplicated)) &&
                 std::memcmp(target, source, bytes) == 0) {
        std::memset(state, kHeld | kReplicated, static_cast<std::size_t>(run.length));
      } else {
        for (std::int64_t i = 0; i < run.length; ++i)
          place_element(local, run.offset + i, state[i], target + i * size, source + i * size);
      }
      source += bytes;
    }
  }

  void place_element(const RankTensor& local, std::int64_t flat, std::uint8_t& state, std::byte* target,
                     const std::byte* source) {
    const std::size_t size = dtype_size(dtype_);
    if (!(state & kHeld)) {
      std::memcpy(target, source, size);
      state |= kHeld;
      return;
    }
    state |= kReplicated;
    if (std::memcmp(target, source, size) == 0) return;
    state |= kDiffers;
    const double difference =
        std::abs(TensorView{dtype_, {}, source}.at(0) - TensorView{dtype_, {}, target}.at(0));
    // Not a number against anything is the largest difference there is.
    out_.replica_max_abs = std::max(
        out_.replica_max_abs, std::isnan(difference) ? std::numeric_limits<double>::infinity() : difference);
    if (out_.replica_where.empty())
      out_.replica_where = index_text(out_.global.shape, flat) + " rank " + std::to_string(owner(flat)) +
                           " against rank " + std::to_string(local.rank);
  }

  // The lowest rank whose part holds the element: asked once per tensor, so found by search.
  int owner(std::int64_t flat) const {
    for (int rank = 0; rank < map_.world(); ++rank)
      for (const Run& run : runs_of(map_.local(key_, rank)))
        if (flat >= run.offset && flat < run.offset + run.length) return rank;
    return -1;
  }

  const LayoutMap& map_;
  const std::string& key_;
  DType dtype_ = DType::float64;
  Gathered out_;
  std::vector<std::uint8_t> state_;
};

}  // namespace

std::vector<Run> runs_of(const LocalIndex& index) {
  const auto consecutive_from = [](const std::vector<std::int64_t>& list, std::size_t i) {
    std::size_t end = i + 1;
    while (end < list.size() && list[end] == list[end - 1] + 1) ++end;
    return end;
  };
  // Trailing dimensions held whole belong to one element of the dimension before them.
  std::int64_t inner = 1;
  std::size_t dims = index.indices.size();
  for (const auto& list : index.indices)
    if (list.empty()) return {};
  while (dims > 0) {
    const auto& list = index.indices[dims - 1];
    if (list.front() != 0 || static_cast<std::int64_t>(list.size()) != index.global_shape[dims - 1] ||
        consecutive_from(list, 0) != list.size())
      break;
    inner *= index.global_shape[--dims];
  }
  if (dims == 0) return {{0, inner}};
  std::vector<Run> row;  // of the last dimension not held whole
  const auto& last = index.indices[dims - 1];
  for (std::size_t i = 0; i < last.size();) {
    const std::size_t end = consecutive_from(last, i);
    row.push_back({last[i] * inner, static_cast<std::int64_t>(end - i) * inner});
    i = end;
  }
  std::vector<std::int64_t> offsets{0};
  std::int64_t stride = inner * index.global_shape[dims - 1];
  for (std::size_t d = dims - 1; d-- > 0;) {
    std::vector<std::int64_t> outer;
    outer.reserve(offsets.size() * index.indices[d].size());
    for (const auto i : index.indices[d])
      for (const auto offset : offsets) outer.push_back(i * stride + offset);
    offsets = std::move(outer);
    stride *= index.global_shape[d];
  }
  std::vector<Run> runs;
  runs.reserve(offsets.size() * row.size());
  for (const auto offset : offsets)
    for (const auto& run : row) runs.push_back({offset + run.offset, run.length});
  return runs;
}

Gathered unshard(const LayoutMap& map, const std::string& key, const std::vector<RankTensor>& locals) {
  return Gatherer(map, key).gather(locals);
}

HostTensor shard(const LocalIndex& index, const TensorView& global) {
  HostTensor local = HostTensor::zeros(global.dtype, index.local_shape());
  const std::size_t size = dtype_size(global.dtype);
  std::byte* target = local.bytes.data();
  for (const Run& run : runs_of(index)) {
    std::memcpy(target, global.data + static_cast<std::size_t>(run.offset) * size,
                static_cast<std::size_t>(run.length) * size);
    target += static_cast<std::size_t>(run.length) * size;
  }
  return local;
}

}  // namespace meshparity::layout
