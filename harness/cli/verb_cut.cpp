// meshparity cut --from HF_DIR --layers 4 --experts 8 --vocab 4096 --to DIR writes a small Qwen3.5 checkpoint
// with the real weights of a big one: the first layers, whose order of kinds is the model's; the first
// experts with their rows of the router; the first rows of embedding and head. Vision tower and multi-token
// prediction stay, with as few experts. What it means for config.json, and which ids move, is in
// docs/cut.md.
#include "harness/cli/verb_cut.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "golden/checkpoint_cut.h"
#include "golden/checkpoint_files.h"
#include "harness/cli/staging_folder.h"
#include "harness/types/atomic_file.h"
#include "harness/types/command_line.h"
#include "harness/types/error.h"
#include "scenarios/load.h"

namespace meshparity::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

struct CutOptions {
  std::string from, to;
  std::int64_t layers = 0, experts = 0, vocab = 0;  // 0: as many as there are
  bool force = false;
};

// An id that lay outside the smaller vocabulary and what became of it.
struct MovedId {
  std::string field;
  std::int64_t from = 0, to = -1;  // -1: left out
};

std::string read_config(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  std::string text((std::istreambuf_iterator<char>(in)), {});
  if (!in) throw InputError(file.string() + ": cannot be read");
  return text;
}

std::int64_t kept(const char* option, const char* field, std::int64_t asked, std::int64_t there) {
  if (asked > there)
    throw InputError("--" + std::string(option) + " " + std::to_string(asked) + " is more than " + field +
                     "=" + std::to_string(there) + " of the checkpoint");
  return asked == 0 ? there : asked;
}

// The rows of the vocabulary that stay, and what becomes of the ids that config.json names. A placeholder of
// the vision tower outside the first rows gets one of the last places, with its own row: without it the
// tower's output has no token. Other ids outside are left out.
struct Vocabulary {
  std::vector<Range> rows;
  std::vector<MovedId> moved;
};

class ConfigCutter {
 public:
  ConfigCutter(ordered_json root, const ModelConfig& from, const CutOptions& o)
      : root_(std::move(root)), from_(from), o_(o) {}

  std::string cut(Vocabulary& vocabulary) {
    ordered_json& text = root_.contains("text_config") ? root_["text_config"] : root_;
    const std::int64_t layers = kept("layers", "num_hidden_layers", o_.layers, from_.num_hidden_layers);
    text["num_hidden_layers"] = layers;
    if (text.contains("layer_types") && text["layer_types"].is_array())
      while (static_cast<std::int64_t>(text["layer_types"].size()) > layers)
        text["layer_types"].erase(text["layer_types"].size() - 1);
    if (o_.experts > 0 && !from_.is_moe()) throw InputError("--experts: " + o_.from + " is a dense model");
    if (from_.is_moe()) {
      const std::int64_t experts = kept("experts", "num_experts", o_.experts, from_.num_experts);
      text["num_experts"] = experts;
      text["num_experts_per_tok"] = std::min(experts, from_.num_experts_per_tok);
    }
    for (ordered_json* table : {&root_, &text})
      if (from_.mtp_num_hidden_layers == 0 && table->contains("mtp_num_hidden_layers"))
        (*table)["mtp_num_hidden_layers"] = 0;
    size_ = kept("vocab", "vocab_size", o_.vocab, from_.vocab_size);
    text["vocab_size"] = size_;
    if (size_ < from_.vocab_size) move_ids(vocabulary);
    vocabulary.rows = rows(vocabulary.moved);
    return root_.dump(2) + "\n";
  }

 private:
  void move_ids(Vocabulary& vocabulary) {
    std::vector<std::int64_t> named;  // ids whose rows must stay where they are
    std::vector<std::pair<std::string, std::int64_t>> outside;
    const auto placeholder = [&](const char* field, std::int64_t id) {
      if (!from_.has_vision()) return;
      if (id < size_)
        named.push_back(id);
      else
        outside.emplace_back(field, id);
    };
    placeholder("image_token_id", from_.image_token_id);
    placeholder("video_token_id", from_.video_token_id);
    placeholder("vision_start_token_id", from_.vision_start_token_id);
    placeholder("vision_end_token_id", from_.vision_end_token_id);
    std::int64_t place = size_;
    for (const auto& [field, id] : outside) {
      do --place;
      while (std::count(named.begin(), named.end(), place) > 0);
      if (place < 1)
        throw InputError("--vocab " + std::to_string(size_) +
                         " leaves no row beside those of the placeholders");
      root_[field] = place;
      vocabulary.moved.push_back({field, id, place});
    }
    leave_out(root_, "", vocabulary);
    if (root_.contains("text_config")) leave_out(root_["text_config"], "text_config.", vocabulary);
  }

  // Begin, end and padding: one id, a list of them, or null.
  void leave_out(ordered_json& table, const std::string& prefix, Vocabulary& vocabulary) {
    for (const char* field : {"bos_token_id", "eos_token_id", "pad_token_id"}) {
      if (!table.contains(field)) continue;
      ordered_json& value = table[field];
      const auto outside = [&](const ordered_json& id) {
        if (!id.is_number_integer() || id.get<std::int64_t>() < size_) return false;
        vocabulary.moved.push_back({prefix + field, id.get<std::int64_t>(), -1});
        return true;
      };
      if (value.is_array()) {
        ordered_json inside = ordered_json::array();
        for (const auto& id : value)
          if (!outside(id)) inside.push_back(id);
        value = inside.empty() ? ordered_json() : inside;
      } else if (outside(value)) {
        value = nullptr;
      }
    }
  }

