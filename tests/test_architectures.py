"""Trained networks of the kinds that people convert spike as accurately as they classify."""

import functools
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
import zoo
from flax import nnx

import jaxsnn

STEPS = {name: 64 if name == "pre-activation ResNet" else 32 for name in zoo.NETWORKS}

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


@pytest.mark.parametrize("network", ["ResNet", "VGG, ReLU6", "Inception"])
def test_the_events_give_the_spikes_of_the_scan(network, data):
    """In 8 bits, in everything that a run returns."""
    images = data[1].images[:8]
    fixed = jaxsnn.quantize(jaxsnn.convert(trained(network), data[0].images[:100]), bits=8)
    runs = [
        jaxsnn.simulate(fixed, images, key=0, duration=0.012, engine=engine)
        for engine in ("events", "scan")
    ]
    for one, other in zip(*map(jax.tree.leaves, runs), strict=True):
        np.testing.assert_array_equal(one, other)
    assert all(np.any(counts > 0) for counts in runs[0].spike_counts[:-1])


def test_the_error_of_the_scores_falls_as_one_over_time(name, data):
    images = data[1].images[:20]
    snn = jaxsnn.convert(trained(name), images, percentile=100)
    scores = jaxsnn.simulate(snn, images, key=0, duration=0.256).scores
    logits = snn.network(images)
    errors = [relative_error(scores[steps - 1] / steps, logits) for steps in (16, 64, 256)]
    assert errors[1] < errors[0] / 3
    assert errors[2] < errors[1] / 3
