// Losses as text: sums with weights, and every way to write one wrong.
#include "harness/types/loss_sum.h"

#include <catch2/catch.hpp>

#include "harness/types/error.h"

namespace meshparity::loss_sum_test {
namespace {

std::string refused(const std::string& text) {
  try {
    parse_loss(text);
  } catch (const InputError& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("a loss is one term or a weighted sum of terms") {
  using Term = LossSum::Term;
  CHECK(parse_loss("token_mean").terms == std::vector<Term>{{"token_mean", 1}});
  CHECK(parse_loss("0.5*sum").terms == std::vector<Term>{{"sum", 0.5}});
  const LossSum sum = parse_loss("token_mean+0.001*aux+1e-2*router_z+0.0001*lm_z");
  CHECK(sum.terms ==
        std::vector<Term>{{"token_mean", 1}, {"aux", 0.001}, {"router_z", 0.01}, {"lm_z", 0.0001}});
  CHECK(sum.of_router());
  CHECK(sum.weight("aux") == 0.001);
  CHECK(sum.weight("sum") == 0);
  CHECK(sum.reported() == std::vector<std::string>{"token_mean", "sum", "sequence_mean", "micro_batch_mean",
                                                   "num_tokens", "lm_z", "router_z", "aux"});
  CHECK_FALSE(parse_loss("policy_gradient+0.1*lm_z").of_router());
}

TEST_CASE("a loss that is none is refused by the part that is wrong") {
  CHECK(refused("mean") ==
        "--loss 'mean': term 'mean' is unknown: token_mean, sum, sequence_mean, micro_batch_mean, "
        "num_tokens, policy_gradient, lm_z, mtp, router_z, aux");
  CHECK(refused("").find("term '' is unknown") != std::string::npos);
  CHECK(refused("token_mean+").find("term '' is unknown") != std::string::npos);
  CHECK(refused("token_mean++aux").find("term '' is unknown") != std::string::npos);
  CHECK(refused("token_mean+aux+token_mean") ==
        "--loss 'token_mean+aux+token_mean': term 'token_mean' stands twice");
  CHECK(refused("0.1*0.2*aux").find("term '0.2*aux' is unknown") != std::string::npos);
  for (const char* weight : {"x", "", "-0.1", "0", "nan", "inf", "1e999", "0.1x", " 1"}) {
    INFO(weight);
    CHECK(refused(std::string(weight) + "*aux") ==
          "--loss '" + std::string(weight) + "*aux': weight '" + weight + "' of aux is no positive number");
  }
}

TEST_CASE("router terms need routers") {
  ModelConfig dense, moe;
  moe.num_experts = 4;
  CHECK(loss_refusal(parse_loss("token_mean+0.1*aux"), dense) ==
        "loss term aux needs a mixture-of-experts model");
  CHECK(loss_refusal(parse_loss("router_z"), dense) == "loss term router_z needs a mixture-of-experts model");
  CHECK(loss_refusal(parse_loss("token_mean+0.1*aux"), moe).empty());
  CHECK(loss_refusal(parse_loss("policy_gradient+lm_z"), dense).empty());
}

}  // namespace meshparity::loss_sum_test
