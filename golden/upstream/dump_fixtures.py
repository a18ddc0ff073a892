"""Writes golden/dumps/fixtures: tiny dumps as torch and numpy themselves write them, for the readers' tests.

Values are functions of the index, so that the tests know them: train logprob of slot i of sample s is
-(1 + s + i/8), the rollout's is 1/64 lower. Run from the root:  python -m golden.upstream.dump_fixtures
"""

import collections
import os
import pathlib

import numpy
import torch

FOLDER = pathlib.Path("golden/dumps/fixtures")


def train(sample: int, n: int) -> list[float]:
    return [-(1 + sample + i / 8) for i in range(n)]


def rollout(sample: int, n: int) -> list[float]:
    return [value - 1 / 64 for value in train(sample, n)]


def zigzag(values: list[float], total: int, cp: int, rank: int) -> list[float]:
    """What rank `rank` of `cp` keeps of a response's logprobs (slime, miles: cp_utils.slice_log_prob_with_cp)."""
    chunk, prompt = -(-total // (2 * cp)), total - len(values)
    kept = []
    for part in (rank, 2 * cp - 1 - rank):
        begin, end = max(part * chunk, prompt - 1), min((part + 1) * chunk, total - 1)
        kept += values[max(begin - prompt + 1, 0) : max(end - prompt + 1, 0)]
    return kept


def rank_dump(cp: int, rank: int, shape=((4, 7), (2, 5))) -> dict:
    data = collections.defaultdict(list)
    for sample, (prompt, response) in enumerate(shape):
        total = prompt + response
        data["tokens"].append(torch.arange(total) + 10 * sample)
        data["log_probs"].append(torch.tensor(zigzag(train(sample, response), total, cp, rank) if cp > 1 else train(sample, response)))
        data["rollout_log_probs"].append(
            torch.tensor(zigzag(rollout(sample, response), total, cp, rank) if cp > 1 else rollout(sample, response)))
        data["loss_masks"].append(torch.tensor([0] + [1] * (response - 1), dtype=torch.int32))
        data["total_lengths"].append(total)
        data["response_lengths"].append(response)
        data["rewards"].append(0.5)
    return {"rollout_id": 3, "rank": rank, "rollout_data": dict(data)}


class Hostile:
    """Unpickling this would run a command."""

    def __reduce__(self):
        return os.system, ("touch /tmp/meshparity-was-run",)


def padded(rows: list[list[float]], width: int) -> torch.Tensor:
    return torch.tensor([row + [0.0] * (width - len(row)) for row in rows])


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    torch.save(rank_dump(1, 0), FOLDER / "slime.pt")
    for rank in range(4):  # two tensor-parallel replicas of two context-parallel ranks
        torch.save(rank_dump(2, rank // 2) | {"rank": rank}, FOLDER / f"slime_cp2_rank{rank}.pt")
    verl = collections.OrderedDict(
        prompts=torch.tensor([[0, 7, 8], [5, 6, 7]]),
        responses=torch.tensor([[1, 2, 3, 0], [4, 5, 6, 7]]),
        input_ids=torch.tensor([[0, 7, 8, 1, 2, 3, 0], [5, 6, 7, 4, 5, 6, 7]]),
        attention_mask=torch.tensor([[0, 1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1, 1]]),
        response_mask=torch.tensor([[1, 1, 1, 0], [1, 1, 0, 1]]),
        old_log_probs=padded([train(0, 3), train(1, 4)], 4).to(torch.bfloat16),
        rollout_log_probs=padded([rollout(0, 3), rollout(1, 4)], 4),
    )
    torch.save(verl, FOLDER / "verl.pt")
    flat = dict(
        token_ids=numpy.arange(12, dtype=numpy.int32),
        train_logprobs=numpy.array(train(0, 7) + train(1, 5), dtype=numpy.float16),
        rollout_logprobs=numpy.array(rollout(0, 7) + rollout(1, 5)),
        lengths=numpy.array([7, 5]),
    )
    numpy.savez(FOLDER / "flat.npz", **flat)
    square = dict(flat, train_logprobs=numpy.asfortranarray([train(0, 6), train(1, 6)]),
                  rollout_logprobs=numpy.array([rollout(0, 6), rollout(1, 6)], dtype=numpy.float32),
                  token_ids=numpy.arange(12).reshape(2, 6))
    del square["lengths"]
    numpy.savez_compressed(FOLDER / "square.npz", **square)
    numpy.savez(FOLDER / "objects.npz", train_logprobs=numpy.array([[1], [2, 3]], dtype=object))
    torch.save({"train_logprobs": torch.zeros(2), "extra": Hostile()}, FOLDER / "hostile.pt")
    # A view of every second element, and Python's own numbers.
    torch.save({"token_ids": [3, 4, 5], "train_logprobs": torch.tensor([-1.0, 9, -1.125, 9, -1.25])[::2],
                "rollout_logprobs": [-1.5, -2.5, -3.5]}, FOLDER / "view.pt")
    # Arrays of numpy inside a .pt, as slime's MoE dumps hold routes: every type of number, orders, shapes, numbers.
    types = {t: numpy.array([[0, 1, 2], [3, 4, 5]]).astype(t) for t in
             ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "bool")}
    extra = {"negative": numpy.array([-1, -128, 127], dtype="i1"), "fortran": numpy.asfortranarray([[0.0, 1, 2], [3, 4, 5]]),
             "empty": numpy.zeros((0, 3)), "zero_d": numpy.array(7.5), "number": numpy.float32(-0.25),
             "view": numpy.arange(12)[::3], "objects": numpy.array(["a", "b"], dtype=object),
             "words": numpy.array(["ab", "c"]), "high_bytes": numpy.arange(256, dtype="u1")}
    for protocol in (2, 4):
        torch.save(types | extra, FOLDER / f"numpy_{protocol}.pt", pickle_protocol=protocol)
    torch.save({"big": numpy.arange(3, dtype=">f4")}, FOLDER / "numpy_big_endian.pt")
    routes = {"token_ids": [3, 4, 5], "train_logprobs": numpy.array([-1.0, -2, -3], dtype="f4"), "rollout_logprobs": [-1.5, -2.5, -3.5],
              "train_routes": numpy.array([[[0, 1]], [[2, 3]], [[4, 5]]], dtype="i4"),
              "rollout_routes": numpy.array([[[0, 1]], [[2, 9]], [[4, 5]]], dtype="i4")}
    torch.save(routes, FOLDER / "numpy_routes.pt")
    # State dicts: of a module in a checkpoint, of named parameters, with a transposed view and a tied weight.
    model = torch.nn.Sequential(torch.nn.Linear(3, 2, dtype=torch.bfloat16))
    with torch.no_grad():
        model[0].weight.copy_(torch.arange(6).reshape(2, 3) / 4)
        model[0].bias.copy_(torch.tensor([-1.0, 1.0]))
    torch.save({"model": {f"module.{name}": value for name, value in model.state_dict().items()}, "step": 3}, FOLDER / "weights_module.pt")
    parameters = collections.OrderedDict(model.named_parameters())
    parameters["turned"] = torch.arange(6.0).reshape(2, 3).t()
    parameters["tied"] = parameters["0.weight"]
    torch.save(parameters, FOLDER / "weights_parameters.pt")


if __name__ == "__main__":
    main()
