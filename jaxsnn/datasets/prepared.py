"""What TFDS has prepared: written through it, and read, without TensorFlow."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import os
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxsnn.datasets.catalogue import OFFICIAL
from jaxsnn.datasets.dataset import DatasetError
from jaxsnn.datasets.official import Parts
from jaxsnn.datasets.pngs import decode_pngs
from jaxsnn.support.warn import warn


@functools.cache
def builder_class(name: str) -> Any:
    """TFDS's builder of this name, but for what it writes: the parts it is given.

    TFDS's own needs TensorFlow to write. Name, version and records are the same, so what either
    has prepared gives both.
    """
    from tensorflow_datasets.core import registered

    official = OFFICIAL[name]
    module, class_name = official.builder.split(".")
    package = "tensorflow_datasets.image_classification"
    base = getattr(importlib.import_module(f"{package}.{module}"), class_name)
    with registered.skip_registration():

        class Builder(base):
            name = base.name
            parts: Parts

            def _split_generators(self, dl_manager: Any) -> Any:
                if official.class_names:
                    self.info.features["label"].names = list(official.class_names)
                return {split: self._examples(split) for split in official.counts}

            def _examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
                images, labels = self.parts[f"{split}-images"], self.parts[f"{split}-labels"]
                for key, (image, label) in enumerate(zip(images, labels, strict=True)):
                    pixels = image[..., 0] if image.shape[-1] == 1 else image
                    example = {"image": Image.fromarray(pixels), "label": int(label)}
                    if "id" in self.info.features:
                        example["id"] = f"{split}_{key:05d}"
                    yield key, example

    return Builder


def open_builder(name: str, data_dir: str | os.PathLike[str] | None) -> Any:
    """Returns the builder for the place that has the data, or that is free for them."""
    try:
        from tensorflow_datasets.core import constants

        builder_of_name = builder_class(name)
    except Exception as error:  # of any of the packages that TFDS imports
        raise tfds_error(error) from error
    root = Path(data_dir or constants.DATA_DIR).expanduser()
    with _damage_reported(name, root / name / str(builder_of_name.VERSION)):
        builder = builder_of_name(data_dir=data_dir and root)
        if builder.data_path.exists() and not is_prepared(builder):
            raise FileNotFoundError("dataset_info.json is missing")
    if not is_prepared(builder) or is_array_record(builder):
        return builder
    other = builder.data_dir_root / "jaxsnn"
    warn(
        f"{builder.data_path} has the data as {builder.info.file_format.value}, which only "
        f"TensorFlow can read; a copy that needs no TensorFlow is kept in {other}."
    )
    return open_builder(name, other)


def is_prepared(builder: Any) -> bool:
    """Whether the builder's place has the data."""
    return (builder.data_path / "dataset_info.json").exists()  # TFDS writes it last


def is_array_record(builder: Any) -> bool:
    """Whether the data are in files that can be read without TensorFlow."""
    return "array_record" in {kind.value for kind in builder.info.available_file_formats()}


@contextlib.contextmanager
def _damage_reported(name: str, folder: os.PathLike[str]) -> Iterator[None]:
    """Raises `DatasetError` for what fails; it blames the data only for what is their fault.

    The readers raise nearly everything for damaged data (RuntimeError, KeyError, DecodeError,
    zlib.error), and so do versions of TFDS and protobuf that do not fit each other. What tells
    them apart is whether data that are certainly sound can be read.
    """
    try:
        _check_readable(Path(folder))
        yield
    except Exception as error:
        if _is_of_the_system(error):
            raise DatasetError(
                f"The data prepared in {folder} cannot be read ({_shown(error)}). This need not "
                "be a fault of the data: see that you may read the folder and that there is enough "
                "memory, or choose another `data_dir`."
            ) from error
        if failure := _failure_on_sound_data(name):
            raise tfds_error(failure, folder) from error
        raise DatasetError(
            f"The data prepared in {folder} cannot be used ({_shown(error)}). Delete this folder, "
            "and load the data set again."
        ) from error


def _is_of_the_system(error: Exception) -> bool:
    """Whether an error comes from permissions, memory or the disk; Pillow's have no number."""
    system = isinstance(error, OSError) and error.errno is not None
    return isinstance(error, MemoryError) or (system and not isinstance(error, FileNotFoundError))


def _check_readable(folder: Path) -> None:
    """Raises OSError if a file cannot be opened, since TFDS's own errors do not tell why."""
    for path in folder.iterdir() if folder.exists() else ():
        if path.is_file():
            path.open("rb").close()


