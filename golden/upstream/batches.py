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
    # Of models with a vision tower: one row per patch, all images in order; grids [images, 3] (t, h, w) in patches.
    pixel_values: np.ndarray | None = None
    image_grid_thw: np.ndarray | None = None
    pixel_values_videos: np.ndarray | None = None
    video_grid_thw: np.ndarray | None = None

    def documents(self):
        """Half-open token ranges, one per document."""
        return list(zip(self.document_offsets[:-1].tolist(), self.document_offsets[1:].tolist()))

    def micro_batches(self):
        """Half-open token ranges, one per micro-batch."""
        ends = self.document_offsets[self.row_offsets[self.micro_batch_offsets]].tolist()
        return list(zip(ends[:-1], ends[1:]))


@dataclass
class Vision:
    """What a batch must know of a model with a vision tower."""
    image: int  # token ids: placeholders of images and of videos, and what stands before and behind each
    video: int
    start: int
    end: int
    merge: int  # patches of a placeholder: merge x merge
    patch_width: int  # numbers in a patch


def vision_of(fields):
    """The Vision of a config.json's fields, None for a text model."""
    tower = fields.get("vision_config")
    if tower is None:
        return None
    width = tower["in_channels"] * tower["temporal_patch_size"] * tower["patch_size"] ** 2
    ids = (fields[f"{name}_token_id"] for name in ("image", "video", "vision_start", "vision_end"))
    return Vision(*ids, tower["spatial_merge_size"], width)


def offsets(lengths):
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def next_token_labels(token_ids, document_offsets, placeholders=()):
    """[N]; no label at a document's end and where the next token is a placeholder."""
    labels = np.concatenate([token_ids[1:], [IGNORE]])
    labels[document_offsets[1:] - 1] = IGNORE
    labels[np.isin(labels, placeholders)] = IGNORE
    return labels


def place_images(token_ids, images, placeholder, vision):
    """Writes images [(first token, frames, rows, columns)] in patches into the token ids, and returns their grids [n, 3].

    A frame is vision_start, its placeholders and vision_end; between two frames of a video stands one token of text.
    """
    for first, frames, rows, columns in images:
        inside = rows * columns // vision.merge**2
        for frame in range(frames):
            begin = first + frame * (inside + 3)
            token_ids[begin] = vision.start
            token_ids[begin + 1:begin + 1 + inside] = placeholder
            token_ids[begin + 1 + inside] = vision.end
    return np.array([image[1:] for image in images], dtype=np.int64)


def tokens_of(frames, rows, columns, vision):
    """How many tokens such an image takes, from the first vision_start to the last vision_end."""
    return frames * (rows * columns // vision.merge**2 + 3) - 1


def pixels(seed, name, grids, patch_width):
    """[patches, width] in (-1, 1), number i of the whole a function of (seed, name, i)."""
    count = int(grids.prod(axis=1).sum()) * patch_width
    return (2 * Generator(seed, name).uniform(np.arange(count)) - 1).reshape(-1, patch_width)


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


def read_batch(path, vocab_size, vision=None):
    """The batch and the train section ({} if absent) of a TOML file. Raises ValueError naming file and field.

    `images` and `videos` are for models with a vision tower (`vision`, see vision_of); to others all tokens are text.
    """
    path = Path(path)

    def require(condition, field, why):
        if not condition:
            raise ValueError(f"{path}: {field}: {why}")

    spec = tomllib.loads(path.read_text())
    unknown = set(spec) - {"seed", "rows", "micro_batches", "masked", "prompts", "grids", "images", "videos", "train"}
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
    special = (vision.image, vision.video, vision.start, vision.end) if vision else ()
    token_ids = Generator(spec["seed"], "token_ids").below(np.arange(total), min(special, default=vocab_size))
    for first, count, tokens in spec.get("prompts", []):
        inside = 0 <= first and 0 < count and first + count < len(document_offsets)
        require(inside and 0 < tokens <= min(lengths[first:first + count]), "prompts",
                f"[{first}, {count}, {tokens}] is longer than a document, or names documents that are not there")
        begin = document_offsets[first]
        for other in document_offsets[first:first + count]:
            token_ids[other:other + tokens] = token_ids[begin:begin + tokens]
    images = [("images", [first, 1, rows, columns]) for first, rows, columns in spec.get("images", [])]
    images += [("videos", video) for video in spec.get("videos", [])]
    following = 0
    for field, (first, frames, height, width) in sorted(images, key=lambda image: image[1]) if vision else ():
        document = int(np.searchsorted(document_offsets, first, side="right"))
        last = first + tokens_of(frames, height, width, vision)
        inside = 0 <= first < total and last <= document_offsets[document]
        whole = min(frames, height, width) > 0 and height % vision.merge == 0 and width % vision.merge == 0
        require(inside and whole and first >= following, field, f"{first}: {frames} x {height} x {width} patches do not "
                f"lie inside one document, behind the image before them and in whole blocks of {vision.merge} x {vision.merge}")
        following = last
    require(not (vision and images and "grids" in spec), "grids", "stands beside images")
    sights = {}
    if vision:
        for field, placeholder, values, grid_name in (("images", vision.image, "pixel_values", "image_grid_thw"),
                                                      ("videos", vision.video, "pixel_values_videos", "video_grid_thw")):
            chosen = sorted(image for kind, image in images if kind == field)
            if chosen:
                sights[grid_name] = place_images(token_ids, chosen, placeholder, vision)
                sights[values] = pixels(spec["seed"], values, sights[grid_name], vision.patch_width)
    labels = next_token_labels(token_ids, document_offsets, special[:2])
    for begin, end in spec.get("masked", []):
        require(0 <= begin <= end <= total, "masked", f"[{begin}, {end}] is not a range of {total} tokens")
        labels[begin:end] = IGNORE
    grids = spec.get("grids", [])
    for first, height, width in grids:
        document = int(np.searchsorted(document_offsets, first, side="right"))
        require(0 <= first < total and first + height * width <= document_offsets[document], "grids",
                f"[{first}, {height}, {width}] does not lie inside one document")
    batch = Batch(token_ids, labels, document_offsets, offsets([len(row) for row in rows]), offsets(micro),
                  grid_positions(grids, document_offsets) if grids else None, **sights)
    return batch, train
