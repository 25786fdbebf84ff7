"""What there is to know of an official data set, and whether data are its own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

# The data in their official order: "train-images", "train-labels", "test-images", "test-labels";
# images are uint8 [N, height, width, channels] and labels uint8 [N].
Parts = dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Official:
    """An official data set.

    Attributes:
        name: what `load_dataset` and TFDS call it.
        builder: TFDS's builder, as module.class of `tensorflow_datasets.image_classification`.
        image_shape: height, width and channels.
        counts: how many images each split has.
        class_names: what the classes are called, where TFDS keeps it.
        url: the folder of the archives, as TFDS has it.
        files: the names of the archives there.
        read_archives: (data set, path of each archive) ↦ parts.
        sha256: the digests of parts, or of archives, by their names.
        other_ways: data set ↦ parts, by what they are called: where else the data are.
    """

    name: str
    builder: str
    image_shape: tuple[int, int, int]
    counts: Mapping[str, int]
    class_names: tuple[str, ...] = ()
    url: str
    files: tuple[str, ...]
    read_archives: Callable[[Any, Mapping[str, Path]], Parts]
    sha256: Mapping[str, str]
    other_ways: Mapping[str, Callable[[Any], Parts]] = field(default_factory=dict)

    def check(self, parts: Parts) -> None:
        """Raise `ValueError` unless the parts are the official ones, as far as that is known.

        Where no digest of the labels is known, each class must have equally many images.
        """
        for part, data in parts.items():
            if part in self.sha256:
                self.check_digest(part, hashlib.sha256(data.tobytes()).hexdigest())
            elif part.endswith("labels"):
                _check_balanced(part, data, len(self.class_names))

    def check_digest(self, name: str, digest: str) -> None:
        """Raise `ValueError` unless this is the official SHA-256."""
        if digest != self.sha256[name]:
            raise ValueError(f"the SHA-256 of {name} is {digest}, not {self.sha256[name]}")


def _check_balanced(part: str, labels: np.ndarray, classes: int) -> None:
    found = np.bincount(labels, minlength=classes)
    if len(found) > classes or len(set(found.tolist())) > 1:
        raise ValueError(
            f"{part} has {found.tolist()} images of each class, not {len(labels) // classes}"
        )
