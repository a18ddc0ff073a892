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


def text_config(path):
    """config.json text of the text model; of a multimodal config its text_config, tied as the whole model is tied.

    Raises ValueError naming the file for anything but Qwen3.5.
    """
    text = path.read_text()
    fields = json.loads(text)
    if "text_config" in fields:
        tied = {"tie_word_embeddings": fields.get("tie_word_embeddings", False)}
        fields = {**fields["text_config"], **tied}
        text = json.dumps(fields, indent=2) + "\n"
    if fields.get("model_type") not in CLASSES:
        raise ValueError(f"{path}: model_type: {fields.get('model_type')!r} is none of {', '.join(CLASSES)}")
    return text


def build(config_json):
    """An eager model on the CPU with the library's own initial values."""
    fields = json.loads(config_json)
    config_class, model_class = CLASSES[fields["model_type"]]
    config = config_class.from_dict(fields)
    config._attn_implementation = "eager"
    config._experts_implementation = "eager"
    return model_class(config).eval()


def load(model, weights):
    """Copies {checkpoint name: array} into the model; every parameter must be there and no other name."""
    own = parameters(model)
    if set(own) != set(weights):
        raise ValueError(f"weights: {', '.join(sorted(set(own) ^ set(weights)))} on one side only")
    with torch.no_grad():
        for name, parameter in own.items():
            if tuple(parameter.shape) != weights[name].shape:
                raise ValueError(f"weights/{name}: shape {weights[name].shape}, the model has {tuple(parameter.shape)}")
            parameter.copy_(torch.from_numpy(weights[name]))


def parameters(model):
    """{checkpoint name: parameter}; a tied head appears once, under the embedding's name."""
    return dict(model.named_parameters())


def routers(model):
    """{layer index: router}; empty for a dense model."""
    modules = (m for m in model.modules() if isinstance(m, Qwen3_5MoeTopKRouter))
    return dict(enumerate(modules))
