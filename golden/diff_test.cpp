// A difference is measured, sorted into its kind, and explained only by what can cause it.
#include "golden/diff.h"

#include <catch2/catch.hpp>
#include <cmath>

#include "golden/inspect.h"
#include "golden/test_files.h"

namespace meshparity::golden {
namespace {

using Catch::Contains;
using State = DatasetDiff::State;

const std::string kGrad = "expected/grads/model.norm.weight";

DatasetDiff at(const std::vector<DatasetDiff>& diffs, const std::string& path) {
  for (const auto& one : diffs)
    if (one.path == path) return one;
  FAIL("no entry for " << path);
  return {};
}

template <class Edit>
Change changed(Edit edit) {
  Store store = small_golden();
  edit(store);
  return explain_change(small_golden(), store);
}

void add(Store& store, const std::string& path, std::int64_t element, double delta) {
  store.tensors.at(path).as<double>()[element] += delta;
}

}  // namespace

TEST_CASE("equal files differ nowhere") {
  const auto diffs = diff(small_golden(), small_golden());
  CHECK(diffs.size() == small_golden().tensors.size() + 2);
  for (const auto& one : diffs) CHECK(one.state == State::identical);
  CHECK_THAT(diff_text(diffs), Contains("20 datasets, 20 identical"));
  const Change change = changed([](Store&) {});
  CHECK(change.identical);
  CHECK(change.within_rounding);
  CHECK(change.text == "identical\n");
}

TEST_CASE("a difference is counted and measured") {
  Store got = small_golden();
  add(got, "expected/logits", 3, 0.5);
  add(got, "expected/logits", 9, -1.25);
  const DatasetDiff one = at(diff(got, small_golden()), "expected/logits");
  CHECK(one.state == State::outside);
  CHECK(one.elements == 35);
  CHECK(one.differing == 2);
  CHECK(one.max_abs == Approx(1.25));
  CHECK(one.norm == Approx(std::sqrt(0.25 + 1.5625)));
}

TEST_CASE("missing, extra, other shapes and texts are told apart") {
  Store got = small_golden();
  got.tensors.erase("expected/logprobs");
  got.tensors["expected/loss/sum"] = HostTensor::scalar(1);
  got.tensors["expected/grad_norm"] = reals({1}, 0.75);
  got.strings["config"].replace(got.strings["config"].find("5,"), 2, "6,");
  const auto diffs = diff(got, small_golden());
  CHECK(at(diffs, "expected/logprobs").state == State::missing);
  CHECK(at(diffs, "expected/loss/sum").state == State::extra);
  CHECK(at(diffs, "expected/grad_norm").what == "float64 [1] instead of float64 []");
  CHECK(at(diffs, "config").what == "vocab_size 5 -> 6");
}

TEST_CASE("the same JSON in other words is no change, nor is the library that wrote it") {
  const Change change = changed([](Store& s) {
    s.strings["config"] =
        R"({"hidden_size":2,"vocab_size":5,"transformers_version":"9","model_type":"qwen3_5_text"})";
  });
  CHECK(change.within_rounding);
  CHECK_FALSE(change.identical);
}

TEST_CASE("differences within the float64 bounds are rounding, one above them is not") {
  // The gradient's floor: 1e-11 * 1e-3 * grad_norm is below 1e-11 * ||want|| here.
  const double norm = std::hypot(0.2, 0.57);
  CHECK(changed([&](Store& s) { add(s, kGrad, 0, 0.9e-11 * norm); }).within_rounding);
  CHECK_FALSE(changed([&](Store& s) { add(s, kGrad, 0, 1.1e-11 * norm); }).within_rounding);
  CHECK(changed([](Store& s) { add(s, "expected/loss/token_mean", 0, 1.2e-12); }).within_rounding);
  CHECK_FALSE(changed([](Store& s) { add(s, "expected/loss/token_mean", 0, 1.3e-12); }).within_rounding);
  CHECK_FALSE(
      changed([](Store& s) { add(s, "expected/denominators/token_mean", 0, 1e-15); }).within_rounding);
  CHECK(changed([](Store& s) { add(s, "weights/model.norm.weight", 0, 1e-15); }).within_rounding);
  // Stepped weights: lr / eps = 1e3 times the gradient's bound, but never above 1e-9 of the largest element
  // each.
  const std::string step = "expected/step1/weights/model.norm.weight";
  CHECK(changed([&](Store& s) { add(s, step, 0, 1e-9); }).within_rounding);
  CHECK_FALSE(changed([&](Store& s) { add(s, step, 0, 2e-9); }).within_rounding);
}

TEST_CASE("not a number is outside every bound") {
  const Change change = changed([](Store& s) { s.tensors.at(kGrad).as<double>()[0] = NAN; });
  CHECK(change.numerics);
  CHECK_THAT(change.text, Contains("not finite"));
}

TEST_CASE("a change is explained by what decides it and by nothing else") {
  const auto grads = [](Store& s) { add(s, kGrad, 0, 1); };
  const Change numerics = changed(grads);
  CHECK(numerics.numerics);
  CHECK_FALSE(numerics.explained());
  CHECK_THAT(numerics.text, Contains("although all that decides them is the same") && Contains(kGrad));
  const auto with = [&](auto cause) { return changed([&](Store& s) { cause(s), grads(s); }); };
  const Change weights = with([](Store& s) { add(s, "weights/model.norm.weight", 1, 1); });
  CHECK(weights.weights);
  CHECK(weights.explained());
  const Change inputs = with([](Store& s) {
    s.tensors["inputs/token_ids"] = integers({1, 1, 2, 3, 4, 0, 1});
  });
  CHECK(inputs.inputs);
  CHECK(inputs.explained());
  const Change config = with([](Store& s) { s.strings["config"] = R"({"vocab_size": 6})"; });
  CHECK(config.config);
  CHECK(config.explained());
  const Change train =
      with([](Store& s) { s.strings["train"].replace(s.strings["train"].find("0.5"), 3, "0.4"); });
  CHECK(train.train);
  CHECK_THAT(train.text, Contains("max_grad_norm 0.5 -> 0.4"));
  const Change lost = changed([](Store& s) { s.tensors.erase("expected/logits"); });
  CHECK(lost.lost);
  CHECK_FALSE(lost.explained());
  const Change added = changed([](Store& s) { s.tensors["expected/loss/sum"] = HostTensor::scalar(1); });
  CHECK(added.added);
  CHECK(added.explained());
  CHECK_FALSE(added.within_rounding);
}

TEST_CASE("a change of what made the file is told") {
  CHECK_THAT(changed([](Store& s) { s.attributes["versions"] = "{}"; }).text,
             Contains("versions: absent -> {}"));
}

TEST_CASE("inspect tells the batch, the training and every dataset") {
  Store store = small_golden();
  store.file = "m.odd.h5";
  const std::string text = inspect(store);
  for (const char* part :
       {"m.odd.h5", "reason         first", "batch odd", "7, 3 with a valid label", "3, lengths 3 1 3",
        "2, documents in each 2 1", "2, rows in each 1 1", "train token_mean", "steps held 1", "18 tensors",
        "expected/loss/token_mean", "1.25", "float64 [7,5]"})
    CHECK_THAT(text, Contains(part));
  const HostTensor& logits = store.tensors.at("expected/logits");
  CHECK_THAT(text, Contains(sha256_hex(logits.bytes.data(), logits.bytes.size()).substr(0, 12)));
  Store dump;
  dump.tensors["expected/logits"] = reals({2}, NAN);
  CHECK_THAT(inspect(dump), Contains("2 not finite"));
}

TEST_CASE("gradients of mtp have the bound of gradients, with the norm of their own") {
  const auto with_mtp = [](double change) {
    Store store = small_golden();
    store.tensors["expected/grads_mtp/model.norm.weight"] = reals({2}, 1e-6);
    store.tensors["expected/grads_mtp/model.embed_tokens.weight"] = reals({5, 2}, 30);
    store.tensors.at("expected/grads_mtp/model.norm.weight").as<double>()[0] += change;
    return store;
  };
  const Store old_store = with_mtp(0);
  const std::string path = "expected/grads_mtp/model.norm.weight";
  const auto state = [&](double change) {
    return at(diff(with_mtp(change), old_store, float64_bounds(old_store)), path).state;
  };
  CHECK(state(0) == State::identical);
  CHECK(state(3e-12) == State::within);
  CHECK(state(3e-11) == State::outside);
}

}  // namespace meshparity::golden
