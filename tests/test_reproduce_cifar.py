"""`python -m jaxsnn reproduce --dataset cifar10`, with small networks and data made here."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
from flax import nnx

import jaxsnn
from jaxsnn.__main__ import main
from jaxsnn.networks import VGG, ResNet
from jaxsnn.paper import reproduce as command
from jaxsnn.paper.experiments import EXPERIMENTS
from jaxsnn.training import RECIPES, accuracy, fit

from cifar import cifar_files, small_cifar, trust, write_tar

pytestmark = [pytest.mark.promotes, pytest.mark.slow]

NETWORKS = {
    "resnet20-cifar10": partial(ResNet, maps=(3,), blocks=1),
    "vgg11-cifar10": partial(VGG, stages=((3,),)),
}


@pytest.fixture(scope="module")
def reproduction(tmp_path_factory):
    """Folder and arguments of a reproduction that was done, with `RECIPES` and all as it was."""
    folder = tmp_path_factory.mktemp("reproduction")
    archives = write_tar(folder / "archives", cifar_files(small_cifar()))
    arguments = ["reproduce", "--dataset", "cifar10", "--archives", str(archives)]
    arguments += ["--data-dir", str(folder / "data"), "--cache", str(folder / "cache")]
    small = replace(
        EXPERIMENTS["cifar10"],
        calibration=8,
        duration=0.016,
        full_duration=0.02,
        milliseconds=(2, 16, 20),
        images_at_once=4,  # the test set has 10 images
    )
    with pytest.MonkeyPatch.context() as patch:
        trust(patch, archives)
        patch.setitem(EXPERIMENTS, "cifar10", small)
        for name, model in NETWORKS.items():
            changed = replace(RECIPES[name], model=model, epochs=2, batch_size=10)
            patch.setitem(RECIPES, name, changed)
        options = ["--networks", "resnet20", "--full", "--output", str(folder / "results")]
        main([*arguments, *options])
        yield folder, arguments


@pytest.mark.slow
def test_table(reproduction):
    folder, _ = reproduction
    table = pd.read_csv(folder / "results" / "table.csv")
    assert table.columns.tolist() == [
        "network", "conversion", "ReLU", "2 ms", "16 ms", "20 ms", "spikes", "operations (M)",
    ]  # fmt: skip
    assert table["network"].tolist() == ["ResNet-20"] * 2
    assert table["conversion"].tolist() == ["99.9th percentile", "largest activations"]
    assert (table["spikes"] > 0).all()


def test_the_figures_are_those_of_a_few_lines(reproduction):
    """Of all images at once, where the command takes them in parts."""
    folder, _ = reproduction
    train, test = jaxsnn.load_dataset("cifar10", data_dir=folder / "data")
    recipe = RECIPES["resnet20-cifar10"]
    model = recipe.model(rngs=nnx.Rngs(0))
    fit(model, train, recipe=recipe, progress=False)
    snn = jaxsnn.convert(model, train.images[:8])
    run = jaxsnn.simulate(snn, test.images, key=0, duration=0.02)
    found = pd.read_csv(folder / "results" / "table.csv").iloc[0]
    content = json.loads((folder / "results" / "results.json").read_text())
    curve = content["accuracy"]["ResNet-20"]["99.9th percentile"]
    np.testing.assert_allclose(curve, run.accuracy(test.labels), rtol=1e-6)
    spikes = sum(np.asarray(counts).sum() for counts in run.spike_counts) / 10
    expected = [accuracy(model, test), curve[1], spikes, np.mean(run.synaptic_operations) / 1e6]
    names = ["ReLU", "2 ms", "spikes", "operations (M)"]
    np.testing.assert_allclose(found[names].astype(float), expected, rtol=1e-6)


@pytest.mark.slow
def test_the_other_network(reproduction, tmp_path):
    _, arguments = reproduction
    main([*arguments, "--networks", "vgg11", "--images", "4", "--output", str(tmp_path)])
    table = pd.read_csv(tmp_path / "table.csv")
    assert table["network"].tolist() == ["VGG-11"]
    assert table["conversion"].tolist() == ["99.9th percentile"]
    assert "20 ms" not in table.columns
    assert (tmp_path / "rates-VGG-11.png").exists()


def test_results_say_how_they_came_about(reproduction):
    folder, _ = reproduction
    settings = json.loads((folder / "results" / "results.json").read_text())["settings"]
    for name, value in {
        "dataset": "cifar10",
        "arithmetic": "float32",
        "encoding": "constant",
        "reset": "by subtraction",
        "initial_potential": 0.5,
        "scale_factors": "per channel",
        "calibration_images": 8,
    }.items():
        assert settings[name] == value


def test_the_settings_are_those_of_the_conversion():
    """What results.json says of them."""
    experiment = EXPERIMENTS["cifar10"]
    model = VGG((4, 4, 3), ((3,),), rngs=nnx.Rngs(0))
    images = np.random.default_rng(0).random((4, 4, 4, 3), np.float32)
    for convert in experiment.conversions_of(full=True).values():
        snn = convert(model, images)
        assert snn.encode is jaxsnn.constant
        assert snn.reset is jaxsnn.reset_by_subtraction
        assert snn.thresholds[0].shape == (1, 1, 3)
        np.testing.assert_array_equal(snn.initial_potentials[0], snn.thresholds[0] / 2)


def test_pictures(reproduction):
    folder, _ = reproduction
    names = ["accuracy.png", "rates-ResNet-20.png"]
    assert sorted(path.name for path in (folder / "results").glob("*.png")) == names
    for name in names:
        assert (folder / "results" / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recipe", "authors"], "recipe=authors; for CIFAR-10 there is modern only"),
        (["--networks", "fc"], "networks=fc; for CIFAR-10 take resnet20 or vgg11, or both"),
        (["--networks"], "no network chosen; for CIFAR-10 take resnet20 or vgg11"),
        (
            ["--dataset", "mnist", "--networks", "vgg11"],
            "networks=vgg11; for MNIST take fc or conv",
        ),
    ],
)
def test_what_the_data_set_does_not_have(arguments, message, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "load_dataset", None)  # known before
    with pytest.raises(SystemExit, match=message):
        main(["reproduce", "--dataset", "cifar10", *arguments, "--output", str(tmp_path)])
