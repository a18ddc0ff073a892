#include "harness/diagnose/diagnose.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "harness/diagnose/error_shape.h"

namespace meshparity::diagnose {

Values values_of(const TensorView& view) {
  Values values(static_cast<std::size_t>(view.numel()));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = view.at(static_cast<std::int64_t>(i));
  return values;
}

double norm_of(const Values& values) {
  double squares = 0;
  for (const double x : values) squares += x * x;
  return std::sqrt(squares);
}

double distance(const Values& a, const Values& b) {
  double squares = 0;
  for (std::size_t i = 0; i < a.size(); ++i) squares += (a[i] - b[i]) * (a[i] - b[i]);
  return std::sqrt(squares);
}

std::string short_number(double x) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3g", x);
  return text;
}

ErrorShape::ErrorShape(const Suspect& s) : suspect(s), got(values_of(s.got)), want(values_of(s.want)) {
  difference = distance(got, want);
  want_norm = norm_of(want);
  wrong.assign(got.size(), false);
  double largest = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    wrong[i] = !(std::fabs(got[i] - want[i]) <= s.element_bound);
    wrong_count += wrong[i];
    largest = std::max(largest, std::fabs(got[i] - want[i]));
  }
  if (wrong_count > 0) return;
  for (std::size_t i = 0; i < got.size(); ++i) {
    wrong[i] = largest > 0 && std::fabs(got[i] - want[i]) >= 0.5 * largest;
    wrong_count += wrong[i];
  }
}

double ErrorShape::confidence(double residual) const {
  if (residual <= suspect.norm_bound && residual <= 0.05 * difference) return 0.97;
  return residual <= 0.01 * difference ? 0.8 : 0;
}

std::vector<Axis> axes_of(const Mesh& mesh) {
  std::vector<Axis> axes;
  const auto add = [&](const char* name, int size, auto index) {
    if (size > 1) axes.push_back({name, size, [mesh, index](int rank) { return index(mesh, rank); }});
  };
  add("pp", mesh.pp, [](const Mesh& m, int rank) { return coordinate_of(m, rank).pp; });
  add("dp", mesh.dp, [](const Mesh& m, int rank) { return coordinate_of(m, rank).dp; });
  add("fsdp", mesh.fsdp, [](const Mesh& m, int rank) { return coordinate_of(m, rank).fsdp; });
  if (mesh.dp > 1 && mesh.fsdp > 1)
    add("dp*fsdp", data_ranks(mesh), [](const Mesh& m, int rank) { return data_rank(m, rank); });
  add("ring", mesh.ring, [](const Mesh& m, int rank) { return coordinate_of(m, rank).ring; });
  add("uly", mesh.uly, [](const Mesh& m, int rank) { return coordinate_of(m, rank).uly; });
  if (mesh.ring > 1 && mesh.uly > 1)
    add("cp", mesh.cp(), [](const Mesh& m, int rank) { return cp_index(m, coordinate_of(m, rank)); });
  add("tp", mesh.tp, [](const Mesh& m, int rank) { return coordinate_of(m, rank).tp; });
  return axes;
}

void most_confident_first(std::vector<Cause>& causes) {
  std::stable_sort(causes.begin(), causes.end(),
                   [](const Cause& a, const Cause& b) { return a.confidence > b.confidence; });
}

std::vector<Cause> causes(const Suspect& suspect) {
  std::vector<Cause> found;
  if (suspect.got.shape != suspect.want.shape || suspect.got.numel() == 0) return found;
  if (!is_floating(suspect.got.dtype) || !is_floating(suspect.want.dtype)) return found;
  const ErrorShape shape(suspect);
  if (shape.wrong_count == 0) return found;
  find_values(shape, found);
  // Sums and differences of NaN say nothing about the shape.
  if (!std::isnan(shape.difference) && !std::isinf(shape.difference)) {
    find_factors(shape, found);
    find_reductions(shape, found);
    find_orders(shape, found);
  }
  find_places(shape, found);
  most_confident_first(found);
  return found;
}

std::string cause_line(const Cause& cause) {
  char confidence[32];
  std::snprintf(confidence, sizeof confidence, "%.2f", cause.confidence);
  return "cause   " + cause.name + " (confidence " + confidence + ": " + cause.evidence + ")";
}

bool parse_cause_line(const std::string& line, Cause& cause) {
  const auto open = line.find(" (confidence ");
  if (line.rfind("cause   ", 0) != 0 || open == std::string::npos || line.back() != ')') return false;
  const auto colon = line.find(": ", open);
  if (colon == std::string::npos) return false;
  cause.name = line.substr(8, open - 8);
  cause.confidence = std::atof(line.c_str() + open + 13);
  cause.evidence = line.substr(colon + 2, line.size() - colon - 3);
  return true;
}

}  // namespace meshparity::diagnose
