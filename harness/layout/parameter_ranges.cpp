#include "harness/layout/parameter_ranges.h"

#include <algorithm>

namespace meshparity::layout {
namespace {

// The units of one block that a part of the width holds.
Range units_of(const Block& block, Part part) {
  if (!block.replicate || part.parts <= block.count) return cut(block.count, part.parts, part.index);
  const std::int64_t unit = part.index * block.count / part.parts;
  return {unit, unit + 1};
}

std::int64_t width_elements(const ParameterPlacement& p, Part part) {
  std::int64_t n = 0;
  for (const Block& block : p.tp_blocks) n += units_of(block, part).size() * block.width;
  return n;
}

}  // namespace

std::int64_t total(const Ranges& ranges) {
  std::int64_t n = 0;
  for (const Range& range : ranges) n += range.size();
  return n;
}

Ranges slice(const Ranges& ranges, Range part) {
  Ranges out;
  std::int64_t before = 0;
  for (const Range& range : ranges) {
    const std::int64_t begin = std::max(part.begin, before), end = std::min(part.end, before + range.size());
    if (begin < end) out.push_back({range.begin + begin - before, range.begin + end - before});
    before += range.size();
  }
  return out;
}

ParameterCut cut_of(const ParameterPlacement& p, const Mesh& mesh, const Flags& flags,
                    const RankCoordinate& at) {
  // With whole images spread over the ranks each has the tower whole.
  if (p.tower && flags.vision == "images") return {{}, {}, {mesh.fsdp, at.fsdp}};
  if (!p.expert) return {{mesh.tp, at.tp}, {}, {mesh.fsdp, at.fsdp}};
  // Experts have axes of their own: whole experts over ep, their width over etp, what remains over edp, but
  // only where anything is sharded at all.
  const ExpertCoordinate expert = expert_coordinate_of(mesh, at);
  const Part shard = mesh.fsdp > 1 ? Part{mesh.edp(), expert.edp} : Part{};
  return {{mesh.expert_tp(), expert.etp}, {mesh.ep, expert.ep}, shard};
}

Ranges dimension_ranges(const ParameterPlacement& p, int dim, const ParameterCut& parts, bool gathered) {
  Ranges ranges;
  if (dim == p.tp_dim) {
    std::int64_t start = 0;
    for (const Block& block : p.tp_blocks) {
      const Range units = units_of(block, parts.width);
      if (units.size() > 0)
        ranges.push_back({start + units.begin * block.width, start + units.end * block.width});
      start += block.count * block.width;
    }
  } else if (dim == 0 && p.expert) {
    ranges.push_back(cut(p.shape[0], parts.experts.parts, parts.experts.index));
  } else {
    ranges.push_back({0, p.shape[static_cast<std::size_t>(dim)]});
  }
  if (dim == p.fsdp_dim && !gathered)
    return slice(ranges, cut(total(ranges), parts.shard.parts, parts.shard.index));
  return ranges;
}

std::int64_t local_elements(const ParameterPlacement& p, const ParameterCut& parts, bool gathered) {
  std::int64_t n = 1;
  for (int dim = 0; dim < static_cast<int>(p.shape.size()); ++dim) {
    std::int64_t size = p.shape[static_cast<std::size_t>(dim)];
    if (dim == p.tp_dim)
      size = width_elements(p, parts.width);
    else if (dim == 0 && p.expert)
      size = cut(size, parts.experts.parts, parts.experts.index).size();
    if (dim == p.fsdp_dim && !gathered) size = cut(size, parts.shard.parts, parts.shard.index).size();
    n *= size;
  }
  return n;
}

std::int64_t largest_part(const ParameterPlacement& p, const ParameterCut& parts, bool gathered) {
  const auto most = [](std::int64_t n, int of) { return (n + of - 1) / of; };  // the largest floor cut
  std::int64_t n = 1;
  for (int dim = 0; dim < static_cast<int>(p.shape.size()); ++dim) {
    std::int64_t size = p.shape[static_cast<std::size_t>(dim)];
    if (dim == p.tp_dim) {
      size = 0;
      for (int i = 0; i < parts.width.parts; ++i)
        size = std::max(size, width_elements(p, {parts.width.parts, i}));
    } else if (dim == 0 && p.expert) {
      size = most(size, parts.experts.parts);
    }
    if (dim == p.fsdp_dim && !gathered) size = most(size, parts.shard.parts);
    n *= size;
  }
  return n;
}

}  // namespace meshparity::layout
