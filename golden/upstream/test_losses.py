"""Proves the terms of a loss that no golden holds, with the library's own router loss and its gradients.

    ./meshparity test --upstream        all files of this kind

The library computes a weighted sum of terms on a packaged batch, document by document, and `meshparity run` the same sum on
a mesh; values and every gradient must agree to rounding. A new term is a line in `terms` and in LOSS.
Needs MESHPARITY_EXECUTABLE: the program.
"""
import os
import subprocess
import tempfile
import unittest
from pathlib import Path

import h5py
import numpy as np
import torch
import torch.nn.functional as F
from transformers.models.qwen3_5_moe.modeling_qwen3_5_moe import load_balancing_loss_func

from golden.upstream import draws, generate, models, store
from golden.upstream.batches import IGNORE
from golden.upstream.lift import lift

DATA = store.ROOT / "golden" / "data"
LOSS = {"token_mean": 1.0, "policy_gradient": 0.25, "lm_z": 0.01, "router_z": 0.1, "aux": 0.5}
SAMPLED_SEED = 1  # of the advantages and old logprobs of batches that hold none


def setUpModule():
    lift()
    torch.set_num_threads(1)


def sampled(batch):
    """Advantages and old logprobs [N], as harness/types/batch.h draws them."""
    numbers = np.arange(len(batch.token_ids), dtype=np.uint64)
    old = -6 * draws.Generator(SAMPLED_SEED, "old_logprobs").uniform(numbers)
    old[batch.labels == IGNORE] = 0
    return torch.from_numpy(2 * draws.Generator(SAMPLED_SEED, "advantages").uniform(numbers) - 1), torch.from_numpy(old)


def terms(model, config, batch, micro_batch):
    """{term: its share of this micro-batch in the batch's value}."""
    valid, count = batch.labels != IGNORE, int((batch.labels != IGNORE).sum())
    advantages, old = sampled(batch)
    values, routers = dict.fromkeys(LOSS, 0.0), []
    for begin, end in batch.documents():
        if not micro_batch[0] <= begin < micro_batch[1]:
            continue
        out = model(input_ids=torch.from_numpy(batch.token_ids[begin:end])[None], use_cache=False,
                    output_router_logits=True)
        routers.append(out.router_logits)
        labels, here = torch.from_numpy(batch.labels[begin:end]), torch.from_numpy(valid[begin:end])
        ce = F.cross_entropy(out.logits[0], labels, ignore_index=IGNORE, reduction="none")
        ratio, advantage = torch.exp(-ce - old[begin:end]), advantages[begin:end]
        gain = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
        values["token_mean"] += ce.sum() / count
        values["policy_gradient"] += -gain[here].sum() / count
        values["lm_z"] += out.logits[0].logsumexp(-1)[here].square().sum() / count
    layers = tuple(torch.cat(of_layer) for of_layer in zip(*routers))
    shares = len(batch.micro_batches())
    values["router_z"] = torch.cat(layers).logsumexp(-1).square().mean() / shares
    values["aux"] = load_balancing_loss_func(layers, config.num_experts, config.num_experts_per_tok) / shares
    return values


class Terms(unittest.TestCase):
    def agree(self, batch_name, *options):
        content, _ = store.read(DATA / f"tiny-moe.{batch_name}.h5")
        model = models.build(content["config"])
        models.load(model, {name[8:]: value for name, value in content.items() if name.startswith("weights/")})
        batch, total = generate.batch_from(content), dict.fromkeys(LOSS, 0.0)
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        for micro_batch in batch.micro_batches():
            values = terms(model, model.config, batch, micro_batch)
            sum(LOSS[term] * values[term] for term in LOSS).backward()
            total = {term: total[term] + values[term].item() for term in LOSS}

        with tempfile.TemporaryDirectory() as folder:
            dump = Path(folder) / "dump.h5"
            loss = "+".join(f"{weight}*{term}" for term, weight in LOSS.items())
            done = subprocess.run([os.environ["MESHPARITY_EXECUTABLE"], "run", "--model", "tiny-moe", "--batch", batch_name,
                                   "--steps", "0", "--loss", loss, "--dump", str(dump), *options],
                                  capture_output=True, text=True)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            with h5py.File(dump) as file:
                for term, value in total.items():
                    self.assertLessEqual(abs(file[f"expected/loss/{term}"][()] - value), 1e-12 * max(1, abs(value)), term)
                norm = np.sqrt(sum(float(p.grad.square().sum()) for p in model.parameters()))
                for name, parameter in models.parameters(model).items():
                    got, want = file[f"expected/grads/{name}"][()], parameter.grad.numpy()
                    scale = max(np.linalg.norm(want), 1e-3 * norm)
                    self.assertLessEqual(np.linalg.norm(got - want), 1e-11 * scale, name)

    def test_rows_on_one_rank(self):
        self.agree("rows", "--mesh", "dp1")

    def test_rows_through_a_pipeline_with_experts_apart(self):
        self.agree("rows", "--mesh", "pp2.fsdp2.ep2", "--recompute", "on")

    def test_packed_documents_over_context_ranks(self):
        self.agree("packed-odd", "--mesh", "ring2.tp3.etp1", "--sp", "on", "--layout", "zigzag")


if __name__ == "__main__":
    unittest.main()
