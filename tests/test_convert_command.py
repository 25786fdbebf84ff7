"""`python -m jaxsnn convert`, for a small model of a module in the working folder."""

import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import jaxsnn
from jaxsnn.__main__ import main

pytestmark = pytest.mark.promotes

MODULE = """
import jax
import numpy as np


def trained(weights):
    first, second = np.load(weights).values()

    def model(images):
        return jax.nn.relu(images.reshape(images.shape[0], -1) @ first) @ second

    return model


def made():
    return trained("weights.npz")


def model(images):
    return made()(images)


def smooth(images):
    return jax.numpy.tanh(images.reshape(images.shape[0], -1))


def two(first, second):
    return first


class Model:
    pass


instance = made()
number = 3
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working folder with a module, weights, and images whose classes are bright and dark."""
    path = tmp_path_factory.mktemp("own")
    (path / "model_of_tests.py").write_text(MODULE)
    first = np.full((12, 2), 0.1, np.float32)
    second = np.array([[1.0, 0.0], [1.0, 0.0]], np.float32)
    np.savez(path / "weights.npz", first, second - np.array([[0.0, -0.4]] * 2, np.float32))
    for split, count in (("train", 8), ("test", 6)):
        for name, grey in (("bright", 200), ("dark", 20)):
            (path / "images" / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = np.full((3, 4), grey + number, np.uint8)
                Image.fromarray(pixels).save(path / "images" / split / name / f"{number}.png")
    return path


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    return folder


def test_everything_is_written(here, tmp_path, capsys):
    arguments = ["convert", "model_of_tests:trained", "--weights", "weights.npz"]
    arguments += ["--data", "images", "--bits", "8", "--simulated-steps", "12"]
    main([*arguments, "--output", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert files == [
        *("accuracy.csv", "accuracy.png", "network.safetensors", "report.png", "report.txt")
    ]
    curve = pd.read_csv(tmp_path / "out" / "accuracy.csv")
    assert curve["step"].tolist() == list(range(1, 13))
    assert f"{100 * curve['accuracy'].iloc[-1]:.2f}" in printed
    assert (tmp_path / "out" / "report.txt").read_text() in printed
    network = jaxsnn.load(tmp_path / "out" / "network.safetensors")
    assert isinstance(network, jaxsnn.FixedPointNetwork)
    _, test = jaxsnn.load_dataset("images")
    run = jaxsnn.simulate(network, test.images, key=0, duration=0.012)
    np.testing.assert_allclose(run.accuracy(test.labels), curve["accuracy"], atol=1e-6)


@pytest.mark.parametrize("name", ["made", "model", "instance"])
def test_what_a_name_may_stand_for(here, name):
    from jaxsnn import convert_command

    found = convert_command._model(f"model_of_tests:{name}", None)
    images = np.ones((1, 3, 4, 1), np.float32)
    np.testing.assert_allclose(found(images), [[2.4, 0.96]], rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model_of_tests.py"], "write model_of_tests:NAME"),
        (["nothing_here:made"], "no module 'nothing_here' here"),
        (["model_of_tests:mode"], "has no 'mode'; it has model"),
        (["model_of_tests:Model"], "is a class: write a function"),
        (["model_of_tests:two"], "takes 2 arguments"),
        (["model_of_tests:made", "--weights", "weights.npz"], "must take one, the path"),
        (["model_of_tests:number", "--weights", "weights.npz"], "is no function that could read"),
        (["model_of_tests:trained", "--weights", "none.npz"], "none.npz does not exist"),
        (["model_of_tests:number"], "model is 3, but must be"),
        (["model_of_tests:smooth"], "images of 3x4x1.*unsupported operation tanh"),
        (["model_of_tests:made", "--size", "5", "5"], r"images of 5x5x1\)"),
        (["model_of_tests:made", "--steps", "40"], "take 1 to simulated_steps=32"),
        (["model_of_tests:made", "--steps", "4", "--percentile", "99"], "give one of the two"),
        (["model_of_tests:made", "--percentile", "101"], "percentile=101"),
        (["model_of_tests:made", "--images", "0"], "images=0"),
        (["model_of_tests:made", "--data", "no-such-data"], "no data set 'no-such-data'"),
        (["model_of_tests:made", "--splits", "train", "late"], "no folder images/late"),
        (["model_of_tests:made", "--output", "weights.npz"], "weights.npz cannot be written"),
    ],
)
def test_bad_arguments(here, arguments, message, tmp_path):
    data = [] if "--data" in arguments else ["--data", "images"]
    output = [] if "--output" in arguments else ["--output", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match=message):
        main(["convert", *arguments, *data, *output])
