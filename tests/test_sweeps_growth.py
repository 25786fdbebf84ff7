"""Finished sweeps that take further values: only what is new is simulated."""

import jax
import numpy as np
import pytest
import xarray as xr

import jaxsnn
from jaxsnn.sweeps import run as sweeping

SMALL = {
    "scales": {"one": 1.0, "half": [0.5, 0.5]},
    "threshold": [0.5, 1.0],
    "max_rate": [500.0],
    "seed": [0],
    "reset": {"zero": jaxsnn.reset_to_zero},
    "duration": 0.006,
}
LARGE = SMALL | {
    "scales": {"half": [0.5, 0.5], "rule": lambda network: [2.0, 1.0], "one": 1.0},
    "threshold": [0.25, 1.0, 0.5],
    "seed": [1, 0],
    "reset": {"zero": jaxsnn.reset_to_zero, "subtraction": jaxsnn.reset_by_subtraction},
}


@pytest.fixture(scope="module")
def world():
    """Network, images and labels."""
    rng = np.random.default_rng(5)
    weights = [rng.normal(0.1, 0.4, shape).astype("f4") for shape in ((4, 5), (5, 3))]

    def model(images):
        return jax.nn.relu(jax.nn.relu(images @ weights[0]) @ weights[1])

    images = rng.random((7, 4)).astype("f4")
    return jaxsnn.read_network(model, images), images, np.arange(7) % 3


@pytest.fixture
def simulated(monkeypatch):
    """The numbers of points that are simulated, sweep by sweep."""
    numbers = []
    count_all = sweeping._count_all

    def counted(job, *rest):
        numbers.append(len(job.grid))
        return count_all(job, *rest)

    monkeypatch.setattr(sweeping, "_count_all", counted)
    return numbers


def swept(world, settings, path=None, **options):
    network, images, labels = world
    options = {"engine": "events", "progress": False} | options
    return jaxsnn.sweep(network, images, labels, jaxsnn.Grid(**settings), path=path, **options)


@pytest.mark.slow
def test_only_what_is_new_is_simulated(world, simulated, tmp_path):
    path = tmp_path / "sweep.nc"
    swept(world, SMALL, path)
    data = swept(world, LARGE, path)
    assert simulated[0] == 4
    assert sum(simulated) == len(jaxsnn.Grid(**LARGE)) == 36  # none is simulated twice
    assert sorted(each.name for each in tmp_path.iterdir()) == ["sweep.nc"]
    xr.testing.assert_identical(data.drop_attrs(), swept(world, LARGE).drop_attrs())
    simulated.clear()
    again = swept(world, LARGE, path)
    xr.testing.assert_identical(again.drop_attrs(), data.drop_attrs())
    assert simulated == []


def test_one_value_becomes_an_axis(world, simulated, tmp_path):
    """What was one number is the first of several, and the times are the durations."""
    path = tmp_path / "sweep.nc"
    single = {"scales": 1.0, "threshold": 0.5, "max_rate": 500.0, "duration": [0.004, 0.006]}
    swept(world, single, path)
    more = single | {"threshold": [0.5, 1.0], "dt": [1e-3, 2e-3], "initial_potential": [0.0, 0.5]}
    data = swept(world, more, path)
    assert sum(simulated) == 8
    xr.testing.assert_identical(data.drop_attrs(), swept(world, more).drop_attrs())


@pytest.mark.slow
def test_growth_is_resumed(world, simulated, tmp_path, monkeypatch):
    path = tmp_path / "sweep.nc"
    swept(world, SMALL, path)
    with monkeypatch.context() as patch:
        patch.setattr("jaxsnn.sweeps.growth.save_sweep", stopped)
        with pytest.raises(KeyboardInterrupt):
            swept(world, LARGE, path)
    assert jaxsnn.load_sweep(path).sizes["threshold"] == 2  # the old result is whole
    simulated.clear()
    data = swept(world, LARGE, path)
    assert simulated == []
    xr.testing.assert_identical(data.drop_attrs(), swept(world, LARGE).drop_attrs())


def stopped(*_):
    raise KeyboardInterrupt


def test_another_sweep_does_not_grow(world, tmp_path):
    path = tmp_path / "sweep.nc"
    swept(world, SMALL, path)
    written = path.read_bytes()
    network, images, labels = world
    others = [
        (LARGE | {"threshold": [0.25, 1.0]}, world, "threshold"),  # 0.5 is missing
        (LARGE | {"scales": {"one": 2.0, "half": 0.5, "new": 3.0}}, world, "scales"),
        (LARGE | {"reset": {"zero": jaxsnn.reset_by_subtraction, "b": jaxsnn.reset_to_zero}},
         world, "reset"),
        (LARGE | {"duration": 0.008}, world, "duration"),
        (LARGE | {"dt": [1e-3, 2e-3]}, world, "dt"),
        (LARGE, (network, images[::-1], labels), "images"),
    ]  # fmt: skip
    for settings, other, what in others:
        with pytest.raises(ValueError, match=f"belongs to a sweep with other .*{what}"):
            swept(other, settings, path)
    assert path.read_bytes() == written
