#include "harness/cli/gradient_ratios.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <set>
#include <sstream>

#include "harness/cli/judge_case.h"
#include "harness/cli/rank_inputs.h"
#include "harness/cli/scenario.h"
#include "harness/types/error.h"
#include "harness/types/loss_sum.h"

namespace meshparity::cli {
namespace {

double sum_of_squares(const TensorView& tensor) {
  const double* values = tensor.as<double>();
  return std::inner_product(values, values + tensor.numel(), values, 0.0);
}

double ratio_of(double got, double want) {
  if (want > 0) return std::sqrt(got / want);
  return got > 0 ? std::numeric_limits<double>::infinity() : 1;
}

std::vector<impl::RankOutput> ranks_of(const CaseSpec& spec, const Scenario& scenario) {
  impl::RankInputs inputs = rank_inputs(spec, scenario);
  inputs.steps = 0;
  return run_threads(inputs, seams_of(spec));
}

}  // namespace

std::string parameter_family(const std::string& name) {
  std::string family, word;
  std::istringstream words(name);
  while (std::getline(words, word, '.')) {
    const bool number = std::all_of(word.begin(), word.end(), [](char c) { return c >= '0' && c <= '9'; });
    family += (family.empty() ? "" : ".") + (number ? "*" : word);
  }
  const std::string prefix = "model.";
  return family.rfind(prefix, 0) == 0 ? family.substr(prefix.size()) : family;
}

GradientRatios gradient_ratios(const CaseSpec& spec) {
  if (spec.dtype != DType::float64) throw InputError("faults ratios: --dtype must be float64");
  GradientRatios ratios;
  const auto scenario = load_scenario(spec);
  const Expected expected(scenario, spec, 0);
  try {
    const auto outputs = ranks_of(spec, *scenario);
    const auto got = gather_case(spec, *scenario, outputs);
    std::set<std::string> terms;
    double got_loss = 0, want_loss = 0;
    for (const LossSum::Term& term : parse_loss(spec.loss).terms) {
      const std::string key = *terms.insert("loss/" + term.name).first;
      got_loss += term.weight * got.at(key).as<double>()[0];
      want_loss += term.weight * expected.find(key)->as<double>()[0];
    }
    ratios.loss_change = std::abs(got_loss - want_loss) / std::abs(want_loss);
    ratios.equal_loss = true;
    for (const auto& check : judge_case(spec, *scenario, expected, 0, outputs))
      if (check.check == "loss" && terms.count(check.tensor)) ratios.equal_loss &= check.state == State::pass;

    std::map<std::string, std::pair<double, double>> squares;  // by family: got, want
    double all_got = 0, all_want = 0;
    for (const auto& [key, tensor] : got) {
      if (key.rfind("grads/", 0) != 0) continue;
      const double mine = sum_of_squares(tensor.view()), theirs = sum_of_squares(*expected.find(key));
      auto& family = squares[parameter_family(key.substr(6))];
      family.first += mine, family.second += theirs, all_got += mine, all_want += theirs;
    }
    ratios.overall = ratio_of(all_got, all_want);
    ratios.reported = got.at("grad_norm").as<double>()[0] / std::sqrt(all_want);
    for (const auto& [family, sums] : squares) ratios.families[family] = ratio_of(sums.first, sums.second);
  } catch (const InputError&) {
    throw;
  } catch (const std::exception& error) {
    ratios.failed = error.what();
  }
  return ratios;
}

bool can_show(const GradientRatios& ratios, double ratio, double slack) {
  double least = std::numeric_limits<double>::infinity(), most = 0;
  for (const auto& [family, r] : ratios.families) least = std::min(least, r), most = std::max(most, r);
  return least <= ratio + slack && ratio - slack <= most;
}

}  // namespace meshparity::cli
