"""Trained networks of the kinds that people convert spike as accurately as they classify."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import zoo
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jaxsnn
from jaxsnn.engines import Scan

from processes import call_with_8_devices, integers_of

STEPS = {name: 64 if name == "pre-activation ResNet" else 32 for name in zoo.NETWORKS}
SCAN_ONLY = ("pre-activation ResNet",)  # sums that several layers read

pytestmark = [pytest.mark.promotes, pytest.mark.slow]


@functools.cache
def trained(name):
    """A network, trained first where it is not kept from an earlier run."""
    if not zoo.kept_in(name).exists():
        as_users_compile = {k: value for k, value in os.environ.items() if k != "XLA_FLAGS"}
        command = [sys.executable, zoo.__file__, "--names", name]
        subprocess.run(command, env=as_users_compile, check=True)
    return zoo.trained(name)


@pytest.fixture(scope="module")
def data():
    return zoo.mnist()


@pytest.fixture(params=zoo.NETWORKS)
def name(request):
    return request.param


def relative_error(found, expected):
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def test_the_spiking_network_is_as_accurate(name, data):
    train, test = data
    images, labels = test.images[:1000], test.labels[:1000]
    logits = np.asarray(nnx.jit(lambda model, x: model(x))(trained(name), images))
    snn = jaxsnn.convert(trained(name), train.images[:500])
    tolerance = 1e-5 * np.abs(logits).max()
    np.testing.assert_allclose(snn.network(images), logits, rtol=0, atol=tolerance)
    run = jaxsnn.simulate(snn, images, key=0, duration=STEPS[name] * 1e-3)
    accuracy = (logits.argmax(1) == labels).mean()
    assert accuracy > 0.95
    assert run.accuracy(labels)[-1] >= accuracy - 0.01


# -- The same spikes in 8 bits, however they are computed ------------------------------------------


@functools.cache
def in_8_bits(name):
    return jaxsnn.quantize(jaxsnn.convert(trained(name), zoo.mnist()[0].images[:100]), bits=8)


def run(name, images, engine="scan", **options):
    how = {"key": 0, "steps": 9, "progress": False} | options
    return jaxsnn.simulate(in_8_bits(name), images, engine=engine, **how)


@pytest.fixture
def whole(name, data):
    """A run of the scan in one batch."""
    found = run(name, data[1].images[:11])
    assert all(
        np.any(counts > 0)
        for counts, layer in zip(found.spike_counts, in_8_bits(name).network.layers)
        if layer.spiking
    )
    return found


def assert_equal_runs(found, expected):
    for one, other in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "engine",
    [Scan(batch_size=4), Scan(chunk=1), Scan(chunk=4), "events"],
    ids=["batches", "single steps", "chunks", "events"],
)
def test_the_engine_and_its_options_do_not_matter(name, data, whole, engine):
    if engine == "events" and name in SCAN_ONLY:
        with pytest.raises(ValueError, match="no sums sent as numbers"):
            run(name, data[1].images[:11], engine)
        return
    assert_equal_runs(run(name, data[1].images[:11], engine), whole)


def test_a_run_may_be_split_and_handed_over(name, data, whole):
    engines = ("scan", "scan" if name in SCAN_ONLY else "events", "scan")
    state, predictions = None, []
    for engine in engines:
        part = run(name, data[1].images[:11], engine, steps=3, state=state)
        state = part.state
        predictions.append(part.predictions)
    np.testing.assert_array_equal(np.concatenate(predictions), whole.predictions)
    for field in ("spike_counts", "input_spike_counts", "synaptic_operations", "state"):
        assert_equal_runs(getattr(part, field), getattr(whole, field))


def compare_with_another_process(folder):
    """In a process with 8 devices and numbers of 64 bits."""
    assert len(jax.devices()) == 8
    assert jax.numpy.zeros(()).dtype == np.float64
    images = np.load(Path(folder) / "images.npy")
    for index, _ in enumerate(zoo.NETWORKS):
        fixed = jaxsnn.load(Path(folder) / f"{index}.safetensors")
        expected = np.load(Path(folder) / f"{index}.npz")
        for devices in (1, 2, 8):
            mesh = Mesh(np.asarray(jax.devices()[:devices]), ("images",))
            given = jax.device_put(images, NamedSharding(mesh, PartitionSpec("images")))
            found = jaxsnn.simulate(fixed, given, key=0, steps=9, engine="scan")
            for name, values in integers_of(found).items():
                np.testing.assert_array_equal(values, expected[name])


def test_devices_and_numbers_of_64_bits_do_not_matter(data, tmp_path):
    images = data[1].images[:8]
    np.save(tmp_path / "images.npy", images)
    for index, name in enumerate(zoo.NETWORKS):
        found = integers_of(run(name, images))
        assert len(found) >= 8
        np.savez(tmp_path / f"{index}.npz", **found)
        jaxsnn.save(tmp_path / f"{index}.safetensors", in_8_bits(name))
    call = f"here.compare_with_another_process({str(tmp_path)!r})"
    call_with_8_devices(f"import test_architectures as here; {call}", timeout=900)


def test_the_error_of_the_scores_falls_as_one_over_time(name, data):
    images = data[1].images[:20]
    snn = jaxsnn.convert(trained(name), images, percentile=100)
    scores = jaxsnn.simulate(snn, images, key=0, duration=0.256).scores
    logits = snn.network(images)
    errors = [relative_error(scores[steps - 1] / steps, logits) for steps in (16, 64, 256)]
    assert errors[1] < errors[0] / 3
    assert errors[2] < errors[1] / 3
