"""Golden files: the HDF5 schema of docs/golden-format.md, written with its hashes. The C++ twin is golden/store.h."""
import hashlib
import json
import os
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

import h5py
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("golden/upstream", "scenarios/models", "scenarios/batches")


def raw_bytes(value):
    """What a dataset's sha256 covers: UTF-8 of a string, else little-endian elements in C order."""
    if isinstance(value, str):
        return value.encode()
    value = np.asarray(value)
    return value.astype(value.dtype.newbyteorder("<"), copy=False).tobytes(order="C")


def content_sha256(hashes):
    """Hash of all datasets from their own hashes, {path: sha256}; paths have no leading slash."""
    lines = "".join(f"{path} {digest}\n" for path, digest in sorted(hashes.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def fixed_string(text):
    data = text.encode()
    return np.array(data, dtype=h5py.string_dtype("utf-8", max(1, len(data))))


def git_commit():
    """The commit of this source tree, `+dirty` where what decides a golden is not committed, or `unknown`."""
    def git(*words):
        command = ["git", "-C", str(ROOT), *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+dirty" if git("status", "--porcelain", "--", *SOURCES) else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def versions():
    import torch
    import transformers
    modules = {"torch": torch, "transformers": transformers, "h5py": h5py, "numpy": np}
    found = {name: module.__version__ for name, module in modules.items()}
    return {"python": sys.version.split()[0], **found, "hdf5": h5py.version.hdf5_version}


def image(content, attributes):
    """The bytes of an HDF5 file, and content_sha256. Made in memory: libhdf5 crashes on a full disk."""
    hashes = {}
    with h5py.File("golden", "w", driver="core", backing_store=False) as file:
        for name, value in sorted(content.items()):
            dataset = file.create_dataset(name, data=fixed_string(value) if isinstance(value, str) else value)
            hashes[name] = hashlib.sha256(raw_bytes(value)).hexdigest()
            dataset.attrs["sha256"] = fixed_string(hashes[name])
        everything = {"schema": 1, **attributes, "content_sha256": content_sha256(hashes)}
        for name, value in everything.items():
            file.attrs[name] = fixed_string(value) if isinstance(value, str) else np.int64(value)
        file.flush()
        return file.id.get_file_image(), everything["content_sha256"]


def write(path, content, attributes):
    """Writes {path: array or str} as one golden: whole or not at all. Returns content_sha256."""
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    data, digest = image(content, attributes)
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise OSError(f"{path}: cannot be written: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return digest


def provenance(reason):
    """The attributes that say where a golden comes from; nothing of this enters content_sha256."""
    created = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"generator": "golden/upstream", "versions": json.dumps(versions()), "git_commit": git_commit(),
            "created": created, "reason": reason}


def read(path):
    """({path: array or str}, {attribute: value}) of a golden; raises ValueError where a stored hash does not hold."""
    content = {}

    def visit(name, node):
        if not isinstance(node, h5py.Dataset):
            return
        value = node.asstr()[()] if h5py.check_string_dtype(node.dtype) else node[()]
        stored = node.attrs.get("sha256")
        stored = stored.decode() if isinstance(stored, bytes) else stored
        if stored is not None and stored != hashlib.sha256(raw_bytes(value)).hexdigest():
            raise ValueError(f"{path}: {name}: content does not match its sha256")
        content[name] = value

    with h5py.File(path) as file:
        file.visititems(visit)
        attributes = {name: v.decode() if isinstance(v, bytes) else v for name, v in file.attrs.items()}
    return content, attributes
