"""Data of one's own: arrays, folders of images, and other data sets of TFDS."""

import logging
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image

import jaxsnn
from jaxsnn.datasets import Dataset, DatasetError, load_dataset, stacking

PIXELS = np.random.default_rng(3).integers(0, 256, (12, 6, 8, 3), np.uint8)


# --- Arrays -------------------------------------------------------------------------------------


def test_integers_are_divided_and_floats_are_not():
    labels = np.arange(12, dtype=np.int64)
    for integers in (PIXELS, PIXELS.astype(np.int64)):
        dataset = Dataset.from_arrays(integers, labels)
        np.testing.assert_array_equal(dataset.images, PIXELS.astype(np.float32) / np.float32(255))
        assert (dataset.images.dtype, dataset.labels.dtype) == (np.float32, np.int32)
    floats = PIXELS.astype(np.float32) / 300
    np.testing.assert_array_equal(Dataset.from_arrays(floats, labels).images, floats)


def test_names_are_numbered_in_sorted_order():
    for names in (["dog", "cat", "dog"], np.array(["dog", "cat", "dog"])):
        dataset = Dataset.from_arrays(PIXELS[:3], names)
        assert dataset.labels.tolist() == [1, 0, 1]
        assert dataset.class_names == ("cat", "dog")


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (PIXELS.astype(np.int32) * 257, range(12), r"from \d+ to \d+, but those of 8 bits"),
        (PIXELS.astype(np.int32) - 200, range(12), r"from -\d+ to"),
        (PIXELS % 2, range(12), r"0 and 1, .*astype\(np\.float32\)"),
        (PIXELS > 3, range(12), "dtype bool"),
        (PIXELS.astype(np.float32), range(12), "Divide them by 255"),
        (PIXELS, range(11), "12 images and 11 labels"),
        (PIXELS, np.full(12, -1), "contain -1"),
        (PIXELS, np.full(12, 1 << 40), "number the classes"),
        (PIXELS, np.eye(12), "one-hot"),
    ],
)
def test_bad_arrays(images, labels, message):
    labels = list(labels) if isinstance(labels, range) else labels
    with pytest.raises(ValueError, match=message):
        Dataset.from_arrays(images, labels)


# --- Folders ------------------------------------------------------------------------------------


def write(folder, images, mode="RGB", ending="png"):
    folder.mkdir(parents=True, exist_ok=True)
    for number, pixels in enumerate(images):
        Image.fromarray(pixels).convert(mode).save(folder / f"{number}.{ending}")


@pytest.fixture
def folder(tmp_path):
    """Two classes of four and two images for the training, and one image for the test."""
    write(tmp_path / "train" / "cat", PIXELS[:4])
    write(tmp_path / "train" / "dog", PIXELS[4:6])
    write(tmp_path / "test" / "dog", PIXELS[6:7])
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no image")
    (tmp_path / "train" / "cat" / ".hidden.png").write_text("no image either")
    return tmp_path


def test_folder(folder):
    dataset = Dataset.from_folder(folder / "train")
    assert dataset.class_names == ("cat", "dog")
    found = {tuple(image.ravel().tolist()): label for image, label in zip(*astuple(dataset))}
    expected = Dataset.from_arrays(PIXELS[:6], [0, 0, 0, 0, 1, 1])
    wanted = {tuple(image.ravel().tolist()): label for image, label in zip(*astuple(expected))}
    assert found == wanted
    again = Dataset.from_folder(folder / "train")
    np.testing.assert_array_equal(again.images, dataset.images)
    few = Dataset.from_folder(folder / "train", per_class=1, class_names=["dog", "cat"])
    order = np.argsort(few.labels)
    expected = Dataset.from_arrays(PIXELS[[4, 0]], [0, 1])
    np.testing.assert_array_equal(few.images[order], expected.images)


def astuple(dataset):
    return dataset.images, dataset.labels.tolist()


def test_training_and_test_folders(folder):
    for path in (folder, str(folder)):
        train, test = load_dataset(path)
        assert (len(train), len(test)) == (6, 1)
        assert test.labels.tolist() == [1]  # the training set's number for it
        assert train.class_names == test.class_names == ("cat", "dog")
    (folder / "test").rename(folder / "val")
    assert len(load_dataset(folder)[1]) == 1
    train, test = load_dataset(folder, splits=("val", "val"), size=(3, 5))
    assert train.images.shape == (1, 3, 5, 3)


def test_grey_and_coloured_images(tmp_path):
    write(tmp_path / "a", PIXELS[:2], mode="L")
    assert Dataset.from_folder(tmp_path).images.shape == (2, 6, 8, 1)
    assert Dataset.from_folder(tmp_path, channels=3).images.shape == (2, 6, 8, 3)
    write(tmp_path / "b", PIXELS[2:3], mode="P", ending="gif")
    assert Dataset.from_folder(tmp_path).images.shape == (3, 6, 8, 3)


def test_bad_folders(folder, tmp_path):
    def refused(message, path=folder / "train", read=Dataset.from_folder, **options):
        with pytest.raises((DatasetError, ValueError), match=message):
            read(path, **options)

    refused("no folder .*absent", folder / "absent")
    refused("has no images: it must have a folder for each class", folder / "train" / "cat")
    refused("no folder .*bird for the class", class_names=["cat", "bird"])
    refused("per_class=0", per_class=0)
    refused(r"size=\(0, 3\)", size=(0, 3))
    refused("no folder .*late.*splits=", folder, load_dataset, splits=("train", "late"))
    write(folder / "test" / "bird", PIXELS[7:8])
    refused("has the class 'bird'.*cat, dog", folder, load_dataset)
    write(folder / "train" / "dog", [PIXELS[0, :5]])
    refused(r"6x8 pixels and .*0\.png has 5x8.*size=\(32, 32\)")
    (folder / "train" / "dog" / "1.png").write_bytes(b"\x89PNG and no more")
    refused(r"1\.png cannot be read as an image", size=(6, 8))
    deep = Image.fromarray(np.full((6, 8), 40_000, np.uint16))
    deep.save(folder / "train" / "dog" / "1.png")
    refused("more than 8 bits", size=(6, 8))


