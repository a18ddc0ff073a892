// meshparity-judge compare: what passes, within which bounds, and what its options and its re-run line
// select.
#include "harness/cli/compare_fixture.h"
#include "harness/types/command_line.h"

namespace meshparity::cli::compare_test {

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
  // What all gradients have in common fails before it, and says which gradient came first.
  CHECK(first.out.find(std::string("tensor=") + kScale) < first.out.find(std::string("tensor=") + kGrad));
  const auto at = first.out.find("  rerun   ./meshparity ", first.out.find(std::string("tensor=") + kGrad));
  REQUIRE(at != std::string::npos);
  auto words = split_words(first.out.substr(at + 10, first.out.find('\n', at) - at - 10));
  words[0] = MESHPARITY_JUDGE;
  const Finished again = execute(words);
  CHECK(again.code == 1);
  CHECK(again.out.find(std::string("tensor=") + kGrad) != std::string::npos);
  CHECK(again.out.find("1 listed  0 pass  1 fail") != std::string::npos);
  CHECK(again.out.find("logits") == std::string::npos);
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

}  // namespace meshparity::cli::compare_test
