// The pattern of a fault over parameter families, and which overall ratios it allows.
#include "harness/cli/gradient_ratios.h"

#include <catch2/catch.hpp>

#include "harness/cli/case_arguments.h"
#include "harness/types/error.h"

namespace meshparity::cli::gradient_ratios_test {

TEST_CASE("a parameter's family is its name without layer and expert") {
  CHECK(parameter_family("model.layers.12.mlp.experts.3.down_proj.weight") ==
        "layers.*.mlp.experts.*.down_proj.weight");
  CHECK(parameter_family("lm_head.weight") == "lm_head.weight");
}

TEST_CASE("without a fault every family's ratio is one, and no other ratio can be shown") {
  const auto right = gradient_ratios(single_case("--model tiny-dense --batch rows --mesh uly2 --gdn heads"));
  CHECK(right.failed.empty());
  CHECK(right.equal_loss);
  CHECK(right.overall == Approx(1).margin(1e-11));
  for (const auto& [family, ratio] : right.families) CHECK(ratio == Approx(1).margin(1e-9));
  CHECK(can_show(right, 1, 0.005));
  CHECK(!can_show(right, 1.13, 0.005));
}

TEST_CASE("a fault of the metric changes no gradient, a fault of the gradient no loss") {
  const auto drift = gradient_ratios(
      single_case("--model tiny-dense --batch rows --mesh uly2 --gdn heads --fault ulysses-gradnorm-drift"));
  CHECK(drift.equal_loss);
  CHECK(std::abs(drift.overall - 1) > 1e-3);
  const auto local =
      gradient_ratios(single_case("--model tiny-dense --batch rows --mesh uly2 --loss-form replicated "
                                  "--fault ulysses-replicated-loss-local-tokens"));
  CHECK(!local.equal_loss);
  const auto aux =
      gradient_ratios(single_case("--model tiny-moe --batch rows --mesh dp2 --loss 'token_mean+0.5*aux' "
                                  "--fault aux-loss-shrinks-with-dp"));
  CHECK(aux.equal_loss);
  CHECK(aux.loss_change < 1e-12);
  CHECK(std::abs(aux.families.at("layers.*.mlp.gate.weight") - 1) > 1e-6);
}

TEST_CASE("what families exclude") {
  GradientRatios ratios;
  ratios.families = {{"a", 1.0}, {"b", 1.4}};
  CHECK(can_show(ratios, 1.13, 0));
  CHECK(can_show(ratios, 0.997, 0.005));
  CHECK(!can_show(ratios, 0.99, 0.005));
  CHECK(!can_show(ratios, 1.41, 0.005));
}

TEST_CASE("ratios are measured in float64 only") {
  CHECK_THROWS_AS(gradient_ratios(single_case("--model tiny-dense --batch rows --mesh uly2 --dtype float32")),
                  InputError);
}

}  // namespace meshparity::cli::gradient_ratios_test
