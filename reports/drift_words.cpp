#include "reports/drift_words.h"

#include <cstdio>

#include "reports/words.h"

namespace meshparity::reports {

std::string drift_number(double value, const char* format) {
  char text[64];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

std::vector<std::pair<std::string, std::string>> drift_rows(const DriftResult& r) {
  const DriftMetrics& m = r.metrics;
  std::string quantiles;
  for (const auto& [level, value] : m.quantiles)
    quantiles += (quantiles.empty() ? "" : "   ") + drift_number(100 * level, "%.6g") +
                 " %: " + drift_number(value, "%.3g");
  return {
      {"mean |d|", drift_number(m.mean_abs) + " nats   (mean d " + drift_number(m.mean, "%.3g") + ", max " +
                       drift_number(m.max_abs, "%.3g") + ")"},
      {"quantiles of |d|", quantiles},
      {"worst 0.1 % carry", drift_number(100 * m.share_of_worst, "%.3g") + " % of the sum of |d|"},
      {"K1, K2, K3",
       drift_number(m.k1, "%.3g") + "   " + drift_number(m.k2, "%.3g") + "   " + drift_number(m.k3, "%.3g")},
      {"chi-square", drift_number(m.chi_square, "%.3g")},
      {"effective samples", drift_number(100 * m.effective_samples, "%.5g") + " % of the tokens"},
      {"mean ratio", drift_number(m.mean_ratio, "%.6g") + " +- " + drift_number(m.mean_ratio_error, "%.1g") +
                         "   (1 where rollout drew the tokens)"},
      {"perplexity", drift_number(m.perplexity_train, "%.6g") + " train, " +
                         drift_number(m.perplexity_rollout, "%.6g") + " rollout, ratio " +
                         drift_number(m.perplexity_train / m.perplexity_rollout, "%.6g")},
      {"Pearson", drift_number(m.pearson, "%.8g") + " of logprobs, " +
                      drift_number(m.pearson_probability, "%.8g") + " of probabilities"}};
}

std::string drift_samples(const DriftResult& r) {
  return std::to_string(r.samples_paired) + " samples compared (" + std::to_string(r.samples_train) +
         " train, " + std::to_string(r.samples_rollout) + " rollout), " + std::to_string(r.metrics.tokens) +
         " tokens" +
         (r.tokens_tested < r.metrics.tokens ? "; structure tested on " + std::to_string(r.tokens_tested)
                                             : "");
}

std::string drift_check(const DriftCheck& check) {
  return check.name + ": " + std::to_string(check.count) + " of " + std::to_string(check.of) +
         (check.detail.empty() ? "" : ", " + one_line(check.detail));
}

std::string drift_headline(const DriftResult& r) {
  return one_line(r.verdict.sentence) + " (confidence " + drift_number(r.verdict.confidence, "%.2f") + ")";
}

}  // namespace meshparity::reports
