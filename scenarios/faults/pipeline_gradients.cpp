// Pipeline parallelism and gradients: a tied embedding whose two copies are put together wrongly, gradients
// lost between micro-batches, a loss that is divided after its backward.
#include "impl/blocks/primitives.h"
#include "impl/parallel/pipeline.h"
#include "impl/train/optimizer.h"
#include "scenarios/faults/label_counts.h"

namespace meshparity::faults {
namespace {

constexpr const char* kEmbedding = "model.embed_tokens.weight";

bool has_pipeline(const Mesh& mesh) {
  return mesh.pp > 1;
}

// The last stage's shard of the tied embedding begins one row later in its flat buffer than the first
// stage's: element i of one is added to another element of the other.
class ShiftedShard : public PassOn {
 public:
  using PassOn::PassOn;
  at::Tensor all_reduce(const impl::Group& group, const at::Tensor& x, const impl::Site& site) override {
    const ThisRank& rank = this_rank();
    if (site != "gradients.embedding" || rank.mesh.fsdp == 1 || rank.at.pp == 0)
      return PassOn::all_reduce(group, x, site);
    const std::int64_t row = rank.hidden;
    return PassOn::all_reduce(group, x.roll(row), site).roll(-row);
  }
};

// Tokens of every micro-batch on this rank, and where gradients accumulate.
struct Accumulation {
  std::vector<std::int64_t> tokens;
  const impl::ShardedParameters* parameters = nullptr;
};
Accumulation& accumulation() {
  thread_local Accumulation state;
  return state;
}

}  // namespace

Fault pp_tied_embed_no_sync() {
  return {
      "pp-tied-embed-no-sync",
      "first and last stage hold a tied embedding each and their gradients are not summed",
      "uw-syfi/piper#13",
      "grads",
      kEmbedding,
      "gradient all-reduce over pp missing",
      {"--model tiny-tied --batch rows --mesh pp2", "--model tiny-tied --batch packed-odd --mesh pp3.tp2"},
      [](impl::Seams& seams) {
        seams.plan = edit_rows(kEmbedding, [](impl::PlanRow& row) { row.tied_over_pp = false; });
      },
      {"--model tiny-dense --batch rows --mesh pp2"}};
}

Fault tied_embed_after_reduce_scatter() {
  return {
      "tied-embed-after-reduce-scatter",
      "a tied embedding is summed over the stages before the first stage has summed its own over the data "
      "ranks: reduced and raw gradients are added",
      "NVIDIA/Megatron-LM#844",
      "grads",
      kEmbedding,
      "gradients of a tied embedding put together wrongly over its stages",
      {"--model tiny-tied --batch rows --mesh pp2.dp2", "--model tiny-tied --batch rows --mesh pp2.uly2"},
      [](impl::Seams& seams) {
        seams.plan = [](impl::Plan& plan, const Mesh&) {
          for (auto& row : plan.rows)
            if (row.tied_over_pp && plan.at.pp == 0) row.sum_over_dp = false;
        };
      },
      {"--model tiny-tied --batch rows --mesh pp2"}};
}

Fault tied_embed_uneven_fsdp() {
  return {
      "tied-embed-uneven-fsdp",
      "shards of a tied embedding that begin at different offsets on first and last stage are summed "
      "element by element",
      "NVIDIA/Megatron-LM#6500",
      "grads",
      kEmbedding,
      "gradients of a tied embedding put together wrongly over its stages",
      {"--model tiny-tied --batch rows --mesh pp2.fsdp2", "--model tiny-tied --batch rows --mesh pp2.fsdp3"},
      [](impl::Seams& seams) {
        seams.plan = note_rank;
        seams.collectives = wrap_collectives<ShiftedShard>();
      },
      {"--model tiny-tied --batch rows --mesh pp2.dp2"}};
}

Fault pp_accum_grads_wiped() {
  return {"pp-accum-grads-wiped",
          "a stage is set up anew when a micro-batch has another length, and with it its gradients: only the "
          "last micro-batch trains",
          "NVIDIA-NeMo/Automodel#3530",
          "grads",
          "model.layers.*",
          "gradients of the last micro-batch alone",
          {"--model tiny-dense --batch rows --mesh pp2", "--model tiny-moe --batch rows --mesh pp3"},
          [](impl::Seams& seams) {
            seams.plan = note_rank;
            seams.layout = [](impl::TokenLayout& layout, const Mesh&, int) {
              accumulation().tokens.clear();
              for (const auto& part : layout.micro_batches) accumulation().tokens.push_back(part.tokens());
            };
            seams.optimizer = [](impl::Optimizer& optimizer) {
              accumulation().parameters = optimizer.parameters;
            };
            seams.pipeline = [](impl::PipelineRunner& runner) {
              runner.run = [right = runner.run,
                            before = std::int64_t{-1}](const impl::PipelineAction& action) mutable {
                const std::int64_t tokens =
                    accumulation().tokens[static_cast<std::size_t>(action.micro_batch)];
                if (!action.forward && has_pipeline(this_rank().mesh)) {
                  at::Tensor gradients = accumulation().parameters->gradients();
                  if (before >= 0 && before != tokens) gradients.zero_();
                  before = tokens;
                }
                right(action);
              };
            };
          },
          // One micro-batch, and none without a pipeline.
          {"--model tiny-dense --batch single --mesh pp2", "--model tiny-dense --batch rows --mesh dp2"}};
}

Fault pp_loss_unnormalised() {
  return {
      "pp-loss-unnormalised",
      "the schedule runs backward on the summed loss, which is divided by the count of labels for the log "
      "alone",
      "pytorch/torchtitan#2972",
      "grads",
      "model.layers.*",
      "all gradients multiplied by valid labels",
      {"--model tiny-dense --batch rows --mesh pp2", "--model tiny-moe --batch packed-odd --mesh pp2.dp2"},
      scaled_gradient([](const LabelCounts& n) { return n.all; }, has_pipeline),
      {"--model tiny-dense --batch rows --mesh dp2"}};
}

}  // namespace meshparity::faults
