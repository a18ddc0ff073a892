"""Proves that Hugging Face directories go in and out: what transformers' save_pretrained writes is a --model, what the
ranks hold afterwards loads in transformers with the same logits to the bit, and what `meshparity cut` writes does both.

    ./meshparity test --upstream        all files of this kind

Logits of a mesh against the library's own on the same directory, in float64. A new way to store a model is a line in STORED.
Needs MESHPARITY_JUDGE and MESHPARITY_EXECUTABLE: the two programs.
"""
import json
import os
import subprocess
import tempfile
import unittest
from pathlib import Path

import h5py
import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import (AutoModelForCausalLM, Qwen3_5Config, Qwen3_5ForConditionalGeneration, Qwen3_5MoeConfig,
                          Qwen3_5MoeForConditionalGeneration)

from golden.upstream import models, store
from golden.upstream.lift import lift

SCENARIOS = store.ROOT / "scenarios" / "models"
BATCH = "tokens:9+5/1//7+3"
MULTIMODAL = {"tiny-vl": (Qwen3_5Config, Qwen3_5ForConditionalGeneration),
              "tiny-vl-moe": (Qwen3_5MoeConfig, Qwen3_5MoeForConditionalGeneration)}
# How a directory is stored: arguments of save_pretrained, and the dtypes of published checkpoints or float64.
STORED = {"one file": ({}, False), "many files": ({"max_shard_size": "20KB"}, False), "bfloat16": ({}, True)}


def setUpModule():
    lift()
    torch.set_num_threads(1)


def run(*words):
    return subprocess.run([os.environ["MESHPARITY_EXECUTABLE"], "run", "--batch", BATCH, "--steps", "0", *map(str, words)],
                          capture_output=True, text=True)


def judge(*words):
    return subprocess.run([os.environ["MESHPARITY_JUDGE"], *map(str, words)], capture_output=True, text=True)


def randomise(model):
    """Values that no slip leaves unseen: norms away from 0 and 1, decays and biases spread."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, dtype=torch.float64) * 0.2 + (0.3 if parameter.ndim == 1 else 0))
    return model


def round_as_published(model):
    """bfloat16 but for A_log and the delta rule's norm."""
    for name, parameter in model.named_parameters():
        wide = name.endswith("A_log") or name.endswith("linear_attn.norm.weight")
        parameter.data = parameter.data.to(torch.float32 if wide else torch.bfloat16)
    return model


def text_model(name):
    return randomise(models.build(models.read_config(SCENARIOS / f"{name}.json")))


def multimodal_model(name):
    config_class, model_class = MULTIMODAL[name]
    config = config_class.from_dict(json.loads((SCENARIOS / f"{name}.json").read_text()))
    config._attn_implementation = "eager"
    return randomise(model_class(config).eval())


def logits_of(model, file):
    """The library's logits [N, vocab] of a dump's tokens, every document alone; of a multimodal model its text model's."""
    ids, offsets = file["inputs/token_ids"][()], file["inputs/document_offsets"][()]
    out = []
    with torch.no_grad():
        for begin, end in zip(offsets, offsets[1:]):
            given = torch.from_numpy(ids[begin:end])[None]
            if hasattr(model.model, "language_model"):
                out.append(model.lm_head(model.model.language_model(input_ids=given, use_cache=False).last_hidden_state)[0])
            else:
                out.append(model(input_ids=given, use_cache=False).logits[0])
    return torch.cat(out).numpy()


def weights_of(model):
    """By name, a multimodal model's text model under the names that it has alone."""
    return {name.replace("language_model.", ""): value for name, value in model.state_dict().items()}


def picture_logits(model):
    """Logits [1, 6, vocab] of a multimodal model on two words and a picture of two tokens."""
    config = model.config
    ids = torch.tensor([[5, config.vision_start_token_id, *[config.image_token_id] * 2, config.vision_end_token_id, 7]])
    pixels = torch.linspace(-1, 1, 8 * 24, dtype=torch.float64).reshape(8, 24)
    with torch.no_grad():
        return model(input_ids=ids, pixel_values=pixels, image_grid_thw=torch.tensor([[1, 4, 2]]), use_cache=False,
                     mm_token_type_ids=(ids == config.image_token_id).int()).logits


def reload(model_class, folder):
    """The directory as transformers loads it, in float64; nothing may be missing or left over but mtp.*."""
    model, info = model_class.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager",
                                              experts_implementation="eager", output_loading_info=True)
    left = [k for k in (*info["missing_keys"], *info["unexpected_keys"], *info["mismatched_keys"]) if not str(k).startswith("mtp.")]
    assert not left, left
    return model.eval()


class Folder(unittest.TestCase):
    def setUp(self):
        self.scratch = tempfile.TemporaryDirectory()
        self.folder = Path(self.scratch.name)

    def tearDown(self):
        self.scratch.cleanup()

    def agrees(self, name, folder, model, mesh, *words):
        """A mesh loads the folder and has the logits of the library's model."""
        dump = self.folder / "dump.h5"
        done = run("--model", name, "--mesh", mesh, "--dump", dump, *words)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        with h5py.File(dump) as file:
            want, got = logits_of(model, file), file["expected/logits"][()]
        self.assertLess(np.linalg.norm(got - want), 1e-12 * np.linalg.norm(want))


