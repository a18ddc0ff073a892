"""Random weights and token ids, number for number those of harness/types/generator.h and scenarios/initial_weights.h.

Every value is a pure function of (seed, name, index). The logarithm and cosine come from the C library, as in C++
(module math, not numpy, whose own versions may differ in the last bit).
"""
import math

import numpy as np

MASK = (1 << 64) - 1
GOLDEN_RATIO = 0x9E3779B97F4A7C15


def mix64(x):
    """SplitMix64's finaliser on a Python integer or a uint64 array."""
    if isinstance(x, int):
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
        return x ^ (x >> 31)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def name_hash(name):
    """FNV-1a over the UTF-8 bytes."""
    value = 0xCBF29CE484222325
    for byte in name.encode():
        value = ((value ^ byte) * 0x100000001B3) & MASK
    return value


def unit_of(bits):
    """Numbers in (0, 1) of the upper 53 bits: the middle of their interval, the last of which rounds to 1."""
    middle = ((np.asarray(bits, np.uint64) >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    return np.minimum(middle, 1 - 2.0**-53)


class Generator:
    """Counter-based numbers; every method takes an array of indices."""

    def __init__(self, seed, name):
        self._key = mix64(mix64((seed + GOLDEN_RATIO) & MASK) ^ name_hash(name))

    def bits(self, index):
        counter = (np.asarray(index).astype(np.uint64) + np.uint64(1)) * np.uint64(GOLDEN_RATIO)
        return mix64(np.uint64(self._key) + counter)

    def uniform(self, index):
        return unit_of(self.bits(index))

    def below(self, index, n):
        return (self.bits(index) % np.uint64(n)).astype(np.int64)

    def normal(self, index):
        index = np.asarray(index)
        pairs = zip(self.uniform(2 * index), self.uniform(2 * index + 1))
        return np.array([math.sqrt(-2.0 * math.log(u)) * math.cos(6.283185307179586 * v) for u, v in pairs])


def router_rows(normal, n_experts, width, pair):
    """The router's matrix [experts, width]: antipodal pairs keep the last, nearly zero row out of every top 2."""
    w_ed = (normal * 1.5 / math.sqrt(width)).reshape(n_experts, width)
    if n_experts < 8:
        return w_ed
    for j in range(3):
        w_ed[2 * j + 1] = -w_ed[2 * j] * (0.9 + 0.2 * pair.uniform([j])[0])
    w_ed[-1] = 0.01 * normal[-width:]
    return w_ed


def vision_weight(name, shape, normal):
    """Of the vision tower: biases and norms (plain, around 1) are far from their usual 0 and 1, so that mistakes show."""
    if name.endswith(".bias"):
        return 0.3 * normal
    if len(shape) == 1:
        return 1 + 0.3 * normal
    return normal / math.sqrt(1 if name.endswith("pos_embed.weight") else math.prod(shape[1:]))


def initial_weight(name, shape, seed, initializer_range=0.02):
    """One parameter as scenarios/initial_weights.h defines it; float64, C order."""
    count = math.prod(shape)
    index = np.arange(count)
    generator = Generator(seed, "weights/" + name)
    if name.endswith(".A_log"):
        low, high = math.log(0.002), math.log(2.5)
        return low + (high - low) * (index + generator.uniform(index)) / count
    normal = generator.normal(index)
    if name.endswith(".mlp.gate.weight"):
        return router_rows(normal, *shape, Generator(seed, "weights/" + name + "/pair"))
    if name.endswith(".linear_attn.norm.weight"):
        flat = 1 + 0.3 * normal
    elif name.startswith("model.visual."):
        flat = vision_weight(name, shape, normal)
    elif name.endswith((".q_norm.weight", ".k_norm.weight")):
        flat = 0.3 * (initializer_range / 0.02) * normal
    elif name.endswith("norm.weight") or ".pre_fc_norm_" in name:  # every other norm is zero-centred
        flat = 0.3 * normal
    elif name.endswith(".dt_bias") or name.endswith(".conv1d.weight"):
        flat = 0.5 * normal
    elif name.endswith("embed_tokens.weight"):
        flat = normal
    elif name == "lm_head.weight":
        flat = 2 * normal / math.sqrt(shape[-1])
    else:
        flat = normal / math.sqrt(shape[-1])
    return flat.reshape(shape)
