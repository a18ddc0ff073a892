// A batch described by TOML: rows of document lengths, micro-batches, a mask and a seed. Token ids come from
// the counter-based generator, so that golden/upstream (Python) and this loader draw the same batch.
//
//   seed = 11                          token i = Generator(seed, "token_ids").below(i, vocab_size)
//   rows = [[9, 4], [1], [3, 1, 17]]   one list per row: document lengths
//   micro_batches = [2, 1]             rows per micro-batch; absent = one micro-batch of all rows
//   masked = [[5, 9]]                  half-open ranges of token numbers without a label (a document's end
//   has none anyway)
//   prompts = [[2, 3, 7]]              documents 2, 3 and 4 begin with the same 7 tokens: those of document 2
//   grids = [[12, 3, 4]]               from token 12 on 3 x 4 tokens of one document have the positions of an
//   image of 3 rows and 4 columns; text goes on behind the larger side. Absent = index in the document
//   images, videos                     see batch_images.h; a token before a placeholder has no label
//   [train]                            lr, beta1, beta2, eps, weight_decay, max_grad_norm,
//   num_tokens, loss, steps
#include <algorithm>
#include <filesystem>

#include "harness/types/batch_shape.h"
#include "harness/types/error.h"
#include "harness/types/generator.h"
#include "scenarios/batch_images.h"
#include "scenarios/fields.h"
#include "scenarios/load.h"
#include "scenarios/paths.h"