class Directory(Folder):
    def round_trip(self, build, model_class, prefix=""):
        for stored, (arguments, published) in STORED.items():
            with self.subTest(stored=stored):
                folder, back = self.folder / f"in {stored}", self.folder / f"out {stored}"
                model = build()
                (round_as_published(model) if published else model).save_pretrained(folder, **arguments)
                if published:
                    with safe_open(next(folder.glob("*.safetensors")), "pt") as file:
                        dtypes = {file.get_tensor(name).dtype for name in file.keys()}
                    self.assertEqual(dtypes, {torch.bfloat16, torch.float32})
                loaded = reload(model_class, folder)
                self.agrees(f"{prefix}{folder}", folder, loaded, "tp2", "--save-weights", back)
                again = reload(AutoModelForCausalLM if prefix else model_class, back)
                # To the bit by the weights: logits may round otherwise where a file's tensors begin elsewhere in memory.
                ours, theirs = weights_of(again), weights_of(loaded)
                for name, value in ours.items():
                    self.assertTrue(torch.equal(value, theirs[name]), name)
                if not prefix:
                    self.assertEqual(ours.keys(), theirs.keys())
                with h5py.File(self.folder / "dump.h5") as file:
                    np.testing.assert_allclose(logits_of(again, file), logits_of(loaded, file), rtol=0, atol=1e-12)
                if hasattr(again.model, "visual"):
                    torch.testing.assert_close(picture_logits(again), picture_logits(loaded), rtol=0, atol=1e-12)

    def test_dense_text_model(self):
        self.round_trip(lambda: text_model("tiny-dense"), AutoModelForCausalLM)

    def test_text_model_with_experts(self):
        self.round_trip(lambda: text_model("tiny-moe"), AutoModelForCausalLM)

    def test_tied_text_model(self):
        self.round_trip(lambda: text_model("tiny-tied"), AutoModelForCausalLM)

    def test_dense_multimodal_model(self):
        self.round_trip(lambda: multimodal_model("tiny-vl"), Qwen3_5ForConditionalGeneration)

    def test_multimodal_model_with_experts(self):
        self.round_trip(lambda: multimodal_model("tiny-vl-moe"), Qwen3_5MoeForConditionalGeneration)

    def test_text_model_of_a_dense_multimodal_directory(self):
        self.round_trip(lambda: multimodal_model("tiny-vl"), Qwen3_5ForConditionalGeneration, "text:")

    def test_text_model_of_a_multimodal_directory_with_experts(self):
        self.round_trip(lambda: multimodal_model("tiny-vl-moe"), Qwen3_5MoeForConditionalGeneration, "text:")


class Wrong(Folder):
    def refused(self, change, said):
        text_model("tiny-dense").save_pretrained(self.folder / "in")
        file = self.folder / "in" / "model.safetensors"
        weights = load_file(file)
        change(weights)
        save_file(weights, file, {"format": "pt"})
        done = run("--model", self.folder / "in", "--mesh", "tp2")
        self.assertEqual(done.returncode, 2, done.stdout + done.stderr)
        self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
        self.assertIn(said, done.stderr)

    def test_missing_weight_is_named(self):
        self.refused(lambda w: w.pop("model.layers.1.linear_attn.A_log"), "model.layers.1.linear_attn.A_log: is missing")

    def test_unknown_weight_is_named(self):
        self.refused(lambda w: w.update({"model.layers.1.extra.weight": torch.zeros(2)}),
                     "model.layers.1.extra.weight: is no parameter of this model")


class Cut(Folder):
    def cut(self, model, words, prefix):
        model.save_pretrained(self.folder / "big", max_shard_size="20KB")
        small = self.folder / "small"
        done = judge("cut", "--from", self.folder / "big", "--to", small, *words)
        self.assertEqual(done.returncode, 0, done.stderr)
        loaded = reload(type(model), small)
        self.agrees(f"{prefix}{small}", small, loaded, "fsdp2.tp2")
        return loaded

    def test_dense_text_model(self):
        loaded = self.cut(text_model("tiny-tied"), ["--layers", 4, "--vocab", 23], "")
        self.assertEqual(loaded.config.num_hidden_layers, 4)
        self.assertIs(loaded.lm_head.weight, loaded.model.embed_tokens.weight)

    def test_multimodal_model_with_experts(self):
        big = multimodal_model("tiny-vl-moe")
        loaded = self.cut(big, ["--layers", 4, "--experts", 6, "--vocab", 40], "text:")
        self.assertEqual(loaded.config.text_config.num_experts, 6)
        # A picture through the whole: the placeholder's id moved, its row did not change.
        config = loaded.config
        self.assertEqual(config.image_token_id, 39)
        for old, new in ((61, config.image_token_id), (63, config.vision_start_token_id)):
            torch.testing.assert_close(loaded.model.language_model.embed_tokens.weight[new],
                                       big.model.language_model.embed_tokens.weight[old], rtol=0, atol=0)
        out = picture_logits(loaded)
        self.assertEqual(tuple(out.shape), (1, 6, 40))
        self.assertTrue(torch.isfinite(out).all())


if __name__ == "__main__":
    unittest.main()
