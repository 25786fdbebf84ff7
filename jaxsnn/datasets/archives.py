"""The formats of the official archives; each is read in memory, and no more than its official size.

An archive that is not the official one is a `DatasetError` that names it.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import BinaryIO

import numpy as np

from jaxsnn.datasets.dataset import DatasetError
from jaxsnn.datasets.official import Official, Parts

# CIFAR-10's archive has the images of a split in several files.
_CIFAR_FILES = {
    "train": [f"cifar-10-batches-bin/data_batch_{number}.bin" for number in range(1, 6)],
    "test": ["cifar-10-batches-bin/test_batch.bin"],
}


def read_idx_archives(official: Official, paths: Mapping[str, Path]) -> Parts:
    """The format of MNIST: a compressed file for each part, a header and the bytes of an array.

    The files are in the order of the parts.
    """
    parts: Parts = {}
    files = iter(paths.values())
    for split, count in official.counts.items():
        for what, shape in {"images": official.image_shape, "labels": ()}.items():
            path, part = next(files), f"{split}-{what}"
            with _named(official, path), _opened(path) as file:
                data = _read_idx(file, (count, *shape))
                official.check({part: data})
            parts[part] = data
    return parts


def _read_idx(file: BinaryIO, shape: tuple[int, ...]) -> np.ndarray:
    dimensions = 3 if len(shape) > 1 else 1  # a channel has no axis of its own
    header = 4 + 4 * dimensions  # bytes: a magic number, and the size of each dimension
    size = header + prod(shape)
    # What cannot be compressed grows by less than 64 KiB.
    with gzip.open(io.BytesIO(file.read(size + 65536))) as archive:
        content = archive.read(size + 1)
    if len(content) != size:
        comparison = "more" if len(content) > size else "less"
        raise ValueError(f"it inflates to {comparison} than the official {size:,} bytes")
    return np.frombuffer(content, np.uint8)[header:].reshape(shape)


def read_cifar_archive(official: Official, paths: Mapping[str, Path]) -> Parts:
    """The binary format of CIFAR-10: files of records, which are a label and the planes of colour.

    Nothing of the archive is looked at before its SHA-256 is verified, and nothing is extracted.
    """
    ((name, path),) = paths.items()
    height, width, channels = official.image_shape
    parts: Parts = {}
    with _named(official, path), _opened(path) as file:
        official.check_digest(name, hashlib.file_digest(file, "sha256").hexdigest())
        file.seek(0)
        shapes = {
            member: (official.counts[split] // len(members), 1 + prod(official.image_shape))
            for split, members in _CIFAR_FILES.items()
            for member in members
        }
        records = _read_members(file, shapes)
        for split, members in _CIFAR_FILES.items():
            rows = np.concatenate([records[member] for member in members])
            planes = rows[:, 1:].reshape(-1, channels, height, width)
            parts[f"{split}-images"] = np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
            parts[f"{split}-labels"] = rows[:, 0]
        official.check(parts)
    return parts


def _read_members(file: BinaryIO, shapes: Mapping[str, tuple[int, int]]) -> Parts:
    """The files of a compressed tar archive that have these names, as bytes of these shapes."""
    found: Parts = {}
    with tarfile.open(fileobj=file, mode="r|gz") as archive:
        for member in archive:
            shape = shapes.get(member.name)
            if shape is None:
                continue
            content = archive.extractfile(member) if member.isreg() else None
            if content is None or member.size != prod(shape):
                raise ValueError(f"{member.name} is no file of {prod(shape):,} bytes")
            found[member.name] = np.frombuffer(content.read(), np.uint8).reshape(shape)
    if missing := [name for name in shapes if name not in found]:
        raise ValueError(f"it has no {missing[0]}")
    return found


@contextlib.contextmanager
def _named(official: Official, path: Path) -> Iterator[None]:
    """Raise `DatasetError` where an archive is not the official one."""
    try:
        yield
    except (OSError, EOFError, ValueError, zlib.error, tarfile.TarError) as error:
        raise DatasetError(
            f"{path} is not the official archive of {official.name} ({error}). Put an intact copy "
            "there, or leave out the folder to download the data."
        ) from error


def _opened(path: Path) -> io.BufferedReader:
    if not path.is_file():  # a pipe would be waited for
        raise FileNotFoundError("there is no such file")
    return path.open("rb")
