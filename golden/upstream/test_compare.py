"""Proves the way of somebody else's model, with the programs that users type: export, check.py, compare.

    ./meshparity test --upstream        all files of this kind

Every packaged golden is exported, check.py runs on it plainly and under FSDP2 with two ranks, in float64 and float32, and
the judge must PASS what it wrote. Then one line of check.py is broken at a time, and one tensor of a dump: the judge must
name it. A new mistake of trainers is a line in BROKEN_LINES, BROKEN_PICTURES or BROKEN_TENSORS.
Needs MESHPARITY_JUDGE and, for regenerate, MESHPARITY_EXECUTABLE: the two programs.
"""
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import h5py
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "golden" / "data"
MODELS = ("tiny-dense", "tiny-moe")
BATCHES = ("single", "packed-odd", "rows")
A_GRAD = "model.layers.3.self_attn.k_proj.weight"

# What a trainer gets wrong: the line as it stands in check.py, what replaces it, how check.py is started, and what must be
# told: a check and a glob over the tensor first named in it. Under FSDP the loss is multiplied by the world because FSDP
# divides by it.
BROKEN_LINES = {
    "labels not shifted": ("ce = torch.nn.functional.cross_entropy(out, labels[d], reduction=\"none\")",
                           "ce = torch.nn.functional.cross_entropy(out, ids[d].where(labels[d] != -100, labels[d]), "
                           "reduction=\"none\")", (), ("FAIL", "logprobs", "logprobs")),
    "loss divided by world": ("(mine * world * ce.sum() / max(valid, 1) + unseen).backward()",
                              "(mine * ce.sum() / max(valid, 1) + unseen).backward()", ("--fsdp",), ("FAIL", "grads", "model.")),
    "one gradient None": ("dump |= {", f"del dump['expected/grads/{A_GRAD}']; dump |= {{", (),
                          ("INVALID", "grads", A_GRAD)),
}

# The same of models that see images, which text models do not show.
BROKEN_PICTURES = {
    "positions of text": ("position_ids=at,", "position_ids=at[:1].expand(4, -1, -1),", (), ("FAIL", "logits", "logits")),
    "pixels of another scale": ("pictures = document_images(model.config, batch, d.start, d.stop)",
                                "pictures = {n: x * 2 if x.is_floating_point() else x for n, x in "
                                "document_images(model.config, batch, d.start, d.stop).items()}", (),
                                ("FAIL", "logits", "logits")),
    "tower frozen": ("text, tower = ", "model.model.visual.requires_grad_(False); text, tower = ", (),
                     ("INVALID", "grads", "model.visual.")),
}


def set_to(value):
    return lambda file, path: file[path].write_direct(np.full(file[path].shape, value))


def put(make):
    """Replaces a dataset by what `make` gives for its content."""
    def change(file, path):
        content = make(file[path][()])
        del file[path]
        file[path] = content
    return change


def erase(file, path):
    del file[path]


# One tensor of a dump, broken with h5py as trainers write it: how, and what must be told. Exit 1 is a verdict that names the
# tensor; exit 2 a file whose dataset holds nothing that could be judged.
BROKEN_TENSORS = {
    "missing": (erase, 1, "missing"),
    "None as an empty dataspace": (put(lambda x: h5py.Empty("f8")), 2, "holds nothing"),
    "empty": (put(lambda x: x[:0]), 1, "shape [0,"),
    "NaN": (set_to(np.nan), 1, "not finite"),
    "zeros": (put(np.zeros_like), 1, "never arrived"),
    "transposed": (put(lambda x: np.ascontiguousarray(x.T)), 1, "shape"),
    "flat": (put(np.ravel), 1, "shape"),
    "int64": (put(lambda x: x.astype(np.int64)), 1, "dtype int64"),
    "bool": (put(lambda x: x > 0), 1, "dtype bool"),
    "complex": (put(lambda x: x.astype(np.complex128)), 2, "dtype"),
    "a string": (put(lambda x: "None"), 1, "missing"),
}


def all_nodes(file):
    nodes = []
    file.visititems(lambda path, node: nodes.append((path, node)))
    return nodes


def judge(*words):
    return subprocess.run([os.environ["MESHPARITY_JUDGE"], *map(str, words)], capture_output=True, text=True)


