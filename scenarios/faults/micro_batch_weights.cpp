// The mean over all tokens becomes something else where it is put together from micro-batches.
#include <set>

#include "impl/parallel/token_layout.h"
#include "impl/train/loss.h"
#include "scenarios/faults/decorators.h"

namespace meshparity::faults {
namespace {

// Documents per micro-batch of the batch at hand.
std::vector<double>& documents_of_micro_batches() {
  thread_local std::vector<double> counts;
  return counts;
}

double inverse(double count) {
  return count > 0 ? 1 / count : 0;
}

}  // namespace

Fault ga_loss_not_divided() {
  return {"ga-loss-not-divided",
          "every micro-batch is divided by its own count of labels and the sum is not divided at all",
          "huggingface/transformers#37197",
          "loss",
          "loss/token_mean",
          "loss summed over micro-batches: not divided by their number",
          {"--model tiny-dense --batch rows --mesh dp1", "--model tiny-moe --batch rows --mesh fsdp2.tp2"},
          [](impl::Seams& seams) {
            seams.normaliser = [](impl::Normaliser& normaliser) {
              normaliser.weight = [right = normaliser.weight](const impl::Normaliser& n,
                                                              const std::string& policy, std::int64_t m,
                                                              std::int64_t d) {
                return policy == "token_mean" ? inverse(n.micro_batches[static_cast<std::size_t>(m)])
                                              : right(n, policy, m, d);
              };
            };
          }};
}

Fault microbatch_split_changes_objective() {
  return {"microbatch-split-changes-objective",
          "micro-batch means are weighted by their number of samples, so the objective depends on the split",
          "modelscope/twinkle#292",
          "loss",
          "loss/token_mean",
          "micro-batch means weighted by their documents",
          {"--model tiny-dense --batch rows --mesh tp2", "--model tiny-moe --batch rows --mesh tp3 --sp on"},
          [](impl::Seams& seams) {
            seams.layout = [](impl::TokenLayout& layout, const Mesh&, int) {
              auto& counts = documents_of_micro_batches();
              counts.clear();
              for (const auto& tokens : layout.micro_batches)
                counts.push_back(static_cast<double>(
                    std::set<std::int64_t>(tokens.documents.begin(), tokens.documents.end()).size()));
            };
            seams.normaliser = [](impl::Normaliser& normaliser) {
              normaliser.weight = [right = normaliser.weight](const impl::Normaliser& n,
                                                              const std::string& policy, std::int64_t m,
                                                              std::int64_t d) {
                if (policy != "token_mean") return right(n, policy, m, d);
                const auto& counts = documents_of_micro_batches();
                double all = 0;
                for (const double c : counts) all += c;
                const auto at = static_cast<std::size_t>(m);
                return counts[at] / all * inverse(n.micro_batches[at]);
              };
            };
          }};
}

}  // namespace meshparity::faults
