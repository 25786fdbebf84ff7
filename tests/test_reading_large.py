"""Deep networks are read fast, and with no more multiply-adds than the models have."""

import time

import jax
import numpy as np
import pytest
from test_reading_graphs import ResNet

import jaxsnn

from large_models import DenseNet, MobileNetV2, with_statistics
from models import assert_reads

pytestmark = pytest.mark.promotes

MODELS = {
    "DenseNet-BC-40": lambda: with_statistics(DenseNet),
    "MobileNetV2": lambda: with_statistics(MobileNetV2),
    "ResNet-56 before": lambda: with_statistics(lambda: ResNet(9, before=True)),
}


def taps(size, window, stride, low, outputs):
    """How many products of weights and pixels a convolution makes along one axis."""
    places = stride * np.arange(outputs)[:, None] - low + np.arange(window)
    return int(np.sum((places >= 0) & (places < size)))


def multiply_adds(jaxpr):
    """Products of the convolutions and dense layers, and numbers multiplied by factors."""
    products = factors = 0
    for equation in jaxpr.eqns:
        body = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
        if body is not None:
            inner = multiply_adds(getattr(body, "jaxpr", body))
            products, factors = products + inner[0], factors + inner[1]
        shapes, out = [v.aval.shape for v in equation.invars], equation.outvars[0].aval.shape
        if equation.primitive.name == "conv_general_dilated":
            rows = zip(shapes[0][1:3], shapes[1], equation.params["window_strides"])
            pads = equation.params["padding"]
            each = [taps(*row, low, n) for row, (low, _), n in zip(rows, pads, out[1:3])]
            products += int(np.prod(each)) * shapes[1][2] * shapes[1][3]
        elif equation.primitive.name == "dot_general":
            products += int(np.prod(shapes[1]))
        elif equation.primitive.name in ("mul", "div"):
            factors += int(np.prod(out))
    return products, factors


def work(model, images):
    return multiply_adds(jax.make_jaxpr(model)(images).jaxpr)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_deep_networks(name):
    """Images of 4x4, of which one value is left at the end; the graphs are those of any size."""
    model, images = MODELS[name](), np.zeros((1, 4, 4, 1), np.float32)
    start = time.process_time()
    network = jaxsnn.read_network(model, images)
    assert time.process_time() - start < 10
    products, factors = work(network, images)
    expected, most = work(model, images)
    # What follows a convolution goes into its weights; only sums need factors of their own.
    assert products == expected
    assert factors <= most


@pytest.mark.parametrize("build", [lambda: DenseNet(bottlenecks=1), lambda: MobileNetV2(depth=2)])
@pytest.mark.slow
def test_networks_of_their_kinds(rng, build):
    """What the deep ones compute would be slow to compile; these have every part of theirs."""
    images = rng.random((2, 4, 4, 1)).astype(np.float32)
    network = assert_reads(with_statistics(build), images, rtol=2e-6)
    products, factors = work(network, images[:1])
    # The divisions of the last average count as factors here, and there as none.
    assert products <= jaxsnn.metrics.dense_operations(network) <= products + factors
