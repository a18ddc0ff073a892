#include "golden/inspect.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "golden/schema.h"

namespace meshparity::golden {
namespace {

std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.6g", value);
  return text;
}

std::string padded(std::string text, std::size_t width) {
  if (text.size() < width) text.resize(width, ' ');
  return text;
}

// "37 1 51 ... (40 in all)"
std::string list(const std::vector<std::int64_t>& values) {
  constexpr std::size_t kShown = 16;
  std::string text;
  for (std::size_t i = 0; i < values.size() && i < kShown; ++i)
    text += (i ? " " : "") + std::to_string(values[i]);
  if (values.size() > kShown) text += " ... (" + std::to_string(values.size()) + " in all)";
  return text;
}

std::string batch_text(const Store& store) {
  const Batch batch = batch_of(store);
  std::vector<std::int64_t> lengths, rows, micro_batches;
  for (std::int64_t d = 0; d < batch.documents(); ++d) lengths.push_back(batch.document(d).size());
  for (std::int64_t r = 0; r < batch.rows(); ++r)
    rows.push_back(batch.row_offsets[r + 1] - batch.row_offsets[r]);
  for (std::int64_t m = 0; m < batch.micro_batches(); ++m)
    micro_batches.push_back(batch.micro_batch_rows(m).size());
  const auto masked = std::count(batch.labels.begin(), batch.labels.end(), kIgnoreLabel);
  std::string text = "batch " + batch.name + "\n";
  text += "  tokens        " + std::to_string(batch.tokens()) + ", " +
          std::to_string(batch.tokens() - masked) + " with a valid label\n";
  text += "  documents     " + std::to_string(batch.documents()) + ", lengths " + list(lengths) + "\n";
  text += "  rows          " + std::to_string(batch.rows()) + ", documents in each " + list(rows) + "\n";
  text += "  micro-batches " + std::to_string(batch.micro_batches()) + ", rows in each " +
          list(micro_batches) + "\n";
  text += std::string("  positions     ") +
          (batch.position_ids.empty() ? "index in the document" : "stored, three axes") + "\n";
  const auto sights = [&](const char* what, const VisionInput& input) {
    if (input.empty()) return;
    text += std::string("  ") + padded(what, 14) + std::to_string(input.grids.size()) + ", patches " +
            std::to_string(input.patches()) + ", frames x rows x columns";
    for (const Grid& g : input.grids)
      text += " " + std::to_string(g[0]) + "x" + std::to_string(g[1]) + "x" + std::to_string(g[2]);
    text += "\n";
  };
  sights("images", batch.images);
  sights("videos", batch.videos);
  return text;
}

std::string values_text(const HostTensor& tensor) {
  const TensorView view = tensor.view();
  const std::int64_t n = view.numel();
  if (n == 0) return "empty";
  if (n == 1) return number(view.at(0));
  double least = INFINITY, most = -INFINITY;
  std::int64_t nonfinite = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const double value = view.at(i);
    if (!std::isfinite(value)) {
      ++nonfinite;
      continue;
    }
    least = std::min(least, value);
    most = std::max(most, value);
  }
  std::string text = nonfinite == n ? "" : number(least) + " .. " + number(most);
  if (nonfinite) text += (text.empty() ? "" : ", ") + std::to_string(nonfinite) + " not finite";
  return text;
}

}  // namespace

std::string inspect(const Store& store) {
  std::string text = store.file + "\n";
  for (const auto& [name, value] : store.attributes) text += "  " + padded(name, 15) + value + "\n";
  // A dump may hold a part of its batch, which is then listed below like any dataset.
  bool whole = true;
  for (const char* name : {"token_ids", "labels", "document_offsets", "row_offsets"})
    whole &= store.has(std::string("inputs/") + name);
  if (whole) text += batch_text(store);
  if (store.has("train")) {
    const TrainSpec train = train_of(store);
    text += "train " + train.loss + ", AdamW lr " + number(train.lr) + ", betas " + number(train.beta1) +
            " " + number(train.beta2) + ", eps " + number(train.eps) + ", weight decay " +
            number(train.weight_decay) + ", max grad norm " + number(train.max_grad_norm) + ", num_tokens " +
            number(train.num_tokens) + ", steps held " + std::to_string(train.steps) + "\n";
  }
  std::size_t width = 0, bytes = 0, kind_width = 0;
  const auto kind = [](const HostTensor& tensor) {
    return std::string(dtype_name(tensor.dtype)) + " " + shape_text(tensor.shape);
  };
  for (const auto& [path, tensor] : store.tensors) {
    width = std::max(width, path.size());
    kind_width = std::max(kind_width, kind(tensor).size());
    bytes += tensor.bytes.size();
  }
  text += std::to_string(store.tensors.size()) + " tensors, " + std::to_string(bytes) + " bytes; " +
          std::to_string(store.strings.size()) + " strings\n";
  for (const auto& [path, value] : store.strings)
    text += "  " + padded(path, width) + "  " +
            padded("string of " + std::to_string(value.size()), kind_width) + "  " +
            sha256_hex(value.data(), value.size()).substr(0, 12) + "\n";
  for (const auto& [path, tensor] : store.tensors)
    text += "  " + padded(path, width) + "  " + padded(kind(tensor), kind_width) + "  " +
            sha256_hex(tensor.bytes.data(), tensor.bytes.size()).substr(0, 12) + "  " + values_text(tensor) +
            "\n";
  return text;
}

}  // namespace meshparity::golden
