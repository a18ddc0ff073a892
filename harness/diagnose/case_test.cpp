// Whole cases with one thing planted: the first divergence and the cause must be named, and a right case must
// name nothing. Gradients stand in case_backward_test.cpp.
#include <catch2/catch.hpp>

#include "harness/diagnose/planted_case.h"

namespace meshparity::diagnose {
namespace {

const std::string kConv = "model.layers.0.linear_attn.conv1d.weight";

}  // namespace

TEST_CASE("a right case has no first divergence and no cause") {
  PlantedCase c("fsdp2.tp2");
  CHECK(c.diagnosis().first.empty());
  CHECK(c.cause() == "nothing");
}

TEST_CASE("the first wrong tensor in execution order is named with its token") {
  PlantedCase c("fsdp2.tp2");
  for (const char* key : {"logits", "logprobs", "activations/layers.1.ffn", "activations/norm"}) c.spoil(key);
  c.at("activations/layers.1.mixer")[4 * 6 + 2] += 1;
  c.spoil("grads/model.norm.weight");
  const Diagnosis d = c.diagnosis();
  CHECK(d.first_key == "activations/layers.1.mixer");
  CHECK(d.first.find("forward, layers.1.mixer, token 4, position 2 of document 1 (row 0, micro-batch 0)") ==
        0);
  CHECK(d.first.find("tensors before it are within their bounds") != std::string::npos);
  CHECK(d.causes[0].name.find("attention of layer 1") != std::string::npos);
  CHECK(d.causes[0].confidence < 0.8);
}

TEST_CASE("weights loaded in another order are named before what they spoil") {
  PlantedCase c("tp2");
  const std::string key = "trace/weights/" + kConv;
  for (int i = 0; i < 4; ++i) std::swap(c.at(key)[2 * 4 + i], c.at(key)[9 * 4 + i]);
  c.spoil("activations/layers.0.mixer");
  c.spoil("logits");
  CHECK(c.diagnosis().first_key == key);
  CHECK(c.cause() == "weight sharded in the wrong order: rows permuted");
}

TEST_CASE("replicas that start apart are named though the first of them is right") {
  PlantedCase c("dp2");
  c.emit("trace/weights/model.norm.weight",
         [](int rank, std::int64_t, double right) { return right + 0.1 * rank; });
  CHECK(c.cause() == "replicas start from different weights");
}

TEST_CASE("rank-local counts of labels") {
  PlantedCase c("dp2");
  SECTION("scaled by the ranks") {
    c.emit("denominators/token_mean",
           [](int rank, std::int64_t, double right) { return rank == 0 ? 2 * (right - 3) : 6.0; });
    CHECK(c.cause() == "label count not summed over data ranks: a mean of per-rank means");
  }
  SECTION("as they are") {
    c.emit("denominators/token_mean",
           [](int rank, std::int64_t, double right) { return rank == 0 ? right - 3 : 3; });
    CHECK(c.cause() == "label count not summed over data ranks");
  }
}

TEST_CASE("logprobs of other labels are named by those") {
  PlantedCase c("dp1");
  SECTION("a constant is no label") {
    for (int t = 0; t < 20; ++t) c.at("logprobs")[t] -= c.right("logprobs")[t] != 0 ? 0.5 : 0;
    CHECK(c.cause() == "constant offset");
  }
  SECTION("of the token itself") {
    for (int t = 0; t < 20; ++t)
      c.at("logprobs")[t] = c.right("logprobs")[t] != 0 ? c.logprob(t, (5 * t + 3) % 13) : 0;
    CHECK(c.cause() == "labels not shifted");
  }
}

TEST_CASE("a loss that another policy gives is named by it") {
  PlantedCase c("dp1");
  c.at("loss/token_mean")[0] = -c.sum("logprobs");
  CHECK(c.cause() == "loss not divided by the count of labels");
  c.at("loss/token_mean")[0] = -c.sum("logprobs") / 20;
  CHECK(c.cause() == "loss divided by all tokens instead of valid labels");
}

TEST_CASE("counts of other tokens are named by the tokens") {
  PlantedCase c("uly2");
  c.at("denominators/token_mean")[0] -= 2;
  const std::int64_t width = c.want.at("activations/embed").shape[1];
  for (std::int64_t i = 0; i < 3 * width; ++i)
    c.at("activations/embed")[5 * width + i] = c.right("activations/embed")[i];
  CHECK(c.cause() == "rows taken from the wrong place in the output of the embedding");
}

TEST_CASE("rows that several data ranks hold, and others that none does") {
  PlantedCase c("dp2");
  const Shape documents = {8};
  HostTensor counts = HostTensor::zeros(DType::float64, documents);
  for (std::int64_t d = 0; d < 8; ++d) counts.as<double>()[d] = static_cast<double>(d % 3 + 1);
  c.want["denominators/sequence_mean"] = c.got["denominators/sequence_mean"] = counts;
  c.at("denominators/token_mean")[0] += 2;
  c.at("denominators/sequence_mean")[2] *= 2;
  CHECK(c.cause() != "documents held by several data ranks, others by none");
  c.at("denominators/sequence_mean")[4] = 0;
  CHECK(c.cause() == "documents held by several data ranks, others by none");
  c.at("denominators/sequence_mean")[5] = 1.5;
  CHECK(c.cause() != "documents held by several data ranks, others by none");
}

TEST_CASE("a wrong loss of one policy is named where that of token_mean is right") {
  PlantedCase c("uly2");
  c.want["loss/micro_batch_mean"] = c.got["loss/micro_batch_mean"] = HostTensor::zeros(DType::float64, {});
  c.want["loss/micro_batch_mean"].as<double>()[0] = 3, c.at("loss/micro_batch_mean")[0] = 6;
  CHECK(c.cause().starts_with("loss micro_batch_mean multiplied by uly"));
}

TEST_CASE("a wrong value of the router's terms alone is told from a loss of tokens") {
  PlantedCase c("tp2");
  c.want["loss/aux"] = c.got["loss/aux"] = HostTensor::zeros(DType::float64, {});
  c.want["loss/aux"].as<double>()[0] = 3, c.at("loss/aux")[0] = 3.3;
  CHECK(c.cause() == "router's loss terms summed over other rows");
}

TEST_CASE("a wrong step on right gradients is named by what it left out") {
  PlantedCase c("dp1");
  const double amount = c.train.lr * c.train.weight_decay;
  SECTION("decay") {
    for (const auto& [key, tensor] : c.want)
      if (key.rfind("step1/weights/", 0) == 0 && tensor.shape.size() >= 2)
        for (std::int64_t i = 0; i < c.size(key); ++i)
          c.at(key)[i] += amount * c.right("trace/" + key.substr(6))[i];
    CHECK(c.cause() == "weight decay not applied");
  }
  SECTION("decay of vectors") {
    for (const auto& [key, tensor] : c.want)
      if (key.rfind("step1/weights/", 0) == 0 && tensor.shape.size() == 1)
        for (std::int64_t i = 0; i < c.size(key); ++i)
          c.at(key)[i] -= amount * c.right("trace/" + key.substr(6))[i];
    CHECK(c.cause() == "weight decay applied to norms and other vectors");
  }
  SECTION("clipping") {
    const double norm = c.right("grad_norm")[0];
    c.train.eps = 1e-4;
    for (const double limit : {0.5, 2.0}) {
      c.train.max_grad_norm = limit * norm;
      const double right = std::min(1.0, limit), wrong = limit < 1 ? 1 : limit;
      for (auto& [key, tensor] : c.want)
        if (key.rfind("step1/weights/", 0) == 0)
          for (std::int64_t i = 0; i < c.size(key); ++i) {
            const double w = c.right("trace/" + key.substr(6))[i], g = c.right("grads/" + key.substr(14))[i];
            const double keep = decays(tensor.shape) ? 1 - amount : 1;
            const auto stepped = [&](double s) {
              return keep * w - c.train.lr * s * g / (std::fabs(s * g) + c.train.eps);
            };
            tensor.as<double>()[i] = stepped(right), c.at(key)[i] = stepped(wrong);
          }
      CHECK(c.cause() == (limit < 1 ? "gradients not clipped" : "clipping coefficient not held at 1"));
    }
  }
  SECTION("one slice") {
    const std::string name = "weights/model.layers.0.mlp.experts.down_proj";
    for (int i = 0; i < 42; ++i) c.at("step1/" + name)[42 + i] = c.right("trace/" + name)[42 + i];
    CHECK(c.cause() == "part of the weights not updated in step 1");
  }
}

TEST_CASE("gradients wrong from the second step on only") {
  PlantedCase c("dp1");
  for (const auto& [key, tensor] : c.want)
    if (key.rfind("trace/step2/grads/", 0) == 0)
      for (std::int64_t i = 0; i < c.size(key); ++i) c.at(key)[i] += c.right("grads/" + key.substr(18))[i];
  CHECK(c.cause() == "gradients not cleared between steps");
}

TEST_CASE("a forward pass that goes wrong in the second step with right weights used old ones") {
  PlantedCase c("fsdp2");
  c.spoil("trace/step2/activations/layers.1.mixer");
  c.spoil("trace/step2/activations/norm");
  CHECK(c.cause() == "old weights used in step 2");
}

TEST_CASE("a forward pass that goes wrong in the second step by next to nothing used rounded weights") {
  PlantedCase c("fsdp2");
  const std::string key = "trace/step2/activations/layers.1.mixer";
  const Generator noise(5, key);
  for (int i = 0; i < c.size(key); ++i) c.at(key)[i] *= 1 + 1e-9 * noise.normal(i);
  CHECK(c.cause() == "rounding of the weights carried into step 2");
}

TEST_CASE("an axis that changes no shape is the cause, whatever else is wrong") {
  PlantedCase c("tp2", true);
  c.placement = {{"sp", "changes no local shape"}};
  CHECK(c.cause() == "sp has no effect");
}

TEST_CASE("a cause line is read back") {
  Cause cause;
  REQUIRE(parse_cause_line(cause_line({"stale", "a (b: c) d", 0.97}), cause));
  CHECK(cause.name == "stale");
  CHECK(cause.evidence == "a (b: c) d");
  CHECK(cause.confidence == 0.97);
  CHECK(!parse_cause_line("cause   not found", cause));
}

}  // namespace meshparity::diagnose
