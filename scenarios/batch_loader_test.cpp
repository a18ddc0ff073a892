// Batches as TOML: documents, rows, micro-batches and labels come out as written, and every wrong entry is
// named.
#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>

#include "harness/types/error.h"
#include "harness/types/generator.h"
#include "scenarios/fields.h"
#include "scenarios/load.h"
#include "scenarios/temporary_file_fixture.h"

namespace meshparity::scenarios {
namespace {

ModelConfig vocabulary(std::int64_t size) {
  ModelConfig config;
  config.vocab_size = size;
  return config;
}

std::string refusal_of(const std::string& toml) {
  const TemporaryFile file(toml, ".toml");
  try {
    load_batch(file.path(), vocabulary(61));
    load_train(file.path());
  } catch (const InputError& e) {
    CHECK(std::string(e.what()).rfind(file.path() + ": ", 0) == 0);
    return std::string(e.what()).substr(file.path().size() + 2);
  }
  return "accepted";
}

}  // namespace

TEST_CASE("samples of a prompt begin with its tokens, and labels follow them") {
  const TemporaryFile file("seed = 3\nrows = [[2, 3], [4, 3]]\nprompts = [[1, 3, 2]]\n", ".toml");
  const Batch b = load_batch(file.path(), vocabulary(61));
  for (std::int64_t d : {2, 3})
    for (std::int64_t i : {0, 1}) CHECK(b.token_ids[b.document(d).begin + i] == b.token_ids[2 + i]);
  CHECK(b.labels[b.document(2).begin] == b.token_ids[3]);
  CHECK(b.token_ids[b.document(2).begin + 2] != b.token_ids[4]);
  CHECK(refusal_of("seed = 3\nrows = [[2, 3]]\nprompts = [[1, 2, 2]]\n").find("prompts[0][1]") == 0);
  CHECK(refusal_of("seed = 3\nrows = [[2, 3]]\nprompts = [[0, 2, 3]]\n").find("prompts[0][2]") == 0);
  CHECK(refusal_of("seed = 3\nrows = [[2, 3]]\nprompts = [2]\n").find("prompts[0]: must be") == 0);
}

TEST_CASE("a batch is cut into documents, rows and micro-batches as written") {
  const TemporaryFile file(
      "seed = 3\nrows = [[3, 1], [2], [1, 4]]\nmicro_batches = [1, 2]\nmasked = [[7, 9]]\n", ".toml");
  const Batch b = load_batch(file.path(), vocabulary(61));
  CHECK(b.document_offsets == std::vector<std::int64_t>{0, 3, 4, 6, 7, 11});
  CHECK(b.row_offsets == std::vector<std::int64_t>{0, 2, 3, 5});
  CHECK(b.micro_batch_offsets == std::vector<std::int64_t>{0, 1, 3});
  const Generator ids(3, "token_ids");
  for (std::int64_t i = 0; i < 11; ++i) CHECK(b.token_ids[i] == ids.below(i, 61));
  // Labels: next token inside a document; none at its end (2, 3, 5, 6, 10) and where masked (7, 8).
  for (std::int64_t i : {0, 1, 4, 9}) CHECK(b.labels[i] == b.token_ids[i + 1]);
  for (std::int64_t i : {2, 3, 5, 6, 7, 8, 10}) CHECK(b.labels[i] == kIgnoreLabel);
}

TEST_CASE("packaged batches load for both models and the steps stand in rows alone") {
  for (const char* model : {"tiny-dense", "tiny-moe"}) {
    const ModelConfig config = load_model(model);
    CHECK(load_batch("single", config).documents() == 1);
    CHECK(load_batch("packed-odd", config).documents() >= 5);
    CHECK(load_batch("rows", config).rows() == 11);
    CHECK(load_batch("rows", config).micro_batches() == 3);
  }
  CHECK(load_train("rows").steps == 3);
  CHECK(load_train("single").steps == 0);
  CHECK(load_train("rows").max_grad_norm == 0.5);
}

TEST_CASE("every wrong entry of a batch is named") {
  struct Wrong {
    const char* toml;
    const char* said;
  };
  const Wrong wrongs[] = {
      {"rows = [[3]]", "seed: missing"},
      {"seed = -1\nrows = [[3]]", "seed: must be from 0"},
      {"seed = 1", "rows: missing"},
      {"seed = 1\nrows = []", "rows: must be a list"},
      {"seed = 1\nrows = [3]", "rows[0]: must be a list"},
      {"seed = 1\nrows = [[3], []]", "rows[1]: must be a list"},
      {"seed = 1\nrows = [[3], [0]]", "rows[1][0]: must be from 1"},
      {"seed = 1\nrows = [[3], [2.5]]", "rows[1][0]: must be a whole number"},
      {"seed = 1\nrows = [[268435456, 1]]", "rows[0][1]: the batch passes"},
      {"seed = 1\nrows = [[3], [2]]\nmicro_batches = [1]", "micro_batches: sums to 1, rows has 2"},
      {"seed = 1\nrows = [[3]]\nmicro_batches = [0, 1]", "micro_batches[0]: must be from 1"},
      {"seed = 1\nrows = [[3]]\nmasked = [[2, 4]]", "masked[0][1]: must be from 2 to 3"},
      {"seed = 1\nrows = [[3]]\nmasked = [[2, 1]]", "masked[0][1]: must be from 2"},
      {"seed = 1\nrows = [[3]]\nmasked = [2]", "masked[0]: must be a pair"},
      {"seed = 1\nrows = [[3]]\nmask = [[0, 1]]", "mask: unknown field"},
      {"seed = 1\nrows = [[3]\n", "line "},
      {"seed = 1\nrows = [[3]]\ntrain = 3", "train: must be a table"},
      {"seed = 1\nrows = [[3]]\n[train]\nlr = 0", "train.lr: must be above 0"},
      {"seed = 1\nrows = [[3]]\n[train]\nlr = nan", "train.lr: must be finite"},
      {"seed = 1\nrows = [[3]]\n[train]\nlr = 0.1", "train.lr: must be at most"},
      {"seed = 1\nrows = [[3]]\n[train]\nbeta1 = 1.0", "train.beta1: must be at least 0"},
      {"seed = 1\nrows = [[3]]\n[train]\nloss = \"mean\"", "train.loss: 'mean' is no loss policy"},
      {"seed = 1\nrows = [[3]]\n[train]\nwarmup = 3", "train.warmup: unknown field"},
      {"seed = 1979-05-27\nrows = [[3]]", "seed: must be a whole number"},
  };
  for (const auto& wrong : wrongs) {
    const std::string said = refusal_of(wrong.toml);
    INFO(wrong.toml << "\n-> " << said);
    CHECK(said.rfind(wrong.said, 0) == 0);
    CHECK(said.find('\n') == std::string::npos);
  }
}

TEST_CASE("a batch without any label and a batch of single tokens are batches") {
  const TemporaryFile file("seed = 1\nrows = [[1], [1, 1], [4]]\nmasked = [[0, 7]]\n", ".toml");
  const Batch b = load_batch(file.path(), vocabulary(2));
  CHECK(b.tokens() == 7);
  for (auto label : b.labels) CHECK(label == kIgnoreLabel);
}

TEST_CASE("a case file loses its comments and keeps its line numbers") {
  const TemporaryFile file("# head\n\n--mesh tp2  # why\n  --tensor '*#1' --mesh dp2\t\r\n#\n--last#1\n",
                           ".cases");
  const auto lines = load_cases(file.path());
  REQUIRE(lines.size() == 3);
  CHECK(lines[0].number == 3);
  CHECK(lines[0].text == "--mesh tp2");
  CHECK(lines[1].number == 4);
  CHECK(lines[1].text == "--tensor '*#1' --mesh dp2");
  CHECK(lines[2].text == "--last#1");
  CHECK(load_cases("basic").size() == 1);
  CHECK(load_cases("ci.cases")[0].text == load_cases("ci")[0].text);
  CHECK_THROWS_AS(load_cases("no-such"), InputError);
}

TEST_CASE("positions of grids: rows and columns, and text behind the larger side") {
  // Document 0: one word, an image of 2 x 3, one word. Document 1: text. Document 2: an image of 2 x 1 alone.
  const TemporaryFile file("seed = 3\nrows = [[8, 2], [2]]\ngrids = [[1, 2, 3], [10, 2, 1]]\n", ".toml");
  const Batch b = load_batch(file.path(), vocabulary(61));
  CHECK(b.position_ids == std::vector<std::int64_t>{0, 1, 1, 1, 1, 1, 1, 4, 0, 1, 0, 0,    // t
                                                    0, 1, 1, 1, 2, 2, 2, 4, 0, 1, 0, 1,    // h
                                                    0, 1, 2, 3, 1, 2, 3, 4, 0, 1, 0, 0});  // w
  const TemporaryFile text("seed = 3\nrows = [[8, 2], [2]]\n", ".toml");
  CHECK(load_batch(text.path(), vocabulary(61)).position_ids.empty());
}

TEST_CASE("grids that do not fit are refused by their field") {
  const std::string head = "seed = 3\nrows = [[8, 2], [2]]\n";
  CHECK(refusal_of(head + "grids = 5\n") == "grids: must be a list of [first token, rows, columns]");
  CHECK(refusal_of(head + "grids = [[1, 2]]\n") == "grids[0]: must be [first token, rows, columns]");
  CHECK(refusal_of(head + "grids = [[6, 1, 3]]\n") == "grids[0]: does not lie inside one document");
  CHECK(refusal_of(head + "grids = [[12, 1, 1]]\n") == "grids[0]: does not lie inside one document");
  CHECK(refusal_of(head + "grids = [[1, 2, 2], [4, 1, 1]]\n") ==
        "grids[1]: begins before the end of the one before it");
  CHECK(refusal_of(head + "grids = [[1, 0, 2]]\n").rfind("grids[0][1]: ", 0) == 0);
}

TEST_CASE("images and videos take the places of text, and text models do not see them") {
  const std::string toml =
      "seed = 3\nrows = [[9, 14]]\nmicro_batches = [1]\nimages = [[1, 2, 4]]\nvideos = [[9, 2, 2, 4]]\n";
  const TemporaryFile file(toml, ".toml");
  const ModelConfig tower = load_model("tiny-vl");
  const Batch b = load_batch(file.path(), tower), text = load_batch(file.path(), vocabulary(61));
  CHECK(text.images.empty());
  std::vector<std::int64_t> want = text.token_ids;
  const std::vector<std::int64_t> image = {63, 61, 61, 64}, frame = {63, 62, 62, 64};
  std::copy(image.begin(), image.end(), want.begin() + 1);
  std::copy(frame.begin(), frame.end(), want.begin() + 9);
  std::copy(frame.begin(), frame.end(), want.begin() + 14);
  CHECK(b.token_ids == want);
  CHECK(b.images.grids == std::vector<Grid>{{1, 2, 4}});
  CHECK(b.videos.grids == std::vector<Grid>{{2, 2, 4}});
  CHECK((b.images.pixels.size() == 8 * 24 && b.videos.pixels.size() == 16 * 24));
  CHECK(b.images.pixels[0] == 2 * Generator(3, "pixel_values").uniform(0) - 1);
  CHECK(b.videos.pixels[5] == 2 * Generator(3, "pixel_values_videos").uniform(5) - 1);
  CHECK(b.position_ids.empty());
  // No label where the next token is a placeholder.
  for (const std::size_t t : {1, 2, 9, 10, 14, 15}) CHECK(b.labels[t] == kIgnoreLabel);
  CHECK((b.labels[0] == 63 && b.labels[3] == 64 && b.labels[13] == 63));
}

TEST_CASE("images that do not fit are refused by their field") {
  const auto refused = [](const std::string& lines) {
    const TemporaryFile file("seed = 3\nrows = [[9, 14]]\n" + lines, ".toml");
    try {
      load_batch(file.path(), load_model("tiny-vl"));
    } catch (const InputError& e) {
      return std::string(e.what()).substr(file.path().size() + 2);
    }
    return std::string("accepted");
  };
  CHECK(refused("images = 5\n") == "images: must be a list of [first token, rows, columns]");
  CHECK(refused("videos = [[1, 2, 2]]\n") == "videos[0]: must be [first token, frames, rows, columns]");
  CHECK(refused("images = [[1, 2, 3]]\n") == "images[0]: rows and columns must be multiples of 2");
  CHECK(refused("images = [[7, 2, 2]]\n") == "images[0]: does not lie inside one document");
  CHECK(refused("images = [[1, 2, 4]]\nvideos = [[4, 1, 2, 2]]\n") ==
        "videos[0]: begins before the end of the one before it");
  CHECK(refused("images = [[1, 2, 4]]\ngrids = [[10, 1, 1]]\n").rfind("grids: stands beside images", 0) == 0);
  CHECK(refused("images = [[1, 0, 4]]\n").rfind("images[0][1]: ", 0) == 0);
}

}  // namespace meshparity::scenarios
