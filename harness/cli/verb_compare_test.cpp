// meshparity-judge compare, run as a user runs it: dumps made from packaged goldens pass where they equal
// them and fail, with the tensor named, for every way in which a trainer's dump goes wrong.
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>

#include "golden/store.h"
#include "harness/cli/command_fixture.h"
#include "harness/types/command_line.h"
#include "reports/report.h"

namespace meshparity::cli::verb_compare_test {
namespace {

const std::string kGolden = MESHPARITY_SOURCE_DIR "/golden/data/tiny-dense.packed-odd.h5";
const std::string kMoeGolden = MESHPARITY_SOURCE_DIR "/golden/data/tiny-moe.packed-odd.h5";
const std::string kStepsGolden = MESHPARITY_SOURCE_DIR "/golden/data/tiny-dense.rows.h5";
const char* const kGrad = "model.layers.3.self_attn.k_proj.weight";

const golden::Store& golden_store(const std::string& file) {
  static std::map<std::string, golden::Store> stores;
  auto found = stores.find(file);
  if (found == stores.end()) found = stores.emplace(file, golden::read(file, golden::Kind::golden)).first;
  return found->second;
}

// What a trainer writes: the results and the inputs it read, no weights, no hashes of another file.
golden::Store trainer_dump(const std::string& file) {
  golden::Store dump;
  for (const auto& [path, tensor] : golden_store(file).tensors)
    if (path.rfind("weights/", 0) != 0 && path.find("step") == std::string::npos)
      dump.tensors.emplace(path, tensor);
  return dump;
}

// The same, computed in float32.
golden::Store in_float32(golden::Store dump) {
  for (auto& [path, tensor] : dump.tensors) {
    if (tensor.dtype != DType::float64) continue;
    HostTensor narrow = HostTensor::zeros(DType::float32, tensor.shape);
    for (std::int64_t i = 0; i < tensor.numel(); ++i)
      narrow.as<float>()[i] = static_cast<float>(tensor.as<double>()[i]);
    tensor = narrow;
  }
  return dump;
}

// Judges a dump and keeps what was printed and the verdicts.
struct Judged {
  Finished finished;
  reports::Run run;
  const CheckResult* find(const std::string& tensor) const {
    for (const auto& check : run.cases.at(0).checks)
      if (check.tensor == tensor) return &check;
    return nullptr;
  }
  State state_of(const std::string& tensor) const {
    const CheckResult* check = find(tensor);
    return check ? check->state : State::error;
  }
};

Judged judge(const golden::Store& dump, std::vector<std::string> more = {},
             const std::string& golden_file = kGolden) {
  const ScratchFolder folder;
  golden::write(folder.file("dump.h5"), dump);
  std::vector<std::string> argv = {
      MESHPARITY_JUDGE,          "compare", "--golden", golden_file, folder.file("dump.h5"), "--json",
      folder.file("result.json")};
  argv.insert(argv.end(), more.begin(), more.end());
  Judged judged;
  judged.finished = execute(argv);
  INFO(judged.finished.out << judged.finished.err);
  REQUIRE(judged.finished.code < 2);
  CHECK(judged.finished.err.empty());
  judged.run = reports::from_json(slurp(folder.file("result.json")), "result.json");
  return judged;
}

std::string grads(const std::string& name) {
  return "expected/grads/" + name;
}

}  // namespace

TEST_CASE("a dump that equals the golden passes, every gradient listed") {
  const Judged judged = judge(trainer_dump(kGolden));
  INFO(judged.finished.out);
  CHECK(judged.finished.code == 0);
  CHECK(judged.finished.out.find("PASS ") != std::string::npos);
  std::size_t gradients = 0;
  for (const auto& check : judged.run.cases[0].checks) gradients += check.check == "grads";
  CHECK(gradients == 70);
  CHECK(judged.state_of("inputs/labels") == State::pass);
  CHECK(judged.state_of("weights") == State::skip);
}

TEST_CASE("a golden passes against itself, weights and steps included") {
  const ScratchFolder folder;
  const Finished done =
      execute({MESHPARITY_JUDGE, "compare", "--golden", kStepsGolden, kStepsGolden, "--json",
               folder.file("r.json"), "--junit", folder.file("r.xml"), "--markdown", folder.file("r.md")});
  INFO(done.out << done.err);
  CHECK(done.code == 0);
  CHECK(done.out.find("weights      PASS          210") != std::string::npos);
  CHECK(slurp(folder.file("r.xml")).find("<testsuites") != std::string::npos);
  CHECK(slurp(folder.file("r.md")).find("### Bounds") != std::string::npos);
}

TEST_CASE("a dump without inputs and with one loss policy passes and says what was not there") {
  golden::Store dump = trainer_dump(kGolden);
  std::erase_if(dump.tensors, [](const auto& entry) {
    const std::string& path = entry.first;
    const bool loss =
        path.find("/loss/") != std::string::npos || path.find("/denominators/") != std::string::npos;
    return path.rfind("inputs/", 0) == 0 || (loss && !path.ends_with("/token_mean"));
  });
  const Judged judged = judge(dump);
  CHECK(judged.finished.code == 0);
  CHECK(judged.state_of("inputs/labels") == State::skip);
  CHECK(judged.find("inputs/labels")->reason.find("not in the dump") != std::string::npos);
  CHECK(judged.state_of("loss/sum") == State::skip);
  CHECK(judged.state_of("loss/token_mean") == State::pass);
}

TEST_CASE("rounding passes and anything larger in one gradient fails by name") {
  golden::Store dump = trainer_dump(kGolden);
  double* g = dump.tensors.at(grads(kGrad)).as<double>();
  g[7] *= 1 + 1e-15;
  CHECK(judge(dump).finished.code == 0);
  g[7] *= 1 + 1e-6;
  const Judged judged = judge(dump);
  CHECK(judged.finished.code == 1);
  CHECK(judged.state_of(kGrad) == State::fail);
  CHECK(judged.finished.out.find("FAIL ") != std::string::npos);
  CHECK(judged.finished.out.find(std::string("check=grads tensor=") + kGrad) != std::string::npos);
  std::size_t bad = 0;
  for (const auto& check : judged.run.cases[0].checks)
    bad += check.state != State::pass && check.state != State::skip;
  CHECK(bad == 1);
}

TEST_CASE("the re-run line of a failing tensor judges that tensor again") {
  golden::Store dump = trainer_dump(kGolden);
  dump.tensors.at(grads(kGrad)).as<double>()[0] += 1;
  const ScratchFolder folder;
  golden::write(folder.file("my dump.h5"), dump);
  const Finished first =
      execute({MESHPARITY_JUDGE, "compare", "--golden", kGolden, folder.file("my dump.h5")});
  const auto at = first.out.find("  rerun   ./meshparity ");
  REQUIRE(at != std::string::npos);
  auto words = split_words(first.out.substr(at + 10, first.out.find('\n', at) - at - 10));
  words[0] = MESHPARITY_JUDGE;
  const Finished again = execute(words);
  CHECK(again.code == 1);
  CHECK(again.out.find(std::string("tensor=") + kGrad) != std::string::npos);
  CHECK(again.out.find("1 listed  0 pass  1 fail") != std::string::npos);
  CHECK(again.out.find("logits") == std::string::npos);
}

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

