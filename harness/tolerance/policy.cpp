// Bounds from rows: derivations in docs/tolerance.md. Nothing here looks at what was got.
#include "harness/tolerance/policy.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>

#include "harness/types/error.h"

namespace meshparity::tolerance {
namespace {

// What a bound scales with.
struct Size {
  double norm = 0;
  double largest = 0;
  double smallest_nonzero = 0;  // 0 if all are zero
};

Size size_of(const TensorView& t) {
  Size size;
  double squares = 0, smallest = INFINITY;
  const auto add = [&](double x) {
    const double a = std::fabs(x);
    squares += x * x;
    if (a > size.largest) size.largest = a;
    if (a > 0 && a < smallest) smallest = a;
  };
  const std::int64_t n = t.numel();
  if (t.dtype == DType::float64)
    for (std::int64_t i = 0; i < n; ++i) {
      double x;  // copied: a mapped file's data need not be aligned
      std::memcpy(&x, t.data + i * static_cast<std::int64_t>(sizeof x), sizeof x);
      add(x);
    }
  else
    for (std::int64_t i = 0; i < n; ++i) add(t.at(i));
  size.norm = std::sqrt(squares);
  size.smallest_nonzero = std::isinf(smallest) ? 0 : smallest;
  return size;
}

std::string text(const char* format, double a, double b = 0, double c = 0, double d = 0) {
  char buffer[256];
  std::snprintf(buffer, sizeof buffer, format, a, b, c, d);
  return buffer;
}

std::string row_name(const std::string& check, DType dtype) {
  return check + "/" + std::string(dtype_name(dtype));
}

const Row& row_of(const Policy& policy, const std::string& name) {
  const auto found = policy.rows.find(name);
  if (found == policy.rows.end()) throw InputError("tolerance.toml", name, "the policy has no such row");
  return found->second;
}

double relative_of(const Row& row, const std::string& check, const Context& context) {
  const double growth = unit_roundoff(context.dtype) * rounding_growth(context.config, context.tokens);
  const auto measured = context.conditions.find(check);
  const bool known = measured != context.conditions.end();
  if (row.condition > 0)
    return (known ? measured->second : row.condition) * growth *
           std::sqrt(static_cast<double>(context.rounded_sides));
  if (!known || context.dtype != DType::float64) return row.relative;
  return std::max(row.relative, std::min(measured->second * growth, kLargestRelative));
}

bool of_last_layer(const Context& context) {
  const std::string last = "model.layers." + std::to_string(context.config.num_hidden_layers - 1) + ".";
  return context.tensor.rfind(last, 0) == 0;
}

// A part of the model that a batch or a loss may leave out as a whole: the vision tower, multi-token
// prediction.
bool of_optional_part(const std::string& tensor) {
  return tensor.rfind("model.visual.", 0) == 0 || tensor.rfind("mtp.", 0) == 0;
}

// Slices of dimension 0 that nothing reaches: a part of the model that is left out, experts without a token,
// embedding rows of ids the batch never uses or that images replace (with tied embeddings the head reaches
// those as well, and their want is not zero). A used id without
// loss is reached: its zero is a cancellation, judged by the bound.
std::vector<std::int64_t> idle_slices(const Context& context, const TensorView& want) {
  const bool experts = context.tensor.find(".mlp.experts.") != std::string::npos;
  const bool embedding = context.tensor.ends_with("embed_tokens.weight") && !context.token_ids.empty();
  std::vector<std::int64_t> idle;
  if (of_optional_part(context.tensor) && size_of(want).largest == 0 && !want.shape.empty())
    for (std::int64_t slice = 0; slice < want.shape[0]; ++slice) idle.push_back(slice);
  if ((!experts && !embedding) || want.shape.empty() || want.shape[0] == 0) return idle;
  // Below the last layer a zero may also be an expert that only tokens without loss reach, and what those get
  // passes mixers that may add up over documents and cancel.
  if (experts && !context.documents_alone && !of_last_layer(context)) return idle;
  std::vector<bool> used(static_cast<std::size_t>(want.shape[0]), false);
  if (embedding)
    for (const std::int64_t id : context.token_ids)
      if (id >= 0 && id < want.shape[0] && id != context.config.image_token_id &&
          id != context.config.video_token_id)
        used[id] = true;
  const std::int64_t width = want.numel() / want.shape[0];
  for (std::int64_t slice = 0; slice < want.shape[0]; ++slice) {
    bool zero = !used[slice];
    for (std::int64_t i = slice * width; zero && i < (slice + 1) * width; ++i) zero = want.at(i) == 0;
    if (zero) idle.push_back(slice);
  }
  return idle;
}

double capped(double bound, double cap, double largest) {
  return cap > 0 ? std::min(bound, cap * largest) : bound;
}

// How large the terms are that gradients are sums of.
double backward_size(const Context& context) {
  return std::max(context.grad_norm, context.loss_size);
}

// Logprobs of a rollout, token by token and in nats: dividing the logits by a temperature multiplies what
// they are off by.
Limits rollout_limits(Limits l, const Row& row, double relative, const Context& context,
                      const TensorView& want) {
  const double colder = std::max(1.0, 1.0 / context.temperature);
  l.element = relative * row.floor * colder;
  l.norm = l.element * std::sqrt(static_cast<double>(want.numel()));
  l.why = text("%.3g nats for every token at temperature %.3g, sqrt(%.0f) times that on the norm", l.element,
               context.temperature, static_cast<double>(want.numel())) +
          "; docs/tolerance.md#" + row.doc;
  return l;
}

// The norm bound of one parameter's gradient, by the grads row.
double gradient_bound(const Row& row, double relative, const Context& context, double norm) {
  return relative * std::max(norm, row.floor * backward_size(context));
}

}  // namespace

double rounding_growth(const ModelConfig& c, std::int64_t tokens) {
  constexpr double kMeasuredLayers = 5;
  // Sums over features, over the context or all tokens (weight gradients), over the vocabulary (softmax,
  // gradient of the last hidden state), over the experts (router).
  const std::int64_t longest =
      std::max({c.hidden_size, c.num_attention_heads * c.head_dim, c.gdn_value_width(), c.intermediate_size,
                c.moe_intermediate_size, c.shared_expert_intermediate_size, c.num_experts, c.vocab_size,
                c.vision.merged_width(), c.vision.intermediate_size, tokens, std::int64_t{1}});
  const double depth = std::max(1.0, static_cast<double>(c.num_hidden_layers) / kMeasuredLayers);
  return std::sqrt(static_cast<double>(longest) * depth);
}

Limits limits(const Policy& policy, const std::string& check, const Context& context,
              const TensorView& want) {
  Limits l;
  l.row = row_name(check, context.dtype);
  const Row& row = row_of(policy, l.row);
  // To first order the projection moves as the norm does.
  const double relative = relative_of(row, check == "gradient_scale" ? "grad_norm" : check, context);
  if (check == "rollout_logprobs") return rollout_limits(std::move(l), row, relative, context, want);
  const Size size = size_of(want);
  double norm_scale = size.norm, element_scale = size.largest;
  if (check == "grads") {
    norm_scale = std::max(size.norm, row.floor * backward_size(context));
    element_scale = std::max(size.largest, row.floor * backward_size(context));
    l.exact_zero_slices = idle_slices(context, want);
  } else if (check == "grad_norm") {
    norm_scale = element_scale = std::max(size.norm, context.loss_size);
  } else if (check == "gradient_scale") {
    // Of 1, which the norm of all gradients is divided to.
    norm_scale = element_scale = std::max(1.0, context.loss_size / context.grad_norm);
  } else if (check == "logprobs" || check == "loss") {
    // Nats are absolute: a token predicted with certainty has a logprob of 0 and errors like any other.
    norm_scale = std::max(size.norm, row.floor * std::sqrt(static_cast<double>(want.numel())));
    element_scale = std::max(size.largest, row.floor);
  } else {
    norm_scale = std::max(size.norm, row.floor * size.largest);
  }
  // std::max drops NaN; a bound made from one must accept nothing.
  if (std::isnan(size.norm)) norm_scale = size.norm;
  l.norm = relative * norm_scale;
  // One element can hold the whole difference, so the norm's bound is also each element's.
  l.element = capped(l.norm, row.cap, element_scale);
  l.why =
      text("%.3g * %.4g = %.3g on the norm, %.3g on each element", relative, norm_scale, l.norm, l.element) +
      "; docs/tolerance.md#" + row.doc;
  return l;
}

Limits weight_limits(const Policy& policy, const Context& context, const TensorView& want,
                     const TensorView* want_grad) {
  Limits l;
  l.row = row_name("weights", context.dtype);
  const Row& row = row_of(policy, l.row);
  const Row& grads = row_of(policy, row_name("grads", context.dtype));
  const double grads_relative = relative_of(grads, "grads", context);
  const TrainSpec& t = context.train;
  const Size weight = size_of(want);
  const Size gradient = want_grad ? size_of(*want_grad) : Size{context.grad_norm, context.grad_norm, 0};

  // Clipping multiplies by the same number everywhere; its own relative error is that of the gradient norm,
  // no larger than the gradients': twice the bound covers both.
  const double scale = std::min(1.0, t.max_grad_norm / (context.grad_norm + 1e-6));
  const double delta = 2 * scale * gradient_bound(grads, grads_relative, context, gradient.norm);
  // Step 1: both moments are the gradient's own, so that an update is scale * g / (|scale * g| + eps).
  double carried = 0;
  if (delta > 0 && context.step > 0)
    carried = t.lr * std::min(2.0, 2 * delta / (scale * gradient.smallest_nonzero + t.eps));
  // Later gradients are those of weights that already differ, somewhere in the model: nothing that is known
  // of this tensor bounds them, an update may go either way, and the cap decides.
  for (int step = 2; delta > 0 && step <= context.step; ++step) {
    double kappa_squares = 0;
    for (int i = 1; i <= step; ++i) {
      // Weights of gradient i in the two moments after bias correction.
      const double in_first = (1 - t.beta1) * std::pow(t.beta1, step - i) / (1 - std::pow(t.beta1, step));
      const double in_second = (1 - t.beta2) * std::pow(t.beta2, step - i) / (1 - std::pow(t.beta2, step));
      // Cauchy-Schwarz: |m| <= kappa sqrt(v). Infinite where the second moment forgets what the first
      // remembers.
      if (in_first > 0) kappa_squares += in_first * in_first / in_second;
    }
    carried += t.lr * 2 * std::sqrt(kappa_squares);
  }
  const double roundings = context.step * row.relative;
  // Vectors act beside 1: a norm multiplies by 1 + w, decay takes exp(A_log) and softplus(a + dt_bias).
  const double scale_of_cap = decays(want.shape) ? weight.largest : std::max(weight.largest, 1.0);
  l.norm = capped(carried + roundings * weight.norm, row.cap, std::max(weight.norm, scale_of_cap));
  l.element = capped(carried + roundings * weight.largest, row.cap, scale_of_cap);
  // The later gradients of this scenario, where they were measured.
  const auto measured =
      context.step < 2 || context.dtype != DType::float64
          ? context.conditions.end()
          : context.conditions.find("weights/step" + std::to_string(context.step) + "/" + context.tensor);
  if (measured != context.conditions.end()) {
    const double moved =
        measured->second * unit_roundoff(context.dtype) * rounding_growth(context.config, context.tokens);
    const double allowed = std::min(moved, kLargestOfLaterSteps * std::max(weight.norm, scale_of_cap));
    l.norm = std::max(l.norm, allowed);
    l.element = std::max(l.element, std::min(allowed, kLargestOfLaterSteps * scale_of_cap));
    l.why = text("measured: roundings move it by %.3g after these steps, at most %.3g of it allowed", moved,
                 kLargestOfLaterSteps) +
            "; docs/tolerance.md#" + row.doc;
    return l;
  }
  l.why =
      text("gradient bound %.3g carried through AdamW %.3g + %.3g * ||want||, at most %.3g on each element",
           delta, carried, roundings, row.cap > 0 ? row.cap * scale_of_cap : INFINITY) +
      "; docs/tolerance.md#" + row.doc;
  return l;
}

}  // namespace meshparity::tolerance