namespace meshparity::scenarios {
namespace {

constexpr std::int64_t kMostTokens = std::int64_t{1} << 28;

struct BatchFile {
  std::string path;
  Json json;
};

BatchFile open(const std::string& name_or_path) {
  const std::string path = find_scenario(name_or_path, "batches", ".toml", "batch").string();
  return {path, parse_toml(read_text(path), path)};
}

void read_rows(const Fields& f, const std::string& file, Batch& batch) {
  const Json& rows = f.raw("rows");
  if (!rows.is_array() || rows.empty())
    f.fail("rows", "must be a list of rows, each a list of document lengths");
  batch.document_offsets = {0};
  batch.row_offsets = {0};
  for (std::size_t r = 0; r < rows.size(); ++r) {
    const std::string row = "rows[" + std::to_string(r) + "]";
    if (!rows[r].is_array() || rows[r].empty()) f.fail(row, "must be a list of at least one document length");
    for (std::size_t d = 0; d < rows[r].size(); ++d) {
      const std::string field = row + "[" + std::to_string(d) + "]";
      const std::int64_t end =
          batch.document_offsets.back() + whole_of(rows[r][d], file, field, 1, kMostTokens);
      if (end > kMostTokens) f.fail(field, "the batch passes " + std::to_string(kMostTokens) + " tokens");
      batch.document_offsets.push_back(end);
    }
    batch.row_offsets.push_back(batch.documents());
  }
}

void read_micro_batches(const Fields& f, Batch& batch) {
  batch.micro_batch_offsets = {0};
  if (!f.has("micro_batches")) {
    batch.micro_batch_offsets.push_back(batch.rows());
    return;
  }
  for (auto rows : f.wholes("micro_batches", 1))
    batch.micro_batch_offsets.push_back(batch.micro_batch_offsets.back() + rows);
  if (batch.micro_batch_offsets.back() != batch.rows())
    f.fail("micro_batches", "sums to " + std::to_string(batch.micro_batch_offsets.back()) + ", rows has " +
                                std::to_string(batch.rows()));
}

// Documents that are samples of one prompt get its tokens.
void copy_prompts(const Fields& f, const std::string& file, Batch& batch) {
  const Json& list = f.raw("prompts");
  if (!list.is_array()) f.fail("prompts", "must be a list of [first document, documents, tokens]");
  for (std::size_t i = 0; i < list.size(); ++i) {
    const std::string field = "prompts[" + std::to_string(i) + "]";
    if (!list[i].is_array() || list[i].size() != 3)
      f.fail(field, "must be [first document, documents, tokens]");
    const auto first = whole_of(list[i][0], file, field + "[0]", 0, batch.documents() - 1);
    const auto count = whole_of(list[i][1], file, field + "[1]", 1, batch.documents() - first);
    for (std::int64_t d = first; d < first + count; ++d) {
      const auto tokens = whole_of(list[i][2], file, field + "[2]", 1, batch.document(d).size());
      std::copy_n(batch.token_ids.begin() + batch.document(first).begin, tokens,
                  batch.token_ids.begin() + batch.document(d).begin);
    }
  }
}

// Which tokens the `masked` ranges cover.
std::vector<bool> read_mask(const Fields& f, const std::string& file, std::int64_t tokens) {
  std::vector<bool> masked(static_cast<std::size_t>(tokens), false);
  if (!f.has("masked")) return masked;
  const Json& ranges = f.raw("masked");
  if (!ranges.is_array()) f.fail("masked", "must be a list of [begin, end) pairs");
  for (std::size_t i = 0; i < ranges.size(); ++i) {
    const std::string field = "masked[" + std::to_string(i) + "]";
    if (!ranges[i].is_array() || ranges[i].size() != 2) f.fail(field, "must be a pair [begin, end)");
    const auto begin = whole_of(ranges[i][0], file, field + "[0]", 0, tokens);
    const auto end = whole_of(ranges[i][1], file, field + "[1]", begin, tokens);
    std::fill(masked.begin() + begin, masked.begin() + end, true);
  }
  return masked;
}

struct Grid {
  std::int64_t begin = 0, height = 1, width = 1;
  std::int64_t end() const { return begin + height * width; }
};

// The grids in the order of their tokens, each inside one document.
std::vector<Grid> read_grids(const Fields& f, const std::string& file, const Batch& batch) {
  std::vector<Grid> grids;
  const Json& list = f.raw("grids");
  if (!list.is_array()) f.fail("grids", "must be a list of [first token, rows, columns]");
  for (std::size_t i = 0; i < list.size(); ++i) {
    const std::string field = "grids[" + std::to_string(i) + "]";
    if (!list[i].is_array() || list[i].size() != 3) f.fail(field, "must be [first token, rows, columns]");
    const auto number = [&](std::size_t at, std::int64_t least) {
      return whole_of(list[i][at], file, field + "[" + std::to_string(at) + "]", least,
                      batch.document_offsets.back());
    };
    const Grid grid{number(0, 0), number(1, 1), number(2, 1)};
    const auto& ends = batch.document_offsets;
    const auto end = std::upper_bound(ends.begin(), ends.end(), grid.begin);
    if (end == ends.end() || grid.end() > *end) f.fail(field, "does not lie inside one document");
    if (!grids.empty() && grid.begin < grids.back().end())
      f.fail(field, "begins before the end of the one before it");
    grids.push_back(grid);
  }
  return grids;
}

// Positions (t, h, w): text counts on all three axes, an image stays where it begins on the first and has
// rows and columns on the others; what follows it goes on behind its larger side. Source: qwen35.md 1.8.
void lay_out_positions(const std::vector<Grid>& grids, Batch& batch) {
  const auto n = static_cast<std::size_t>(batch.document_offsets.back());
  batch.position_ids.assign(3 * n, 0);
  const auto place = [&](std::int64_t token, std::int64_t t, std::int64_t h, std::int64_t w) {
    const auto at = static_cast<std::size_t>(token);
    batch.position_ids[at] = t, batch.position_ids[n + at] = h, batch.position_ids[2 * n + at] = w;
  };
  auto grid = grids.begin();
  for (std::int64_t d = 0; d < batch.documents(); ++d) {
    std::int64_t next = 0;
    for (std::int64_t token = batch.document(d).begin; token < batch.document(d).end;) {
      if (grid == grids.end() || token < grid->begin) {
        place(token++, next, next, next), ++next;
        continue;
      }
      for (std::int64_t i = 0; i < grid->height * grid->width; ++i)
        place(token++, next, next + i / grid->width, next + i % grid->width);
      next += std::max(grid->height, grid->width);
      ++grid;
    }
  }
}

void check_keys(const Fields& f) {
  f.only({"seed", "rows", "micro_batches", "masked", "prompts", "grids", "images", "videos", "train"});
}

double positive(const Fields& f, const std::string& key, double fallback) {
  const double value = f.number_or(key, fallback);
  if (!(value > 0)) f.fail(key, "must be above 0");
  return value;
}

double below_one(const Fields& f, const std::string& key, double fallback) {
  const double value = f.number_or(key, fallback);
  if (!(value >= 0 && value < 1)) f.fail(key, "must be at least 0 and below 1");
  return value;
}

}  // namespace

Batch load_batch(const std::string& name_or_path, const ModelConfig& config) {
  if (is_batch_shape(name_or_path)) return BatchShape::parse(name_or_path).batch(config);
  const BatchFile source = open(name_or_path);
  const Fields f(source.json, source.path);
  check_keys(f);
  Batch batch;
  batch.name = std::filesystem::path(source.path).stem().string();
  const Generator ids(static_cast<std::uint64_t>(f.whole("seed", 0, INT64_MAX)), "token_ids");
  read_rows(f, source.path, batch);
  read_micro_batches(f, batch);

  const std::int64_t tokens = batch.document_offsets.back();
  for (std::int64_t i = 0; i < tokens; ++i)
    batch.token_ids.push_back(ids.below(static_cast<std::uint64_t>(i), config.text_vocabulary()));
  if (f.has("prompts")) copy_prompts(f, source.path, batch);
  place_images(f, source.path, config, batch);
  const std::vector<bool> masked = read_mask(f, source.path, tokens);
  label_tokens(masked, config, batch);
  if (f.has("grids")) lay_out_positions(read_grids(f, source.path, batch), batch);
  batch.validate(source.path, config);
  return batch;
}

TrainSpec load_train(const std::string& name_or_path) {
  if (is_batch_shape(name_or_path)) return {};
  const BatchFile source = open(name_or_path);
  const Fields top(source.json, source.path);
  check_keys(top);
  TrainSpec train;
  if (!top.has("train")) return train;
  const Fields f = top.table("train");
  f.only({"loss", "lr", "beta1", "beta2", "eps", "weight_decay", "max_grad_norm", "num_tokens", "steps"});
  train.loss = f.text_or("loss", train.loss);
  if (std::find(kLossPolicies.begin(), kLossPolicies.end(), train.loss) == kLossPolicies.end())
    f.fail("loss", "'" + train.loss + "' is no loss policy");
  train.lr = positive(f, "lr", train.lr);
  // Larger steps carry gradient noise into the weights faster than the bounds of later steps allow
  // (docs/tolerance.md).
  if (train.lr > 1e-3) f.fail("lr", "must be at most 1e-3");
  train.beta1 = below_one(f, "beta1", train.beta1);
  train.beta2 = below_one(f, "beta2", train.beta2);
  train.eps = positive(f, "eps", train.eps);
  train.weight_decay = f.number_or("weight_decay", train.weight_decay);
  if (train.weight_decay < 0) f.fail("weight_decay", "must not be negative");
  train.max_grad_norm = positive(f, "max_grad_norm", train.max_grad_norm);
  train.num_tokens = positive(f, "num_tokens", train.num_tokens);
  train.steps = static_cast<int>(f.whole_or("steps", 0, 0, 1000));
  return train;
}

}  // namespace meshparity::scenarios
