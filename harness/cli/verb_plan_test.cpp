// meshparity plan, run as a user runs it: what it prints, what it refuses, and a wrong placement that it
// finds.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "harness/cli/command_fixture.h"
#include "scenarios/load.h"

namespace meshparity::cli::verb_plan_test {
namespace {

namespace fs = std::filesystem;

Finished plan(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), {MESHPARITY_JUDGE, "plan"});
  return execute(arguments);
}

nlohmann::json read_json(const std::string& path) {
  std::ifstream in(path);
  return nlohmann::json::parse(in);
}

void check_refused(const Finished& done, const std::string& said) {
  INFO(done.out << done.err);
  CHECK(done.code == 2);
  CHECK(done.err.find(said) != std::string::npos);
  CHECK(std::count(done.err.begin(), done.err.end(), '\n') == 1);
  CHECK(done.out.empty());
}

// A copy of the scenarios for the length of a test.
class Scenarios {
 public:
  explicit Scenarios(const ScratchFolder& folder) : path_(folder.file("scenarios")) {
    fs::copy(scenarios::scenarios_dir(), path_, fs::copy_options::recursive);
    ::setenv("MESHPARITY_SCENARIOS", path_.c_str(), 1);
  }
  ~Scenarios() { ::unsetenv("MESHPARITY_SCENARIOS"); }
  Scenarios(const Scenarios&) = delete;
  Scenarios& operator=(const Scenarios&) = delete;
  // Replaces text of placements.toml that stands there.
  void change(const std::string& from, const std::string& to) {
    const fs::path file = fs::path(path_) / "placements.toml";
    std::ifstream in(file);
    std::string text((std::istreambuf_iterator<char>(in)), {});
    const auto at = text.find(from);
    REQUIRE(at != std::string::npos);
    text.replace(at, from.size(), to);
    std::ofstream(file) << text;
  }

 private:
  std::string path_;
};

}  // namespace

TEST_CASE("plan gives every rank of a mesh its parameters, bytes and traffic") {
  const ScratchFolder folder;
  const std::string file = folder.file("plan.json");
  const Finished done = plan({"--model", "tiny-dense", "--mesh", "pp2.fsdp2.tp2", "--dtype", "float64",
                              "--gradient-dtype", "float64", "--optimizer-dtype", "float64", "--rows", "6",
                              "--row-tokens", "12", "--ranks", "--json", file});
  INFO(done.out << done.err);
  CHECK(done.code == 0);
  for (const char* line : {"pp2.fsdp2.tp2", "8 ranks", "3 micro-batches of 2", "activations (estimate)",
                           "every element", "7 pp1.fsdp1.tp1"})
    CHECK(done.out.find(line) != std::string::npos);
  const auto json = read_json(file);
  REQUIRE(json["ranks"].size() == 8);
  std::int64_t stored = 0;
  for (const auto& rank : json["ranks"]) {
    stored += rank["parameters"].get<std::int64_t>();
    CHECK(rank["parameter_bytes"] == 8 * rank["parameters"].get<std::int64_t>());
    CHECK(rank["optimizer_bytes"] == 16 * rank["parameters"].get<std::int64_t>());
  }
  // Eight ranks together hold more than one model (norms are whole on tp) and less than two.
  CHECK(stored > json["parameters"].get<std::int64_t>());
  CHECK(stored < 2 * json["parameters"].get<std::int64_t>());
  std::vector<std::string> axes;
  for (const auto& axis : json["axes"]) axes.push_back(axis["axis"]);
  for (const char* axis : {"pp", "fsdp", "tp"}) CHECK(std::count(axes.begin(), axes.end(), axis) == 1);
}

TEST_CASE("plan of a world lists every valid mesh, least memory first, and counts the refused") {
  const ScratchFolder folder;
  const std::string file = folder.file("plan.json");
  const Finished done = plan({"--model", "tiny-moe", "--world", "8", "--list", "5", "--json", file});
  INFO(done.out << done.err);
  CHECK(done.code == 0);
  const auto json = read_json(file);
  std::size_t valid = 0, refused = 0;
  for (const Mesh& mesh : enumerate_meshes(8))
    (refusal(mesh, {}, scenarios::load_model("tiny-moe")).empty() ? valid : refused)++;
  CHECK(json["meshes"].size() == valid);
  std::size_t counted = 0;
  for (const auto& entry : json["refused"]) counted += entry["meshes"].get<std::size_t>();
  CHECK(counted == refused);
  std::int64_t before = 0;
  for (const auto& mesh : json["meshes"]) {
    CHECK(mesh["bytes"].get<std::int64_t>() >= before);
    before = mesh["bytes"];
  }
  CHECK(done.out.find("(--list 0 prints all)") != std::string::npos);
}