      golden::Store none = whole;
      none.tensors.erase(grads(kGrad));
      CHECK(judged(none).state_of(kGrad) == State::invalid);
    }
}

TEST_CASE("what was not asked for is neither missed nor judged") {
  golden::Store dump = trainer_dump(kGolden);
  std::erase_if(dump.tensors,
                [](const auto& entry) { return entry.first.find("/grads/") != std::string::npos; });
  CHECK(judge(dump).finished.code == 1);
  CHECK(judge(dump, {"--check", "logits,logprobs,loss"}).finished.code == 0);
  CHECK(judge(dump, {"--check", "grads"}).finished.code == 1);
  CHECK(judge(dump, {"--check", "logits", "--tensor", "no.such*"}).finished.code == 1);  // nothing compared
  dump.tensors.erase("expected/logprobs");
  CHECK(judge(dump, {"--check", "logits"}).finished.code == 0);
  CHECK(judge(dump, {"--check", "logits,logprobs"}).finished.code == 1);
}

TEST_CASE("a dump that holds nothing or only inputs never passes") {
  golden::Store dump;
  dump.tensors["inputs/token_ids"] = golden_store(kGolden).tensors.at("inputs/token_ids");
  CHECK(judge(dump).finished.code == 1);
  const Judged judged = judge(dump, {"--check", "inputs"});
  CHECK(judged.finished.code == 1);
  CHECK(judged.run.cases[0].state == State::untrusted);
}

TEST_CASE("steps are judged as far as the dump took them") {
  golden::Store dump = golden_store(kStepsGolden);
  dump.attributes.clear();
  std::erase_if(dump.tensors,
                [](const auto& entry) { return entry.first.find("/step3/") != std::string::npos; });
  CHECK(judge(dump, {}, kStepsGolden).finished.code == 0);
  CHECK(judge(dump, {"--check", "weights"}, kStepsGolden).finished.code ==
        1);  // asked for: the third is missing
  dump.tensors.at("expected/step2/weights/lm_head.weight").as<double>()[0] += 1e-4;
  const Judged judged = judge(dump, {}, kStepsGolden);
  CHECK(judged.finished.code == 1);
  CHECK(judged.state_of("step2/lm_head.weight") == State::fail);
  dump.tensors.erase("expected/step2/weights/lm_head.weight");
  CHECK(judge(dump, {}, kStepsGolden).state_of("step2/lm_head.weight") == State::invalid);
}

