#include "impl/train/router_terms.h"

#include <algorithm>

namespace meshparity::impl {

std::shared_ptr<RouterLoss> RouterTerms::of_micro_batch(std::int64_t number, const at::Tensor& real,
                                                        const at::TensorOptions& options) const {
  if (!sum.of_router()) return nullptr;
  const auto loss = std::make_shared<RouterLoss>();
  loss->real = real;
  loss->sums = at::zeros({2 * experts + 1}, options);
  const auto weight = [&](const char* term) {
    return sum.weight(term) * normaliser.router_weight(normaliser, term, number) *
           normaliser.router_share(normaliser, term, copies);
  };
  loss->aux_weight = weight("aux"), loss->z_weight = weight("router_z");
  return loss;
}

void RouterTerms::complete(RouterLoss& loss, std::int64_t number, const at::Tensor& totals) const {
  const double rows = normaliser.router_rows(number);
  loss.shares = totals.slice(0, 0, experts) / (rows > 0 ? rows : 1);
}

void RouterTerms::add_values(const RouterLoss& loss, std::int64_t number, const at::Tensor& totals,
                             at::Tensor& values) const {
  const std::vector<std::string> terms = sum.reported();
  const auto add = [&](const char* term, const at::Tensor& of_rows) {
    const auto at = std::find(terms.begin(), terms.end(), term);
    if (at != terms.end())
      values.select(0, at - terms.begin()).add_(of_rows, normaliser.router_weight(normaliser, term, number));
  };
  add("aux", static_cast<double>(experts) * at::dot(loss.shares, totals.slice(0, experts, 2 * experts)));
  add("router_z", totals[2 * experts]);
}

}  // namespace meshparity::impl
