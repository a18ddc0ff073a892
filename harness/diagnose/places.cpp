// Where the wrong elements lie, in the terms of the mesh, the model and the batch: one rank, one replica, one
// head, one micro-batch, the documents behind the first.
#include <algorithm>
#include <cmath>
#include <set>

#include "harness/diagnose/error_shape.h"

namespace meshparity::diagnose {
namespace {

constexpr double kConfined = 0.6;  // a place is a lead, not yet a cause

std::string count_text(std::int64_t count) {
  return count == 1 ? "the wrong element" : "all " + std::to_string(count) + " wrong elements";
}

// Indices of one dimension among the wrong elements.
std::set<std::int64_t> wrong_indices(const ErrorShape& shape, std::size_t dim) {
  std::set<std::int64_t> found;
  const Shape& dims = shape.suspect.want.shape;
  std::int64_t inner = 1;
  for (std::size_t d = dim + 1; d < dims.size(); ++d) inner *= dims[d];
  for (std::size_t i = 0; i < shape.wrong.size(); ++i)
    if (shape.wrong[i]) found.insert(static_cast<std::int64_t>(i) / inner % dims[dim]);
  return found;
}

// Ranks whose own tensor differs from their part of want; the right ones hold some of the same elements.
void find_ranks(const ErrorShape& shape, std::vector<Cause>& causes) {
  const auto& map = *shape.suspect.map;
  std::vector<int> wrong, right;
  for (const auto& local : shape.suspect.locals) {
    const auto index = map.local(shape.suspect.key, local.rank);
    if (local.view.shape != index.local_shape()) return;
    const Values got = values_of(local.view),
                 want = values_of(layout::shard(index, shape.suspect.want).view());
    if (got.empty()) continue;
    bool ok = true;
    for (std::size_t i = 0; i < got.size(); ++i)
      ok &= std::fabs(got[i] - want[i]) <= std::max(shape.suspect.element_bound, 0.0);
    (ok ? right : wrong).push_back(local.rank);
  }
  if (wrong.empty() || right.empty()) return;
  const auto list = [](const std::vector<int>& ranks) {
    std::string text;
    for (const int r : ranks) text += (text.empty() ? "" : ",") + std::to_string(r);
    return (ranks.size() == 1 ? "rank " : "ranks ") + text;
  };
  // Ranks that share one coordinate of an axis, and are all that have it.
  for (const auto& axis : axes_of(map.mesh())) {
    std::set<int> coordinates;
    for (const int r : wrong) coordinates.insert(axis.index(r));
    if (coordinates.size() != 1) continue;
    const int at = *coordinates.begin();
    if (std::any_of(right.begin(), right.end(), [&](int r) { return axis.index(r) == at; })) continue;
    causes.push_back({"only " + axis.name + " index " + std::to_string(at) + " is wrong",
                      list(wrong) + " of " + std::to_string(map.world()) + "; " + list(right) + " right",
                      kConfined});
    return;
  }
  causes.push_back(
      {"only some ranks are wrong", list(wrong) + "; " + list(right) + " right", 0.5 * kConfined});
}

// One unit (head) of the dimension that tp cuts.
void find_units(const ErrorShape& shape, std::vector<Cause>& causes) {
  const auto& key = shape.suspect.key;
  const ParameterPlacement* placement = nullptr;
  for (const auto& p : shape.suspect.map->placements())
    if (key.size() > p.name.size() && key.compare(key.size() - p.name.size(), p.name.size(), p.name) == 0 &&
        key[key.size() - p.name.size() - 1] == '/')
      placement = &p;
  if (!placement || placement->tp_dim < 0) return;
  const auto wrong = wrong_indices(shape, static_cast<std::size_t>(placement->tp_dim));
  std::int64_t start = 0;
  for (std::size_t b = 0; b < placement->tp_blocks.size(); ++b) {
    const Block& block = placement->tp_blocks[b];
    const std::int64_t end = start + block.count * block.width;
    const bool inside = *wrong.begin() >= start && *wrong.rbegin() < end;
    if (inside) {
      const std::int64_t first = (*wrong.begin() - start) / block.width,
                         last = (*wrong.rbegin() - start) / block.width;
      const std::string section = placement->tp_blocks.size() > 1 ? " of section " + std::to_string(b) : "";
      if (first == last && block.count > 1 && block.width > 1)
        causes.push_back(
            {"only head " + std::to_string(first) + section + " is wrong",
             count_text(shape.wrong_count) + " lie in its " + std::to_string(block.width) + " indices",
             kConfined});
      else if (!section.empty())
        causes.push_back({"only section " + std::to_string(b) + " of " +
                              std::to_string(placement->tp_blocks.size()) + " is wrong",
                          count_text(shape.wrong_count) + " lie in indices " + std::to_string(start) + ".." +
                              std::to_string(end - 1) + " of dimension " + std::to_string(placement->tp_dim),
                          kConfined});
    }
    start = end;
  }
}

bool has_tokens(const std::string& key) {
  return key == "logits" || key == "logprobs" || key.rfind("activations/", 0) == 0;
}

void find_tokens(const ErrorShape& shape, std::vector<Cause>& causes) {
  const Batch& b = shape.suspect.map->batch();
  const auto wrong = wrong_indices(shape, 0);
  const auto any_in = [&](Range r) {
    const auto at = wrong.lower_bound(r.begin);
    return at != wrong.end() && *at < r.end;
  };
  const std::string count = std::to_string(wrong.size()) + " wrong tokens";
  std::vector<std::int64_t> micro_batches, rows, documents;
  bool first_documents_right = true, later_documents_wrong = true, starts_only = true;
  std::int64_t later = 0;
  for (std::int64_t m = 0; m < b.micro_batches(); ++m)
    if (any_in(b.micro_batch_tokens(m))) micro_batches.push_back(m);
  for (std::int64_t r = 0; r < b.rows(); ++r) {
    if (any_in(b.row_tokens(r))) rows.push_back(r);
    for (std::int64_t d = b.row_offsets[r]; d < b.row_offsets[r + 1]; ++d) {
      const bool bad = any_in(b.document(d));
      if (bad) documents.push_back(d);
      if (d == b.row_offsets[r]) {
        first_documents_right &= !bad;
      } else {
        ++later;
        later_documents_wrong &= bad;
      }
      const Range document = b.document(d);
      starts_only &= !any_in({std::min(document.begin + 3, document.end), document.end});
    }
  }
  if (first_documents_right && later_documents_wrong && later > 0)
    causes.push_back(
        {"boundaries between documents lost",
         "the first document of every row is right and all " + std::to_string(later) + " others are wrong",
         0.85});
  else if (first_documents_right && later > 0)
    causes.push_back({"only documents behind the first of a row are wrong", count, 0.7});
  if (starts_only && b.documents() > 1)
    causes.push_back({"only the first 3 tokens of documents are wrong",
                      count + ": what a convolution of 4 taps reaches across an edge", 0.75});
  if (documents.size() == 1 && b.documents() > 1)
    causes.push_back({"only document " + std::to_string(documents[0]) + " is wrong", count, kConfined});
  else if (rows.size() == 1 && b.rows() > 1)
    causes.push_back({"only row " + std::to_string(rows[0]) + " is wrong", count, kConfined});
  else if (micro_batches.size() == 1 && b.micro_batches() > 1)
    causes.push_back(
        {"only micro-batch " + std::to_string(micro_batches[0]) + " is wrong", count, kConfined});
  else if (b.micro_batches() > 1 && micro_batches.size() + 1 == static_cast<std::size_t>(b.micro_batches()) &&
           micro_batches[0] == 1)
    causes.push_back(
        {"every micro-batch but the first is wrong", count + ": state of the first one is used again", 0.7});
}

}  // namespace

void find_places(const ErrorShape& shape, std::vector<Cause>& causes) {
  if (!shape.suspect.map || shape.suspect.want.shape.empty()) return;
  if (!shape.suspect.locals.empty() && shape.suspect.map->world() > 1) find_ranks(shape, causes);
  if (has_tokens(shape.suspect.key) && shape.suspect.want.shape[0] == shape.suspect.map->batch().tokens())
    find_tokens(shape, causes);
  else
    find_units(shape, causes);
}

}  // namespace meshparity::diagnose