def test_memory_is_told_and_limited(folder, monkeypatch, caplog):
    """Known from the sizes alone, before an image is read."""
    with caplog.at_level(logging.INFO, "jaxsnn"):
        Dataset.from_folder(folder / "train", size=(500, 1000))
    assert "6 images, 36 MB" in caplog.text
    little = SimpleNamespace(available=6 * 6 * 8 * 3 * 4 - 1)
    monkeypatch.setattr(stacking.psutil, "virtual_memory", lambda: little)
    monkeypatch.setattr("jaxsnn.datasets.folders._pixels", None)
    with pytest.raises(DatasetError, match=r"6x8x3 take .* of memory are free.*per_class=.*file="):
        Dataset.from_folder(folder / "train")
    with pytest.raises(DatasetError, match=r"no folder .*absent for the file"):
        Dataset.from_folder(folder / "train", file=folder / "absent" / "images.npy")
    monkeypatch.setattr(stacking.shutil, "disk_usage", lambda path: SimpleNamespace(free=100))
    with pytest.raises(DatasetError, match="of the disk are free"):
        Dataset.from_folder(folder / "train", file=folder / "images.npy")


def test_images_in_a_file(folder):
    expected = Dataset.from_folder(folder / "train")
    dataset = Dataset.from_folder(folder / "train", file=folder / "images.npy")
    assert isinstance(dataset.images, np.memmap)
    np.testing.assert_array_equal(dataset.images, expected.images)
    assert dataset.labels.tolist() == expected.labels.tolist()
    assert sorted(path.name for path in folder.iterdir()) == ["images.npy", "test", "train"]
    network = jaxsnn.read_network(lambda x: jax.nn.relu(x[..., :1]), dataset.images[:1])
    scales = [jaxsnn.data_based_scales(network, data.images) for data in (dataset, expected)]
    assert scales[0] == scales[1]


# --- TFDS ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def blobs(tmp_path_factory):
    """A data set of TFDS, in its registry for the time of these tests: name and data directory."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import registered

    class BlobsOfTests(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            kinds = tfds.features
            image = kinds.Image(shape=(None, None, 3))
            parts = {"image": image, "label": kinds.ClassLabel(names=["cat", "dog"])}
            return tfds.core.DatasetInfo(
                builder=self, features=kinds.FeaturesDict(parts), supervised_keys=("image", "label")
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(6), "validation": self._generate_examples(3)}

        def _generate_examples(self, count):
            for number in range(count):
                yield number, {"image": Image.fromarray(PIXELS[number]), "label": number % 2}

    class WordsOfTests(BlobsOfTests):
        def _info(self):
            features = tfds.features.FeaturesDict({"text": tfds.features.Text()})
            return tfds.core.DatasetInfo(builder=self, features=features)

    yield tmp_path_factory.mktemp("tfds")
    for name in ("blobs_of_tests", "words_of_tests"):
        del registered._DATASET_REGISTRY[name]


def test_any_name_of_tfds(blobs, capfd):
    train, test = load_dataset("blobs_of_tests", data_dir=blobs)
    assert capfd.readouterr().out == ""
    assert (len(train), len(test)) == (6, 3)
    assert train.class_names == ("cat", "dog")
    expected = Dataset.from_arrays(PIXELS[:6], np.arange(6) % 2)
    places = [np.abs(expected.images - image).sum((1, 2, 3)).argmin() for image in train.images]
    assert sorted(places) == list(range(6))
    np.testing.assert_array_equal(train.images, expected.images[places])
    np.testing.assert_array_equal(train.labels, expected.labels[places])
    options = {"splits": ("train[:2]", "validation[:50%]"), "size": (3, 4)}
    train, test = load_dataset("blobs_of_tests:1.0.0", data_dir=blobs, **options)
    assert (len(train), len(test)) == (2, 2)
    assert train.images.shape == (2, 3, 4, 3)


def test_bad_names_and_data_of_tfds(blobs, monkeypatch):
    def refused(message, name="blobs_of_tests", error=DatasetError, **options):
        with pytest.raises(error, match=message):
            load_dataset(name, data_dir=blobs, **options)

    refused("no data set 'blobs_of'.*mnist.*folder that exists", "blobs_of", ValueError)
    refused("has text, but no image with one class", "words_of_tests")
    refused("'late' of blobs_of_tests .* has train, validation", splits=("train", "late"))
    refused("archives are of mnist", archives=".", error=ValueError)
    refused("leave splits and size out", "mnist", size=(3, 3), error=ValueError)
    little = SimpleNamespace(available=1000)
    monkeypatch.setattr(stacking.psutil, "virtual_memory", lambda: little)
    refused(r"6 images of 6x8x3 take .*train\[:10000\]")


def test_data_that_cannot_be_prepared(blobs, monkeypatch, tmp_path):
    from tensorflow_datasets.core import dataset_builder

    def fail(*_, **__):
        raise ModuleNotFoundError("No module named 'tensorflow'")

    monkeypatch.setattr(dataset_builder.GeneratorBasedBuilder, "_download_and_prepare", fail)
    with pytest.raises(DatasetError, match=r"cannot download and prepare .*No module.*data_dir"):
        load_dataset("blobs_of_tests", data_dir=tmp_path)
