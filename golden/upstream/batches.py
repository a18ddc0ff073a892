"""A global batch: one flat token stream, cut into documents, rows and micro-batches (docs/golden-format.md).

Read from scenarios/batches/<name>.toml; scenarios/ holds the same reader in C++.
"""
import tomllib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from golden.upstream.draws import Generator

IGNORE = -100
TRAIN_KEYS = ("loss", "lr", "beta1", "beta2", "eps", "weight_decay", "max_grad_norm", "num_tokens", "steps")


@dataclass
class Batch:
    token_ids: np.ndarray  # [N] int64
    labels: np.ndarray  # [N] int64, next token of the same document or IGNORE
    document_offsets: np.ndarray  # [D+1] in tokens
    row_offsets: np.ndarray  # [R+1] in documents
    micro_batch_offsets: np.ndarray  # [M+1] in rows
    position_ids: np.ndarray | None = None  # [3, N] (t, h, w); None = index in the document on all three axes

    def documents(self):
        """Half-open token ranges, one per document."""
        return list(zip(self.document_offsets[:-1].tolist(), self.document_offsets[1:].tolist()))

    def micro_batches(self):
        """Half-open token ranges, one per micro-batch."""
        ends = self.document_offsets[self.row_offsets[self.micro_batch_offsets]].tolist()
        return list(zip(ends[:-1], ends[1:]))


def offsets(lengths):
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def next_token_labels(token_ids, document_offsets):
    labels = np.concatenate([token_ids[1:], [IGNORE]])
    labels[document_offsets[1:] - 1] = IGNORE
    return labels


def grid_positions(grids, document_offsets):
    """Positions [3, N] where `grids` [(first token, rows, columns)] are laid out as images, the rest as text."""
    positions = np.zeros((3, int(document_offsets[-1])), dtype=np.int64)
    starts = {first: (rows, columns) for first, rows, columns in grids}
    for begin, end in zip(document_offsets[:-1].tolist(), document_offsets[1:].tolist()):
        token, following = begin, 0
        while token < end:
            rows, columns = starts.get(token, (1, 1))
            cells = np.arange(rows * columns)
            positions[:, token:token + rows * columns] = following + np.stack(
                [np.zeros_like(cells), cells // columns, cells % columns])
            token, following = token + rows * columns, following + max(rows, columns)
    return positions


def read_batch(path, vocab_size):
    """The batch and the train section ({} if absent) of a TOML file. Raises ValueError naming file and field."""
    path = Path(path)

    def require(condition, field, why):
        if not condition:
            raise ValueError(f"{path}: {field}: {why}")

    spec = tomllib.loads(path.read_text())
    unknown = set(spec) - {"seed", "rows", "micro_batches", "masked", "grids", "train"}
    require(not unknown, ", ".join(sorted(unknown)), "unknown field")
    rows = spec.get("rows")
    require(isinstance(rows, list) and rows and all(isinstance(row, list) and row for row in rows), "rows",
            "must be a list of rows, each a list of document lengths")
    lengths = [length for row in rows for length in row]
    require(all(isinstance(n, int) and n > 0 for n in lengths), "rows", "document lengths must be positive integers")
    micro = spec.get("micro_batches", [len(rows)])
    require(all(isinstance(n, int) and n > 0 for n in micro) and sum(micro) == len(rows), "micro_batches",
            f"must be positive and sum to {len(rows)} rows")
    require(isinstance(spec.get("seed"), int), "seed", "must be an integer")
    train = spec.get("train", {})
    require(set(train) <= set(TRAIN_KEYS), "train", f"fields are {', '.join(TRAIN_KEYS)}")
    require(train.get("loss", "token_mean") == "token_mean", "train.loss", "optimizer steps are taken on token_mean")

    document_offsets = offsets(lengths)
    total = int(document_offsets[-1])
    token_ids = Generator(spec["seed"], "token_ids").below(np.arange(total), vocab_size)
    labels = next_token_labels(token_ids, document_offsets)
    for begin, end in spec.get("masked", []):
        require(0 <= begin <= end <= total, "masked", f"[{begin}, {end}] is not a range of {total} tokens")
        labels[begin:end] = IGNORE
    grids = spec.get("grids", [])
    for first, height, width in grids:
        document = int(np.searchsorted(document_offsets, first, side="right"))
        require(0 <= first < total and first + height * width <= document_offsets[document], "grids",
                f"[{first}, {height}, {width}] does not lie inside one document")
    batch = Batch(token_ids, labels, document_offsets, offsets([len(row) for row in rows]), offsets(micro),
                  grid_positions(grids, document_offsets) if grids else None)
    return batch, train
