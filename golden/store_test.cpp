// A golden comes back as it was written; a file that is none says in one line which field is wrong.
#include "golden/store.h"

#include <catch2/catch.hpp>
#include <cstdlib>
#include <functional>

#include "golden/schema.h"
#include "golden/test_files.h"

namespace meshparity::golden {
namespace {

using Catch::Contains;
using Catch::StartsWith;

const std::string kData = std::string(MESHPARITY_SOURCE_DIR) + "/golden/data/";

// What reading says of a golden after `change`; "" = it reads.
std::string read_changed(const std::function<void(Store&)>& change, Kind kind = Kind::golden) {
  const TemporaryFolder folder;
  Store store = small_golden();
  change(store);
  write(folder.file("g.h5"), store);
  const std::string message = input_error([&] { read(folder.file("g.h5"), kind); });
  if (!message.empty()) CHECK_THAT(message, StartsWith(folder.file("g.h5")));
  return message;
}

}  // namespace

TEST_CASE("a golden reads back as it was written, attributes included") {
  const TemporaryFolder folder;
  const Store store = small_golden();
  write(folder.file("g.h5"), store);
  const Store back = read(folder.file("g.h5"), Kind::golden);
  CHECK(same_content(back, store));
  auto attributes = store.attributes;
  attributes["content_sha256"] = content_hash(store);
  CHECK(back.attributes == attributes);
  CHECK(back.file == folder.file("g.h5"));
  CHECK(folder.entries() == 1);
}

TEST_CASE("equal stores give equal bytes, and writing replaces a file") {
  const TemporaryFolder folder;
  write(folder.file("a.h5"), small_golden());
  spill(folder.file("b.h5"), "what stood here before");
  write(folder.file("b.h5"), small_golden());
  CHECK(slurp(folder.file("a.h5")) == slurp(folder.file("b.h5")));
}

TEST_CASE("every dtype, scalars, empty tensors and empty strings survive a dump") {
  const TemporaryFolder folder;
  Store store;
  for (const DType dtype : {DType::float64, DType::float32, DType::float16, DType::bfloat16, DType::int64,
                            DType::int32, DType::uint8, DType::boolean}) {
    HostTensor tensor = HostTensor::zeros(dtype, {2, 3});
    for (std::size_t i = 0; i < tensor.bytes.size(); ++i) tensor.bytes[i] = std::byte(i % 2);
    store.tensors["expected/" + std::string(dtype_name(dtype))] = tensor;
    store.tensors["expected/empty_" + std::string(dtype_name(dtype))] = HostTensor::zeros(dtype, {0, 3});
    store.tensors["expected/scalar_" + std::string(dtype_name(dtype))] = HostTensor::zeros(dtype, {});
  }
  store.attributes["reason"] = "";
  write(folder.file("d.h5"), store);
  const Store back = read(folder.file("d.h5"), Kind::dump);
  CHECK(same_content(back, store));
  CHECK(back.attributes.at("reason").empty());
}

TEST_CASE("packaged goldens read, and their batches are what their names say") {
  const Store store = read(kData + "tiny-dense.packed-odd.h5", Kind::golden);
  const Batch batch = batch_of(store);
  CHECK(batch.name == "packed-odd");
  CHECK(batch.documents() >= 5);
  CHECK(batch.tokens() == store.tensors.at("expected/logits").shape[0]);
  CHECK(store.has("expected/grads/model.embed_tokens.weight"));
  const Store rows = read(kData + "tiny-moe.rows.h5", Kind::golden);
  CHECK(train_of(rows).steps == 3);
  CHECK(train_of(rows).lr == 1e-3);
  CHECK(batch_of(rows).micro_batches() == 3);
}

TEST_CASE("batch and training come out of the store, and one micro-batch is the default") {
  Store store = small_golden();
  store.file = "x/model.odd-name.h5";
  CHECK(batch_of(store).name == "odd-name");
  CHECK(batch_of(store).micro_batch_rows(1) == Range{1, 2});
  CHECK(train_of(store).steps == 1);
  CHECK(train_of(store).max_grad_norm == 0.5);
  CHECK(batch_of(store).advantages.empty());
  CHECK(batch_of(store).advantage(3) != batch_of(store).advantage(4));  // drawn
  store.tensors["inputs/advantages"] = reals({7}, 0.5);
  store.tensors["inputs/old_logprobs"] = reals({7}, -2);
  CHECK(batch_of(store).advantage(3) == store.tensors["inputs/advantages"].view().at(3));
  CHECK(batch_of(store).old_logprob(0) == store.tensors["inputs/old_logprobs"].view().at(0));
  CHECK(batch_of(store).labels[6] == kIgnoreLabel);
  CHECK(batch_of(store).old_logprob(6) == 0);
  store.tensors["inputs/advantages"].as<double>()[2] = NAN;
  CHECK_THAT(input_error([&] { batch_of(store); }), Contains("inputs/advantages: holds a value"));
  store.tensors.erase("inputs/advantages");
  store.tensors.erase("inputs/micro_batch_offsets");
  CHECK(batch_of(store).micro_batch_offsets == std::vector<std::int64_t>{0, 2});
  store.tensors.erase("inputs/labels");
  CHECK_THAT(input_error([&] { batch_of(store); }), Contains("inputs/labels: is missing"));
}

TEST_CASE("a file that is missing, a folder, or not HDF5 is named") {
  const TemporaryFolder folder;
  CHECK_THAT(input_error([&] { read(folder.file("none.h5"), Kind::golden); }),
             Contains("none.h5: cannot be read"));
  CHECK_THAT(input_error([&] { read(folder.file("."), Kind::golden); }), Contains("is not a file"));
  spill(folder.file("text.h5"), "not HDF5 at all");
  CHECK_THAT(input_error([&] { read(folder.file("text.h5"), Kind::golden); }), Contains("not an HDF5 file"));
  spill(folder.file("empty.h5"), "");
  CHECK_THAT(input_error([&] { read(folder.file("empty.h5"), Kind::golden); }),
             Contains("empty.h5: damaged"));
}

TEST_CASE("a reader that cannot start is no damaged file, and libraries are looked for where ours are") {
  const TemporaryFolder folder;
  // A C++ library of no bytes: the loader refuses it, so the guard ends before its main.
  spill(folder.file("libstdc++.so.6"), "");
  const char* before = std::getenv("LD_LIBRARY_PATH");
  const std::string kept = before ? before : "";
  ::setenv("LD_LIBRARY_PATH", folder.file(".").c_str(), 1);
  CHECK_THROWS_WITH(read(kData + "tiny-dense.single.h5", Kind::golden),
                    Contains("h5guard cannot be started"));
  if (before)
    ::setenv("LD_LIBRARY_PATH", kept.c_str(), 1);
  else
    ::unsetenv("LD_LIBRARY_PATH");
  CHECK_NOTHROW(read(kData + "tiny-dense.single.h5", Kind::golden));
}

TEST_CASE("a truncated golden is damaged at every length") {
  const TemporaryFolder folder;
  write(folder.file("g.h5"), small_golden());
  const std::string bytes = slurp(folder.file("g.h5"));
  for (const std::size_t length :
       {std::size_t{8}, std::size_t{48}, std::size_t{500}, bytes.size() / 2, bytes.size() - 1}) {
    spill(folder.file("cut.h5"), bytes.substr(0, length));
    CHECK_THAT(input_error([&] { read(folder.file("cut.h5"), Kind::golden); }), Contains("cut.h5: damaged"));
  }
}

TEST_CASE("another schema says what to do") {
  const TemporaryFolder folder;
  write(folder.file("g.h5"), small_golden());
  Store store = read(folder.file("g.h5"), Kind::golden);
  store.attributes["schema"] = "2";
  CHECK_THAT(input_error([&] { check_schema(store, Kind::golden); }),
             Contains("schema: is 2") && Contains("golden regenerate"));
  CHECK_THAT(input_error([&] { check_schema(store, Kind::dump); }), Contains("schema: is 2"));
  store.attributes.erase("schema");
  CHECK_THAT(input_error([&] { check_schema(store, Kind::golden); }), Contains("schema: is missing"));
  CHECK(input_error([&] { check_schema(store, Kind::dump); }).empty());
}

TEST_CASE("a golden names what it lacks") {
  for (const char* path :
       {"config", "inputs/token_ids", "inputs/labels", "inputs/document_offsets", "inputs/row_offsets"})
    CHECK_THAT(read_changed([&](Store& s) { s.strings.erase(path), s.tensors.erase(path); }),
               Contains(std::string(path) + ": is missing"));
  CHECK_THAT(read_changed([](Store& s) { s.strings.erase("train"); }), Contains("train: is missing"));
  CHECK_THAT(read_changed([](Store& s) { s.tensors.erase("weights/model.norm.weight"); }),
             Contains("expected/grads/model.norm.weight: belongs to no weight"));
  CHECK_THAT(read_changed([](Store& s) {
               std::erase_if(s.tensors, [](const auto& e) { return e.first.find("inputs/") != 0; });
             }),
             Contains("weights: is missing"));
  CHECK(read_changed([](Store& s) { s.tensors.erase("expected/logits"); }).empty());
  CHECK(read_changed([](Store& s) {
          s.tensors.erase("inputs/micro_batch_offsets"),
              s.tensors.erase("expected/denominators/micro_batch_mean");
        }).empty());
}

TEST_CASE("a wrong dtype names the dataset and what it must be") {
  CHECK_THAT(
      read_changed([](Store& s) { s.tensors["inputs/labels"] = HostTensor::zeros(DType::int32, {7}); }),
      Contains("inputs/labels: has dtype int32, must be int64"));
  CHECK_THAT(read_changed([](Store& s) {
               s.tensors["expected/logits"] = HostTensor::zeros(DType::float32, {7, 5});
             }),
             Contains("expected/logits: has dtype float32, must be float64"));
  CHECK_THAT(read_changed([](Store& s) {
               s.tensors["weights/model.norm.weight"] = HostTensor::zeros(DType::int64, {2});
             }),
             Contains("weights/model.norm.weight: has dtype int64"));
}

TEST_CASE("a wrong shape, an unknown path and a value that is no number are named") {
  const auto set = [](const char* path, Shape shape) {
    return read_changed([&](Store& s) { s.tensors[path] = reals(shape, 0); });
  };
  CHECK_THAT(set("expected/logits", {5, 7}), Contains("expected/logits: has shape [5,7], must be [7,5]"));
  CHECK_THAT(set("expected/logprobs", {6}), Contains("expected/logprobs: has shape [6], must be [7]"));
  CHECK_THAT(set("expected/denominators/sequence_mean", {2}), Contains("must be [3]"));
  CHECK_THAT(set("expected/denominators/aux", {3}), Contains("must be [2]"));
  CHECK_THAT(set("expected/grad_norm", {1}), Contains("must be []"));
  CHECK_THAT(set("expected/grads/model.norm.weight", {3}), Contains("must be [2]"));
  CHECK_THAT(set("weights/model.embed_tokens.weight", {4, 2}), Contains("must be [5,2]"));
  for (const char* path :
       {"grads/x", "expected/logitz", "expected/loss/mean", "expected/step0/weights/model.norm.weight",
        "expected/step01/weights/model.norm.weight", "inputs/tokens", "weights/a/b"})
    CHECK_THAT(set(path, {}), Contains(std::string(path) + ": "));
  CHECK_THAT(set("expected/step3/weights/model.norm.weight", {2}), Contains("expected/step2: is missing"));
  CHECK_THAT(read_changed([](Store& s) { s.tensors["expected/logits"].as<double>()[8] = NAN; }),
             Contains("expected/logits: element 8 is not a finite number"));
  CHECK_THAT(read_changed([](Store& s) { s.strings["notes"] = "x"; }), Contains("notes: is a string"));
}

TEST_CASE("inputs that contradict each other are named") {
  const auto set = [](const char* path, std::vector<std::int64_t> values) {
    return read_changed([&](Store& s) { s.tensors[path] = integers(values); });
  };
  CHECK_THAT(set("inputs/token_ids", {0, 1, 2, 3, 5, 0, 1}), Contains("inputs/token_ids"));
  CHECK_THAT(set("inputs/labels", {2, 2, -100, -100, 0, -100, -100}), Contains("inputs/labels"));
  CHECK_THAT(set("inputs/row_offsets", {0, 2}), Contains("inputs/row_offsets"));
  CHECK_THAT(set("inputs/document_offsets", {}), Contains("inputs/document_offsets"));
}

TEST_CASE("a training that cannot be is named by its field") {
  const auto with = [](const std::string& from, const std::string& to) {
    return read_changed([&](Store& s) {
      auto& text = s.strings["train"];
      text.replace(text.find(from), from.size(), to);
    });
  };
  CHECK_THAT(with("0.001", "0.01"), Contains("train: lr"));
  CHECK_THAT(with("token_mean", "token_men"), Contains("train: loss"));
  CHECK_THAT(with("[0.9, 0.95]", "[0.9]"), Contains("train: betas"));
  CHECK_THAT(with("[0.9, 0.95]", "[0.9, 1.0]"), Contains("train: betas"));
  CHECK_THAT(with("\"eps\"", "\"epsilon\""), Contains("train: epsilon"));
  CHECK_THAT(with("0.1", "true"), Contains("train: weight_decay"));
  CHECK_THAT(with("{", "["), Contains("train: is not a JSON object"));
  CHECK_THAT(with(", \"num_tokens\": 100", ""), Contains("train: num_tokens: is missing"));
}

TEST_CASE("a dump may lack anything and hold any expected tensor, but its inputs must be right") {
  const auto only = [](const std::string& prefix) {
    return [prefix](Store& s) {
      s.strings.clear();
      std::erase_if(s.tensors, [&](const auto& e) { return e.first.rfind(prefix, 0) != 0; });
    };
  };
  CHECK(read_changed(only("expected/"), Kind::dump).empty());
  CHECK(read_changed(only("inputs/"), Kind::dump).empty());
  CHECK(read_changed([](Store& s) { s.tensors["expected/logits"] = HostTensor::zeros(DType::float32, {2}); },
                     Kind::dump)
            .empty());
  CHECK(read_changed([](Store& s) { s.tensors["expected/own"] = reals({3}, NAN); }, Kind::dump).empty());
  CHECK_THAT(read_changed([](Store& s) { s.tensors["grads/x"] = reals({3}, 1); }, Kind::dump),
             Contains("grads/x: is not in the schema"));
  CHECK_THAT(read_changed([](Store& s) { s.tensors["inputs/labels"] = integers({1}); }, Kind::dump),
             Contains("inputs/labels"));
}

TEST_CASE("weights are held against the parameters of a configuration") {
  ModelConfig config;
  config.vocab_size = 5, config.hidden_size = 2, config.tie_word_embeddings = true;
  Store store = small_golden();
  CHECK(input_error([&] { check_weights(store, config); }).empty());
  store.tensors["weights/lm_head.weight"] = reals({5, 2}, 0);
  CHECK_THAT(input_error([&] { check_weights(store, config); }), Contains("lm_head.weight: is no parameter"));
  config.tie_word_embeddings = false;
  CHECK(input_error([&] { check_weights(store, config); }).empty());
  store.tensors["weights/model.norm.weight"] = reals({3}, 0);
  CHECK_THAT(input_error([&] { check_weights(store, config); }),
             Contains("model.norm.weight: has shape [3]"));
  store.tensors.erase("weights/model.norm.weight");
  CHECK_THAT(input_error([&] { check_weights(store, config); }), Contains("model.norm.weight: is missing"));
}

TEST_CASE("images are read, and grids and pixels that disagree are refused by name and both counts") {
  const auto with_images = [](const std::function<void(Store&)>& change = [](Store&) {}) {
    return [change](Store& s) {
      s.tensors["inputs/pixel_values"] = reals({12, 6}, 0.5);
      s.tensors["inputs/image_grid_thw"] = HostTensor::from_int64({2, 3}, {1, 2, 4, 1, 2, 2});
      s.tensors["expected/grads_mtp/model.norm.weight"] = reals({2}, 0.3);
      s.tensors["expected/loss/mtp"] = HostTensor::scalar(2);
      change(s);
    };
  };
  Store store = small_golden();
  with_images()(store);
  const Batch batch = batch_of(store);
  CHECK(batch.images.grids == std::vector<Grid>{{1, 2, 4}, {1, 2, 2}});
  CHECK((batch.images.pixels.size() == 72 && batch.images.pixels[1] == 0.5 + 0.37 && batch.videos.empty()));
  CHECK(read_changed(with_images()).empty());

  const auto refused = [&](const std::function<void(Store&)>& change) {
    return read_changed(with_images(change));
  };
  CHECK_THAT(refused([](Store& s) {
               s.tensors["inputs/pixel_values"] = reals({11, 6}, 0.5);
             }),
             Contains("inputs/pixel_values: has 11 rows; image_grid_thw has 12 patches"));
  CHECK_THAT(refused([](Store& s) { s.tensors.erase("inputs/pixel_values"); }),
             Contains("inputs/pixel_values: is missing, and image_grid_thw is there"));
  CHECK_THAT(refused([](Store& s) {
               s.tensors["inputs/pixel_values_videos"] = reals({1, 6}, 0);
             }),
             Contains("inputs/video_grid_thw: is missing"));
  CHECK_THAT(refused([](Store& s) { s.tensors["inputs/image_grid_thw"].as<std::int64_t>()[4] = 0; }),
             Contains("inputs/image_grid_thw: entry 1 holds 0"));
  CHECK_THAT(refused([](Store& s) { s.tensors["inputs/image_grid_thw"].as<std::int64_t>()[0] = INT64_MAX; }),
             Contains("inputs/image_grid_thw: entry 0 holds"));
  CHECK_THAT(refused([](Store& s) {
               s.tensors["inputs/image_grid_thw"] = integers({1, 2, 4});
             }),
             Contains("inputs/image_grid_thw: has shape [3]"));
  CHECK_THAT(refused([](Store& s) { s.tensors["expected/grads_mtp/model.norm.weight"] = reals({3}, 0); }),
             Contains("grads_mtp/model.norm.weight: has shape [3]"));
  CHECK_THAT(refused([](Store& s) { s.tensors["expected/grads_mtp/mtp.fc.weight"] = reals({3}, 0); }),
             Contains("grads_mtp/mtp.fc.weight: belongs to no weight"));
}

TEST_CASE("what cannot be written is refused before anything touches the disk") {
  const TemporaryFolder folder;
  const auto refused = [&](const std::function<void(Store&)>& change) {
    Store store = small_golden();
    change(store);
    const std::string message = input_error([&] { write(folder.file("g.h5"), store); });
    CHECK(folder.entries() == 0);
    return message;
  };
  CHECK_THAT(refused([](Store& s) { s.tensors["a b"] = reals({1}, 0); }),
             Contains("a b: is no possible path"));
  CHECK_THAT(refused([](Store& s) { s.tensors["/a"] = reals({1}, 0); }), Contains("/a: is no possible path"));
  CHECK_THAT(refused([](Store& s) { s.tensors["expected/grads"] = reals({1}, 0); }),
             Contains("expected/grads: is both a dataset and a group"));
  CHECK_THAT(refused([](Store& s) { s.tensors["config"] = reals({1}, 0); }), Contains("config: is both"));
  CHECK_THAT(refused([](Store& s) {
               s.tensors["expected/logits"].shape = {8, 5};
             }),
             Contains("expected/logits"));
  CHECK_THAT(input_error([&] { write(folder.file("no/such/g.h5"), small_golden()); }),
             Contains("no/such/g.h5: cannot be written"));
}

}  // namespace meshparity::golden