TEST_CASE("an expert that got no token has no gradient: exactly in the last layer, by the bound below it") {
  const auto plant = [](int layer, double value) {
    golden::Store dump = trainer_dump(kMoeGolden);
    HostTensor& g =
        dump.tensors.at(grads("model.layers." + std::to_string(layer) + ".mlp.experts.down_proj"));
    const std::int64_t slice = g.numel() / g.shape[0], idle = g.shape[0] - 1;
    for (std::int64_t i = 0; i < slice; ++i) REQUIRE(g.as<double>()[idle * slice + i] == 0);
    g.as<double>()[idle * slice] = value;
    const Judged judged = judge(dump, {}, kMoeGolden);
    CHECK(judged.finished.code == (judged.run.cases[0].state == State::pass ? 0 : 1));
    return judged.state_of("model.layers." + std::to_string(layer) + ".mlp.experts.down_proj");
  };
  CHECK(plant(4, 0) == State::pass);
  CHECK(plant(4, 1e-25) == State::fail);
  CHECK(plant(0, 1e-25) == State::pass);  // what documents that are summed together leave of a cancellation
  CHECK(plant(0, 1e-9) == State::fail);   // a token that should not be there
}

TEST_CASE("a float32 dump is judged by float32 bounds, and a gradient too small for them must still arrive") {
  golden::Store dump = in_float32(trainer_dump(kGolden));
  CHECK(judge(dump).finished.code == 0);
  dump.tensors.at(grads(kGrad)).as<float>()[0] += 0.05f;
  CHECK(judge(dump).state_of(kGrad) == State::fail);
  auto& small = dump.tensors.at(grads("model.layers.0.linear_attn.A_log"));
  small = HostTensor::zeros(DType::float32, small.shape);
  CHECK(judge(dump).state_of("model.layers.0.linear_attn.A_log") == State::invalid);
}

TEST_CASE("what was computed in float32 and stored in float64 is told to need --dtype") {
  golden::Store dump = trainer_dump(kGolden);
  for (auto& [path, tensor] : dump.tensors)
    if (tensor.dtype == DType::float64)
      for (std::int64_t i = 0; i < tensor.numel(); ++i)
        tensor.as<double>()[i] = static_cast<float>(tensor.as<double>()[i]);
  const Judged judged = judge(dump);
  CHECK(judged.finished.code == 1);
  CHECK(judged.finished.out.find("judged with --dtype float32") != std::string::npos);
  CHECK(judge(dump, {"--dtype", "float32"}).finished.code == 0);
  for (auto& [path, tensor] : dump.tensors)
    if (path.find("/grads/") != std::string::npos)
      for (std::int64_t i = 0; i < tensor.numel(); ++i) tensor.as<double>()[i] *= 1.1;
  CHECK(judge(dump, {"--check", "grads"}).finished.out.find("--dtype float32") == std::string::npos);
}

TEST_CASE("a loss and a norm are as precise as what they were computed from, not as they are stored") {
  const golden::Store want = trainer_dump(kGolden);
  golden::Store dump = in_float32(want);
  // loss.item() and grad_norm.item(): float32 numbers in float64 datasets.
  for (const char* path : {"expected/loss/token_mean", "expected/grad_norm"})
    dump.tensors.at(path) =
        HostTensor::scalar(static_cast<float>(want.tensors.at(path).as<double>()[0] * (1 + 1e-7)));
  CHECK(judge(dump).finished.code == 0);
  dump.tensors.at("expected/loss/token_mean").as<double>()[0] *= 1 + 1e-4;
  CHECK(judge(dump).state_of("loss/token_mean") == State::fail);
  // Beside float64 logits the same digits are a fault.
  dump = want;
  dump.tensors.at("expected/loss/token_mean").as<double>()[0] *= 1 + 1e-7;
  CHECK(judge(dump).state_of("loss/token_mean") == State::fail);
  dump = want;
  dump.tensors.at("expected/grad_norm").as<double>()[0] *= 1 + 1e-7;
  CHECK(judge(dump).state_of("grad_norm") == State::fail);
}

TEST_CASE("a dump can be judged by another dump") {
  const ScratchFolder folder;
  golden::Store a = trainer_dump(kGolden), b = a;
  golden::write(folder.file("a.h5"), a);
  CHECK(execute({MESHPARITY_JUDGE, "compare", folder.file("a.h5"), folder.file("a.h5")}).code == 0);
  b.tensors.at(grads(kGrad)).as<double>()[0] += 1e-3;
  golden::write(folder.file("b.h5"), b);
  const Finished differ = execute({MESHPARITY_JUDGE, "compare", folder.file("a.h5"), folder.file("b.h5")});
  CHECK(differ.code == 1);
  CHECK(differ.out.find(kGrad) != std::string::npos);
  b.tensors.erase(grads(kGrad));
  golden::write(folder.file("b.h5"), b);
  // The other side lacks it: told, not judged.
  CHECK(execute({MESHPARITY_JUDGE, "compare", folder.file("a.h5"), folder.file("b.h5")}).code == 0);
  CHECK(execute({MESHPARITY_JUDGE, "compare", folder.file("b.h5"), folder.file("a.h5")}).code == 1);
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

}  // namespace meshparity::cli::verb_compare_test
