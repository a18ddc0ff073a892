// A global batch: one flat token stream cut into documents, documents into rows (a row is one packed
// sequence), rows into micro-batches. A mesh changes none of these. Schema: docs/golden-format.md.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "harness/types/cut.h"
#include "harness/types/model_config.h"

namespace meshparity {

constexpr std::int64_t kIgnoreLabel = -100;

// (t, h, w) of an image or video: frames (of temporal_patch_size pictures each), and rows and columns of
// patches.
using Grid = std::array<std::int64_t, 3>;
inline std::int64_t patches_of(const Grid& grid) {
  return grid[0] * grid[1] * grid[2];
}

// Images, or videos, of the whole batch in the order of their placeholder tokens.
struct VisionInput {
  std::vector<double> pixels;  // [patches, patch_width], image after image
  std::vector<Grid> grids;
  bool empty() const { return grids.empty(); }
  std::int64_t patches() const;
};

struct Batch {
  std::string name;
  std::vector<std::int64_t> token_ids;            // [N]
  std::vector<std::int64_t> labels;               // [N] next token of the same document, or kIgnoreLabel
  std::vector<std::int64_t> document_offsets;     // [D+1] in tokens
  std::vector<std::int64_t> row_offsets;          // [R+1] in documents
  std::vector<std::int64_t> micro_batch_offsets;  // [M+1] in rows
  // [3*N] (t, h, w) or empty: index in the document on all three axes, or where there are images what follows
  // from their grids.
  std::vector<std::int64_t> position_ids;
  // [N] or empty: what the policy_gradient term takes from the sampling run. Where empty they are drawn.
  std::vector<double> advantages, old_logprobs;

  // Of multimodal models. The tokens with the image (video) id, in stream order, are those of the images
  // (videos) in order, t*h*w/merge^2 of them each; an image lies in one document.
  VisionInput images, videos;

  // Of one token: the batch's own, or a pure function of the name and the token's number: advantages uniform
  // in (-1, 1), logprobs in (-6, 0), so that ratios fall below, into and above the range they are clipped to.
  // A token without label has the old logprob 0, as it has the new one.
  double advantage(std::int64_t token) const;
  double old_logprob(std::int64_t token) const;

  std::int64_t tokens() const { return static_cast<std::int64_t>(token_ids.size()); }
  std::int64_t documents() const { return static_cast<std::int64_t>(document_offsets.size()) - 1; }
  std::int64_t rows() const { return static_cast<std::int64_t>(row_offsets.size()) - 1; }
  std::int64_t micro_batches() const { return static_cast<std::int64_t>(micro_batch_offsets.size()) - 1; }
  Range document(std::int64_t d) const { return {document_offsets[d], document_offsets[d + 1]}; }
  Range row_tokens(std::int64_t r) const {
    return {document_offsets[row_offsets[r]], document_offsets[row_offsets[r + 1]]};
  }
  Range micro_batch_rows(std::int64_t m) const {
    return {micro_batch_offsets[m], micro_batch_offsets[m + 1]};
  }
  Range micro_batch_tokens(std::int64_t m) const {
    return {row_tokens(micro_batch_offsets[m]).begin,
            document_offsets[row_offsets[micro_batch_offsets[m + 1]]]};
  }

  // Throws InputError (naming `file` and the field) unless offsets rise from 0 to their ends, every label is
  // kIgnoreLabel or the next token of the same document, and ids lie in [0, vocab_size).
  void validate(const std::string& file, std::int64_t vocab_size) const;
  // The same with the model's vocabulary, and unless grids and pixels fit the model's tower, the placeholder
  // tokens are exactly as many as the images fill, and each image lies in one document. A batch for a model
  // without tower has no images.
  void validate(const std::string& file, const ModelConfig& config) const;
};

// How the golden was trained: /train.
struct TrainSpec {
  std::string loss = "token_mean";
  double lr = 1e-3, beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0.1, max_grad_norm = 1.0;
  double num_tokens = 100;  // the X of the num_tokens policy
  int steps = 0;            // optimizer steps the golden holds; not stored, counted from /expected/step<k>
};

// The loss policies that text needs, in the order in which goldens and reports list them.
inline constexpr std::array<const char*, 5> kLossPolicies = {"token_mean", "sum", "sequence_mean",
                                                             "micro_batch_mean", "num_tokens"};

}  // namespace meshparity
