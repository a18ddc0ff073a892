"""Proves rollout: the library's own decoding with its caches, and its own temperature and top-p, say what is right.

    ./meshparity test --upstream        all files of this kind

The library prefills half of every document and decodes the rest token by token. That must have the golden's logits, which it
computed for whole documents, and the logits and logprobs that `meshparity run --rollout-mesh` writes.
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
from transformers.generation.logits_process import TemperatureLogitsWarper, TopPLogitsWarper

from golden.upstream import generate, models, store
from golden.upstream.batches import IGNORE
from golden.upstream.lift import lift
from golden.upstream.test_upstream import OnlyFloat64

DATA = store.ROOT / "golden" / "data"
BOUND = 1e-12  # relative to all logits, and nats of one token


def setUpModule():
    lift()
    torch.set_num_threads(1)


def golden(name, batch_name):
    """Model, batch and expected logits of a packaged golden."""
    content, _ = store.read(DATA / f"{name}.{batch_name}.h5")
    model = models.build(content["config"])
    models.load(model, {path[8:]: value for path, value in content.items() if path.startswith("weights/")})
    return model, generate.batch_from(content), content["expected/logits"]


def decode(model, token_ids, spoil=lambda cache: None):
    """Logits [n, V] of one document: half of it, rounded up, at once, then token by token. `spoil` edits the cache between."""
    ids, cache, logits = torch.from_numpy(token_ids)[None], None, []
    prompt = (len(token_ids) + 1) // 2
    with torch.no_grad():
        for begin, end in [(0, prompt)] + [(t, t + 1) for t in range(prompt, len(token_ids))]:
            out = model(input_ids=ids[:, begin:end], past_key_values=cache, use_cache=True)
            if cache is None:
                spoil(out.past_key_values)
            cache = out.past_key_values
            logits.append(out.logits[0])
    return torch.cat(logits)


def decoded(model, batch):
    return torch.cat([decode(model, batch.token_ids[begin:end]) for begin, end in batch.documents()])


def relative(got, want):
    return float(np.linalg.norm(np.asarray(got) - want) / np.linalg.norm(want))


def sampled_logprobs(logits, labels, temperature, top_p):
    """Logprobs [N] of the labels as the library's sampler sees them; 0 where ignored or left out by top-p."""
    scores = TopPLogitsWarper(top_p)(None, TemperatureLogitsWarper(temperature)(None, logits))
    valid = torch.from_numpy(labels != IGNORE)
    logprobs = scores.log_softmax(-1).gather(1, torch.from_numpy(labels).clamp_min(0)[:, None])[:, 0]
    return torch.where(valid & logprobs.isfinite(), logprobs, 0.0).numpy()


class Decoding(unittest.TestCase):
    def whole_document(self, name, batch_name):
        model, batch, want = golden(name, batch_name)
        with OnlyFloat64():
            got = decoded(model, batch)
        difference = relative(got, want)
        print(f"{name} {batch_name}: decoded logits are the golden's to {difference:.1e}")
        self.assertLessEqual(difference, BOUND)

    def test_dense_decodes_what_it_computes_whole(self):
        self.whole_document("tiny-dense", "packed-odd")

    def test_dense_decodes_short_documents(self):
        self.whole_document("tiny-dense", "boundaries")

    def test_moe_decodes_what_it_computes_whole(self):
        self.whole_document("tiny-moe", "packed-odd")

    def test_moe_decodes_short_documents(self):
        self.whole_document("tiny-moe", "boundaries")

    def test_a_lost_recurrent_state_would_show(self):
        model, batch, want = golden("tiny-dense", "packed-odd")
        begin, end = batch.documents()[0]

        def forget(cache):
            next(layer for layer in cache.layers if hasattr(layer, "recurrent_states")).recurrent_states[0].zero_()

        got = decode(model, batch.token_ids[begin:end], forget)
        self.assertGreater(relative(got, want[begin:end]), 1e-3)


class Rollout(unittest.TestCase):
    def agree(self, name, batch_name, *options, temperature=1.0, top_p=1.0):
        model, batch, _ = golden(name, batch_name)
        logits = decoded(model, batch)
        spec = f"temperature={temperature}:top_p={top_p}"
        with tempfile.TemporaryDirectory() as folder:
            dump = Path(folder) / "rollout.h5"
            done = subprocess.run([os.environ["MESHPARITY_EXECUTABLE"], "run", "--model", name, "--batch", batch_name,
                                   "--dump-rollout", str(dump), "--rollout", spec, *options], capture_output=True, text=True)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            with h5py.File(dump) as file:
                ours, logprobs = file["expected/logits"][()], file["expected/logprobs"][()]
        want = sampled_logprobs(logits, batch.labels, temperature, top_p)
        off, nats = relative(ours, logits.numpy()), float(np.abs(logprobs - want).max())
        print(f"{name} {batch_name} {' '.join(options)}: logits agree to {off:.1e}, sampled logprobs to {nats:.1e} nats; "
              f"{int(((want == 0) & (batch.labels != IGNORE)).sum())} labels left out by top-p")
        self.assertLessEqual(off, BOUND)
        self.assertLessEqual(nats, BOUND * max(1, 1 / temperature))
        return want

    def test_dense_on_one_rank(self):
        self.agree("tiny-dense", "packed-odd", "--mesh", "dp1", "--rollout-mesh", "dp1")

    def test_moe_resharded_from_fsdp_to_experts(self):
        self.agree("tiny-moe", "packed-odd", "--mesh", "fsdp2", "--rollout-mesh", "tp2.ep2")

    def test_temperature_and_top_p(self):
        want = self.agree("tiny-dense", "packed-odd", "--mesh", "fsdp2", "--rollout-mesh", "pp2.tp2",
                          temperature=0.7, top_p=0.9)
        self.assertTrue((want == 0).any() and (want != 0).any())


if __name__ == "__main__":
    unittest.main()
