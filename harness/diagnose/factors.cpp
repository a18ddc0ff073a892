// One factor or one offset on everything: a sum taken once too often, a mean taken instead of a sum, a count
// over the wrong axis.
#include <cmath>

#include "harness/diagnose/error_shape.h"

namespace meshparity::diagnose {
namespace {

struct Size {
  std::string name;
  double value;
};

// Every count of the mesh and the batch by which a mistake could multiply or divide.
std::vector<Size> sizes_of(const ErrorShape& shape) {
  std::vector<Size> sizes;
  if (!shape.suspect.map) return sizes;
  const auto& map = *shape.suspect.map;
  for (const auto& axis : axes_of(map.mesh())) sizes.push_back({axis.name, static_cast<double>(axis.size)});
  if (map.mesh().ep > 1) sizes.push_back({"ep", static_cast<double>(map.mesh().ep)});
  if (axes_of(map.mesh()).size() > 1) sizes.push_back({"world", static_cast<double>(map.world())});
  const Batch& b = map.batch();
  double valid = 0;
  for (const auto label : b.labels) valid += label != kIgnoreLabel;
  const auto tokens = static_cast<double>(b.tokens());
  sizes.push_back({"micro-batches", static_cast<double>(b.micro_batches())});
  sizes.push_back({"documents", static_cast<double>(b.documents())});
  sizes.push_back({"valid labels", valid});
  sizes.push_back({"tokens", tokens});
  if (valid > 0) sizes.push_back({"tokens / valid labels", tokens / valid});
  return sizes;
}

bool same(double a, double b, double slack) {
  return std::fabs(a - b) <= slack * std::fabs(b);
}

void add_factor(const ErrorShape& shape, double factor, double confidence, std::vector<Cause>& causes) {
  const bool scalar = shape.want.size() == 1;
  // What the residual allows the factor to be off by; a scalar has no residual and must hit a count closely.
  const double slack = std::max(1e-9, scalar ? 0.0 : 2 * shape.suspect.norm_bound / shape.want_norm);
  const std::string measured = "got = " + short_number(factor) + " * want";
  std::vector<std::string> up, down;
  for (const auto& size : sizes_of(shape)) {
    if (size.value <= 0 || same(size.value, 1, 1e-9)) continue;
    if (same(factor, size.value, slack)) up.push_back(size.name);
    if (same(factor * size.value, 1, slack)) down.push_back(size.name);
  }
  const auto joined = [](const std::vector<std::string>& names) {
    std::string text;
    for (const auto& n : names) text += (text.empty() ? "" : " or ") + n;
    return text;
  };
  // Several counts of the same size cannot be told apart by one tensor on one mesh.
  const auto share = [](const std::vector<std::string>& names) { return names.size() > 1 ? 0.9 : 1.0; };
  const double trust = scalar ? 0.6 : confidence;
  if (same(factor, -1, slack))
    causes.push_back({"sign flipped", measured, trust});
  else if (!up.empty())
    causes.push_back({"multiplied by " + joined(up),
                      measured + ": summed over it once too often, or not divided by it", trust * share(up)});
  else if (!down.empty())
    causes.push_back({"divided by " + joined(down), measured + ": a mean over it where the sum is due",
                      trust * share(down)});
  else if (!scalar)
    causes.push_back({"constant factor " + short_number(factor),
                      measured + "; no count of the mesh or the batch gives it", 0.7 * confidence});
}

void add_offset(const ErrorShape& shape, std::vector<Cause>& causes) {
  // Zero stands for "no label" in logprobs: only tokens with one can be shifted.
  double sum = 0, count = 0;
  for (std::size_t i = 0; i < shape.want.size(); ++i)
    if (shape.want[i] != 0) sum += shape.got[i] - shape.want[i], ++count;
  if (count < 2) return;
  const double offset = sum / count;
  double residual = 0;
  for (std::size_t i = 0; i < shape.want.size(); ++i) {
    const double d = shape.got[i] - shape.want[i] - (shape.want[i] != 0 ? offset : 0);
    residual += d * d;
  }
  const double confidence = shape.confidence(std::sqrt(residual));
  if (confidence == 0) return;
  const std::string measured = "got = want " + std::string(offset < 0 ? "- " : "+ ") +
                               short_number(std::fabs(offset)) + " nats on every token with a label";
  for (const auto& size : sizes_of(shape))
    if (size.value > 1 && same(std::fabs(offset), std::log(size.value), 1e-6)) {
      causes.push_back({"log(" + size.name + ") added: the sum of exponentials counts everything so often",
                        measured, confidence});
      return;
    }
  causes.push_back({"constant offset", measured, 0.7 * confidence});
}

}  // namespace

void find_factors(const ErrorShape& shape, std::vector<Cause>& causes) {
  if (shape.suspect.key == "logprobs") add_offset(shape, causes);
  double dot = 0;
  for (std::size_t i = 0; i < shape.want.size(); ++i) dot += shape.got[i] * shape.want[i];
  if (shape.want_norm == 0 || dot == 0) return;
  const double factor = dot / (shape.want_norm * shape.want_norm);
  Values scaled = shape.want;
  for (double& x : scaled) x *= factor;
  const double confidence = shape.confidence(distance(shape.got, scaled));
  if (confidence > 0) add_factor(shape, factor, confidence, causes);
}

}  // namespace meshparity::diagnose
