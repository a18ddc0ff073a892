"""Times forward and backward of Hugging Face's eager model in float32: what `./meshparity bench reference` runs beside the reference.

usage: python -m golden.upstream.eager_step REFERENCE.h5 RESULT.json --threads N --repeats N
REFERENCE.h5 is what `meshparity reference` wrote: config, weights/<name> and the one document inputs/token_ids with inputs/labels.
RESULT.json gets seconds of the fastest forward and of the fastest forward with backward, the mean cross entropy in nats, and the
most memory the process held in bytes.
"""
import argparse
import json
import resource
import time

import h5py
import torch
import torch.nn.functional as F

from golden.upstream.batches import IGNORE
from golden.upstream.models import CLASSES, parameters


def build(config_json):
    """The library's own eager model in float32; initial values are left out, the file brings them."""
    fields = json.loads(config_json)
    config_class, model_class = CLASSES[fields["model_type"]][:2]
    config = config_class.from_dict(fields)
    for part in {id(c): c for c in (config, config.get_text_config())}.values():
        part._attn_implementation = "eager"
        part.dtype = torch.float32
    model_class._init_weights = lambda self, module: None
    return model_class(config).eval()


def load(model, file):
    """Copies weights/<name> into the model, one at a time; every parameter must be there and no other name."""
    own, stored = parameters(model), file["weights"]
    if set(own) != set(stored):
        raise ValueError(f"weights: {', '.join(sorted(set(own) ^ set(stored)))} on one side only")
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(torch.from_numpy(stored[name][()]))


def step(model, token_ids, labels):
    """Seconds of the forward, seconds of the backward, and the loss: the mean cross entropy of the valid labels."""
    model.zero_grad(set_to_none=True)
    start = time.perf_counter()
    logits = model(input_ids=token_ids[None], use_cache=False).logits[0]
    loss = F.cross_entropy(logits, labels, ignore_index=IGNORE)
    between = time.perf_counter()
    loss.backward()
    return between - start, time.perf_counter() - between, loss.item()


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("reference")
    arguments.add_argument("result")
    arguments.add_argument("--threads", type=int, required=True)
    arguments.add_argument("--repeats", type=int, required=True)
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    with h5py.File(options.reference) as file:
        model = build(file["config"][()].decode())
        load(model, file)
        token_ids, labels = (torch.from_numpy(file[f"inputs/{name}"][()]) for name in ("token_ids", "labels"))
    steps = [step(model, token_ids, labels) for _ in range(options.repeats)]
    result = {"forward": min(forward for forward, _, _ in steps), "step": min(f + b for f, b, _ in steps), "loss": steps[0][2],
              "peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}
    with open(options.result, "w") as out:
        json.dump(result, out)


if __name__ == "__main__":
    main()
