"""Images and their labels, and the error where they cannot be had."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxsnn.network import check_range
from jaxsnn.support.typed import Count, described, typed


class DatasetError(RuntimeError):
    """The data cannot be had, or are not what they should be; the message names the remedy.

    Example:
        >>> import jaxsnn
        >>> jaxsnn.load_dataset("mnist", archives="no/such/folder")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        jaxsnn.datasets.dataset.DatasetError: There is no folder no/such/folder, ...
    """


if TYPE_CHECKING:
    _Images = _Labels = np.ndarray
    _Classes = np.ndarray | jax.Array | Sequence[Any]
else:  # with what a message says is expected
    _Images = Annotated[np.ndarray | jax.Array, "an array: np.asarray(images, np.float32)"]
    _Labels = Annotated[np.ndarray | jax.Array, "an array of integers: np.asarray(labels)"]
    _Classes = Annotated[np.ndarray | jax.Array | list | tuple, "an array or a list of classes"]


@typed
@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Images and their labels.

    Attributes:
        images: pixels in [0, 1], floating point `[N, height, width, channels]` or whatever shape
            the model takes; those of `load_dataset` are float32, of MNIST `[N, 28, 28, 1]`.
        labels: classes from 0, integers `[N]`.
        class_names: what the classes are called, in their order, where that is known.

    Raises:
        ValueError: the images are not floating point or have pixels outside [0, 1], the labels are
            not integers from 0, or there is not one label for each image.

    Example:
        >>> dataset = Dataset(np.zeros([3, 28, 28, 1], np.float32), np.array([7, 2, 1], np.int32))
        >>> dataset
        Dataset(3 images of 28x28x1)
        >>> len(dataset)
        3
    """

    images: _Images
    labels: _Labels
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_plain("images", self.images)
        _check_plain("labels", self.labels)
        _check_images(self.images)
        _check_labels(self.labels)
        if len(self.images) != len(self.labels):
            raise ValueError(
                f"there are {len(self.images)} images and {len(self.labels)} labels; each image "
                "needs one label. The first axis of images counts them: give a single image as "
                "image[None]."
            )

    @classmethod
    @typed
    def from_arrays(cls, images: _Images, labels: _Classes) -> Dataset:
        """Takes arrays of your own: 8-bit pixels are divided by 255, and names are numbered.

        Args:
            images: `[N, ...]`. Integers are pixels from 0 to 255, and become float32 in [0, 1]:
                p ↦ p / 255. Floating-point numbers are taken as they are, and must be in [0, 1].
            labels: classes from 0, integers `[N]`; or their names, which are numbered in sorted
                order.

        Returns:
            The data set, with `class_names` where the labels are names.

        Raises:
            ValueError: as for `Dataset`; or integers are not from 0 to 255, or none exceeds 1, so
                that a division by 255 would make all of them nearly black.

        Example:
            >>> pixels = np.full((3, 8, 8, 1), 51, np.uint8)
            >>> dataset = Dataset.from_arrays(pixels, ["dog", "cat", "dog"])
            >>> float(dataset.images.max()), dataset.labels.tolist(), dataset.class_names
            (0.20000000298023224, [1, 0, 1], ('cat', 'dog'))
        """
        classes = labels if isinstance(labels, np.ndarray) else np.asarray(labels)
        _check_plain("images", images)
        _check_plain("labels", classes)
        names: tuple[str, ...] = ()
        if classes.ndim == 1 and classes.dtype.kind in "UT":
            found, classes = np.unique(classes, return_inverse=True)
            names = tuple(map(str, found))
        if classes.dtype.kind in "iu":
            classes = _as_int32(classes)
        return cls(_as_floats(images), classes, names)

    @classmethod
    @typed
    def from_folder(
        cls,
        path: str | os.PathLike[str],
        *,
        size: tuple[int, int] | None = None,
        channels: Literal[1, 3] | None = None,
        per_class: Count | None = None,
        class_names: Sequence[str] | None = None,
        file: str | os.PathLike[str] | None = None,
        progress: bool | None = None,
    ) -> Dataset:
        """Reads a folder with a folder of images for each class, as Keras and torchvision do.

        Classes are numbered in the sorted order of their folders' names. The images are shuffled,
        in the same way every time, so that the first hundreds have all classes. An image takes 4
        bytes for each pixel and channel; what does not fit into the free memory is refused before
        any image is read. For more, name a `file`: scale factors read it in batches, and
        simulations what you give them, such as `dataset.images[:1000]`.

        Args:
            path: the folder. Files in it, hidden files, and files that are no images are passed
                over.
            size: height and width to which all images are resized, whatever their proportions; by
                default all must have one size.
            channels: 1 for grey images, 3 for red, green and blue; by default 1 if all images are
                grey. Transparency is dropped.
            per_class: read so many images of each class at most, the first by name.
            class_names: the folders to read, in the order of their classes; by default all.
            file: where to keep the images, as an array of NumPy that is mapped into memory and not
                read as a whole, such as "images.npy"; an older file is replaced. By default they
                are in memory.
            progress: whether to show a bar; by default where there is more than a second of work.

        Returns:
            The data set, float32 `[N, height, width, channels]`, with `class_names`.

        Raises:
            DatasetError: there is no such folder, or none with images in it; an image cannot be
                read, has more than 8 bits, or is of another size than the others; or the images do
                not fit into memory. The message says what to do.
            ValueError: a size or a number of images that is not positive.

        Example:
            >>> from pathlib import Path
            >>> from tempfile import TemporaryDirectory
            >>> from PIL import Image
            >>> with TemporaryDirectory() as folder:
            ...     for name in ("cat", "dog"):
            ...         (Path(folder) / name).mkdir()
            ...         Image.new("L", (8, 6)).save(Path(folder) / name / "1.png")
            ...     dataset = Dataset.from_folder(folder)
            >>> dataset, dataset.class_names
            (Dataset(2 images of 6x8x1), ('cat', 'dog'))
        """
        from jaxsnn.datasets.folders import read_folder

        how: dict[str, Any] = {"channels": channels, "per_class": per_class}
        how |= {"file": file, "progress": progress}
        return read_folder(path, size=size, class_names=class_names, **how)

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"Dataset({len(self)} images of {'x'.join(map(str, self.images.shape[1:]))})"