TEST_CASE("plan of the largest model on 4096 ranks needs neither its memory nor its ranks") {
  const Finished done = plan(
      {"--model", "qwen3.5-397b-a17b", "--mesh", "pp4.fsdp64.tp16.ep64", "--sp", "on", "--recompute", "on"});
  INFO(done.out << done.err);
  CHECK(done.code == 0);
  CHECK(done.out.find("4096 ranks") != std::string::npos);
  CHECK(done.out.find("owned as planned") != std::string::npos);
}

TEST_CASE("images of a row cost activations and traffic on the first stage alone") {
  const ScratchFolder folder;
  const auto planned = [&](const char* patches, const char* vision) {
    const std::string file = folder.file(std::string(patches) + vision);
    const Finished done =
        plan({"--model", "tiny-vl", "--mesh", "pp2.tp2.ring2", "--rows", "4", "--row-tokens", "40",
              "--row-patches", patches, "--vision", vision, "--json", file});
    INFO(done.out << done.err);
    REQUIRE(done.code == 0);
    return read_json(file);
  };
  const auto tp_bytes = [](const nlohmann::json& json) {
    for (const auto& axis : json["axes"])
      if (axis["axis"] == "tp") return axis["most_bytes"].get<std::int64_t>();
    return std::int64_t{-1};
  };
  const auto without = planned("0", "tensor"), with = planned("16", "tensor"),
             images = planned("16", "images");
  CHECK(with["ranks"][0]["activation_bytes"] > without["ranks"][0]["activation_bytes"]);
  CHECK(with["ranks"][7]["activation_bytes"] == without["ranks"][7]["activation_bytes"]);
  CHECK(tp_bytes(with) > tp_bytes(without));
  // Whole images: the tower's weights are whole on every rank, and each takes a part of the patches.
  CHECK(images["ranks"][0]["parameters"] > with["ranks"][0]["parameters"]);
  CHECK(images["ranks"][0]["activation_bytes"] < with["ranks"][0]["activation_bytes"]);
}

TEST_CASE("plan refuses what cannot be, with the reason") {
  const std::string big = "qwen3.5-397b-a17b";
  check_refused(plan({"--model", big, "--mesh", "tp32"}), "tp32: tp must divide linear_num_key_heads=16");
  check_refused(plan({"--model", big, "--mesh", "tp2", "--sp", "maybe"}), "--sp 'maybe' is unknown: off, on");
  check_refused(plan({"--model", big, "--mesh", "fsdp2", "--sp", "on"}), "sp=on needs tp > 1");
  check_refused(plan({"--model", big, "--mesh", "tp2", "--sp", "all"}), "--sp: plan takes one value");
  check_refused(plan({"--model", big, "--mesh", "tp2x"}), "mesh 'tp2x'");
  check_refused(plan({"--model", big}), "--mesh");
  check_refused(plan({"--model", big, "--mesh", "tp2", "--world", "2"}), "--mesh");
  check_refused(plan({"--model", big, "--world", "0"}), "--world");
  check_refused(plan({"--model", "no-model", "--mesh", "tp2"}), "no-model");
  check_refused(plan({"--mesh", "tp2", "--rows", "0"}), "--rows");
  check_refused(plan({"--world", "2", "--list", "-1"}), "--list");
  check_refused(plan({"--mesh", "tp2", "--list", "3"}), "--list");
  check_refused(plan({"--world", "2", "--ranks"}), "--ranks");
  check_refused(plan({"--mesh", "tp2", "--dtype", "int8"}), "--dtype 'int8'");
  check_refused(plan({"--model", "tiny-dense", "--mesh", "tp2", "--row-patches", "4"}),
                "has no vision tower");
  check_refused(plan({"--model", big, "--mesh", "tp2", "--row-patches", "6"}), "must be a multiple of 4");
  check_refused(plan({"--mesh", "tp2", "--json", "/nowhere/plan.json"}),
                "/nowhere/plan.json: cannot be written");
}

TEST_CASE("plan finds a wrong placement, names the parameter and exits 1") {
  const ScratchFolder folder;
  Scenarios scenarios(folder);
  // The FFN's last product whole on every tp rank.
  scenarios.change(
      "name = \"*.layers.*.mlp.down_proj.weight\"\ntp_dim = 1\ntp_blocks = [{ count = \"intermediate_size\" "
      "}]",
      "name = \"*.layers.*.mlp.down_proj.weight\"");
  for (const std::vector<std::string>& how : {std::vector<std::string>{"--mesh", "tp2"}, {"--world", "4"}}) {
    std::vector<std::string> words = {"--model", "tiny-dense"};
    words.insert(words.end(), how.begin(), how.end());
    const Finished done = plan(words);
    INFO(done.out << done.err);
    CHECK(done.code == 1);
    CHECK(done.out.find("FAIL NOT owned as planned: ") != std::string::npos);
    CHECK(done.out.find("model.layers.0.mlp.down_proj.weight: indices 0 to 23 of dimension 0 are held by ") !=
          std::string::npos);
  }
}

}  // namespace meshparity::cli::verb_plan_test
