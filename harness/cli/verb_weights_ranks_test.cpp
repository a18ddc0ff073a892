// meshparity weights on torch .pt files and on one file per rank, as a user types it, with faults planted.
#include <algorithm>
#include <catch2/catch.hpp>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>

#include "golden/checkpoint.h"
#include "golden/dumps/dump_fixture.h"
#include "golden/safetensors.h"
#include "golden/store.h"
#include "harness/cli/command_fixture.h"
#include "harness/layout/layout.h"
#include "harness/run/case_options.h"
#include "scenarios/initial_weights.h"
#include "scenarios/load.h"

namespace meshparity::cli::verb_weights_ranks_test {

using Weights = std::map<std::string, HostTensor>;
using ByRank = std::vector<Weights>;

Finished weights(std::vector<std::string> words) {
  words.insert(words.begin(), {MESHPARITY_JUDGE, "weights"});
  return execute(words);
}

struct Saved {
  ScratchFolder folder;
  ModelConfig config;
  Weights whole;
  std::string directory;

  explicit Saved(const std::string& model) : config(scenarios::load_model(model)) {
    whole = scenarios::initial_weights(config, 7);
    directory = folder.file("hf");
    golden::save_checkpoint(directory, config.json, whole);
  }

  ByRank cut(const std::string& mesh_text) const {
    const Mesh mesh = Mesh::parse(mesh_text);
    Batch batch;
    batch.token_ids = {0}, batch.labels = {kIgnoreLabel};
    batch.document_offsets = {0, 1}, batch.row_offsets = {0, 1}, batch.micro_batch_offsets = {0, 1};
    const layout::LayoutMap map(config, mesh, run::canonical_flags(mesh, Flags{}, nullptr), batch,
                                scenarios::load_placements(config));
    ByRank ranks(static_cast<std::size_t>(mesh.world()));
    for (int rank = 0; rank < mesh.world(); ++rank)
      for (const auto& [name, tensor] : whole) {
        const layout::LocalIndex index = map.local("weights/" + name, rank);
        if (shape_numel(index.local_shape()) > 0)
          ranks[static_cast<std::size_t>(rank)][name] = layout::shard(index, tensor.view());
      }
    return ranks;
  }

