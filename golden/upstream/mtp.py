"""The layer that predicts the token after the next (multi-token prediction), which the library does not run itself.

It is put together from the library's own decoder layer, norms and rotary table: slot t takes the norm of the embedding of
token t+1 (an image's features where that is a placeholder) and the norm of the model's output after its final norm at t, in
this order, and predicts token t+2. Positions are those of slot t. Embedding and head are the model's. Where this comes
from: vLLM's qwen3_5_mtp and Megatron's; the checkpoint's names are mtp.*.
"""
import copy

import torch
from torch import nn
from transformers.masking_utils import create_causal_mask


class Mtp(nn.Module):
    """`layer` and `norm`: the library's decoder layer and RMSNorm; `config`: of the text model."""

    def __init__(self, config, layer, norm):
        super().__init__()
        self.config = copy.deepcopy(config)
        self.config.layer_types, self.config.num_hidden_layers = ["full_attention"], 1
        width, eps = config.hidden_size, config.rms_norm_eps
        self.fc = nn.Linear(2 * width, width, bias=False)
        self.pre_fc_norm_embedding, self.pre_fc_norm_hidden = norm(width, eps=eps), norm(width, eps=eps)
        self.layers = nn.ModuleList([layer(self.config, 0)])
        self.norm = norm(width, eps=eps)

    def forward(self, embeddings, hidden, positions, rotary):
        """Embeddings [n, D] of tokens 1..n, final hidden [n, D] and positions [3, n] of tokens 0..n-1 -> [n, D]."""
        x = self.fc(torch.cat([self.pre_fc_norm_embedding(embeddings), self.pre_fc_norm_hidden(hidden)], dim=-1))[None]
        index = torch.arange(x.shape[1])[None]
        mask = create_causal_mask(config=self.config, inputs_embeds=x, attention_mask=None, past_key_values=None,
                                  position_ids=index)
        x = self.layers[0](x, position_embeddings=rotary(x, positions[:, None]), attention_mask=mask, position_ids=index)
        return self.norm(x)[0]
