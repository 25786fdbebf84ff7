"""Trained networks of the kinds that people convert spike as accurately as they classify."""

import os
import subprocess
import sys

import numpy as np
import pytest
import zoo
from flax import nnx

import jaxsnn

STEPS = {name: 64 if name == "pre-activation ResNet" else 32 for name in zoo.NETWORKS}

pytestmark = pytest.mark.promotes


@pytest.fixture(scope="module")
def trained():
    """The networks, trained first where they are not kept from an earlier run."""
    if not all(zoo.kept_in(name).exists() for name in zoo.NETWORKS):
        as_users_compile = {k: value for k, value in os.environ.items() if k != "XLA_FLAGS"}
        subprocess.run([sys.executable, zoo.__file__], env=as_users_compile, check=True)
    return {name: zoo.trained(name) for name in zoo.NETWORKS}


@pytest.fixture(scope="module")
def data():
    return zoo.mnist()


@pytest.fixture(params=zoo.NETWORKS)
def name(request):
    return request.param


def relative_error(found, expected):
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def test_the_spiking_network_is_as_accurate(name, trained, data):
    train, test = data
    images, labels = test.images[:1000], test.labels[:1000]
    logits = np.asarray(nnx.jit(lambda model, x: model(x))(trained[name], images))
    snn = jaxsnn.convert(trained[name], train.images[:500])
    tolerance = 1e-5 * np.abs(logits).max()
    np.testing.assert_allclose(snn.network(images), logits, rtol=0, atol=tolerance)
    run = jaxsnn.simulate(snn, images, key=0, duration=STEPS[name] * 1e-3)
    accuracy = (logits.argmax(1) == labels).mean()
    assert accuracy > 0.95
    assert run.accuracy(labels)[-1] >= accuracy - 0.01


def test_the_error_of_the_scores_falls_as_one_over_time(name, trained, data):
    images = data[1].images[:20]
    snn = jaxsnn.convert(trained[name], images, percentile=100)
    scores = jaxsnn.simulate(snn, images, key=0, duration=0.256).scores
    logits = snn.network(images)
    errors = [relative_error(scores[steps - 1] / steps, logits) for steps in (16, 64, 256)]
    assert errors[1] < errors[0] / 3
    assert errors[2] < errors[1] / 3
