"""Makes transformers' Qwen3.5 compute in float64 from end to end.

The library casts to float32 inside norms, softmax, RoPE tables, decay, delta rule and the resampling of the vision tower's
position table, so that a model loaded in float64 still carries float32 rounding. lift() turns each of these casts into one to float64. Call it before the model is built
(the RoPE table is made there). A new cast in a later library version shows in golden/upstream/test_upstream.py, which
refuses any float32 tensor in a forward, backward and optimizer step.
"""
import torch
from transformers import modeling_rope_utils, vision_utils
from transformers.models.qwen3_5 import modeling_qwen3_5
from transformers.models.qwen3_5_moe import modeling_qwen3_5_moe

MODULES = (modeling_qwen3_5, modeling_qwen3_5_moe, modeling_rope_utils, vision_utils)


class LiftedTorch:
    """What `torch` means inside the library's modules: the same, but its float32 is float64."""

    def __getattr__(self, name):
        return torch.float64 if name in ("float32", "float") else getattr(torch, name)


def lift():
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double
    for module in MODULES:
        module.torch = LiftedTorch()