  // Writes every rank's file and names them all.
  std::string write(const ByRank& ranks, const std::string& format) const {
    for (std::size_t rank = ranks.size(); rank < 16; ++rank)  // of the case before
      std::filesystem::remove(folder.file("rank" + std::to_string(rank) + "." + format));
    for (std::size_t rank = 0; rank < ranks.size(); ++rank) {
      const std::string path = folder.file("rank" + std::to_string(rank) + "." + format);
      if (format == "safetensors") golden::write_safetensors(path, ranks[rank]);
      if (format == "pt")
        folder.write("rank" + std::to_string(rank) + ".pt", dumps::state_dict_of(ranks[rank]));
      if (format != "h5") continue;
      golden::Store store;
      for (const auto& [name, tensor] : ranks[rank]) store.tensors["weights/" + name] = tensor;
      golden::write(path, store);
    }
    return folder.file("rank*." + format);
  }
};

void flip(HostTensor& tensor, std::size_t element) {
  tensor.bytes[element * dtype_size(tensor.dtype) + 1] ^= std::byte{0x55};
}

TEST_CASE("weights: a state dict in a .pt equals the directory, and a weight that differs is named") {
  Saved saved("tiny-moe");
  const std::string file = saved.folder.write("w.pt", dumps::state_dict_of(saved.whole));
  const Finished equal = weights({file, saved.directory});
  INFO(equal.out << equal.err);
  CHECK(equal.code == 0);
  CHECK(equal.out.rfind("EQUAL ", 0) == 0);
  flip(saved.whole.at("model.norm.weight"), 3);
  const Finished wrong =
      weights({saved.folder.write("x.pt", dumps::state_dict_of(saved.whole)), saved.directory});
  CHECK(wrong.code == 1);
  CHECK(wrong.out.find("WRONG model.norm.weight") != std::string::npos);
  CHECK(wrong.out.find("differ  1 of ") != std::string::npos);
  const Finished hostile =
      weights({std::string(MESHPARITY_SOURCE_DIR) + "/golden/dumps/fixtures/hostile.pt", saved.directory});
  CHECK(hostile.code == 2);
  CHECK(hostile.err.find("names 'posix.system', which is refused") != std::string::npos);
}

TEST_CASE("weights: files of every rank, in three formats and on four meshes, are put together") {
  for (const auto& [mesh, format] : {std::pair{"fsdp2.tp2", "safetensors"},
                                     {"pp2.tp2", "h5"},
                                     {"dp2.fsdp2", "pt"},
                                     {"fsdp2.tp2.ep4", "safetensors"}}) {
    const Saved saved("tiny-moe");
    const Finished done = weights({saved.write(saved.cut(mesh), format), saved.directory, "--mesh", mesh});
    INFO(mesh << " " << format << "\n" << done.out << done.err);
    CHECK(done.code == 0);
    CHECK(done.out.rfind("EQUAL ", 0) == 0);
    CHECK(done.out.find("RANKS") == std::string::npos);
  }
}

TEST_CASE("weights: what is wrong with one rank's file is named") {
  const Saved saved("tiny-dense");
  const auto said = [&](const std::string& mesh, const std::function<void(ByRank&)>& spoil,
                        const std::string& what) {
    ByRank ranks = saved.cut(mesh);
    spoil(ranks);
    const Finished done = weights({saved.directory, saved.write(ranks, "safetensors"), "--mesh", mesh,
                                   "--json", saved.folder.file("r.json")});
    INFO(what << "\n" << done.out << done.err);
    CHECK(done.code == 1);
    CHECK(done.out.find(what) != std::string::npos);
    return nlohmann::json::parse(slurp(saved.folder.file("r.json")));
  };
  const std::string norm = "model.norm.weight", embed = "model.embed_tokens.weight";
  // A replica that differs: the lowest rank's is what is compared, so no weight is wrong.
  const auto replica = said(
      "dp2.tp2", [&](ByRank& r) { flip(r[2].at(norm), 5); },
      "RANKS " + norm +
          ": replicas differ in 1 of 24 elements that several ranks hold, first [5] rank 0 against rank 2");
  CHECK(replica["equal"] == true);
  CHECK(replica["ranks"].size() == 1);
  // A shard that is another rank's: the comparison names rows.
  said(
      "fsdp2", [&](ByRank& r) { flip(r[1].at(embed), 0); }, "WRONG " + embed);
  said(
      "fsdp2", [&](ByRank& r) { r[1].erase(embed); },
      "RANKS " + embed + ": rank 1 emitted nothing, its part is");
  said(
      "tp2", [&](ByRank& r) { r[1].at(norm) = HostTensor::zeros(DType::float64, {23}); },
      "RANKS " + norm + ": rank 1 emitted local shape [23], its part is [24]");
  said(
      "tp2", [&](ByRank& r) { r[0]["model.extra.weight"] = HostTensor::zeros(DType::float64, {2}); },
      "model.extra.weight: the model has no such weight");
  said(
      "fsdp2", [&](ByRank& r) { r[0].erase(norm), r[1].erase(norm); }, "WRONG " + norm + "  is missing");
}

TEST_CASE(
    "weights: a pattern without a mesh, ranks that are missing and a mesh that is refused are one clear "
    "line") {
  const Saved saved("tiny-dense");
  const std::string pattern = saved.write(saved.cut("tp2"), "safetensors");
  const auto refused = [&](const std::vector<std::string>& words, const std::string& what) {
    const Finished done = weights(words);
    INFO(what << "\n" << done.out << done.err);
    CHECK(done.code == 2);
    CHECK(done.err.find(what) != std::string::npos);
    CHECK(std::count(done.err.begin(), done.err.end(), '\n') == 1);
  };
  refused({pattern, saved.directory}, "say on which mesh, --mesh");
  refused({saved.directory, saved.directory, "--mesh", "tp2"}, "no side names per-rank files");
  refused({pattern, saved.directory, "--mesh", "tp4"}, "names 2 files, the mesh has 4 ranks");
  refused({pattern, saved.directory, "--mesh", "tp7"}, "tp7");
  refused({pattern, saved.directory, "--mesh", "tpx"}, "tpx");
  refused({pattern, pattern, "--mesh", "tp2"}, "--model is missing");
  refused({saved.folder.file("none*.pt"), saved.directory, "--mesh", "tp2"}, "none*.pt: no such file");
  std::filesystem::rename(saved.folder.file("rank1.safetensors"), saved.folder.file("rank2.safetensors"));
  refused({pattern, saved.directory, "--mesh", "tp2"}, "rank 1 has no file");
  const Saved moe("tiny-moe");
  ByRank ranks = moe.cut("tp2");
  ranks[0]["model.layers.0.mlp.experts.0.up_proj.weight"] = HostTensor::zeros(DType::float64, {2, 2});
  refused({moe.write(ranks, "safetensors"), moe.directory, "--mesh", "tp2"}, "experts are stored one by one");
}

}  // namespace meshparity::cli::verb_weights_ranks_test
