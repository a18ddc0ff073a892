// The vision tower: features gathered whose gradients go the wrong way, gradients averaged over ranks without
// images, attention across frames, and text-only batches that take another way than those with images.
#include <algorithm>

#include "impl/autograd.h"
#include "impl/blocks/primitives.h"
#include "impl/parallel/token_layout.h"
#include "impl/parallel/vision.h"
#include "scenarios/faults/decorators.h"
#include "scenarios/faults/this_rank.h"

namespace meshparity::faults {
namespace {

using impl::Collectives;
using impl::Group;
using impl::MicroBatchTokens;
using impl::VisionPart;
using Gather = at::Tensor (*)(Collectives&, const Group&, const at::Tensor&, const std::vector<std::int64_t>&,
                              std::int64_t, const impl::Site&);

// Features spread as always, gathered over tp and cp by these two.
auto gathered_by(Gather over_tp, Gather over_cp) {
  return [=](impl::Seams& seams) {
    seams.primitives = [=](impl::Primitives& p) {
      p.gather_features = [=, right = p.gather_features](Collectives& collectives, const Group& tp,
                                                         const Group& cp, const at::Tensor& features,
                                                         const VisionPart& part) {
        if (!part.whole) return right(collectives, tp, cp, features, part);
        const Gather tp_form = over_tp ? over_tp : part.sequence ? impl::gather_from : impl::join_from;
        const at::Tensor of_tp = tp_form(collectives, tp, features, part.tp_sizes, 0, "visual.features.tp");
        return over_cp(collectives, cp, of_tp, part.cp_sizes, 0, "visual.features.cp");
      };
    };
  };
}

// x, whose gradient is multiplied by `factor`.
at::Tensor scaled_gradient(const at::Tensor& x, double factor) {
  at::Tensor y;
  {
    const impl::BelowAutograd guard;
    y = x.clone();
  }
  return impl::attach("scaled_gradient", {x}, {y},
                      [factor](const impl::Tensors& grads) { return impl::Tensors{grads[0] * factor}; })[0];
}

// The ids of the model's placeholders, noted where a micro-batch is packed.
std::vector<std::int64_t>& placeholder_ids() {
  thread_local std::vector<std::int64_t> ids;
  return ids;
}

bool sees_image(const Batch& batch, std::int64_t row) {
  const Range tokens = batch.row_tokens(row);
  return std::find_first_of(batch.token_ids.begin() + tokens.begin, batch.token_ids.begin() + tokens.end,
                            placeholder_ids().begin(),
                            placeholder_ids().end()) != batch.token_ids.begin() + tokens.end;
}

// Of all data ranks the share that has an image in some micro-batch.
double share_with_images(const Batch& batch, const Mesh& mesh) {
  std::vector<char> sees(data_ranks(mesh), 0);
  for (std::int64_t m = 0; m < batch.micro_batches(); ++m) {
    const Range rows = batch.micro_batch_rows(m);
    for (std::int64_t row = rows.begin; row < rows.end; ++row)
      if (sees_image(batch, row)) sees[(row - rows.begin) % data_ranks(mesh)] = 1;
  }
  return static_cast<double>(std::count(sees.begin(), sees.end(), 1)) / data_ranks(mesh);
}

// Is there padding among the tokens of this data rank?
bool padded(const MicroBatchTokens& tokens, const Batch& batch) {
  const auto& documents = tokens.stream_documents;
  std::int64_t real = 0;
  for (std::int64_t d = 0; d < batch.documents(); ++d)
    if (std::find(documents.begin(), documents.end(), d) != documents.end()) real += batch.document(d).size();
  return real != tokens.stream.tokens();
}

}  // namespace

Fault vision_gather_bwd_drops_remote() {
  return {"vision-gather-bwd-drops-remote",
          "image features are gathered over the context ranks; backward keeps the local slice and drops what "
          "other ranks' tokens gave",
          "NVIDIA-NeMo/Megatron-Bridge#4784",
          "grads",
          "model.visual.*",
          "backward pass wrong from model.visual.merger.*",
          {"--model tiny-vl --batch rows --mesh ring2 --vision images",
           "--model tiny-vl-moe --batch rows --mesh uly3 --vision images"},
          gathered_by(nullptr, impl::join_from),
          // Without context ranks every token that uses a feature is here.
          {"--model tiny-vl --batch rows --mesh tp2 --vision images"}};
}

Fault vision_gather_tp_fold() {
  return {
      "vision-gather-tp-fold",
      "image features are gathered over cp and tp, and backward sums over both, although the ranks of tp are "
      "replicas",
      "NVIDIA-NeMo/Automodel#2990",
      "grads",
      "model.visual.*",
      "*multiplied by tp*",
      {"--model tiny-vl --batch rows --mesh ring3.tp2 --vision images",
       "--model tiny-vl-moe --batch rows --mesh tp3 --vision images"},
      gathered_by(impl::gather_from, impl::gather_from),
      {"--model tiny-vl --batch rows --mesh ring2 --vision images"}};
}

Fault vision_grad_dilution() {
  return {"vision-grad-dilution",
          "gradients of the tower are averaged over all data ranks, although only some of them had images",
          "NVIDIA/Megatron-LM#6260",
          "grads",
          "model.visual.*",
          "constant factor 0.*",
          {"--model tiny-vl --batch rows --mesh dp8", "--model tiny-vl-moe --batch rows --mesh dp2.fsdp3"},
          [](impl::Seams& seams) {
            seams.layout = [](impl::TokenLayout& layout, const Mesh& mesh, int) {
              this_rank().batch = layout.batch, this_rank().mesh = mesh;
            };
            seams.packing = [](impl::PackingEdit& edit) {
              placeholder_ids() = {edit.config.image_token_id, edit.config.video_token_id};
            };
            seams.primitives = [](impl::Primitives& p) {
              p.place_features = [right = p.place_features](const at::Tensor& x, const at::Tensor& features,
                                                            const impl::FeaturePlaces& where) {
                const double share = share_with_images(*this_rank().batch, this_rank().mesh);
                return right(x, scaled_gradient(features, share), where);
              };
            };
          },
          {"--model tiny-vl --batch rows --mesh ring2"}};
}

Fault vit_block_mask_ignored() {
  return {"vit-block-mask-ignored",
          "the tower computes the boundaries of frames and attends over all patches of its call",
          "sgl-project/sglang-jax#1289",
          "logits",
          "logits",
          "block 0 of the vision tower computes something else",
          {"--model tiny-vl --batch rows --mesh tp2", "--model tiny-vl-moe --batch rows --mesh dp2"},
          [](impl::Seams& seams) {
            seams.primitives = [](impl::Primitives& p) {
              p.vision_attention = [right = p.vision_attention](
                                       const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                       const impl::PackedTokens& tokens, std::int64_t head_dim) {
                impl::PackedTokens one = tokens;
                if (!one.attention.empty()) one.attention = {{0, one.tokens, 0, tokens.attention[0].bias}};
                return right(q, k, v, one, head_dim);
              };
            };
          },
          {"--model tiny-vl --batch packed-odd --mesh tp2"}};
}

Fault packed_mrope_cp_fallback() {
  return {"packed-mrope-cp-fallback",
          "the builder of positions compares the documents' end with the padded length, which differs under "
          "context parallelism, and falls back to counting through the row",
          "radixark/miles#1296",
          "logits",
          "logits",
          "*attention of layer 3*",
          {"--model tiny-vl --batch rows --mesh ring2 --pad document",
           "--model tiny-vl-moe --batch rows --mesh uly3 --pad right"},
          [](impl::Seams& seams) {
            seams.plan = note_rank;
            seams.layout = [](impl::TokenLayout& layout, const Mesh& mesh, int rank) {
              note_batch(layout, mesh, rank);
              if (mesh.cp() == 1) return;
              const Batch& batch = *layout.batch;
              for (auto& tokens : layout.micro_batches) {
                const auto n = tokens.tokens();
                if (!padded(tokens, batch)) continue;
                for (std::int64_t i = 0; i < n; ++i) {
                  const std::int64_t token = tokens.global[i];
                  if (token == impl::kPadding) continue;
                  std::int64_t row = 0;
                  while (batch.row_tokens(row).end <= token) ++row;
                  const Range documents{batch.row_offsets[row], batch.row_offsets[row + 1]};
                  // Of one document the two counts are equal; the first is right either way.
                  if (token < batch.document(documents.begin).end) continue;
                  for (std::int64_t axis = 0; axis < 3; ++axis)
                    tokens.positions[axis * n + i] = token - batch.row_tokens(row).begin;
                }
              }
            };
          },
          {"--model tiny-vl --batch rows --mesh dp2 --pad document"}};
}

Fault vlm_usp_slice_twice_or_never() {
  return {"vlm-usp-slice-twice-or-never",
          "a multimodal model slices labels where it places images; a batch of text alone keeps its labels "
          "whole, "
          "and every Ulysses rank reads them from the front",
          "verl-project/verl#2639",
          "logprobs",
          "logprobs",
          "labels not cut over the context ranks",
          {"--model tiny-vl --batch packed-odd --mesh uly2",
           "--model tiny-vl-moe --batch packed-odd --mesh uly3"},
          [](impl::Seams& seams) {
            seams.layout = [](impl::TokenLayout& layout, const Mesh& mesh, int) {
              const Batch& batch = *layout.batch;
              if (mesh.uly == 1 || !batch.images.empty() || !batch.videos.empty()) return;
              for (auto& tokens : layout.micro_batches)
                for (std::int64_t i = 0; i < tokens.tokens(); ++i) {
                  const std::int64_t document = tokens.stream_documents[i];
                  const auto& starts = tokens.stream.documents;
                  const std::int64_t begin = *(std::upper_bound(starts.begin(), starts.end(), i) - 1);
                  tokens.labels[i] = document < batch.documents()
                                         ? batch.labels[std::min(batch.document(document).begin + i - begin,
                                                                 batch.document(document).end - 1)]
                                         : kIgnoreLabel;
                }
            };
          },
          {"--model tiny-vl --batch packed-odd --mesh dp2"}};
}

}  // namespace meshparity::faults
