// Describing the calls of a collective and finding out whether they fit together. To add an operation: its
// name, its shape rule in `mismatch`, its effect in call_perform.cpp.
#include "impl/comm/call.h"

namespace meshparity::impl {
namespace {

const std::string kNoSite = "(no site)";
thread_local const std::string* current_site = &kNoSite;
thread_local c10::ArrayRef<std::int64_t> current_parts;

const char* dtype_text(at::ScalarType dtype) {
  switch (dtype) {
    case at::kDouble:
      return "float64";
    case at::kFloat:
      return "float32";
    case at::kBFloat16:
      return "bfloat16";
    case at::kHalf:
      return "float16";
    case at::kLong:
      return "int64";
    case at::kInt:
      return "int32";
    default:
      return c10::toString(dtype);
  }
}

// Elements per row of a tensor whose rows lie along dimension 0.
std::int64_t row_elements(const at::Tensor& x) {
  std::int64_t n = 1;
  for (std::int64_t d = 1; d < x.dim(); ++d) n *= x.size(d);
  return n;
}

std::string gather_mismatch(const std::vector<const Call*>& calls) {
  std::int64_t elements = 0;
  for (const Call* call : calls) elements += call->input.numel();
  for (const Call* call : calls) {
    if (call->op == Op::all_gather && call->outputs[0].numel() != elements) return "part sizes differ";
    for (std::size_t j = 0; call->op == Op::all_gather_list && j < calls.size(); ++j) {
      if (call->outputs[j].numel() != calls[j]->input.numel()) return "part sizes differ";
    }
  }
  return "";
}

std::string scatter_mismatch(const std::vector<const Call*>& calls) {
  std::int64_t elements = 0;
  for (const Call* call : calls) elements += call->outputs[0].numel();
  for (const Call* call : calls) {
    if (call->input.numel() != elements) return "shapes differ";
  }
  return "";
}

std::string exchange_mismatch(const std::vector<const Call*>& calls) {
  for (std::size_t i = 0; i < calls.size(); ++i) {
    if (row_elements(calls[i]->input) != row_elements(calls[0]->input)) return "row shapes differ";
    for (std::size_t j = 0; j < calls.size(); ++j) {
      if (calls[i]->send[j] != calls[j]->receive[i]) return "rows sent and received differ";
    }
  }
  return "";
}

}  // namespace

const char* op_name(Op op) {
  switch (op) {
    case Op::all_reduce_sum:
      return "all_reduce";
    case Op::all_reduce_max:
      return "all_reduce_max";
    case Op::all_gather:
      return "all_gather";
    case Op::all_gather_list:
      return "all_gather (list)";
    case Op::reduce_scatter:
      return "reduce_scatter";
    case Op::all_to_all:
      return "all_to_all";
    case Op::broadcast:
      return "broadcast";
    case Op::barrier:
      return "barrier";
    case Op::send:
      return "send";
    case Op::receive:
      return "recv";
  }
  return "?";
}

CallScope::CallScope(const std::string& site, c10::ArrayRef<std::int64_t> parts)
    : outer_site_(current_site), outer_parts_(current_parts) {
  current_site = &site;
  current_parts = parts;
}

CallScope::~CallScope() {
  current_site = outer_site_;
  current_parts = outer_parts_;
}

const std::string& CallScope::site() {
  return *current_site;
}
c10::ArrayRef<std::int64_t> CallScope::parts() {
  return current_parts;
}

std::string list_text(c10::ArrayRef<std::int64_t> values) {
  std::string text = "[";
  for (std::size_t i = 0; i < values.size(); ++i) text += (i ? "," : "") + std::to_string(values[i]);
  return text + "]";
}

std::string Call::text() const {
  std::string text = op_name(op);
  if (input.defined())
    text += std::string(" ") + dtype_text(input.scalar_type()) + " " + list_text(input.sizes());
  if (!parts.empty()) text += " in parts " + list_text(parts);
  if (op == Op::all_to_all) text += " sending " + list_text(send) + " receiving " + list_text(receive);
  if (op == Op::send) text += " to " + std::to_string(root);
  if (op == Op::receive) text += " from " + std::to_string(root);
  if (op == Op::broadcast) text += " from " + std::to_string(root);
  return text + " at " + *site;
}

std::string mismatch(const Call& sent, const Call& expected) {
  if (*sent.site != *expected.site) return "sites differ";
  if (sent.input.scalar_type() != expected.input.scalar_type()) return "dtypes differ";
  if (sent.input.device().type() != expected.input.device().type()) return "devices differ";
  return sent.input.sizes() == expected.input.sizes() ? "" : "shapes differ";
}

std::string mismatch(const std::vector<const Call*>& calls) {
  const Call& first = *calls[0];
  for (const Call* call : calls) {
    if (call->op != first.op) return "operations differ";
    if (call->site != first.site && *call->site != *first.site) return "sites differ";
    if (call->op == Op::barrier) continue;
    if (call->input.scalar_type() != first.input.scalar_type()) return "dtypes differ";
    if (call->input.device().type() != first.input.device().type()) return "devices differ";
    if (call->parts != first.parts) return "part sizes differ";
  }
  switch (first.op) {
    case Op::all_gather:
    case Op::all_gather_list:
      return gather_mismatch(calls);
    case Op::reduce_scatter:
      return scatter_mismatch(calls);
    case Op::all_to_all:
      return exchange_mismatch(calls);
    case Op::barrier:
      return "";
    default:
      break;
  }
  for (const Call* call : calls) {
    if (call->input.sizes() != first.input.sizes()) return "shapes differ";
    if (call->root != first.root) return "roots differ";
  }
  return "";
}

}  // namespace meshparity::impl
