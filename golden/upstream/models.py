"""Builds Hugging Face's Qwen3.5 text models, dense or MoE, in float64 from a config.json and named weights."""
import json

import torch
from transformers.models.qwen3_5.configuration_qwen3_5 import Qwen3_5TextConfig
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5ForCausalLM
from transformers.models.qwen3_5_moe.configuration_qwen3_5_moe import Qwen3_5MoeTextConfig
from transformers.models.qwen3_5_moe.modeling_qwen3_5_moe import Qwen3_5MoeForCausalLM, Qwen3_5MoeTopKRouter

CLASSES = {
    "qwen3_5_text": (Qwen3_5TextConfig, Qwen3_5ForCausalLM),
    "qwen3_5_moe_text": (Qwen3_5MoeTextConfig, Qwen3_5MoeForCausalLM),
}


def build(config_json, where="config.json"):
    """An eager model on the CPU with the library's own initial values. Raises ValueError for another architecture."""
    fields = json.loads(config_json)
    fields = fields.get("text_config", fields)  # of a multimodal config only the text model is run
    if fields.get("model_type") not in CLASSES:
        raise ValueError(f"{where}: model_type: {fields.get('model_type')!r} is none of {', '.join(CLASSES)}")
    config_class, model_class = CLASSES[fields["model_type"]]
    config = config_class.from_dict(fields)
    config._attn_implementation = "eager"
    config._experts_implementation = "eager"
    return model_class(config).eval()


def load(model, weights):
    """Copies {checkpoint name: array} into the model; every name must be there and no other."""
    with torch.no_grad():
        model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()}, strict=True)


def parameters(model):
    """{checkpoint name: parameter}; a tied head appears once, under the embedding's name."""
    return dict(model.named_parameters())


def routers(model):
    """{layer index: router}; empty for a dense model."""
    modules = (m for m in model.modules() if isinstance(m, Qwen3_5MoeTopKRouter))
    return dict(enumerate(modules))