def export(golden, folder):
    done = judge("export", "--golden", golden, "--to", folder)
    assert done.returncode == 0, done.stderr


def run_check(folder, *words):
    """Runs check.py as its first lines say and returns the path of the dump."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"] if "--fsdp" in words else []
    dump = folder / "dump.h5"
    dump.unlink(missing_ok=True)
    done = subprocess.run([sys.executable, *launch, "check.py", *words], cwd=folder, capture_output=True, text=True,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    return dump


class EveryBatch(unittest.TestCase):
    def check(self, model, batch):
        golden = DATA / f"{model}.{batch}.h5"
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "out"
            export(golden, folder)
            for words in ((), ("--fsdp",), ("--dtype", "float32"), ("--fsdp", "--dtype", "float32")):
                with self.subTest(model=model, batch=batch, words=words):
                    done = judge("compare", "--golden", golden, run_check(folder, *words), "--json", folder / "r.json")
                    self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
                    checks = json.loads((folder / "r.json").read_text())["cases"][0]["checks"]
                    with h5py.File(golden) as file:
                        wanted = set(file["expected/grads"]) if "grads" in file["expected"] else set()
                    # transformers has no layer of multi-token prediction; token_mean does not reach it.
                    wanted = {name for name in wanted if not name.startswith("mtp.")}
                    judged = {c["tensor"] for c in checks if c["check"] == "grads" and c["state"] == "PASS"}
                    self.assertEqual(judged, wanted)
                    worst = {}
                    for c in checks:
                        worst[c["check"]] = max(worst.get(c["check"], 0), c["bound_used"])
                    print(f"{model} {batch} {' '.join(words) or 'plain'}: share of bound",
                          ", ".join(f"{check} {used:.1%}" for check, used in worst.items() if used))

    def test_dense_single(self):
        self.check("tiny-dense", "single")

    def test_dense_packed_odd(self):
        self.check("tiny-dense", "packed-odd")

    def test_dense_rows(self):
        self.check("tiny-dense", "rows")

    def test_moe_single(self):
        self.check("tiny-moe", "single")

    def test_moe_packed_odd(self):
        self.check("tiny-moe", "packed-odd")

    def test_moe_rows(self):
        self.check("tiny-moe", "rows")

    def test_images(self):
        self.check("tiny-vl", "rows")

    def test_images_and_experts(self):
        self.check("tiny-vl-moe", "rows")


class Broken(unittest.TestCase):
    def test_one_broken_line_of_check_is_told_by_the_tensor(self):
        cases = [(model, "packed-odd", BROKEN_LINES) for model in MODELS] + [("tiny-vl", "rows", BROKEN_PICTURES)]
        for model, batch, broken_lines in cases:
            golden = DATA / f"{model}.{batch}.h5"
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name) / "out"
                export(golden, folder)
                script = (folder / "check.py").read_text()
                for mistake, (line, broken, words, (state, check, tensor)) in broken_lines.items():
                    with self.subTest(model=model, mistake=mistake):
                        self.assertEqual(script.count(line), 1)
                        (folder / "check.py").write_text(script.replace(line, broken))
                        done = judge("compare", "--golden", golden, run_check(folder, *words))
                        self.assertEqual(done.returncode, 1, done.stdout + done.stderr)
                        self.assertRegex(done.stdout, f"(?m)^{state} .* check={check} tensor={tensor}")

    def test_one_broken_tensor_of_a_dump_never_passes(self):
        golden = DATA / "tiny-dense.packed-odd.h5"
        path = f"expected/grads/{A_GRAD}"
        with tempfile.TemporaryDirectory() as name:
            whole, dump = Path(name) / "whole.h5", Path(name) / "dump.h5"
            with h5py.File(golden) as source, h5py.File(whole, "w") as file:
                for group in ("inputs", "expected"):
                    source.copy(group, file)
                for hashed in [node for _, node in all_nodes(file) if "sha256" in node.attrs]:
                    del hashed.attrs["sha256"]
            self.assertEqual(judge("compare", "--golden", golden, whole).returncode, 0)
            swapped = judge("compare", "--golden", whole, golden)
            self.assertEqual((swapped.returncode, swapped.stderr.count("\n")), (2, 1))
            self.assertIn("whole.h5: is no golden but a dump", swapped.stderr)
            for mistake, (change, code, said) in BROKEN_TENSORS.items():
                with self.subTest(mistake=mistake):
                    shutil.copy(whole, dump)
                    with h5py.File(dump, "a") as file:
                        change(file, path)
                    done = judge("compare", "--golden", golden, dump)
                    self.assertEqual(done.returncode, code, done.stdout + done.stderr)
                    self.assertIn(A_GRAD, done.stdout + done.stderr)
                    self.assertIn(said, done.stdout + done.stderr)

    def test_chunks_compression_byte_order_and_links_of_writers_change_nothing(self):
        golden = DATA / "tiny-dense.packed-odd.h5"
        with tempfile.TemporaryDirectory() as name:
            dump = Path(name) / "dump.h5"
            with h5py.File(golden) as source, h5py.File(dump, "w", libver="latest") as file:
                def copy(path, node):
                    if not isinstance(node, h5py.Dataset) or path.startswith("weights/"):
                        return
                    value = node[()]
                    chunked = isinstance(value, np.ndarray) and value.size > 1
                    options = {"chunks": True, "compression": "gzip", "shuffle": True} if chunked else {}
                    kind = node.dtype.newbyteorder(">") if chunked else None
                    file.create_dataset(path, data=value, dtype=kind, **options)
                source["inputs"].visititems(lambda p, n: copy("inputs/" + p, n))
                source["expected"].visititems(lambda p, n: copy("expected/" + p, n))
                file["config"] = source["config"][()].decode()
            done = judge("compare", "--golden", golden, dump)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)


class Regenerate(unittest.TestCase):
    """`meshparity golden regenerate` with the real generator, on a copy of a packaged golden."""

    def regenerate(self, to, *words, limit=resource.RLIM_INFINITY):
        command = [os.environ["MESHPARITY_EXECUTABLE"], "golden", "regenerate", "--model", "tiny-dense", "--batch", "single"]
        return subprocess.run([*command, "--to", str(to), *words], capture_output=True, text=True,
                              env={**os.environ, "MESHPARITY_UPSTREAM_PYTHON": sys.executable},
                              preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))

    def test_a_full_disk_is_one_line_and_leaves_what_stood_there(self):
        with tempfile.TemporaryDirectory() as name:
            to = Path(name) / "mine.h5"
            for before in (None, DATA / "tiny-dense.single.h5"):
                if before:
                    shutil.copy(before, to)
                done = self.regenerate(to, limit=100_000)
                self.assertEqual(done.returncode, 2, done.stdout + done.stderr)
                self.assertRegex(done.stderr, r"\Agenerate: .*mine.h5.*: cannot be written: File too large\n\Z")
                self.assertEqual([p.read_bytes() for p in Path(name).iterdir()], [before.read_bytes()] if before else [])

    def test_it_reproduces_refuses_an_unexplained_change_and_stores_a_reason(self):
        with tempfile.TemporaryDirectory() as name:
            to = Path(name) / "mine.h5"
            shutil.copy(DATA / "tiny-dense.single.h5", to)
            before = to.read_bytes()
            done = self.regenerate(to)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            self.assertIn("reproduced within the float64 bounds", done.stdout)
            self.assertEqual(to.read_bytes(), before)

            # As if the model had computed something else when the file was made.
            from golden.upstream import store
            content, attributes = store.read(to)
            content["expected/logits"] = content["expected/logits"] * (1 + 1e-6)
            attributes.pop("content_sha256")
            store.write(to, content, {k: int(v) if isinstance(v, np.integer) else v for k, v in attributes.items()})
            changed = to.read_bytes()
            done = self.regenerate(to)
            self.assertEqual(done.returncode, 1, done.stdout + done.stderr)
            self.assertIn("expected/logits", done.stdout)
            self.assertIn("--reason", done.stderr)
            self.assertEqual(to.read_bytes(), changed)

            done = self.regenerate(to, "--reason", "the logits were scaled by mistake")
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            with h5py.File(to) as file, h5py.File(DATA / "tiny-dense.single.h5") as packaged:
                self.assertEqual(file.attrs["reason"].decode(), "the logits were scaled by mistake")
                np.testing.assert_allclose(file["expected/logits"], packaged["expected/logits"], rtol=1e-9, atol=1e-12)
            self.assertEqual(sorted(path.name for path in Path(name).iterdir()), ["mine.h5"])


if __name__ == "__main__":
    unittest.main()
