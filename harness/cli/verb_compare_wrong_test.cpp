// meshparity-judge compare: every way in which a trainer's dump goes wrong fails with the tensor named, and
// what is no dump at all is one line.
#include <cmath>
#include <limits>

#include "harness/cli/compare_fixture.h"

namespace meshparity::cli::compare_test {

TEST_CASE(
    "a gradient that is missing, extra, empty, zero, of wrong shape or dtype, or not a number never passes") {
  struct Wrong {
    const char* name;
    std::function<void(golden::Store&)> plant;
    std::string tensor, said;
  };
  const std::vector<Wrong> wrongs = {
      {"missing", [](auto& d) { d.tensors.erase(grads(kGrad)); }, kGrad, "missing"},
      {"extra", [](auto& d) { d.tensors[grads("model.layers.3.self_attn.q_bias")] = HostTensor::scalar(0); },
       "model.layers.3.self_attn.q_bias", "no parameter of this name"},
      {"empty", [](auto& d) { d.tensors[grads(kGrad)] = HostTensor::zeros(DType::float64, {0}); }, kGrad,
       "shape"},
      {"zero",
       [](auto& d) {
         auto& t = d.tensors.at(grads(kGrad));
         t = HostTensor::zeros(DType::float64, t.shape);
       },
       kGrad, "never arrived"},
      {"transposed",
       [](auto& d) {
         auto& shape = d.tensors.at(grads(kGrad)).shape;
         std::swap(shape[0], shape[1]);
       },
       kGrad, "shape"},
      {"integer",
       [](auto& d) {
         d.tensors[grads(kGrad)] = HostTensor::zeros(DType::int64, d.tensors.at(grads(kGrad)).shape);
       },
       kGrad, "int64"},
      {"nan", [](auto& d) { d.tensors.at(grads(kGrad)).template as<double>()[5] = NAN; }, kGrad,
       "not finite"},
      {"all nan",
       [](auto& d) {
         auto& t = d.tensors.at(grads(kGrad));
         std::fill_n(t.template as<double>(), t.numel(), NAN);
       },
       kGrad, "not finite"},
      {"infinite",
       [](auto& d) {
         d.tensors.at(grads(kGrad)).template as<double>()[5] = std::numeric_limits<double>::infinity();
       },
       kGrad, "not finite"},
      {"unknown dataset", [](auto& d) { d.tensors["expected/step0x/weights/a"] = HostTensor::scalar(1); },
       "expected/step0x/weights/a", "not in the schema"},
      {"unknown folder", [](auto& d) { d.tensors["results/x"] = HostTensor::scalar(1); }, "results/x",
       "not in the schema"},
      {"unknown policy", [](auto& d) { d.tensors["expected/loss/mean"] = HostTensor::scalar(1); },
       "expected/loss/mean", "not in the schema"},
      {"unknown input", [](auto& d) { d.tensors["inputs/mask"] = HostTensor::scalar(1); }, "inputs/mask",
       "extra"},
  };
  for (const auto& wrong : wrongs) {
    INFO(wrong.name);
    golden::Store dump = trainer_dump(kGolden);
    wrong.plant(dump);
    const Judged judged = judge(dump);
    INFO(judged.finished.out);
    CHECK(judged.finished.code == 1);
    REQUIRE(judged.find(wrong.tensor));
    CHECK(judged.state_of(wrong.tensor) == State::invalid);
    CHECK(judged.find(wrong.tensor)->reason.find(wrong.said) != std::string::npos);
    CHECK(judged.finished.out.find("tensor=" + wrong.tensor) != std::string::npos);
  }
}

TEST_CASE("names of wrappers and of the multimodal class are told apart from gradients that are missing") {
  const auto reason = [](const std::string& called) {
    golden::Store dump = trainer_dump(kGolden);
    auto grad = dump.tensors.extract(grads(kGrad));
    grad.key() = grads(called);
    dump.tensors.insert(std::move(grad));
    const Judged judged = judge(dump);
    CHECK(judged.finished.code == 1);
    CHECK(judged.state_of(kGrad) == State::invalid);
    CHECK(judged.state_of(called) == State::invalid);
    return judged.find(kGrad) ? judged.find(kGrad)->reason : "";
  };
  for (const char* called :
       {"module.model.layers.3.self_attn.k_proj.weight", "layers.3.self_attn.k_proj.weight",
        "model.language_model.layers.3.self_attn.k_proj.weight",
        "_orig_mod.model.layers.3._checkpoint_wrapped_module.self_attn.k_proj.weight"})
    CHECK(reason(called) == "missing: the dump calls it " + grads(called) +
                                "; write it under its checkpoint name, " + grads(kGrad));
  CHECK(reason("decoder.3.k.weight") == "missing: the dump does not hold " + grads(kGrad));
}

TEST_CASE("the gradient of a tied head is told where it belongs") {
  golden::Store want = trainer_dump(kGolden), got = want;
  std::string config = golden_store(kGolden).strings.at("config");
  const std::string untied = "\"tie_word_embeddings\": false";
  const auto at = config.find(untied);
  REQUIRE(at != std::string::npos);
  want.strings["config"] = config.replace(at, untied.size(), "\"tie_word_embeddings\": true");
  want.tensors.erase(grads("lm_head.weight"));
  const ScratchFolder folder;
  golden::write(folder.file("got.h5"), got);
  golden::write(folder.file("want.h5"), want);
  const Finished done = execute({MESHPARITY_JUDGE, "compare", folder.file("got.h5"), folder.file("want.h5")});
  INFO(done.out << done.err);
  CHECK(done.code == 1);
  CHECK(done.out.find(
            "tensor=lm_head.weight  extra: the model has no parameter of this name; config.json ties it "
            "to model.embed_tokens.weight") != std::string::npos);
  got.tensors.erase(grads("lm_head.weight"));
  golden::write(folder.file("got.h5"), got);
  CHECK(execute({MESHPARITY_JUDGE, "compare", folder.file("got.h5"), folder.file("want.h5")}).code == 0);
}

TEST_CASE("inputs of another problem are named before anything else") {
  const auto first_bad = [](const Judged& judged) {
    for (const auto& check : judged.run.cases[0].checks)
      if (check.state != State::pass && check.state != State::skip) return check.tensor;
    return std::string();
  };
  SECTION("labels not shifted") {
    golden::Store dump = trainer_dump(kGolden);
    auto& labels = dump.tensors.at("inputs/labels");
    const auto ids = dump.tensors.at("inputs/token_ids").to_int64();
    for (std::int64_t i = 0; i < labels.numel(); ++i)
      if (labels.as<std::int64_t>()[i] != kIgnoreLabel) labels.as<std::int64_t>()[i] = ids[i];
    const Judged judged = judge(dump);
    CHECK(judged.finished.code == 1);
    CHECK(first_bad(judged) == "inputs/labels");
  }
  SECTION("one token") {
    golden::Store dump = trainer_dump(kGolden);
    dump.tensors.at("inputs/token_ids").as<std::int64_t>()[0] ^= 1;
    CHECK(first_bad(judge(dump)) == "inputs/token_ids");
  }
  SECTION("one weight") {
    golden::Store dump = golden_store(kGolden);
    dump.attributes.clear();
    dump.tensors.at("weights/lm_head.weight").as<double>()[3] *= 1 + 1e-15;
    CHECK(first_bad(judge(dump)) == "weights/lm_head.weight");
  }
  SECTION("another model") {
    golden::Store dump = trainer_dump(kGolden);
    std::string config = golden_store(kGolden).strings.at("config");
    const std::string theta = "\"rope_theta\": 10000000.0";
    const auto at = config.find(theta);
    REQUIRE(at != std::string::npos);
    dump.strings["config"] = config;
    CHECK(judge(dump).finished.code == 0);
    dump.strings["config"] = config.replace(at, theta.size(), "\"rope_theta\": 10000.0");
    CHECK(first_bad(judge(dump)) == "config");
    dump.strings["config"] = "{\"model_type\": \"llama\"}";
    CHECK(judge(dump).find("config")->reason.find("model_type") != std::string::npos);
  }
  SECTION("positions") {
    golden::Store dump = trainer_dump(kGolden);
    const std::int64_t n = dump.tensors.at("inputs/token_ids").numel();
    dump.tensors["inputs/position_ids"] = HostTensor::zeros(DType::int64, {3, n});
    CHECK(first_bad(judge(dump)) == "inputs/position_ids");
  }
}

TEST_CASE("a loss divided by the world and a mean of means are found in the loss and its denominator") {
  golden::Store dump = trainer_dump(kGolden);
  dump.tensors.at("expected/loss/token_mean").as<double>()[0] /= 2;
  const Judged halved = judge(dump);
  CHECK(halved.finished.code == 1);
  CHECK(halved.state_of("loss/token_mean") == State::fail);
  dump = trainer_dump(kGolden);
  HostTensor& denominator = dump.tensors.at("expected/denominators/token_mean");
  const auto count_of_labels = static_cast<std::int64_t>(denominator.as<double>()[0]);
  denominator = HostTensor::from_int64({}, {count_of_labels});
  CHECK(judge(dump).finished.code == 0);
  denominator = HostTensor::from_int64({}, {count_of_labels + 1});
  CHECK(judge(dump).state_of("denominators/token_mean") == State::fail);
  dump = trainer_dump(kGolden);
  dump.tensors.at("expected/denominators/token_mean").as<double>()[0] += 1;
  const Judged count = judge(dump);
  CHECK(count.finished.code == 1);
  CHECK(count.state_of("denominators/token_mean") == State::fail);
}

// What check.py writes with one of its lines broken, made without it: this runs where no transformers is.
TEST_CASE("labels not shifted, a loss divided by the world and a gradient that is None fail in both dtypes") {
  for (const auto& file : {kGolden, kMoeGolden})
    for (const bool float32 : {false, true}) {
      INFO(file << (float32 ? " in float32" : " in float64"));
      const auto judged = [&](const golden::Store& dump) {
        const Judged result = judge(float32 ? in_float32(dump) : dump, {}, file);
        CHECK(result.finished.code == (result.run.cases[0].state == State::pass ? 0 : 1));
        return result;
      };
      const golden::Store whole = trainer_dump(file);
      CHECK(judged(whole).finished.code == 0);

      golden::Store unshifted = whole;  // the logprob of the token itself
      const HostTensor& logits = whole.tensors.at("expected/logits");
      const auto ids = whole.tensors.at("inputs/token_ids").to_int64();
      const auto labels = whole.tensors.at("inputs/labels").to_int64();
      const std::int64_t vocab = logits.shape[1];
      for (std::size_t t = 0; t < ids.size(); ++t) {
        if (labels[t] == kIgnoreLabel) continue;
        const double* row = logits.as<double>() + static_cast<std::int64_t>(t) * vocab;
        double sum = 0;
        for (std::int64_t v = 0; v < vocab; ++v) sum += std::exp(row[v]);
        unshifted.tensors.at("expected/logprobs").as<double>()[t] = row[ids[t]] - std::log(sum);
      }
      CHECK(judged(unshifted).state_of("logprobs") == State::fail);

      golden::Store divided = whole;
      for (auto& [path, tensor] : divided.tensors)
        if (path.rfind("expected/grads/", 0) == 0)
          for (std::int64_t i = 0; i < tensor.numel(); ++i) tensor.as<double>()[i] /= 2;
      const Judged halved = judged(divided);
      std::size_t passed = 0;
      for (const auto& check : halved.run.cases[0].checks)
        passed += check.check == "grads" && check.state == State::pass;
      CHECK(passed == 0);
      CHECK(halved.state_of(kGrad) == State::fail);
      const CheckResult* scale = halved.find(kScale);
      REQUIRE(scale);
      CHECK(scale->state == State::fail);
      CHECK(scale->reason.starts_with("all gradients together are 0.5"));
      CHECK(judge(float32 ? in_float32(divided) : divided, {"--check", "loss"}, file).finished.code == 1);

      golden::Store none = whole;
      none.tensors.erase(grads(kGrad));
      CHECK(judged(none).state_of(kGrad) == State::invalid);
      const Judged loss_alone = judge(float32 ? in_float32(none) : none, {"--check", "loss"}, file);
      CHECK(loss_alone.finished.code == 1);
      CHECK(loss_alone.state_of(kScale) == State::invalid);
    }
}

TEST_CASE("a dump that holds nothing or only inputs never passes") {
  golden::Store dump;
  dump.tensors["inputs/token_ids"] = golden_store(kGolden).tensors.at("inputs/token_ids");
  CHECK(judge(dump).finished.code == 1);
  const Judged judged = judge(dump, {"--check", "inputs"});
  CHECK(judged.finished.code == 1);
  CHECK(judged.run.cases[0].state == State::untrusted);
}

TEST_CASE("files that are none and options that are none are one line and exit 2") {
  const ScratchFolder folder;
  const std::string text = folder.write("text.h5", "not HDF5"), whole = slurp(kGolden);
  const std::string cut = folder.write("cut.h5", whole.substr(0, whole.size() / 2));
  golden::Store other = trainer_dump(kGolden);
  golden::write(folder.file("dump.h5"), other);
  const std::string dump = folder.file("dump.h5");
  HostTensor& logits = other.tensors.at("expected/logits");
  logits = HostTensor::zeros(DType::float16, logits.shape);
  logits.as<std::uint16_t>()[0] = 0x3C00;  // 1
  golden::write(folder.file("half.h5"), other);
  struct Wrong {
    std::vector<std::string> arguments;
    const char* said;
  };
  const std::vector<Wrong> wrongs = {
      {{"compare", "--golden", kGolden, text}, "text.h5"},
      {{"compare", "--golden", kGolden, cut}, "cut.h5"},
      {{"compare", "--golden", cut, dump}, "cut.h5"},
      {{"compare", "--golden", dump, dump}, "dump.h5"},  // a dump is no golden: it lacks hashes or weights
      {{"compare", "--golden", dump, kGolden},
       "dump.h5: config: is missing; a golden must have it"},  // swapped
      {{"compare", "--golden", kGolden, folder.file("")}, "is not a file"},
      {{"compare", "--golden", kGolden, folder.file("none.h5")}, "none.h5"},
      {{"compare", "--golden", kGolden, folder.file("half.h5")}, "expected/logits: is judged as float16"},
      {{"compare", "--golden", kGolden, dump, "--dtype", "bfloat16"}, "docs/tolerance.md#what-has-no-row"},
      {{"compare", dump}, "--golden"},
      {{"compare", "--golden", kGolden, dump, dump}, "one side"},
      {{"compare", "--golden", kGolden}, "dump"},
      {{"compare", "--golden", kGolden, dump, "--check", "logit"}, "logit"},
      {{"compare", "--golden", kGolden, dump, "--dtype", "float7"}, "float7"},
      {{"compare", "--golden", kGolden, dump, "--dtype", "int64"}, "int64"},
      {{"compare", "--golden", kGolden, dump, "--goldn", "x"}, "--goldn"},
      {{"compare", "--golden", kGolden, dump, "--json", folder.file("no/r.json")}, "no/r.json"},
      {{"compare", dump, dump, "--model", "no-such-model"}, "no-such-model"},
  };
  for (const auto& wrong : wrongs) {
    std::vector<std::string> argv = {MESHPARITY_JUDGE};
    argv.insert(argv.end(), wrong.arguments.begin(), wrong.arguments.end());
    const Finished done = execute(argv);
    INFO(wrong.said << " -> " << done.err);
    CHECK(done.code == 2);
    CHECK(done.err.rfind("meshparity: ", 0) == 0);
    CHECK(done.err.find(wrong.said) != std::string::npos);
    CHECK(std::count(done.err.begin(), done.err.end(), '\n') == 1);
  }
}

}  // namespace meshparity::cli::compare_test
