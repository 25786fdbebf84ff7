"""Folders of images: a folder for each class, with files that Pillow reads."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from jaxsnn.datasets.dataset import Dataset, DatasetError
from jaxsnn.datasets.stacking import ONE_SIZE, check_size, resized, stacked

_GREY = {"1", "L", "LA"}  # what Pillow calls the modes of 8 bits
_COLOURED = {"P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"}
_TESTS = ("test", "validation", "val")
_LESS = "Take fewer, `per_class=100`, or make them smaller, `size=(32, 32)`."


class _File(NamedTuple):
    path: Path
    label: int


def read_folder(
    path: str | os.PathLike[str],
    *,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
    per_class: int | None = None,
    class_names: Sequence[str] | None = None,
    file: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
) -> Dataset:
    """What `Dataset.from_folder` does."""
    check_size(size)
    if per_class is not None and per_class < 1:
        raise ValueError(f"per_class={per_class}; it must be at least 1.")
    folder = _existing(path)
    names = tuple(class_names or _class_names(folder))
    files = [file for n, name in enumerate(names) for file in _files(folder / name, n, per_class)]
    if not files:
        raise DatasetError(
            f"{folder} has no images: it must have a folder for each class, such as "
            f"{folder / 'cat' / '1.png'}."
        )
    height, width, found = _shape(files, size)
    channels = channels or found
    files = [files[number] for number in np.random.default_rng(0).permutation(len(files))]
    return stacked(
        ((_pixels(file.path, size, channels), file.label) for file in files),
        count=len(files),
        shape=(height, width, channels),
        class_names=names,
        title=f"reading {folder}",
        remedy=_LESS if file else f'{_LESS[:-1]}, or keep them in a file, `file="images.npy"`.',
        file=file,
        progress=progress,
    )


def read_folders(
    path: str | os.PathLike[str],
    *,
    splits: tuple[str, str] | None = None,
    size: tuple[int, int] | None = None,
) -> tuple[Dataset, Dataset]:
    """The training set and the test set of a folder that has a folder for each.

    Args:
        path: the folder.
        splits: the names of the two; by default "train", and "test", "validation" or "val".
        size: as for `Dataset.from_folder`.

    Raises:
        DatasetError: as `Dataset.from_folder`; or one of the two is missing, or the test set has
            classes that the training set has not.
    """
    folder = _existing(path)
    train, test = (folder / name for name in splits or ("train", _test_of(folder)))
    if missing := [each for each in (train, test) if not each.is_dir()]:
        raise DatasetError(
            f"There is no folder {missing[0]}, for one of the two sets of {folder}. Name the two "
            f'with splits=("train", "test"), or read one alone: jaxsnn.Dataset.from_folder.'
        )
    names = _class_names(train)
    if unknown := sorted(set(_class_names(test)) - set(names)):
        raise DatasetError(
            f"{test} has the class {unknown[0]!r}, and {train} has not: its classes are "
            f"{', '.join(names)}."
        )
    first = read_folder(train, size=size, class_names=names)
    present = [name for name in names if (test / name).is_dir()]
    channels = first.images.shape[-1]
    second = read_folder(test, size=size, channels=channels, class_names=present)
    if first.images.shape[1:] != second.images.shape[1:]:
        raise DatasetError(f"{train} has {first}, and {test} has {second}. {ONE_SIZE}")
    numbers = np.array([names.index(name) for name in present], np.int32)
    return first, Dataset(second.images, numbers[second.labels], names)


def _existing(path: str | os.PathLike[str]) -> Path:
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise DatasetError(f"There is no folder {folder} for a data set; correct its path.")
    return folder


def _test_of(folder: Path) -> str:
    return next((name for name in _TESTS if (folder / name).is_dir()), _TESTS[0])


def _class_names(folder: Path) -> tuple[str, ...]:
    found = sorted(folder.iterdir())
    return tuple(each.name for each in found if each.is_dir() and not each.name.startswith("."))


def _files(folder: Path, label: int, at_most: int | None) -> list[_File]:
    """The images of one class, by name."""
    if not folder.is_dir():
        raise DatasetError(f"There is no folder {folder} for the class {folder.name!r}.")
    endings = Image.registered_extensions()
    paths = [
        path
        for path in sorted(folder.iterdir())
        if endings.get(path.suffix.lower()) in Image.OPEN and not path.name.startswith(".")
    ]
    return [_File(path, label) for path in paths[:at_most]]


def _shape(files: Sequence[_File], size: tuple[int, int] | None) -> tuple[int, int, int]:
    """Height, width and channels of all images, from the first bytes of each."""
    channels = 1
    sizes: dict[tuple[int, int], Path] = {}
    for path, _ in files:
        with _opened(path) as image:
            sizes.setdefault((image.height, image.width), path)
            channels = channels if image.mode in _GREY else 3
        if size is None and len(sizes) > 1:
            (one, first), (other, second) = sizes.items()
            raise DatasetError(
                f"{first} has {_text(one)} pixels and {second} has {_text(other)}. {ONE_SIZE}"
            )
    height, width = size or next(iter(sizes))
    return height, width, channels


def _text(size: tuple[int, int]) -> str:
    return "x".join(map(str, size))


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """An image, of which Pillow reads the pixels when they are asked for."""
    try:
        with Image.open(path) as image:
            if image.mode not in _GREY | _COLOURED:
                raise ValueError(f"its pixels have more than 8 bits, {image.mode}; convert them")
            yield image
    except Exception as error:  # whatever damaged files lead to
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(f"{path} cannot be read as an image: {error}.") from error


def _pixels(path: Path, size: tuple[int, int] | None, channels: int) -> np.ndarray:
    """An image `[height, width, channels]`, of 8 bits."""
    with _opened(path) as image:
        pixels = np.asarray(resized(image.convert("L" if channels == 1 else "RGB"), size))
    return pixels.reshape(*pixels.shape[:2], channels)
