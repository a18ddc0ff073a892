#include "golden/diff.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "golden/schema.h"

namespace meshparity::golden {
namespace {

using nlohmann::json;
using State = DatasetDiff::State;

std::string two_digits(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.2e", value);
  return text;
}

double norm_of(const TensorView& view) {
  double sum = 0;
  for (std::int64_t i = 0, n = view.numel(); i < n; ++i) sum += view.at(i) * view.at(i);
  return std::sqrt(sum);
}

double largest_of(const TensorView& view) {
  double largest = 0;
  for (std::int64_t i = 0, n = view.numel(); i < n; ++i) largest = std::max(largest, std::abs(view.at(i)));
  return largest;
}

std::string kind_text(const HostTensor& tensor) {
  return std::string(dtype_name(tensor.dtype)) + " " + shape_text(tensor.shape);
}

void compare_tensors(const HostTensor& got, const HostTensor& want, const Bounds& bounds, DatasetDiff* out) {
  if (got.dtype != want.dtype || got.shape != want.shape) {
    out->state = State::unlike;
    out->what = kind_text(got) + " instead of " + kind_text(want);
    return;
  }
  out->elements = want.numel();
  if (got.bytes == want.bytes) return;
  const TensorView g = got.view(), w = want.view();
  const std::size_t size = dtype_size(want.dtype);
  double sum = 0;
  bool nonfinite = false;
  for (std::int64_t i = 0; i < out->elements; ++i) {
    if (std::memcmp(g.data + i * size, w.data + i * size, size) == 0) continue;
    ++out->differing;
    const double difference = std::abs(g.at(i) - w.at(i));
    nonfinite |= !std::isfinite(difference);
    if (std::isfinite(difference)) out->max_abs = std::max(out->max_abs, difference);
    sum += difference * difference;
  }
  out->norm = std::sqrt(sum);
  out->want_norm = norm_of(w);
  out->bound = bounds(out->path, want);
  // Accept form, so that NaN is outside.
  out->state = out->norm <= out->bound && !nonfinite ? State::within : State::outside;
  out->what = std::to_string(out->differing) + " of " + std::to_string(out->elements) + " differ, max abs " +
              two_digits(out->max_abs) + ", rel L2 " + two_digits(out->norm / out->want_norm) +
              (nonfinite ? ", not finite" : "") + ", bound " + two_digits(out->bound / out->want_norm);
}

// Keys whose values differ, one level deep: "hidden_size 24 -> 32".
std::string json_changes(const json& got, const json& want) {
  std::set<std::string> keys;
  for (const auto& [key, value] : got.items()) keys.insert(key);
  for (const auto& [key, value] : want.items()) keys.insert(key);
  std::string text;
  const auto show = [](const json& holder, const std::string& key) {
    return holder.contains(key) ? holder[key].dump().substr(0, 60) : std::string("absent");
  };
  for (const auto& key : keys)
    if (show(got, key) != show(want, key))
      text += (text.empty() ? "" : ", ") + key + " " + show(want, key) + " -> " + show(got, key);
  return text;
}

void compare_texts(const std::string& got, const std::string& want, DatasetDiff* out) {
  out->elements = 1;
  if (got == want) return;
  out->differing = 1;
  json g = json::parse(got, nullptr, false), w = json::parse(want, nullptr, false);
  out->state = State::unlike;
  if (!g.is_object() || !w.is_object()) {
    out->what = "another text";
    return;
  }
  // Which library wrote the configuration decides nothing.
  g.erase("transformers_version");
  w.erase("transformers_version");
  if (g == w) {
    out->state = State::within;
    out->what = "the same JSON in another text";
  } else {
    out->what = json_changes(g, w);
  }
}

const char* state_text(State state) {
  switch (state) {
    case State::identical:
      return "identical";
    case State::within:
      return "within";
    case State::outside:
      return "outside";
    case State::missing:
      return "missing";
    case State::extra:
      return "extra";
    case State::unlike:
      return "unlike";
  }
  return "";
}

bool begins(const std::string& path, const char* prefix) {
  return path.rfind(prefix, 0) == 0;
}

}  // namespace

Bounds bitwise_bounds() {
  return [](const std::string&, const HostTensor&) { return 0.0; };
}

Bounds float64_bounds(const Store& want_store) {
  struct Known {
    double grad_norm = 0;
    TrainSpec train;
    std::map<std::string, double> grads;  // name -> bound
    std::map<std::string, double> mtp;    // name -> bound, of the gradients of the term mtp
  } known;
  if (const auto norm = want_store.tensors.find("expected/grad_norm");
      norm != want_store.tensors.end() && norm->second.numel() == 1)
    known.grad_norm = norm->second.view().at(0);
  if (want_store.has("train")) known.train = train_of(want_store);
  for (const auto& [path, tensor] : want_store.tensors)
    if (const std::string name = after(path, "expected/grads/"); !name.empty())
      known.grads[name] = 1e-11 * std::max(norm_of(tensor.view()), 1e-3 * known.grad_norm);
  double mtp_squares = 0;
  std::map<std::string, double> mtp_norms;
  for (const auto& [path, tensor] : want_store.tensors)
    if (const std::string name = after(path, "expected/grads_mtp/"); !name.empty()) {
      mtp_norms[name] = norm_of(tensor.view());
      mtp_squares += mtp_norms[name] * mtp_norms[name];
    }
  for (const auto& [name, norm] : mtp_norms)
    known.mtp[name] = 1e-11 * std::max(norm, 1e-3 * std::sqrt(mtp_squares));
  return [known](const std::string& path, const HostTensor& want) -> double {
    const TensorView view = want.view();
    if (begins(path, "weights/")) return 1e-14 * norm_of(view);
    const std::string name = after(path, "expected/");
    if (name.empty() || begins(name, "denominators/")) return 0.0;
    if (const std::string grad = after(name, "grads/"); !grad.empty()) {
      const auto bound = known.grads.find(grad);
      return bound == known.grads.end() ? 0.0 : bound->second;
    }
    if (const std::string grad = after(name, "grads_mtp/"); !grad.empty()) {
      const auto bound = known.mtp.find(grad);
      return bound == known.mtp.end() ? 0.0 : bound->second;
    }
    if (name == "grad_norm") return 1e-11 * norm_of(view);
    if (begins(name, "step")) {
      const std::string weight = name.substr(std::min(name.size(), name.find('/') + 9));  // step<k>/weights/
      const double cap = 1e-9 * largest_of(view) * std::sqrt(static_cast<double>(view.numel()));
      const auto grad = known.grads.find(weight);
      if (grad == known.grads.end()) return cap;
      const int step = std::atoi(name.c_str() + 4);
      return std::min(cap, step * known.train.lr / known.train.eps * grad->second);
    }
    return 1e-12 * norm_of(view);
  };
}

std::vector<DatasetDiff> diff(const Store& got, const Store& want, const Bounds& bounds) {
  std::set<std::string> paths;
  for (const Store* store : {&got, &want}) {
    for (const auto& [path, tensor] : store->tensors) paths.insert(path);
    for (const auto& [path, text] : store->strings) paths.insert(path);
  }
  std::vector<DatasetDiff> diffs;
  for (const auto& path : paths) {
    DatasetDiff one;
    one.path = path;
    if (!got.has(path)) {
      one.state = State::missing;
    } else if (!want.has(path)) {
      one.state = State::extra;
    } else if (got.tensors.count(path) != want.tensors.count(path)) {
      one.state = State::unlike;
      one.what = "a tensor in one file, a string in the other";
    } else if (got.tensors.count(path)) {
      compare_tensors(got.tensors.at(path), want.tensors.at(path), bounds, &one);
    } else {
      compare_texts(got.strings.at(path), want.strings.at(path), &one);
    }
    diffs.push_back(std::move(one));
  }
  return diffs;
}

std::string diff_text(const std::vector<DatasetDiff>& diffs, bool everything) {
  std::string text;
  std::map<State, int> counts;
  for (const auto& one : diffs) {
    ++counts[one.state];
    if (!everything && one.state == State::identical) continue;
    std::string line = state_text(one.state);
    line.resize(10, ' ');
    text += line + one.path + (one.what.empty() ? "" : "  " + one.what) + "\n";
  }
  text += std::to_string(diffs.size()) + " datasets";
  for (const auto& [state, count] : counts) text += ", " + std::to_string(count) + " " + state_text(state);
  return text + "\n";
}

Change explain_change(const Store& old_store, const Store& new_store) {
  return explain_change(old_store, new_store, float64_bounds(old_store));
}

Change explain_change(const Store& old_store, const Store& new_store, const Bounds& bounds) {
  const auto diffs = diff(new_store, old_store, bounds);
  Change change;
  change.identical = change.within_rounding = true;
  for (const auto& one : diffs) {
    change.identical &= one.state == State::identical;
    const bool harmless = one.state == State::identical || one.state == State::within;
    change.within_rounding &= harmless;
    if (harmless) continue;
    if (one.path == "config")
      change.config = true;
    else if (one.path == "train")
      change.train = true;
    else if (begins(one.path, "inputs/"))
      change.inputs = true;
    else if (begins(one.path, "weights/"))
      change.weights = true;
    else if (one.state == State::missing)
      change.lost = true;
    else if (one.state == State::extra)
      change.added = true;
    else
      change.numerics = true;
  }
  std::string verdict;
  const auto say = [&](bool holds, const char* what) {
    if (holds) verdict += (verdict.empty() ? "" : ", ") + std::string(what);
  };
  if (change.identical) {
    verdict = "identical";
  } else if (change.within_rounding) {
    verdict = "within the float64 bounds";
  } else {
    say(change.config, "the configuration changed");
    say(change.train, "the training changed");
    say(change.inputs, "the inputs changed");
    say(change.weights, "the weights changed");
    say(change.lost, "expected datasets are gone");
    say(change.added, "expected datasets are new");
    const bool cause = change.config || change.train || change.inputs || change.weights;
    say(change.numerics, cause ? "the expected values follow"
                               : "the numerics changed although all that decides them is the same");
  }
  change.text = verdict + "\n" + (change.identical ? "" : diff_text(diffs));
  for (const char* name : {"generator", "versions", "seed"}) {
    const auto old_value = old_store.attributes.find(name), new_value = new_store.attributes.find(name);
    const std::string before = old_value == old_store.attributes.end() ? "absent" : old_value->second;
    const std::string now = new_value == new_store.attributes.end() ? "absent" : new_value->second;
    if (before != now) change.text += std::string(name) + ": " + before + " -> " + now + "\n";
  }
  return change;
}

}  // namespace meshparity::golden
