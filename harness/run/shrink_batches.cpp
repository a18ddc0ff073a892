// To add a field of a document: its reductions in add_documents, and a line in size_of.
#include <algorithm>
#include <utility>

#include "harness/run/shrink_reductions.h"

namespace meshparity::run {

using Reductions = std::vector<Reduction>;

Reduction of_batch(std::function<bool(BatchShape&)> change) {
  return [change](Opened& o) {
    if (!o.batch || !change(*o.batch)) return false;
    for (auto& rows : o.batch->micro_batches)
      std::erase_if(rows, [](const RowShape& row) { return row.empty(); });
    std::erase_if(o.batch->micro_batches, [](const auto& rows) { return rows.empty(); });
    return !o.batch->micro_batches.empty();
  };
}

namespace {

// Drops element i of a list, or keeps only it.
template <class T>
bool drop(std::vector<T>& list, std::size_t i) {
  if (i >= list.size()) return false;
  list.erase(list.begin() + static_cast<std::ptrdiff_t>(i));
  return true;
}
template <class T>
bool keep(std::vector<T>& list, std::size_t i) {
  if (i >= list.size() || list.size() < 2) return false;
  list = {list[i]};
  return true;
}

// Without one of its images, with and without their tokens; a smaller one; an image for a video.
void add_images(const DocumentShape& document, Reductions& list,
                const std::function<DocumentShape*(BatchShape&)>& document_of) {
  for (std::size_t i = document.images.size(); i-- > 0;) {
    for (const bool tokens_too : {true, false})
      list.push_back(of_batch([=](BatchShape& b) {
        DocumentShape* there = document_of(b);
        const std::int64_t before = there ? there->image_tokens() : 0;
        if (!there || !drop(there->images, i)) return false;
        if (tokens_too)
          there->tokens = std::max<std::int64_t>(1, there->tokens - before + there->image_tokens());
        return true;
      }));
    for (const ImageShape& smaller :
         {ImageShape{}, ImageShape{{1, 2, 4}, false}, ImageShape{{2, 2, 2}, true}})
      list.push_back(of_batch([=](BatchShape& b) {
        DocumentShape* there = document_of(b);
        if (!there || i >= there->images.size() || there->images[i] == smaller) return false;
        const std::int64_t before = there->image_tokens();
        there->images[i] = smaller;
        there->tokens += there->image_tokens() - before;
        return true;
      }));
  }
}

void add_documents(const BatchShape& batch, Reductions& list) {
  for (std::size_t m = 0; m < batch.micro_batches.size(); ++m)
    for (std::size_t r = 0; r < batch.micro_batches[m].size(); ++r) {
      const auto row_of = [m, r](BatchShape& b) -> RowShape* {
        return m < b.micro_batches.size() && r < b.micro_batches[m].size() ? &b.micro_batches[m][r] : nullptr;
      };
      const RowShape& row = batch.micro_batches[m][r];
      for (std::size_t d = 0; d < row.size(); ++d) {
        list.push_back(of_batch([=](BatchShape& b) { return row_of(b) && drop(*row_of(b), d); }));
        std::int64_t last = 0;
        for (const std::int64_t tokens : {std::int64_t{1}, row[d].tokens / 2, row[d].tokens - 1}) {
          if (tokens <= last || tokens >= row[d].tokens) continue;
          last = tokens;
          list.push_back(of_batch([=](BatchShape& b) {
            RowShape* there = row_of(b);
            if (!there || d >= there->size() || (*there)[d].tokens <= tokens) return false;
            (*there)[d].tokens = tokens;
            return true;
          }));
        }
        add_images(row[d], list, [=](BatchShape& b) -> DocumentShape* {
          RowShape* there = row_of(b);
          return there && d < there->size() ? &(*there)[d] : nullptr;
        });
        list.push_back(of_batch([=](BatchShape& b) {
          RowShape* there = row_of(b);
          if (!there || d >= there->size() || !(*there)[d].unlabelled) return false;
          (*there)[d].unlabelled = false;
          return true;
        }));
      }
    }
}

}  // namespace

// From the back, so that dropping one leaves the numbers of the others.
std::vector<Reduction> reductions_of_rows(const Opened& o) {
  Reductions list;
  if (!o.batch) return list;
  const auto& micro_batches = o.batch->micro_batches;
  for (std::size_t m = 0; m < micro_batches.size(); ++m)
    list.push_back(of_batch([m](BatchShape& b) { return keep(b.micro_batches, m); }));
  for (std::size_t m = 0; m < micro_batches.size(); ++m)
    for (std::size_t r = 0; r < micro_batches[m].size(); ++r)
      list.push_back(of_batch(
          [m, r](BatchShape& b) { return m < b.micro_batches.size() && keep(b.micro_batches[m], r); }));
  for (std::size_t m = micro_batches.size(); m-- > 0;) {
    list.push_back(of_batch([m](BatchShape& b) { return drop(b.micro_batches, m); }));
    for (std::size_t r = micro_batches[m].size(); r-- > 0;)
      list.push_back(of_batch(
          [m, r](BatchShape& b) { return m < b.micro_batches.size() && drop(b.micro_batches[m], r); }));
  }
  return list;
}

std::vector<Reduction> reductions_of_documents(const Opened& o) {
  Reductions list;
  if (!o.batch) return list;
  list.push_back(of_batch([](BatchShape& b) { return std::exchange(b.mask, 0) != 0; }));
  list.push_back(of_batch([](BatchShape& b) { return std::exchange(b.seed, 0) != 0; }));
  for (std::size_t m = o.batch->micro_batches.size(); m-- > 0;)
    for (std::size_t r = o.batch->micro_batches[m].size(); r-- > 0;)
      for (std::size_t d = 0; d < o.batch->micro_batches[m][r].size(); ++d)
        list.push_back(of_batch([m, r, d](BatchShape& b) {
          return m < b.micro_batches.size() && r < b.micro_batches[m].size() &&
                 keep(b.micro_batches[m][r], d);
        }));
  add_documents(*o.batch, list);
  return list;
}

}  // namespace meshparity::run
