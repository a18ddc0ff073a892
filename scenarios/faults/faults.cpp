// The list of planted faults. A new one: its file, its declaration and its line here.
#include "harness/types/error.h"
#include "scenarios/faults/fault.h"

namespace meshparity::faults {

// Sharding of weights.
Fault gdn_inproj_flat_tp_split();
Fault conv1d_weight_not_block_sharded();
Fault kv_replica_misindex();
Fault attn_gate_rows_tail_reshard();
Fault gdn_ba_interleaved_split();
// Communication.
Fault sp_norm_grad_no_allreduce();
Fault gdn_outnorm_grad_tp_missing();
Fault kv_replica_grad_unsummed();
Fault moe_tp_input_grad_partial();
Fault moe_tp_noep_grad_placement();
Fault router_grad_tp_missing();
Fault partial_input_grad_attention();
Fault partial_plus_replicated_bias();
Fault gather_bwd_reduce_duplicated();
Fault shared_expert_reduced_twice();
Fault shared_expert_partial_not_reduced();
Fault shared_expert_gate_double_gather();
Fault vocab_embed_mask_wrong();
Fault param_gather_stale();
Fault grad_buffer_dirty_after_gather();
Fault hsdp_accum_not_replicated();
Fault replicated_init_differs();
Fault sp_flag_noop();
Fault router_probs_nondiff_gather();
Fault ep_router_grad_wrong_kernel();
Fault ep_permute_unstable();
Fault ep_uneven_split_swap();
Fault edp_group_wrong();
Fault pp_tied_embed_no_sync();
Fault tied_embed_after_reduce_scatter();
Fault tied_embed_uneven_fsdp();
Fault pp_accum_grads_wiped();
// Normalisation and optimizer.
Fault dp_tokens_not_global();
Fault ga_loss_not_divided();
Fault microbatch_split_changes_objective();
Fault gradnorm_replicated_overcount();
Fault gradnorm_expert_undercount();
Fault expert_grad_times_ep();
Fault pp_loss_unnormalised();
Fault zero_grad_missing();
Fault clip_norms_desync();
Fault clip_coefficient_uncapped();
Fault step_count_per_rank();
Fault master_weight_not_refreshed();
Fault idle_expert_not_stepped();
Fault moe_param_sync_zeros();
// Data and packing.
Fault odd_length_split_drops_tail();
Fault labels_shifted_twice();
Fault packed_boundary_target();
Fault gdn_packed_no_reset();
Fault sampler_seed_per_rank();
Fault pp_cu_seqlens_sliced();
Fault pp_doc_ids_dropped();
Fault pp_position_ids_lost();
Fault mrope_dropped_to_1d();
Fault packed_positions_not_reset();
Fault mrope_sharded_on_batch();
// Model and precision.
Fault partial_rope_tail();
Fault topk_norm_missing();
Fault softmax_topk_order();
Fault recompute_topk_flip();
Fault router_gemm_bf16_out();
Fault a_log_bf16();
Fault logits_bf16_lse();
Fault fsdp_reduce_dtype_partial();
Fault ce_grad_rounded_before_subtract();
Fault gdn_bwd_kernel_miscompiled();
Fault gdn_state_lowprec();
// Context parallelism.
Fault gdn_cp_zigzag_as_contiguous();
Fault zigzag_exchange_cp2_hardcoded();
Fault thd_cu_seqlens_floordiv_cp();
Fault cp_context_batch1_only();
Fault gdn_cp_single_doc_cu_seqlens();
Fault cp_state_carry_into_new_doc();
Fault conv1d_cp_local_seqidx_reset();
Fault cp_positions_local();
Fault zigzag_two_definitions();
Fault label_shift_after_shard();
Fault sampler_ignores_ulysses();
Fault conv1d_cp_no_halo();
Fault cp_state_order_reversed();
Fault fla_cp_bwd_gate_offset();
Fault a2a_head_seq_order_swapped();
Fault gdn_alog_dtbias_grad_replicated();
Fault cp_local_token_count();
Fault sp_count_overdivided();
Fault cp_loss_extra_scale();
Fault cp_correction_factor_dp_only();
Fault sp_grad_divided_by_full_world();
Fault fully_masked_shard_nan();
Fault ring_bwd_local_lse();
Fault ring_out_bf16_accum();
Fault ring_lse_exp_overflow();
Fault cp_embeds_detached();
Fault sp_worker_seed_per_rank();
Fault conv_backend_mismatch();
Fault ulysses_replicated_loss_local_tokens();
Fault ulysses_gradnorm_drift();
Fault cp_3tuple_contract();
Fault ulysses_accum_normalise();
// The routers' loss.
Fault aux_loss_tp_cp_scale();
Fault aux_loss_shrinks_with_dp();
Fault aux_loss_never_attached();
Fault pp_padding_mask_unsharded();
// Multi-token prediction.
Fault mtp_loss_div_cp();
Fault mtp_loss_main_token_count();
Fault mtp_loss_not_averaged();
Fault mtp_embed_replica_unsynced();
// Padding.
Fault fa_padding_mask_ignored();
// Images.
Fault vlm_usp_slice_twice_or_never();
Fault vision_gather_bwd_drops_remote();
Fault vision_gather_tp_fold();
Fault vision_grad_dilution();
Fault vit_block_mask_ignored();
Fault packed_mrope_cp_fallback();
// Rollout: weights.
Fault reshard_shards_swapped();
Fault reshard_shard_not_written();
Fault reshard_a_log_bf16();
// Rollout: caches.
Fault decode_state_bf16();
Fault prefill_vs_recurrent();
Fault conv_state_off_by_one();
Fault chunked_prefill_pad_mask_none();
Fault gdn_pad_decay_unmasked();
Fault kv_neighbour_slot();
Fault recurrent_state_not_reset();
Fault prefix_cache_stale();
Fault hybrid_prefix_cache_mtp();
Fault prefix_hash_short();
// Rollout: tokens.
Fault decode_position_counts_padding();
Fault logprob_divided_not_logits();
Fault topp_renorm();
Fault router_mismatch_baseline();
Fault r3_misaligned();
Fault r3_scores_from_topk_zeroed();

const std::vector<Fault>& all() {
  static const std::vector<Fault> list = {gdn_inproj_flat_tp_split(),
                                          conv1d_weight_not_block_sharded(),
                                          kv_replica_misindex(),
                                          attn_gate_rows_tail_reshard(),
                                          gdn_ba_interleaved_split(),
                                          sp_norm_grad_no_allreduce(),
                                          gdn_outnorm_grad_tp_missing(),
                                          kv_replica_grad_unsummed(),
                                          moe_tp_input_grad_partial(),
                                          moe_tp_noep_grad_placement(),
                                          router_grad_tp_missing(),
                                          partial_input_grad_attention(),
                                          partial_plus_replicated_bias(),
                                          gather_bwd_reduce_duplicated(),
                                          shared_expert_reduced_twice(),
                                          shared_expert_partial_not_reduced(),
                                          shared_expert_gate_double_gather(),
                                          vocab_embed_mask_wrong(),
                                          param_gather_stale(),
                                          grad_buffer_dirty_after_gather(),
                                          hsdp_accum_not_replicated(),
                                          replicated_init_differs(),
                                          sp_flag_noop(),
                                          router_probs_nondiff_gather(),
                                          ep_router_grad_wrong_kernel(),
                                          ep_permute_unstable(),
                                          ep_uneven_split_swap(),
                                          edp_group_wrong(),
                                          pp_tied_embed_no_sync(),
                                          tied_embed_after_reduce_scatter(),
                                          tied_embed_uneven_fsdp(),
                                          pp_accum_grads_wiped(),
                                          dp_tokens_not_global(),
                                          ga_loss_not_divided(),
                                          microbatch_split_changes_objective(),
                                          gradnorm_replicated_overcount(),
                                          gradnorm_expert_undercount(),
                                          expert_grad_times_ep(),
                                          pp_loss_unnormalised(),
                                          zero_grad_missing(),
                                          clip_norms_desync(),
                                          clip_coefficient_uncapped(),
                                          step_count_per_rank(),
                                          master_weight_not_refreshed(),
                                          idle_expert_not_stepped(),
                                          moe_param_sync_zeros(),
                                          odd_length_split_drops_tail(),
                                          labels_shifted_twice(),
                                          packed_boundary_target(),
                                          gdn_packed_no_reset(),
                                          sampler_seed_per_rank(),
                                          pp_cu_seqlens_sliced(),
                                          pp_doc_ids_dropped(),
                                          pp_position_ids_lost(),
                                          mrope_dropped_to_1d(),
                                          packed_positions_not_reset(),
                                          mrope_sharded_on_batch(),
                                          partial_rope_tail(),
                                          topk_norm_missing(),
                                          softmax_topk_order(),
                                          recompute_topk_flip(),
                                          router_gemm_bf16_out(),
                                          a_log_bf16(),
                                          logits_bf16_lse(),
                                          fsdp_reduce_dtype_partial(),
                                          ce_grad_rounded_before_subtract(),
                                          gdn_bwd_kernel_miscompiled(),
                                          gdn_state_lowprec(),
                                          gdn_cp_zigzag_as_contiguous(),
                                          zigzag_exchange_cp2_hardcoded(),
                                          thd_cu_seqlens_floordiv_cp(),
                                          cp_context_batch1_only(),
                                          gdn_cp_single_doc_cu_seqlens(),
                                          cp_state_carry_into_new_doc(),
                                          conv1d_cp_local_seqidx_reset(),
                                          cp_positions_local(),
                                          zigzag_two_definitions(),
                                          label_shift_after_shard(),
                                          sampler_ignores_ulysses(),
                                          conv1d_cp_no_halo(),
                                          cp_state_order_reversed(),
                                          fla_cp_bwd_gate_offset(),
                                          a2a_head_seq_order_swapped(),
                                          gdn_alog_dtbias_grad_replicated(),
                                          cp_local_token_count(),
                                          sp_count_overdivided(),
                                          cp_loss_extra_scale(),
                                          cp_correction_factor_dp_only(),
                                          sp_grad_divided_by_full_world(),
                                          fully_masked_shard_nan(),
                                          ring_bwd_local_lse(),
                                          ring_out_bf16_accum(),
                                          ring_lse_exp_overflow(),
                                          cp_embeds_detached(),
                                          sp_worker_seed_per_rank(),
                                          conv_backend_mismatch(),
                                          ulysses_replicated_loss_local_tokens(),
                                          ulysses_gradnorm_drift(),
                                          cp_3tuple_contract(),
                                          ulysses_accum_normalise(),
                                          aux_loss_tp_cp_scale(),
                                          aux_loss_shrinks_with_dp(),
                                          aux_loss_never_attached(),
                                          pp_padding_mask_unsharded(),
                                          fa_padding_mask_ignored(),
                                          vlm_usp_slice_twice_or_never(),
                                          vision_gather_bwd_drops_remote(),
                                          vision_gather_tp_fold(),
                                          vision_grad_dilution(),
                                          vit_block_mask_ignored(),
                                          packed_mrope_cp_fallback(),
                                          mtp_loss_div_cp(),
                                          mtp_loss_main_token_count(),
                                          mtp_loss_not_averaged(),
                                          mtp_embed_replica_unsynced(),
                                          reshard_shards_swapped(),
                                          reshard_shard_not_written(),
                                          reshard_a_log_bf16(),
                                          decode_state_bf16(),
                                          prefill_vs_recurrent(),
                                          conv_state_off_by_one(),
                                          chunked_prefill_pad_mask_none(),
                                          gdn_pad_decay_unmasked(),
                                          kv_neighbour_slot(),
                                          recurrent_state_not_reset(),
                                          prefix_cache_stale(),
                                          hybrid_prefix_cache_mtp(),
                                          prefix_hash_short(),
                                          decode_position_counts_padding(),
                                          logprob_divided_not_logits(),
                                          topp_renorm(),
                                          router_mismatch_baseline(),
                                          r3_misaligned(),
                                          r3_scores_from_topk_zeroed()};
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
