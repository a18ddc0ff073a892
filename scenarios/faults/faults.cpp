// The list of planted faults. A new one: its file, its declaration and its line here.
#include "harness/types/error.h"
#include "scenarios/faults/fault.h"

namespace meshparity::faults {

// Sharding of weights.
Fault gdn_inproj_flat_tp_split();
Fault conv1d_weight_not_block_sharded();
Fault kv_replica_misindex();
Fault attn_gate_rows_tail_reshard();
// Communication.
Fault sp_norm_grad_no_allreduce();
Fault gdn_outnorm_grad_tp_missing();
Fault kv_replica_grad_unsummed();
Fault moe_tp_input_grad_partial();
Fault partial_input_grad_attention();
Fault gather_bwd_reduce_duplicated();
Fault shared_expert_reduced_twice();
Fault vocab_embed_mask_wrong();
Fault param_gather_stale();
// Normalisation and optimizer.
Fault dp_tokens_not_global();
Fault gradnorm_replicated_overcount();
Fault zero_grad_missing();
// Data and packing.
Fault odd_length_split_drops_tail();
Fault labels_shifted_twice();
Fault packed_boundary_target();
Fault gdn_packed_no_reset();
// Model and precision.
Fault partial_rope_tail();
Fault topk_norm_missing();
Fault router_gemm_bf16_out();
Fault a_log_bf16();
Fault logits_bf16_lse();

const std::vector<Fault>& all() {
  static const std::vector<Fault> list = {gdn_inproj_flat_tp_split(),
                                          conv1d_weight_not_block_sharded(),
                                          kv_replica_misindex(),
                                          attn_gate_rows_tail_reshard(),
                                          sp_norm_grad_no_allreduce(),
                                          gdn_outnorm_grad_tp_missing(),
                                          kv_replica_grad_unsummed(),
                                          moe_tp_input_grad_partial(),
                                          partial_input_grad_attention(),
                                          gather_bwd_reduce_duplicated(),
                                          shared_expert_reduced_twice(),
                                          vocab_embed_mask_wrong(),
                                          param_gather_stale(),
                                          dp_tokens_not_global(),
                                          gradnorm_replicated_overcount(),
                                          zero_grad_missing(),
                                          odd_length_split_drops_tail(),
                                          labels_shifted_twice(),
                                          packed_boundary_target(),
                                          gdn_packed_no_reset(),
                                          partial_rope_tail(),
                                          topk_norm_missing(),
                                          router_gemm_bf16_out(),
                                          a_log_bf16(),
                                          logits_bf16_lse()};
  return list;
}

const Fault& find(const std::string& id) {
  std::string ids;
  for (const auto& fault : all()) {
    if (fault.id == id) return fault;
    ids += (ids.empty() ? "" : ", ") + fault.id;
  }
  throw InputError("fault '" + id + "' is unknown; there are: " + ids);
}

}  // namespace meshparity::faults
