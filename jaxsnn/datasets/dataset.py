"""Images and their labels, and the error where they cannot be had."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import jax
import jax.numpy as jnp
import numpy as np

from jaxsnn.network import check_range
from jaxsnn.support.typed import described, typed


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
else:  # with what a message says is expected
    _Images = Annotated[np.ndarray | jax.Array, "an array: np.asarray(images, np.float32)"]
    _Labels = Annotated[np.ndarray | jax.Array, "an array of integers: np.asarray(labels)"]


@typed
@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Images and their labels.

    Attributes:
        images: pixels in [0, 1], floating point `[N, height, width, channels]` or whatever shape
            the model takes; those of `load_dataset` are float32, of MNIST `[N, 28, 28, 1]`.
        labels: classes from 0, integers `[N]`.

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

    def __post_init__(self):
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
