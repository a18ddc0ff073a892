"""Writes a golden: Hugging Face's Qwen3.5 in true float64 on one batch, as one HDF5 file (docs/golden-format.md).

    python golden/upstream/generate.py --model tiny-moe --batch rows --to golden/data/tiny-moe.rows.h5
    python golden/upstream/generate.py --like OLD.h5 --to NEW.h5     the same inputs and weights computed again
    python golden/upstream/generate.py --packaged golden/data        every golden of the package

Two runs on one machine with one library version write the same content_sha256. A new packaged golden is a line in
PACKAGED; a new quantity goes into expected.py.
"""
import argparse
import json
import sys
import time
from pathlib import Path

if __package__ in (None, ""):  # run as a file: make `golden.upstream` importable
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import torch

from golden.upstream import expected, models, store
from golden.upstream.batches import Batch, offsets, read_batch, vision_of
from golden.upstream.draws import initial_weight
from golden.upstream.lift import lift

SCENARIOS = store.ROOT / "scenarios"
WEIGHT_SEED = 7
TRAIN_DEFAULTS = {"loss": "token_mean", "lr": 1e-3, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1,
                  "max_grad_norm": 1.0, "num_tokens": 100}
HELD = {"none": ("grads", "steps"), "steps": ("grads",), "grads": ()}  # what is held without something
# What each packaged golden holds beside logits, logprobs, losses and denominators.
PACKAGED = {("tiny-dense", "single"): (), ("tiny-moe", "single"): (),
            ("tiny-dense", "packed-odd"): ("grads",), ("tiny-moe", "packed-odd"): ("grads",),
            ("tiny-dense", "boundaries"): ("grads",), ("tiny-moe", "boundaries"): ("grads",),
            ("tiny-dense", "grids"): ("grads",), ("tiny-moe", "grids"): ("grads",),
            ("tiny-dense", "rows"): ("grads", "steps"), ("tiny-moe", "rows"): ("grads", "steps"),
            ("tiny-tied", "rows"): ("grads", "steps"),
            ("tiny-vl", "rows"): ("grads", "steps"), ("tiny-vl-moe", "rows"): ("grads", "steps")}


def find(name, folder, suffix):
    """A name in scenarios/<folder>, or a path."""
    for path in (SCENARIOS / folder / (name + suffix), Path(name), Path(name) / "config.json"):
        if path.is_file():
            return path
    raise ValueError(f"{name}: neither a file nor a name in scenarios/{folder}")


def train_json(section):
    """/train of a golden from the [train] section of a batch."""
    t = {**TRAIN_DEFAULTS, **section}
    return json.dumps({"loss": t["loss"], "lr": t["lr"], "betas": [t["beta1"], t["beta2"]], "eps": t["eps"],
                       "weight_decay": t["weight_decay"], "max_grad_norm": t["max_grad_norm"],
                       "num_tokens": t["num_tokens"]})


def inputs_of(batch):
    """The /inputs tree; a batch of one micro-batch is written with its offsets too."""
    return {f"inputs/{name}": getattr(batch, name) for name in Batch.__dataclass_fields__
            if getattr(batch, name) is not None}


def batch_from(content):
    rows = content["inputs/row_offsets"]
    content = {"inputs/micro_batch_offsets": offsets([len(rows) - 1]), **content}
    return Batch(*(content.get(f"inputs/{name}") for name in Batch.__dataclass_fields__))


def check_routing(counts):
    """Packaged MoE goldens must show an expert without any token and unequal loads in every layer."""
    if counts[:, -1].any():
        raise ValueError(f"the last expert received {counts[:, -1].tolist()} tokens, not 0 in every layer")
    if not all(len(set(row[:-1].tolist())) > 2 for row in counts):
        raise ValueError(f"routing is too even to show faults: {counts.tolist()}")


