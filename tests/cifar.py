"""CIFAR-10 in small: archives of the official format with a few images, and trust in them."""

import hashlib
import io
import tarfile
from dataclasses import replace

import numpy as np

from jaxsnn.datasets.catalogue import OFFICIAL

TAR = "cifar-10-binary.tar.gz"
BATCHES = [f"data_batch_{number}.bin" for number in range(1, 6)]


def small_cifar():
    """Two images of each class for training, in five files, and one for the test."""
    generator = np.random.default_rng(2)
    parts = {}
    for split, count in {"train": 20, "test": 10}.items():
        parts[f"{split}-images"] = generator.integers(0, 256, (count, 32, 32, 3), np.uint8)
        parts[f"{split}-labels"] = generator.permutation(np.arange(count, dtype=np.uint8) % 10)
    return parts


def cifar_files(parts):
    """The official archive's files: records of a label and an image, plane by plane."""

    def records(split):
        planes = parts[f"{split}-images"].transpose(0, 3, 1, 2).reshape(-1, 3072)
        return np.concatenate([parts[f"{split}-labels"][:, None], planes], axis=1)

    batches = dict(zip(BATCHES, np.split(records("train"), 5), strict=True))
    files = {**batches, "readme.html": np.zeros(100), "test_batch.bin": records("test")}
    return {f"cifar-10-batches-bin/{name}": data.tobytes() for name, data in files.items()}


def write_tar(folder, files):
    folder.mkdir(exist_ok=True)
    with tarfile.open(folder / TAR, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
            else:  # a link
                member.type, member.linkname = tarfile.SYMTYPE, str(content)
                archive.addfile(member)
    return folder


def change(monkeypatch, name, **facts):
    """Lets other facts of a data set be official."""
    monkeypatch.setitem(OFFICIAL, name, replace(OFFICIAL[name], **facts))


def trust(monkeypatch, folder):
    """Lets the archive in a folder be the official one."""
    digest = hashlib.sha256((folder / TAR).read_bytes()).hexdigest()
    change(monkeypatch, "cifar10", sha256={TAR: digest}, counts={"train": 20, "test": 10})
