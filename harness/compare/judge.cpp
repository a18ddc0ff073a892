// The verdict on one tensor. Accept form throughout (ok = difference <= bound), so that a NaN anywhere fails.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>

#include "harness/compare/compare.h"
#include "harness/compare/kernel.h"
#include "harness/compare/locate.h"

namespace meshparity::compare {
namespace {

std::string number(const char* format, double x) {
  char text[64];
  std::snprintf(text, sizeof text, format, x);
  return text;
}
std::string short_number(double x) {
  return number("%.2e", x);
}

// Fraction of the bound used: 0 where nothing differs, infinite where something does and nothing may.
double used(double difference, double bound) {
  if (difference == 0) return 0;
  return bound > 0 ? difference / bound : std::numeric_limits<double>::infinity();
}

std::string histogram_text(const Histogram& histogram) {
  std::string text;
  for (int bucket = 0; bucket < 32; ++bucket) {
    if (histogram[bucket] == 0) continue;
    std::string name = "0";
    if (bucket == 31) name = ">=1e+12 or not finite";
    if (bucket > 0 && bucket < 31) name = "<1e" + std::to_string(bucket - 18);
    text += (text.empty() ? "" : "  ") + name + ": " + std::to_string(histogram[bucket]);
  }
  return text;
}

std::string share(std::int64_t part, std::int64_t whole) {
  return std::to_string(part) + " of " + std::to_string(whole) + " (" +
         number("%.3g", 100.0 * static_cast<double>(part) / static_cast<double>(whole)) + " %)";
}

// First element of got that is not zero in a slice of dimension 0 that nothing reaches, or -1; `outside`
// counts all of them.
std::int64_t leak(const TensorView& got, const std::vector<std::int64_t>& slices, std::int64_t& outside) {
  std::int64_t first = -1;
  for (const std::int64_t slice : slices) {
    const std::int64_t width = got.numel() / got.shape[0];
    for (std::int64_t i = slice * width; i < (slice + 1) * width; ++i) {
      if (got.at(i) == 0) continue;
      ++outside;
      if (first < 0) first = i;
    }
  }
  return first;
}

void describe_failure(CheckResult& r, const Metrics& m, const Bound& bound, const TensorView& got,
                      const TensorView& want) {
  const auto differs_by = [&](double least, bool strictly) {
    return [&, least, strictly](std::int64_t i) {
      const double d = std::fabs(got.at(i) - want.at(i));
      return !(strictly ? d <= least : d < least);
    };
  };
  if (r.nonfinite > 0) {
    const auto where = locate(want.shape, [&](std::int64_t i) { return is_nonfinite(got.at(i)); });
    r.detail.push_back("where   " + share(where.count, m.elements) + " not finite" +
                       (where.text.empty() ? "" : ", " + where.text));
  } else if (r.outside > 0) {
    const auto where = locate(want.shape, differs_by(bound.element, true));
    r.detail.push_back("where   " + share(where.count, m.elements) + " outside" +
                       (where.text.empty() ? ", in all rows and columns" : ", " + where.text));
  } else {
    const auto where = locate(want.shape, differs_by(0.5 * m.max_abs, false));
    r.detail.push_back("where   no single element outside; the " + share(where.count, m.elements) +
                       " above half of the largest difference" +
                       (where.text.empty() ? " are everywhere" : " are " + where.text));
  }
  const double cosine = m.got_norm > 0 && m.want_norm > 0 ? m.dot / m.got_norm / m.want_norm : 0;
  r.detail.push_back("norm    difference " + short_number(m.diff_norm) + ", bound " +
                     short_number(bound.norm) + "; got " + short_number(m.got_norm) + ", want " +
                     short_number(m.want_norm) + ", cosine " + number("%.9f", cosine));
  r.detail.push_back("spread  " + histogram_text(m.histogram));
}

}  // namespace

CheckResult judge(const std::string& check, const std::string& tensor, const Metrics& m, const Bound& bound,
                  const TensorView& got, const TensorView& want) {
  CheckResult r;
  r.check = check;
  r.tensor = tensor;
  r.elements = m.elements;
  if (!m.comparable) {
    r.state = State::invalid;
    r.reason = m.invalid;
    return r;
  }
  if (m.elements == 0) {
    r.state = State::untrusted;
    r.reason = "no elements to compare";
    return r;
  }
  r.nonfinite = m.got_nonfinite;
  r.worst = m.worst;
  r.max_abs = m.max_abs;
  r.max_rel = used(m.diff_norm, m.want_norm);
  r.got = m.worst_got;
  r.want = m.worst_want;
  r.bound = bound.element;
  r.where = index_text(want.shape, m.worst);
  r.bound_used = std::max(used(m.diff_norm, bound.norm), used(m.max_abs, bound.element));
  if (m.want_nonfinite > 0) {
    r.state = State::invalid;
    r.reason = std::to_string(m.want_nonfinite) + " expected values are not finite";
    return r;
  }
  if (m.got_nonfinite > 0) {
    r.state = State::invalid;
    r.reason = std::to_string(m.got_nonfinite) + " values are not finite, first at " + r.where;
    describe_failure(r, m, bound, got, want);
    return r;
  }
  const bool norm_ok = m.diff_norm <= bound.norm, element_ok = m.max_abs <= bound.element;
  std::int64_t leaked = 0;
  const std::int64_t leak_at = leak(got, bound.exact_zero_slices, leaked);
  if (norm_ok && element_ok && leak_at < 0) {
    r.state = State::pass;
    return r;
  }
  r.state = State::fail;
  if (!element_ok)
    for (std::int64_t i = 0; i < m.elements; ++i)
      r.outside += !(std::fabs(got.at(i) - want.at(i)) <= bound.element);
  if (!norm_ok)
    r.reason = "norm of the difference " + short_number(m.diff_norm) + " is " +
               number("%.3g", used(m.diff_norm, bound.norm)) + "x its bound " + short_number(bound.norm);
  else if (!element_ok)
    r.reason = "largest difference " + short_number(m.max_abs) + " is " +
               number("%.3g", used(m.max_abs, bound.element)) + "x its bound " + short_number(bound.element);
  if (leak_at >= 0 && norm_ok && element_ok) {
    r.outside = leaked;
    r.where = index_text(want.shape, leak_at);
    r.worst = leak_at;
    r.got = got.at(leak_at), r.want = 0, r.bound = 0;
    r.bound_used = std::numeric_limits<double>::infinity();
    r.reason = "nothing reaches index " + std::to_string(leak_at / (m.elements / want.shape[0])) +
               " of dimension 0, so it must be exactly zero";
    r.detail.push_back("where   " + share(leaked, m.elements) + " not zero where nothing reaches the tensor");
  } else {
    describe_failure(r, m, bound, got, want);
  }
  r.detail.push_back("bound   tolerance row " + bound.row + ": " + bound.why);
  return r;
}

}  // namespace meshparity::compare
