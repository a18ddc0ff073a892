"""Proves what a golden rests on: the library runs in float64 throughout, gradients are gradients, generation repeats.

    .meshparity/upstream/bin/python -m unittest golden.upstream.test_upstream     two minutes on 2 cores

Numbers here come from the model itself (finite differences), from C++ (draws) or from the packaged goldens; a test of a
new quantity belongs beside the one it resembles.
"""
import contextlib
import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import h5py
import numpy as np
import torch
from safetensors.torch import save_file
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import vision_utils

from golden.upstream import draws, expected, generate, models, store
from golden.upstream.images import document_images
from golden.upstream.batches import Batch, IGNORE, next_token_labels, offsets, read_batch, vision_of
from golden.upstream.lift import MODULES, lift

MODELS = ("tiny-dense", "tiny-moe")
MULTIMODAL = ("tiny-vl", "tiny-vl-moe")
DATA = store.ROOT / "golden" / "data"
HERE = Path(__file__).parent
STEP = 1e-5  # of the finite differences


def setUpModule():
    lift()
    torch.set_num_threads(1)


class OnlyFloat64(TorchDispatchMode):
    """Raises where any operation takes or gives a floating tensor of another dtype."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for value in tree_leaves((args, kwargs, result)):
            if isinstance(value, torch.Tensor) and value.is_floating_point() and value.dtype != torch.float64:
                raise TypeError(f"{function} handles {value.dtype} {tuple(value.shape)}")
        return result


def unlifted():
    """The library with one set of casts as released: those its modules write as torch.float32."""
    stack = contextlib.ExitStack()
    for module in MODULES:
        stack.enter_context(mock.patch.object(module, "torch", torch))
    return stack


def short_batch():
    """Documents of 13 and 6 tokens in one row."""
    document_offsets = offsets([13, 6])
    ids = draws.Generator(3, "token_ids").below(np.arange(19), 61)
    labels = next_token_labels(ids, document_offsets)
    labels[2:5] = IGNORE
    return Batch(ids, labels, document_offsets, offsets([2]), offsets([1]))


def short_batch_with_images(model):
    """Documents of 13 and 6 tokens: an image and a video of two frames in the first, an image alone in the second."""
    vision = vision_of(model.config.to_dict())
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        file.write("seed = 3\nrows = [[13, 6]]\nmasked = [[5, 6]]\nimages = [[0, 2, 4], [14, 4, 2]]\nvideos = [[6, 2, 2, 2]]")
        file.flush()
        batch, _ = read_batch(file.name, 67, vision)
    batch.position_ids = expected.rope_index(model, batch)
    return batch


def packaged_model(name):
    model = models.build(models.read_config(generate.find(name, "models", ".json")))
    weights = {n: draws.initial_weight(n, tuple(p.shape), generate.WEIGHT_SEED)
               for n, p in models.parameters(model).items()}
    models.load(model, weights)
    return model


def loss_of(model, batch, term="token_mean"):
    if term == "token_mean":
        return expected.forward(model, batch)[1].sum() / (batch.labels != IGNORE).sum()
    with torch.no_grad():
        total = sum(float(expected.mtp_cross_entropies(model, batch, *document).sum()) for document in batch.documents())
    return total / expected.mtp_count(batch)


def slope_errors(model, batch, names=None, term="token_mean"):
    """{parameter: |finite difference - slope| / slope} of all or the named ones, each along its own random direction.

    A direction has random sizes and the gradient's signs, so that the slope is not a small difference of large terms.
    Central differences over STEP and twice STEP are combined so that the third derivative drops out.
    """
    expected.backward(model, batch, term)
    random, errors = np.random.default_rng(5), {}
    for name, parameter in models.parameters(model).items():
        if names and name not in names:
            continue
        gradient = parameter.grad.clone()
        direction = torch.from_numpy(np.abs(random.standard_normal(tuple(parameter.shape)))) * gradient.sign()
        direction /= direction.norm()
        start, losses = parameter.detach().clone(), []
        for steps in (1, -1, 2, -2):
            with torch.no_grad():
                parameter.copy_(start + steps * STEP * direction)
            losses.append(loss_of(model, batch, term))
        with torch.no_grad():
            parameter.copy_(start)
        slope = float((gradient * direction).sum())
        near, far = losses[0] - losses[1], losses[2] - losses[3]
        errors[name] = abs((8 * near - far) / (12 * STEP) - slope) / slope
    return errors


class Float64(unittest.TestCase):
    def test_finite_differences_agree_with_every_gradient(self):
        for name in MODELS:
            errors = slope_errors(packaged_model(name), short_batch())
            worst = max(errors, key=errors.get)
            print(f"{name}: finite differences, median {np.median(list(errors.values())):.1e}, "
                  f"worst {errors[worst]:.1e} at {worst}")
            for parameter, error in errors.items():
                self.assertLessEqual(error, 1e-7, f"{name} {parameter}")

    def test_finite_differences_agree_with_gradients_of_tower_and_mtp(self):
        for name in MULTIMODAL:
            model = packaged_model(name)
            batch = short_batch_with_images(model)
            vision = [n for n in models.parameters(model) if n.startswith("model.visual.")]
            mtp = [n for n in models.parameters(model) if n.startswith("mtp.")]
            self.assertGreater(min(len(vision), len(mtp)), 10)
            for term, names in (("token_mean", vision), ("mtp", vision + mtp)):
                errors = slope_errors(model, batch, names, term)
                self.assertEqual(len(errors), len(names))
                worst = max(errors, key=errors.get)
                print(f"{name}: {term}: finite differences, worst {errors[worst]:.1e} at {worst}")
                for parameter, error in errors.items():
                    self.assertLessEqual(error, 1e-7, f"{name} {term} {parameter}")

    def test_no_other_floating_dtype_in_forward_backward_and_optimizer(self):
        train = json.loads(generate.train_json({}))
        for name in MODELS + MULTIMODAL:
            with OnlyFloat64():
                model = packaged_model(name)
                batch = short_batch_with_images(model) if name in MULTIMODAL else short_batch()
                expected.compute(model, batch, train, ("grads", "steps"), steps=2)

    def test_a_cast_of_the_tower_that_is_not_lifted_is_noticed(self):
        for name in MULTIMODAL:
            model = packaged_model(name)
            batch = short_batch_with_images(model)
            for module in (vision_utils, sys.modules[type(model).__module__]):
                with mock.patch.object(module, "torch", torch), self.assertRaises(TypeError), OnlyFloat64():
                    expected.forward(model, batch)

    def test_a_cast_that_is_not_lifted_is_noticed(self):
        train = json.loads(generate.train_json({}))
        for name in MODELS:
            model = packaged_model(name)
            with unlifted():
                with self.assertRaises(TypeError), OnlyFloat64():
                    expected.compute(model, short_batch(), train, (), steps=0)
                below = ("model.layers.1.linear_attn.in_proj_qkv.weight",)  # a parameter whose effect passes the casts
                self.assertGreater(slope_errors(model, short_batch(), below)[below[0]], 1e-7)


class Images(unittest.TestCase):
    """What is passed to the library by hand is what it makes of images by itself."""

    def test_positions_and_features_are_those_of_the_whole_model(self):
        for name in MULTIMODAL:
            model = packaged_model(name)
            batch = short_batch_with_images(model)
            for begin, end in batch.documents():
                embeddings, hidden, logits = expected.document_forward(model, batch, begin, end)
                ids = torch.from_numpy(batch.token_ids[None, begin:end])
                kinds = (ids == model.config.image_token_id).int() + 2 * (ids == model.config.video_token_id).int()
                images = document_images(model.config, vars(batch), begin, end)
                if images:
                    self.assertTrue(torch.equal(images.pop("mm_token_type_ids"), kinds))
                out = model(input_ids=ids, mm_token_type_ids=kinds, use_cache=False, **images)
                self.assertTrue(torch.equal(out.logits[0], logits))
                self.assertTrue(torch.equal(model.lm_head(hidden), logits))
                text = (kinds == 0)[0]
                self.assertTrue(torch.equal(embeddings[text], model.get_input_embeddings()(ids)[0, text]))

    def test_an_image_that_crosses_a_document_is_refused(self):
        model = packaged_model(MULTIMODAL[0])
        batch = short_batch_with_images(model)
        batch.document_offsets = offsets([2, 11, 6])
        with self.assertRaisesRegex(ValueError, "inputs/image_grid_thw"):
            expected.rope_index(model, batch)

    def test_mtp_sees_the_next_token_and_nothing_behind_it(self):
        model = packaged_model(MULTIMODAL[0])
        batch = short_batch()
        before = expected.mtp_cross_entropies(model, batch, 13, 19).detach()
        self.assertEqual(len(before), 5)
        self.assertEqual(expected.mtp_count(batch), 12)  # labels but the masked, less each document's first
        batch.token_ids[17] = (batch.token_ids[17] + 1) % 61
        moved = (expected.mtp_cross_entropies(model, batch, 13, 19).detach() - before).abs()
        self.assertEqual(float(moved[:3].max()), 0)
        self.assertGreater(float(moved[3]), 1e-3)


class Draws(unittest.TestCase):
    def test_numbers_are_those_of_the_cpp_generator(self):
        generator = draws.Generator(7, "weights/lm_head.weight")
        self.assertEqual([int(x) for x in generator.bits([0, 1000000])], [0x1BCA911C6D726F4B, 0x6CDBAD87F0F05EFF])
        uniform = [float(x).hex() for x in generator.uniform([0, 5])]
        self.assertEqual(uniform, ["0x1.bca911c6d726cp-4", "0x1.6767352af33f8p-5"])
        self.assertEqual(draws.unit_of([0, 2**64 - 1]).tolist(), [2.0**-54, 1 - 2.0**-53])  # never 0, never 1
        self.assertEqual(generator.below([0, 9], 61).tolist(), [10, 4])
        for got, want in zip(generator.normal([0, 5]), ["-0x1.cece980032354p-1", "0x1.5176d30c055c6p+0"]):
            self.assertAlmostEqual(got, float.fromhex(want), delta=4e-16 * abs(got))

    def test_decay_covers_its_range_and_norms_are_not_zero(self):
        rate = np.exp(draws.initial_weight("model.layers.0.linear_attn.A_log", (12,), 7))
        self.assertTrue(0.002 <= rate[0] < 0.004 and 1.3 < rate[-1] <= 2.5 and (np.diff(rate) > 0).all(), rate)
        self.assertGreater(np.abs(draws.initial_weight("model.norm.weight", (24,), 7)).min(), 0)


class Goldens(unittest.TestCase):
    def test_generation_repeats_and_reproduces_the_package(self):
        for (model, batch), parts in generate.PACKAGED.items():
            if batch == "rows":
                continue  # the same code with steps: minutes saved
            stored, attributes = store.read(DATA / f"{model}.{batch}.h5")
            first, _, _ = generate.from_scenario(model, batch, parts)
            again, _, _ = generate.from_scenario(model, batch, parts)
            with tempfile.TemporaryDirectory() as folder:
                digests = [store.write(f"{folder}/{i}.h5", content, {}) for i, content in enumerate((first, again))]
            self.assertEqual(digests[0], digests[1])
            self.assertEqual(set(first), set(stored))
            norm = float(stored.get("expected/grad_norm", 1))
            for path, want in stored.items():
                if isinstance(want, str) or path.startswith("inputs/"):
                    np.testing.assert_array_equal(first[path], want, path)
                    continue
                limit = 1e-11 * max(np.linalg.norm(want), 1e-3 * norm)
                self.assertLessEqual(np.linalg.norm(first[path] - want), limit, path)

    def test_goldens_with_images_are_reproduced_as_far_as_their_forward(self):
        for model, batch in generate.PACKAGED:
            if model not in MULTIMODAL:
                continue
            stored, _ = store.read(DATA / f"{model}.{batch}.h5")
            content, _, _ = generate.from_scenario(model, batch, ())
            norm = math.sqrt(sum((value**2).sum() for path, value in stored.items() if "grads_mtp/" in path))
            self.assertGreater(norm, 1)
            for path, value in content.items():
                if path.startswith("inputs/") or isinstance(value, str):
                    np.testing.assert_array_equal(value, stored[path], path)
                else:
                    self.assertLessEqual(np.linalg.norm(value - stored[path]), 1e-12 * np.linalg.norm(stored[path]), path)
            self.assertIn("expected/loss/mtp", content)
            for path, value in stored.items():
                if path.startswith("expected/grads/mtp."):
                    self.assertEqual(np.abs(value).max(), 0)

    def test_hashes_hold_and_a_changed_element_is_noticed(self):
        for model, batch in generate.PACKAGED:
            content, attributes = store.read(DATA / f"{model}.{batch}.h5")
            hashes = {path: hashlib.sha256(store.raw_bytes(value)).hexdigest() for path, value in content.items()}
            self.assertEqual(store.content_sha256(hashes), attributes["content_sha256"])
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(shutil.copy(DATA / "tiny-dense.single.h5", folder))
            with h5py.File(copy, "a") as file:
                file["expected/logits"][3, 5] += 1e-15
            with self.assertRaisesRegex(ValueError, "expected/logits"):
                store.read(copy)

    def test_rows_clips_decays_by_dimension_and_leaves_the_idle_expert_without_gradient(self):
        for model in MODELS:
            content, _ = store.read(DATA / f"{model}.rows.h5")
            train = json.loads(content["train"])
            self.assertGreater(content["expected/grad_norm"], train["max_grad_norm"])
            grads = {name: content[name] for name in content if name.startswith("expected/grads/")}
            total = math.sqrt(sum((gradient**2).sum() for gradient in grads.values()))
            self.assertAlmostEqual(total / content["expected/grad_norm"], 1, delta=1e-14)
            if model == "tiny-moe":
                # Without a gradient AdamW only decays: w <- w * (1 - lr * weight_decay), three times.
                shrink = (1 - train["lr"] * train["weight_decay"]) ** 3
                for layer in range(5):
                    name = f"model.layers.{layer}.mlp.experts.down_proj"
                    self.assertEqual(np.abs(grads[f"expected/grads/{name}"][-1]).max(), 0)
                    got, start = content[f"expected/step3/weights/{name}"][-1], content[f"weights/{name}"][-1]
                    np.testing.assert_allclose(got, start * shrink, rtol=1e-15)

    def test_bad_batches_are_refused_by_name(self):
        for text, field in (("seed = 1\nrows = [[3, 0]]", "rows"), ("seed = 1\nrows = [[3]]\nmicro_batches = [2]",
                            "micro_batches"), ("rows = [[3]]", "seed"), ("seed = 1\nrows = [[3]]\nmasked = [[1, 9]]",
                            "masked"), ("seed = 1\nrows = [[3]]\nmask = []", "mask")):
            with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
                file.write(text)
                file.flush()
                with self.assertRaisesRegex(ValueError, f"{file.name}: {field}: "):
                    read_batch(file.name, 61)


class Check(unittest.TestCase):
    """check.py, images.py and lift.py as `meshparity export` copies them; what they compute is judged in test_compare.py."""

    def export(self, golden, folder):
        content, _ = store.read(golden)
        (folder / "config.json").write_text(content["config"])
        for target, prefix in (("model", "weights/"), ("batch", "inputs/")):
            tensors = {path[len(prefix):]: torch.from_numpy(value) for path, value in content.items()
                       if path.startswith(prefix)}
            save_file(tensors, folder / f"{target}.safetensors", metadata={"format": "pt"})
        for name in ("check.py", "images.py", "lift.py"):
            shutil.copy(HERE / name, folder)
        return content

    def run_check(self, folder, *words):
        subprocess.run([sys.executable, "check.py", *words], cwd=folder, check=True, capture_output=True,
                       env={**os.environ, "OMP_NUM_THREADS": "1"})
        return store.read(folder / "dump.h5")[0]

    def distance(self, dump, content):
        """The largest relative L2 distance, gradients measured as the gate does."""
        def far(path):
            want, norm = content[path], float(content["expected/grad_norm"])
            floor = 1e-3 * norm if path.startswith("expected/grads/") else 1e-300
            return np.linalg.norm(dump[path] - want) / max(np.linalg.norm(want), floor)
        gradients = {path for path in content if path.startswith("expected/grads/")}
        self.assertLessEqual(gradients, set(dump))
        return max(far(path) for path in dump)

    def test_float32_is_the_library_as_released(self):
        with tempfile.TemporaryDirectory() as name:
            content = self.export(DATA / "tiny-dense.packed-odd.h5", Path(name))
            dump = self.run_check(Path(name), "--dtype", "float32")
            self.assertEqual({value.dtype for path, value in dump.items() if path.startswith("expected/")},
                             {np.dtype(np.float32)})
            self.assertGreater(self.distance(dump, content), 2.0**-24)  # one rounding: nothing was lifted
            loss = "expected/loss/token_mean"
            self.assertAlmostEqual(float(dump[loss]), float(content[loss]), delta=1e-4)

    def test_it_fits_on_a_page(self):
        self.assertLessEqual(len((HERE / "check.py").read_text().splitlines()), 40)


if __name__ == "__main__":
    unittest.main()
