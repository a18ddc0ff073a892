// Rules for losses that are wrong although the logprobs they are made of are right.
#include <algorithm>
#include <cmath>

#include "harness/diagnose/case_view.h"

namespace meshparity::diagnose {

void loss_rules(const CaseView& view, std::vector<Cause>& causes) {
  const CaseTensor *tensor = view.find("loss/token_mean"), *logprobs = view.find("logprobs");
  if (!tensor || !tensor->wrong || !logprobs || logprobs->wrong) return;
  const Batch& b = view.batch;
  // Sums of the negative logprobs and counts of labels over a range of tokens.
  struct Part {
    double sum = 0, count = 0;
    double mean() const { return count > 0 ? sum / count : 0; }
  };
  const auto part_of = [&](Range tokens) {
    Part part;
    for (std::int64_t t = tokens.begin; t < tokens.end; ++t) {
      if (b.labels[static_cast<std::size_t>(t)] < 0) continue;
      part.sum -= logprobs->want.at(t), ++part.count;
    }
    return part;
  };
  const Part all = part_of({0, b.tokens()});
  std::vector<Part> micro_batches, rows, documents;
  double by_rows = 0, by_documents = 0;
  for (std::int64_t m = 0; m < b.micro_batches(); ++m) {
    micro_batches.push_back(part_of(b.micro_batch_tokens(m)));
    const Range r = b.micro_batch_rows(m);
    by_rows += micro_batches.back().mean() * static_cast<double>(r.size()) / static_cast<double>(b.rows());
    by_documents += micro_batches.back().mean() *
                    static_cast<double>(b.row_offsets[r.end] - b.row_offsets[r.begin]) /
                    static_cast<double>(b.documents());
  }
  for (std::int64_t r = 0; r < b.rows(); ++r) rows.push_back(part_of(b.row_tokens(r)));
  for (std::int64_t d = 0; d < b.documents(); ++d) documents.push_back(part_of(b.document(d)));
  const auto sum_of_means = [](const std::vector<Part>& parts) {
    double sum = 0;
    for (const auto& part : parts) sum += part.mean();
    return sum;
  };
  const auto filled = [](const std::vector<Part>& parts) {
    return std::max(1.0, static_cast<double>(std::count_if(parts.begin(), parts.end(),
                                                           [](const Part& p) { return p.count > 0; })));
  };
  struct Mistake {
    const char* name;
    double value;
  };
  const double tokens = static_cast<double>(b.tokens());
  const Mistake mistakes[] = {
      {"loss summed over micro-batches: not divided by their number", sum_of_means(micro_batches)},
      {"mean of micro-batch means instead of the mean over tokens",
       sum_of_means(micro_batches) / filled(micro_batches)},
      {"micro-batch means weighted by their rows", by_rows},
      {"micro-batch means weighted by their documents", by_documents},
      {"mean of row means instead of the mean over tokens", sum_of_means(rows) / filled(rows)},
      {"mean of document means instead of the mean over tokens", sum_of_means(documents) / filled(documents)},
      {"loss not divided by the count of labels", all.sum},
      {"loss divided by all tokens instead of valid labels", all.sum / tokens},
      {"loss of the last micro-batch alone", micro_batches.back().sum / std::max(1.0, all.count)},
  };
  const double got = tensor->got.at(0), want = tensor->want.at(0);
  for (const auto& mistake : mistakes) {
    const bool hits = std::fabs(got - mistake.value) <= 1e-10 * std::fabs(got);
    if (hits && std::fabs(mistake.value - want) > 1e-6 * std::fabs(want))
      causes.push_back({mistake.name,
                        "logprobs are right, and the loss " + short_number(got) +
                            " (right: " + short_number(want) + ") is exactly that of them",
                        0.95});
  }
  for (auto cause : shape_causes(view, *tensor)) causes.push_back(std::move(cause));
  int alike = 0, losses = 0;
  for (const auto& entry : view.order) {
    if (entry.moment.phase != Phase::loss || !entry.tensor->invalid.empty()) continue;
    const double other = entry.tensor->want.at(0);
    ++losses,
        alike += std::fabs(entry.tensor->got.at(0) * want - got * other) <= 1e-10 * std::fabs(got * other);
  }
  causes.push_back(
      {"loss times a constant factor " + short_number(got / want),
       "logprobs and counts are right; " + std::to_string(alike) + " of " + std::to_string(losses) +
           " losses have this factor: divided or multiplied by a number of ranks or micro-batches",
       alike == losses && losses > 1 ? 0.7 : 0.5});
}

void policy_rules(const CaseView& view, std::vector<Cause>& causes) {
  const Moment& moment = view.first->moment;
  if (moment.phase != Phase::loss || view.first->tensor->invalid.size() || view.wrong_of(Phase::counts).first)
    return;
  // token_mean has rules of its own.
  const std::string policy = moment.name.substr(moment.name.find('/') + 1);
  if (policy == "token_mean" || !view.first->tensor->wrong) return;
  for (auto cause : shape_causes(view, *view.first->tensor)) {
    cause.name = "loss " + policy + " " + cause.name;
    cause.evidence = "logprobs, counts and token_mean are right: " + cause.evidence;
    causes.push_back(std::move(cause));
  }
  const CaseTensor *labels = view.find("denominators/token_mean"), *next = view.find("denominators/mtp");
  if (policy == "mtp" && labels && next) {
    const double right = view.first->tensor->want.at(0) * next->want.at(0);  // summed over tokens
    const double got = view.first->tensor->got.at(0);
    const auto is = [&](double count) { return std::fabs(got * count - right) <= 1e-9 * std::fabs(right); };
    if (is(labels->want.at(0)))
      causes.push_back({"loss mtp divided by the labels of the main loss",
                        "logprobs and counts are right, and the loss is its sum over " +
                            short_number(labels->want.at(0)) + " instead of " +
                            short_number(next->want.at(0)),
                        0.95});
    if (is(1))
      causes.push_back({"loss mtp not divided by its count of labels",
                        "logprobs and counts are right, and the loss is its sum over tokens", 0.95});
  }
  // Its sums run over rows of the routers, whose inputs were shown right by everything before the loss.
  if (policy == "aux" || policy == "router_z")
    causes.push_back({"router's loss terms summed over other rows",
                      "logprobs and the losses of tokens are right, " + policy + " is " +
                          short_number(view.first->tensor->got.at(0)) +
                          " (right: " + short_number(view.first->tensor->want.at(0)) +
                          "): padding counted, or tokens or layers left out or twice",
                      0.6});
}

}  // namespace meshparity::diagnose
