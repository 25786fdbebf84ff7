"""Images one by one, stacked in an array that is known to fit into memory."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from math import prod

import numpy as np
import psutil
from PIL import Image

from jaxsnn.datasets.dataset import Dataset, DatasetError
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
        progress: as for `Dataset.from_folder`.

    Raises:
        DatasetError: they do not fit into memory; known before the first is taken.

    Example:
        >>> from jaxsnn.datasets.stacking import stacked
        >>> white = np.full((2, 2, 1), 255, np.uint8)
        >>> about = {"class_names": (), "title": "one image", "remedy": ""}
        >>> stacked([(white, 0)], count=1, shape=(2, 2, 1), **about)
        Dataset(1 images of 2x2x1)
    """
    size = _checked_size(count, shape, title, remedy)
    pixels, labels = np.empty((count, *shape), np.float32), np.empty(count, np.int32)
    title = f"{title}, {size}"
    with progress_bar(progress, iterable=images, total=count, desc=title, unit="image") as bar:
        for number, (image, label) in enumerate(bar):
            np.divide(image, 255, out=pixels[number], dtype=np.float32)
            labels[number] = label
    return Dataset(pixels, labels, class_names)


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


def _checked_size(count: int, shape: tuple[int, ...], title: str, remedy: str) -> str:
    """How much the images take, in words; an error if that is more than there is."""
    needed, free = 4 * count * prod(shape), psutil.virtual_memory().available
    text = f"{needed / 1e9:.2g} GB" if needed >= 1e8 else f"{needed / 1e6:.2g} MB"
    if needed > free:
        raise DatasetError(
            f"{title}: {count:,} images of {'x'.join(map(str, shape))} take {text} in float32, and "
            f"{free / 1e9:.2g} GB of memory are free. {remedy}"
        )
    _log.info("%s: %d images, %s", title, count, text)
    return text