def tfds_error(failure: Exception, folder: os.PathLike[str] | None = None) -> DatasetError:
    """The error of packages that do not fit each other."""
    sound = f" The data in {folder} are not the cause: keep them." if folder else ""
    return DatasetError(
        f"TensorFlow Datasets does not work with the packages that are installed "
        f"({_versions()}): {_shown(failure)}. Bring them up to date with `python -m pip install "
        f"--upgrade {' '.join(_TFDS_PACKAGES)}`.{sound}"
    )


_TFDS_PACKAGES = ("tensorflow-datasets", "protobuf", "array-record", "importlib-resources")


def _versions() -> str:
    def version(package: str) -> str:
        with contextlib.suppress(metadata.PackageNotFoundError):
            return f"{package} {metadata.version(package)}"
        return f"no {package}"

    return ", ".join(map(version, _TFDS_PACKAGES))


def _shown(error: Exception) -> str:
    return str(error) or type(error).__name__


def _failure_on_sound_data(name: str) -> Exception | None:
    """Returns the error with which TFDS writes and reads two blank images, None if it can."""
    official = OFFICIAL[name]
    blank = {
        "images": np.zeros((1, *official.image_shape), np.uint8),
        "labels": np.zeros(1, np.uint8),
    }
    parts = {f"{split}-{what}": blank[what] for split in official.counts for what in blank}
    silent = contextlib.redirect_stderr(io.StringIO())
    try:
        with silent, tempfile.TemporaryDirectory() as folder:
            _write(builder_class(name)(data_dir=folder), parts)
            builder = builder_class(name)(data_dir=folder)
            for split in official.counts:
                _read_split(builder, split, 1)
    except Exception as error:
        return error
    return None


def _write(builder: Any, parts: Parts) -> None:
    """Writes the data through TFDS: into a temporary folder, which is then renamed."""
    builder.parts = parts
    # TFDS prints to stdout, which belongs to the caller, and makes a folder for downloads.
    with tempfile.TemporaryDirectory() as unused, contextlib.redirect_stdout(sys.stderr):
        builder.download_and_prepare(download_dir=unused, file_format="array_record")


def prepare(builder: Any, parts: Parts) -> None:
    """Writes the data to the builder's place, or raises `DatasetError`."""
    try:
        _write(builder, parts)
    except Exception as error:
        if is_prepared(builder):  # by another process, the first of the two to rename
            return
        failure = None if isinstance(error, OSError) else _failure_on_sound_data(builder.name)
        if failure and not isinstance(failure, OSError):
            raise tfds_error(failure) from error
        raise DatasetError(
            f"The data cannot be written to {builder.data_path} ({_shown(error)}). See that there "
            "is room and that you may write there, or choose another `data_dir`."
        ) from error
    finally:
        with contextlib.suppress(OSError):  # not empty if all went well
            os.rmdir(builder.data_path.parent)


def read_prepared(name: str, builder: Any) -> Parts:
    """The prepared data, or `DatasetError` if they are damaged or not the official ones."""
    official = OFFICIAL[name]
    with _damage_reported(name, builder.data_path):
        parts: Parts = {}
        for split, count in official.counts.items():
            parts |= _read_split(builder, split, count)
        official.check(parts)
        return parts


def _read_split(builder: Any, split: str, count: int) -> Parts:
    """Reads one split in the official order.

    TFDS's own decoding takes four times as long, as it makes every record a NumPy array.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.proto import tf_example_pb2

    raw = tfds.decode.DeserializeMethod.RAW_BYTES
    source = builder.as_data_source(split, deserialize_method=raw, file_format="array_record")
    if len(source) != count:
        raise ValueError(f"{split} has {len(source)} records, not {count}")
    records = source.__getitems__(range(count))
    parse = tf_example_pb2.Example.FromString  # pyright: ignore[reportAttributeAccessIssue]
    features = [parse(record).features.feature for record in records]
    pngs = [feature["image"].bytes_list.value[0] for feature in features]
    images = decode_pngs(pngs, OFFICIAL[builder.name].image_shape)
    labels = np.array([feature["label"].int64_list.value[0] for feature in features], np.uint8)
    official = np.argsort(stored_order(split, count))
    return {f"{split}-images": images[official], f"{split}-labels": labels[official]}


def stored_order(split: str, count: int) -> np.ndarray:
    """The official index of each stored record: TFDS sorts them by a hash of it."""
    from tensorflow_datasets.core import hashing

    return np.array(sorted(range(count), key=hashing.Hasher(split).hash_key))