def generate(config, weights, batch, train_text, parts, steps, must_route=False):
    """The content of a golden, {path: array or str}, and lines to print. `weights` None: drawn from WEIGHT_SEED.

    must_route: refuse a MoE model whose last expert gets a token or whose loads are even.
    """
    model = models.build(config)
    if weights is None:
        spread = models.text_fields(config).get("initializer_range", 0.02)
        weights = {name: initial_weight(name, tuple(p.shape), WEIGHT_SEED, spread)
                   for name, p in models.parameters(model).items()}
    models.load(model, weights)
    if batch.position_ids is None and (batch.image_grid_thw is not None or batch.video_grid_thw is not None):
        batch.position_ids = expected.rope_index(model, batch)
    notes = []
    if models.routers(model):
        counts, gap = expected.routing(model, batch)
        notes += [f"  layer {i}: tokens per expert {row.tolist()}" for i, row in enumerate(counts)]
        notes += [f"  smallest gap between chosen and refused experts {gap:.1e}"]
        if must_route:
            check_routing(counts)
    content = {"config": config, "train": train_text, **inputs_of(batch)}
    content.update({f"weights/{name}": value for name, value in weights.items()})
    content.update(expected.compute(model, batch, json.loads(train_text), parts, steps))
    if "expected/grad_norm" in content:
        notes.append(f"  grad_norm {content['expected/grad_norm']:.6g}")
    return content, notes


def from_scenario(model_name, batch_name, parts):
    """Content, lines to print and attributes of the golden of a model and a batch."""
    config = models.read_config(find(model_name, "models", ".json"))
    vocabulary, vision = models.text_fields(config)["vocab_size"], vision_of(json.loads(config))
    batch, train = read_batch(find(batch_name, "batches", ".toml"), vocabulary, vision)
    packaged = (model_name, batch_name) in PACKAGED
    steps = train.get("steps", 0)
    content, notes = generate(config, None, batch, train_json(train), parts, steps, must_route=packaged)
    return content, notes, {"seed": WEIGHT_SEED, "model": Path(model_name).stem, "batch": Path(batch_name).stem}


def from_golden(path):
    """The same for the inputs, weights and parts of /expected of a golden that exists."""
    old, attributes = store.read(path)
    weights = {name[8:]: value for name, value in old.items() if name.startswith("weights/")}
    steps = len({path.split("/")[1] for path in old if path.startswith("expected/step")})
    parts = ("grads",) * any(name.startswith("expected/grads/") for name in old) + ("steps",) * bool(steps)
    content, notes = generate(old["config"], weights, batch_from(old), old.get("train", train_json({})), parts, steps)
    return content, notes, {name: attributes[name] for name in ("seed", "model", "batch") if name in attributes}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a name in scenarios/models, a config.json or a directory that holds one")
    parser.add_argument("--batch", help="a name in scenarios/batches or a TOML file")
    parser.add_argument("--without", choices=HELD, help="parts to leave out: grads (and so steps), steps, or none; "
                        "not given, a packaged golden holds what it is packaged with and others hold everything")
    parser.add_argument("--like", help="a golden whose inputs and weights are computed again")
    parser.add_argument("--packaged", metavar="DIR", help="write every packaged golden into DIR")
    parser.add_argument("--to", help="the file to write")
    parser.add_argument("--reason", default="first generation", help="why; stored in the file")
    args = parser.parse_args(arguments)
    if not args.packaged and not (args.to and (args.like or (args.model and args.batch))):
        parser.error("needs --packaged DIR, or --to FILE with --like GOLDEN or with --model and --batch")
    lift()
    torch.set_num_threads(1)  # one order of summation, whatever the machine
    if args.packaged:
        jobs = [(m, b, parts, Path(args.packaged) / f"{m}.{b}.h5") for (m, b), parts in PACKAGED.items()]
    else:
        parts = HELD[args.without] if args.without else PACKAGED.get((args.model, args.batch), HELD["none"])
        jobs = [(args.model, args.batch, parts, args.to)]
    try:
        for model, batch, parts, target in jobs:
            start = time.perf_counter()
            source = (from_golden, args.like) if args.like else (from_scenario, model, batch, parts)
            content, notes, attributes = source[0](*source[1:])
            digest = store.write(target, content, {**store.provenance(args.reason), **attributes})
            size, seconds = Path(target).stat().st_size / 2**20, time.perf_counter() - start
            print(f"{target}: {size:.2f} MiB, {seconds:.1f} s, content {digest[:12]}", *notes, sep="\n")
    except (ValueError, KeyError, OSError) as error:
        print(f"generate: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