def _check_plain(name: str, array: np.ndarray | jax.Array) -> None:
    if isinstance(array, np.ma.MaskedArray):
        raise ValueError(
            f"{name} are {described(array)}, whose mask would be ignored: leave masked samples out."
        )
    if not array.dtype.isnative:
        raise ValueError(
            f"{name} have dtype {array.dtype}, which is in another byte order: "
            f"{name}.astype({name}.dtype.newbyteorder('='))."
        )


def _as_floats(images: np.ndarray | jax.Array) -> np.ndarray:
    """Pixels in [0, 1]: integers are divided by 255."""
    pixels = np.asarray(images)
    if pixels.dtype.kind not in "iu" or not pixels.size:
        return pixels
    low, high = int(pixels.min()), int(pixels.max())
    if low < 0 or high > 255:
        raise ValueError(
            f"images are integers from {low} to {high}, but those of 8 bits are from 0 to 255: "
            "give floating-point pixels in [0, 1], divided by the largest number that they may be."
        )
    if high == 1:
        raise ValueError(
            "images are integers of 0 and 1, which as pixels of 8 bits are all nearly black; if 1 "
            "is white: images.astype(np.float32)."
        )
    return np.divide(pixels, 255, dtype=np.float32)


def _as_int32(labels: np.ndarray) -> np.ndarray:
    """Labels as those of `load_dataset`; the check of their range comes later."""
    if labels.size and not -1 << 31 <= labels.min() <= labels.max() < 1 << 31:
        raise ValueError(f"labels reach from {labels.min()} to {labels.max()}; number the classes.")
    return labels.astype(np.int32)


def _check_images(images: np.ndarray | jax.Array) -> None:
    if not jnp.issubdtype(images.dtype, jnp.floating):
        eight_bits = jnp.issubdtype(images.dtype, jnp.integer)
        remedy = "divide 8-bit pixels by 255" if eight_bits else "use images.astype(np.float32)"
        raise ValueError(
            f"images have dtype {images.dtype}, but pixels are floating-point numbers in [0, 1]: "
            f"{remedy}."
        )
    if images.ndim < 2:
        raise ValueError(
            f"images have shape {images.shape}; they need a batch axis before the axes of an "
            "image: use images[None] for a single one."
        )
    check_range(images)


def _check_labels(labels: np.ndarray | jax.Array) -> None:
    if labels.ndim != 1:
        one_hot = labels.ndim == 2 and labels.shape[1] > 1
        remedy = "labels.argmax(axis=1) if they are one-hot" if one_hot else "labels.reshape(-1)"
        raise ValueError(
            f"labels have shape {labels.shape}, but each image has one class, [N]: use {remedy}."
        )
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        numbers = labels.dtype.kind in "bf"
        remedy = "np.unique(labels, return_inverse=True)"
        remedy = "labels.astype(np.int32)" if numbers else f"classes, labels = {remedy}"
        raise ValueError(
            f"labels have dtype {labels.dtype}, but classes are integers from 0: number them with "
            f"{remedy}."
        )
    if len(labels) and labels.min() < 0:
        raise ValueError(f"labels contain {labels.min()}, but classes are integers from 0.")
