#include "harness/types/loss_sum.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "harness/types/error.h"

namespace meshparity {
namespace {

std::vector<std::string> known_terms() {
  std::vector<std::string> known(kLossPolicies.begin(), kLossPolicies.end());
  known.insert(known.end(), kOtherLossTerms.begin(), kOtherLossTerms.end());
  return known;
}

LossSum::Term parse_term(const std::string& part, const std::string& text) {
  const auto fail = [&](const std::string& what) { throw InputError("--loss '" + text + "': " + what); };
  LossSum::Term term;
  const auto star = part.find('*');
  term.name = star == std::string::npos ? part : part.substr(star + 1);
  if (star != std::string::npos) {
    const std::string number = part.substr(0, star);
    const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), term.weight);
    if (error != std::errc() || end != number.data() + number.size() || !std::isfinite(term.weight) ||
        !(term.weight > 0))
      fail("weight '" + number + "' of " + (term.name.empty() ? "no term" : term.name) +
           " is no positive number");
  }
  const auto known = known_terms();
  if (std::find(known.begin(), known.end(), term.name) == known.end()) {
    std::string list;
    for (const auto& name : known) list += (list.empty() ? "" : ", ") + name;
    fail("term '" + term.name + "' is unknown: " + list);
  }
  return term;
}

}  // namespace

double LossSum::weight(const std::string& name) const {
  for (const auto& term : terms)
    if (term.name == name) return term.weight;
  return 0;
}

std::vector<std::string> LossSum::reported() const {
  std::vector<std::string> names(kLossPolicies.begin(), kLossPolicies.end());
  for (const char* name : kOtherLossTerms)
    if (has(name)) names.push_back(name);
  return names;
}

LossSum parse_loss(const std::string& text) {
  LossSum sum;
  for (std::size_t begin = 0; begin <= text.size();) {
    const auto end = std::min(text.find('+', begin), text.size());
    LossSum::Term term = parse_term(text.substr(begin, end - begin), text);
    if (sum.has(term.name)) throw InputError("--loss '" + text + "': term '" + term.name + "' stands twice");
    sum.terms.push_back(std::move(term));
    begin = end + 1;
  }
  return sum;
}

std::string loss_refusal(const LossSum& loss, const ModelConfig& config) {
  if (loss.has("mtp") && config.mtp_num_hidden_layers == 0)
    return "loss term mtp needs a model with a layer of multi-token prediction (mtp_num_hidden_layers)";
  if (!loss.of_router() || config.is_moe()) return "";
  return std::string("loss term ") + (loss.has("aux") ? "aux" : "router_z") +
         " needs a mixture-of-experts model";
}

}  // namespace meshparity
