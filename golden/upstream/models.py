"""Builds Hugging Face's Qwen3.5, dense or MoE, with or without vision tower, in float64 from a config.json and weights."""
import json

import torch
from transformers.models.qwen3_5 import modeling_qwen3_5 as dense
from transformers.models.qwen3_5.configuration_qwen3_5 import Qwen3_5Config, Qwen3_5TextConfig
from transformers.models.qwen3_5_moe import modeling_qwen3_5_moe as moe
from transformers.models.qwen3_5_moe.configuration_qwen3_5_moe import Qwen3_5MoeConfig, Qwen3_5MoeTextConfig

from golden.upstream.mtp import Mtp

# model_type: configuration, model, decoder layer and norm. The first two types are text models, the others see images too.
DENSE = (dense.Qwen3_5DecoderLayer, dense.Qwen3_5RMSNorm)
MOE = (moe.Qwen3_5MoeDecoderLayer, moe.Qwen3_5MoeRMSNorm)
CLASSES = {
    "qwen3_5_text": (Qwen3_5TextConfig, dense.Qwen3_5ForCausalLM, *DENSE),
    "qwen3_5_moe_text": (Qwen3_5MoeTextConfig, moe.Qwen3_5MoeForCausalLM, *MOE),
    "qwen3_5": (Qwen3_5Config, dense.Qwen3_5ForConditionalGeneration, *DENSE),
    "qwen3_5_moe": (Qwen3_5MoeConfig, moe.Qwen3_5MoeForConditionalGeneration, *MOE),
}


def read_config(path):
    """config.json text of a text or a multimodal model. Raises ValueError naming the file for anything but Qwen3.5."""
    text = path.read_text()
    fields = json.loads(text)
    if fields.get("model_type") not in CLASSES:
        raise ValueError(f"{path}: model_type: {fields.get('model_type')!r} is none of {', '.join(CLASSES)}")
    return text


def text_fields(config_json):
    """The fields of the text model: those of text_config where there is one."""
    fields = json.loads(config_json)
    return fields.get("text_config", fields)


def build(config_json):
    """An eager model on the CPU with the library's own initial values, and the MTP layer its configuration asks for."""
    fields = json.loads(config_json)
    config_class, model_class, layer, norm = CLASSES[fields["model_type"]]
    config = config_class.from_dict(fields)
    for part in {id(c): c for c in (config, config.get_text_config(), getattr(config, "vision_config", config))}.values():
        part._attn_implementation = "eager"
        part._experts_implementation = "eager"
        part.dtype = torch.float64
    model = model_class(config)
    if text_fields(config_json).get("mtp_num_hidden_layers", fields.get("mtp_num_hidden_layers", 0)):
        model.mtp = Mtp(config.get_text_config(), layer, norm)
    return model.eval()


def text_model(model):
    """The stack of decoder layers between embedding and head."""
    return getattr(model.model, "language_model", model.model)


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
    """{name: parameter}: the checkpoint's names, without the infix language_model. that multimodal ones put into them.

    A tied head appears once, under the embedding's name.
    """
    return {name.replace("model.language_model.", "model.", 1): p for name, p in model.named_parameters()}


def routers(model):
    """{layer index: router}, an MTP layer's behind all others; empty for a dense model."""
    modules = (m for m in model.modules() if isinstance(m, moe.Qwen3_5MoeTopKRouter))
    return dict(enumerate(modules))
