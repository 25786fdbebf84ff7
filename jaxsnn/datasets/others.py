"""Any data set of TensorFlow Datasets (TFDS) that has images and classes."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from jaxsnn.datasets.dataset import Dataset, DatasetError
from jaxsnn.datasets.prepared import is_array_record, is_prepared, tfds_error
from jaxsnn.datasets.stacking import ONE_SIZE, check_size, resized, stacked

_TESTS = ("test", "validation")
_LESS = 'Take fewer, `splits=("train[:10000]", "test")`, or make them smaller, `size=(32, 32)`.'


def is_known(name: str) -> bool:
    """Whether TFDS has a data set of this name, which may say its configuration and version."""
    try:
        import tensorflow_datasets as tfds

        names = tfds.list_builders(with_community_datasets=False)
    except Exception as error:  # of any of the packages that TFDS imports
        raise tfds_error(error) from error
    return re.split("[/:]", name)[0] in names


def read_other(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    splits: tuple[str, str] | None = None,
    size: tuple[int, int] | None = None,
) -> tuple[Dataset, Dataset]:
    """Two splits of a data set, downloaded and prepared by TFDS where that has not been done.

    Args:
        name: as TFDS has it, such as "cifar100".
        data_dir: the data directory of TFDS.
        splits: two of its splits or parts of them, "train[:10%]"; by default "train", and "test"
            or "validation".
        size: height and width to which images are resized; by default all must have one size.

    Raises:
        DatasetError: it has no images and classes of 8 bits, or no such splits; it cannot be
            prepared or read; or it does not fit into memory.
    """
    check_size(size)
    try:
        import tensorflow_datasets as tfds

        builder = tfds.builder(name, data_dir=None if data_dir is None else os.fspath(data_dir))
        image, label = _features(name, builder.info, tfds.features)
    except DatasetError:
        raise
    except Exception as error:
        raise DatasetError(f"TensorFlow Datasets cannot open {name}: {error}") from error
    if not is_prepared(builder):
        _prepare(name, builder)
    if not is_array_record(builder):
        raise DatasetError(
            f"{builder.data_path} has the data in a format that only TensorFlow can read: choose "
            "another `data_dir`, and they are prepared there anew."
        )
    chosen = splits or ("train", _test_of(builder))
    train, test = (_split(builder, split, image, label, size) for split in chosen)
    if train.images.shape[1:] != test.images.shape[1:]:
        raise DatasetError(f"{name} has {train} and {test}. {ONE_SIZE}")
    return train, test


def _features(name: str, info: Any, features: Any) -> tuple[str, str]:
    """The names that a data set has for images and classes."""
    image, label = info.supervised_keys or ("image", "label")
    kinds = {key: info.features[key] for key in (image, label) if key in list(info.features)}
    expected = [features.Image, features.ClassLabel]
    if len(kinds) < 2 or not all(map(isinstance, kinds.values(), expected)):
        raise DatasetError(
            f"{name} has {', '.join(info.features)}, but no image with one class; read it with "
            "TensorFlow Datasets, and make it one by jaxsnn.Dataset.from_arrays(images, labels)."
        )
    return image, label


def _prepare(name: str, builder: Any) -> None:
    """Download the data and write them to TFDS's data directory."""
    try:
        # TFDS prints to stdout, which belongs to the caller.
        with contextlib.redirect_stdout(sys.stderr):
            builder.download_and_prepare(file_format="array_record")
    except Exception as error:  # of the network, of the disk, or of what a builder imports
        raise DatasetError(
            f"TensorFlow Datasets cannot download and prepare {name}: "
            f"{str(error) or type(error).__name__}. Where its builder needs TensorFlow, install "
            "that (`python -m pip install tensorflow`); or prepare the data elsewhere, with `tfds "
            "build --file_format=array_record`, and name their folder: `data_dir`."
        ) from error


def _test_of(builder: Any) -> str:
    return next((name for name in _TESTS if name in builder.info.splits), _TESTS[0])


def _split(
    builder: Any, split: str, image: str, label: str, size: tuple[int, int] | None
) -> Dataset:
    """One split, in the order in which TFDS has it."""
    try:
        source = builder.as_data_source(split)
        count, first = len(source), np.asarray(source[0][image])
    except Exception as error:  # an unknown split is one of several
        raise DatasetError(
            f"The split {split!r} of {builder.name} cannot be read: {error}. It has "
            f"{', '.join(builder.info.splits)}; choose two: splits=(..., ...)."
        ) from error
    shape = (*(size or first.shape[:2]), first.shape[-1])

    def examples() -> Iterator[tuple[np.ndarray, int]]:
        for number in range(count):
            example = source[number]
            yield _pixels(np.asarray(example[image]), shape, size), int(example[label])

    return stacked(
        examples(),
        count=count,
        shape=shape,
        class_names=tuple(builder.info.features[label].names or ()),
        title=f"reading {builder.name}, {split}",
        remedy=_LESS,
    )


def _pixels(image: np.ndarray, shape: tuple[int, ...], size: tuple[int, int] | None) -> np.ndarray:
    """An image `[height, width, channels]`, of 8 bits."""
    if image.dtype != np.uint8:
        raise DatasetError(f"Images have pixels of {image.dtype}, but those of 8 bits are read.")
    if size is not None:
        grey = image.shape[-1] == 1
        image = np.asarray(resized(Image.fromarray(image[..., 0] if grey else image), size))
        image = image.reshape(shape)
    if image.shape != shape:
        raise DatasetError(f"One image has the shape {image.shape} and another {shape}. {ONE_SIZE}")
    return image
