#include "harness/cli/case_arguments.h"

#include <set>

#include "golden/store.h"
#include "harness/types/command_line.h"
#include "harness/types/error.h"
#include "scenarios/load.h"

namespace meshparity::cli {

void add_case_arguments(CLI::App& app, run::CaseOptions& o) {
  const auto list = [&](const char* name, std::vector<std::string>& values, const char* help) {
    app.add_option(name, values, help)->delimiter(',')->group("Cases");
  };
  list("--model", o.model,
       "tiny-dense, tiny-moe, tiny-tied, tiny-vl, tiny-vl-moe, a config.json, a Hugging Face directory, "
       "text: before one of these (its text model), or shape:layers=ga:heads=4/2");
  list("--batch", o.batch,
       "single, packed-odd, rows, boundaries, grids, a batch TOML, or tokens:5+1/3//7:mask=40");
  list("--golden", o.golden, "golden file(s), instead of --model and --batch");
  list("--mesh", o.mesh, "tp2.fsdp2, a comma list, world=8, world<=8");
  list("--axes", o.axes, "axes that world=8 and world<=8 may use (default: all)");
  list("--sp", o.sp, "sequence parallelism inside tp: off, on, all");
  list("--gdn", o.gdn, "GatedDeltaNet over cp: state, heads, gather, hybrid, all");
  list("--attn", o.attn, "attention over ring: ring, gather, all");
  list("--layout", o.layout, "token order: contiguous, zigzag, zigzag-document, all");
  list("--schedule", o.schedule, "pipeline schedule: 1f1b, gpipe, interleaved, all");
  list("--recompute", o.recompute, "activation recomputation: off, on, all");
  list("--pad", o.pad, "padding: none, left, right, document, all");
  list("--vision", o.vision, "vision tower over tp and cp: tensor, images, all");
  list("--rollout-mesh", o.rollout_mesh,
       "roll out on this mesh (pp, dp, tp, ep, etp) what training computes on --mesh: tp2, a comma list, "
       "world<=4");
  list("--rollout", o.rollout,
       "how: plain, or prompt=3:chunk=2:batch=2:pad=left:prefix=2:replay=on:temperature=0.7:top_p=0.9");
  list("--loss", o.loss,
       "token_mean, sum, sequence_mean, micro_batch_mean, num_tokens, policy_gradient, lm_z, router_z, aux, "
       "or a "
       "weighted sum of them: token_mean+0.001*aux");
  list("--loss-form", o.loss_form, "sharded, replicated");
  list("--dtype", o.dtype, "float64, float32");
  list("--check", o.check,
       "logits, logprobs, loss, grads, grad_norm, weights, replicas, placement, activations, rollout, all");
  list("--engine", o.engine, "inprocess, gloo, nccl");
  list("--reduce", o.reduce, "engine, ordered, permuted");
  app.add_option("--tensor", o.tensor, "judge only tensors whose name matches this glob")->group("Cases");
  app.add_option("--steps", o.steps, "optimizer steps (default: as many as the golden holds)")
      ->check(CLI::Range(0, 100))
      ->group("Cases");
  app.add_option("--spawn", o.spawn, "processes for --engine gloo or nccl")
      ->check(CLI::Range(1, 64))
      ->group("Cases");
  app.add_option("--device", o.device, "cpu, cuda")->group("Cases");
  app.add_option("--fault", o.fault, "plant this fault (meshparity faults list)")->group("Cases");
  app.add_option("--seed", o.seed, "seed of generated weights and of --reduce permuted")->group("Cases");
  app.add_flag(
         "--apart", o.apart,
         "for models that fill the memory: the reference first, in a process of its own, its weights and "
         "results on the disk; no optimizer steps")
      ->group("Cases");
}

run::CaseOptions parse_case_line(const std::string& line) {
  run::CaseOptions options;
  CLI::App app;
  app.set_help_flag();
  add_case_arguments(app, options);
  auto words = split_words(line);
  std::vector<std::string> reversed(words.rbegin(), words.rend());
  try {
    app.parse(reversed);
  } catch (const CLI::ParseError& error) {
    throw InputError(std::string(error.what()) + " in: " + line);
  }
  return options;
}

ModelConfig config_of(const std::string& model, const std::string& golden) {
  if (golden.empty()) return scenarios::load_model(model);
  const auto store = golden::read(golden, golden::Kind::golden);
  return scenarios::parse_model_config(store.strings.at("config"), golden);
}

void require_batches(const run::CaseOptions& options) {
  if (options.batch.empty()) return;
  const ModelConfig config = config_of(options.model.empty() ? "tiny-dense" : options.model.front(), "");
  for (const auto& batch : options.batch) scenarios::load_batch(batch, config);
}

run::Expansion expand_cases(const run::CaseOptions& options) {
  require_batches(options);
  return run::expand(options, config_of);
}

run::Expansion expand_case_file(const std::string& name_or_path) {
  run::Expansion all;
  std::set<std::string> seen;
  for (const auto& line : scenarios::load_cases(name_or_path)) {
    run::Expansion part;
    try {
      part = expand_cases(parse_case_line(line.text));
    } catch (const InputError& error) {
      throw InputError(name_or_path + ":" + std::to_string(line.number) + ": " + error.what());
    }
    for (auto& spec : part.cases)
      if (seen.insert(spec.line()).second) all.cases.push_back(std::move(spec));
    for (auto& skip : part.skipped)
      if (seen.insert(skip.spec.line()).second) all.skipped.push_back(std::move(skip));
  }
  if (all.cases.empty()) throw InputError(name_or_path + ": no case in this file");
  return all;
}

CaseSpec single_case(const std::string& line) {
  auto expansion = expand_cases(parse_case_line(line));
  if (expansion.cases.size() != 1)
    throw InputError("this describes " + std::to_string(expansion.cases.size()) +
                     " cases, one is needed (meshparity gate runs many): " + line);
  return expansion.cases.front();
}

}  // namespace meshparity::cli