  std::vector<Range> rows(const std::vector<MovedId>& moved) const {
    std::vector<Range> list;
    std::int64_t next = 0;
    std::vector<MovedId> order;
    for (const MovedId& id : moved)
      if (id.to >= 0) order.push_back(id);
    std::sort(order.begin(), order.end(), [](const MovedId& a, const MovedId& b) { return a.to < b.to; });
    for (const MovedId& id : order) {
      if (next < id.to) list.push_back({next, id.to});
      list.push_back({id.from, id.from + 1});
      next = id.to + 1;
    }
    if (next < size_) list.push_back({next, size_});
    return list;
  }

  ordered_json root_;
  const ModelConfig& from_;
  const CutOptions& o_;
  std::int64_t size_ = 0;
};

std::string layers_text(const ModelConfig& from, const ModelConfig& to) {
  const auto full = std::count(to.full_attention.begin(), to.full_attention.end(), true);
  return "0 to " + std::to_string(to.num_hidden_layers - 1) + " of " +
         std::to_string(from.num_hidden_layers) + " (" + std::to_string(to.num_hidden_layers - full) +
         " linear_attention, " + std::to_string(full) +
         " full_attention): the first ones, so that their order is the model's";
}

// Files of the directory that no cut can keep: they speak of the whole vocabulary.
std::string others_in(const fs::path& folder) {
  std::string list;
  std::error_code error;
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    if (name != "config.json" && entry.path().extension() != ".safetensors" &&
        name != "model.safetensors.index.json")
      names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  for (const std::string& name : names) list += (list.empty() ? "" : ", ") + name;
  return list;
}

void say(const CutOptions& o, const golden::CheckpointCut& cut, const Vocabulary& vocabulary,
         const golden::CutResult& result) {
  const ModelConfig &from = cut.from, &to = cut.to;
  std::cout << "layers   " << layers_text(from, to) << "\n";
  if (from.is_moe())
    std::cout << "experts  0 to " << to.num_experts - 1 << " of " << from.num_experts
              << " with their rows of every router; " << to.num_experts_per_tok << " per token (was "
              << from.num_experts_per_tok << ")\n";
  std::cout << "vocab    " << to.vocab_size << " of " << from.vocab_size << " rows of the embedding"
            << (from.tie_word_embeddings ? ", which is the head as well\n" : " and of the head\n");
  for (const MovedId& id : vocabulary.moved)
    std::cout << "id       " << id.field << " " << id.from
              << (id.to < 0 ? ": outside, left out"
                            : ": outside, now " + std::to_string(id.to) + ", with its own row")
              << "\n";
  std::cout << "whole    " << (from.has_vision() ? "vision tower" : "no vision tower in it")
            << (from.mtp_num_hidden_layers > 0 ? ", multi-token prediction (as many experts as a layer)"
                                               : "; no multi-token prediction in it")
            << "\n";
  if (const std::string others = others_in(o.from); !others.empty())
    std::cout << "not copied: " << others << "\n";
  std::cout << "wrote config.json and model.safetensors (" << result.tensors << " tensors, " << result.bytes
            << " bytes; " << result.left_out << " tensors left out) to " << o.to << "\n"
            << "next: ./meshparity run --model " << quoted(o.to) << " --batch tokens:40+9//24 --mesh tp2"
            << std::endl;
}

int cut_checkpoint(const CutOptions& o) {
  if (!fs::is_directory(o.from))
    throw InputError(o.from + ": is no folder; --from takes a Hugging Face directory");
  const fs::path target = writable_target(o.to, o.force), config_file = fs::path(o.from) / "config.json";
  std::error_code not_there;
  if (fs::equivalent(o.from, target, not_there))
    throw InputError("--to " + o.to + ": is the folder that --from names");
  const std::string text = read_config(config_file);
  golden::CheckpointCut cut;
  cut.from = scenarios::parse_model_config(text, config_file.string());
  // transformers keeps the field and saves none of the weights.
  if (cut.from.mtp_num_hidden_layers > 0 && !golden::holds_multi_token_prediction(o.from))
    cut.from.mtp_num_hidden_layers = 0;
  Vocabulary vocabulary;
  const std::string small = ConfigCutter(ordered_json::parse(text), cut.from, o).cut(vocabulary);
  cut.to = scenarios::parse_model_config(small, (target / "config.json").string());
  cut.vocabulary = vocabulary.rows;

  const StagingFolder staging(target);
  const auto result = golden::cut_checkpoint(o.from, cut, (staging.path() / "model.safetensors").string());
  write_atomically((staging.path() / "config.json").string(), small.data(), small.size());
  staging.move_to(target);
  say(o, cut, vocabulary, result);
  return 0;
}

}  // namespace

void add_cut(CLI::App& app, Chosen& chosen) {
  auto o = std::make_shared<CutOptions>();
  auto* verb = app.add_subcommand("cut", "Write a small checkpoint with the real weights of a big one");
  verb->add_option("--from", o->from, "Hugging Face directory of a Qwen3.5 model")->required();
  verb->add_option("--to", o->to, "folder to write; made where it does not exist")->required();
  const auto size = [&](const char* name, std::int64_t& value, const char* help) {
    verb->add_option(name, value, help)->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 24));
  };
  size("--layers", o->layers, "layers to keep (default: all)");
  size("--experts", o->experts, "experts of every layer to keep (default: all)");
  size("--vocab", o->vocab, "rows of the vocabulary to keep (default: all)");
  verb->add_flag("--force", o->force, "write into a folder that is not empty");
  verb->callback([o, &chosen] { chosen.run = [o] { return cut_checkpoint(*o); }; });
}

}  // namespace meshparity::cli
