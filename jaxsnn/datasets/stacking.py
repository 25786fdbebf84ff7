"""Images one by one, stacked in an array in memory or in a file, where they are known to fit."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterable
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from jaxsnn.datasets.dataset import Dataset, DatasetError
from jaxsnn.support.files import replacing
from jaxsnn.support.progress import progress_bar

ONE_SIZE = "Give all one size, such as `size=(32, 32)`."
_log = logging.getLogger("jaxsnn")


def stacked(
    images: Iterable[tuple[np.ndarray, int]],
    *,
    count: int,
    shape: tuple[int, ...],
    class_names: tuple[str, ...],
    title: str,
    remedy: str,
    file: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
) -> Dataset:
    """The data set of some images, of which one is in memory beside the result.

    Args:
        images: pixels of 8 bits `[height, width, channels]`, and their classes.
        count: how many there are.
        shape: height, width and channels of each.
        class_names: of the data set.
        title: what is read, for messages.
        remedy: how to take less, for messages.
        file: as for `Dataset.from_folder`.
        progress: as for `Dataset.from_folder`.

    Raises:
        DatasetError: they do not fit into memory, or on the disk; known before the first is taken.

    Example:
        >>> from jaxsnn.datasets.stacking import stacked
        >>> white = np.full((2, 2, 1), 255, np.uint8)
        >>> about = {"class_names": (), "title": "one image", "remedy": ""}
        >>> stacked([(white, 0)], count=1, shape=(2, 2, 1), **about)
        Dataset(1 images of 2x2x1)
    """
    path = None if file is None else Path(file).expanduser()
    size = _checked_size((count, *shape), path, title, remedy)
    labels = np.empty(count, np.int32)
    title = f"{title}, {size}"
    with progress_bar(progress, iterable=images, total=count, desc=title, unit="image") as bar:
        if path is not None:
            return Dataset(_mapped(path, bar, labels, (count, *shape)), labels, class_names)
        pixels = np.empty((count, *shape), np.float32)
        for number, (image, label) in enumerate(bar):
            pixels[number], labels[number] = _floats(image), label
    return Dataset(pixels, labels, class_names)


def _floats(image: np.ndarray) -> np.ndarray:
    return np.divide(image, 255, dtype=np.float32)


def _mapped(path: Path, images: Iterable[Any], labels: np.ndarray, shape: tuple) -> np.ndarray:
    """Images in a file of NumPy's format, of which the system reads what is looked at."""
    with replacing(path) as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for number, (image, label) in enumerate(images):
            labels[number] = label
            file.write(_floats(image).astype("<f4", copy=False).tobytes())
    return np.lib.format.open_memmap(path, mode="r")


def resized(image: Image.Image, size: tuple[int, int] | None) -> Image.Image:
    """An image of another height and width, whatever its proportions."""
    if size is None or size == (image.height, image.width):
        return image
    height, width = size
    return image.resize((width, height), Image.Resampling.BILINEAR)


def check_size(size: tuple[int, int] | None) -> None:
    """Raise ValueError unless height and width are positive."""
    if size is not None and min(size) < 1:
        raise ValueError(f"size={size}; height and width must be at least 1.")


def _checked_size(shape: tuple[int, ...], path: Path | None, title: str, remedy: str) -> str:
    """How much the images take, in words; an error if that is more than there is."""
    if path is not None and not path.parent.is_dir():
        raise DatasetError(f"There is no folder {path.parent} for the file {path.name}; make it.")
    memory = path is None
    free = psutil.virtual_memory().available if memory else shutil.disk_usage(path.parent).free
    needed, (count, *size) = 4 * prod(shape), shape
    text = f"{needed / 1e9:.2g} GB" if needed >= 1e8 else f"{needed / 1e6:.2g} MB"
    if needed > free:
        where = "memory" if memory else "the disk"
        raise DatasetError(
            f"{title}: {count:,} images of {'x'.join(map(str, size))} take {text} in float32, and "
            f"{free / 1e9:.2g} GB of {where} are free. {remedy}"
        )
    _log.info("%s: %d images, %s", title, count, text)
    return text
