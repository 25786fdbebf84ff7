"""Average poolings merged into the layers that read them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxsnn
from jaxsnn.network import AveragePooling

import models

pytestmark = pytest.mark.promotes

FOUR = ((2, 2), (2, 2))


def weights(rng):
    return models.dyadic(rng, 3, 3, 1, 4), models.dyadic(rng, 3 * 3 * 4, 5)


def convolution(x, kernel):
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=numbers)


def pooled(x):
    return jax.nn.relu(nnx.avg_pool(x, *FOUR))


def read(model):
    return jaxsnn.read_network(model, np.zeros((1, 8, 8, 1), np.float32))


def chain(rng):
    """A convolution, a pooling with neurons of its own, and outputs with a ReLU."""
    kernel, last = weights(rng)

    def model(x):
        x = pooled(jax.nn.relu(convolution(x, kernel)))
        return jax.nn.relu(x.reshape(len(x), -1) @ last)

    return model


def residual(rng):
    """Poolings that two layers read, one of them a sum, and one pooling after another."""
    kernel, last = weights(rng)
    small = models.dyadic(rng, 1, 1, 4, 4)

    def model(x):
        x = pooled(jax.nn.relu(convolution(x, kernel)))
        x = jax.nn.relu(x + jax.nn.relu(convolution(x, small)))
        x = jax.nn.relu(nnx.avg_pool(pooled(x), (1, 1)))
        return x.reshape(len(x), -1) @ last[:4]

    return model


@pytest.mark.parametrize(("build", "layers", "kept"), [(chain, 3, 2), (residual, 7, 4)])
def test_the_function_is_the_same_with_fewer_layers(rng, build, layers, kept):
    network = read(build(rng))
    merged = jaxsnn.merge_poolings(network)
    assert (len(network.layers), len(merged.layers)) == (layers, kept)
    images = models.dyadic_images(rng, 6, 8, 8, 1)
    np.testing.assert_array_equal(merged(images), network(images))
    assert not any(
        isinstance(layer.operations[-1], AveragePooling)
        for layer in merged.layers
        if len(layer.all_connections) == 1 and layer.operations
    )
    assert jaxsnn.metrics.dense_operations(merged) >= jaxsnn.metrics.dense_operations(network)


def test_layers_keep_their_names_and_biases(rng):
    kernel, last = weights(rng)

    def model(x):
        x = pooled(jax.nn.relu(convolution(x, kernel) + 0.25))
        return x.reshape(len(x), -1) @ last + 0.5

    network = read(model)
    merged = jaxsnn.merge_poolings(network)
    for old, new in zip((network.layers[0], network.layers[2]), merged.layers, strict=True):
        assert str(new.name) == str(old.name)
        np.testing.assert_array_equal(new.bias, old.bias)


@pytest.mark.parametrize(
    "model",
    [
        lambda x: pooled(x).reshape(len(x), -1) @ jnp.ones((16, 2)),
        lambda x: pooled(jax.nn.relu(2 * x)).reshape(len(x), -1),
        lambda x: nnx.max_pool(pooled(jax.nn.relu(2 * x)), *FOUR).reshape(len(x), -1),
    ],
    ids=["of the input", "that is the output", "that a max pooling reads"],
)
def test_some_poolings_stay(model):
    network = read(model)
    merged = jaxsnn.merge_poolings(network)
    assert str(merged) == str(network)


@pytest.mark.parametrize("arithmetic", [None, jaxsnn.FixedPoint(8)], ids=["float", "8 bits"])
@pytest.mark.parametrize("build", [chain, residual])
@pytest.mark.thinned(3)
def test_both_engines_simulate_them(rng, build, arithmetic):
    images = models.dyadic_images(rng, 5, 8, 8, 1)
    network = jaxsnn.merge_poolings(read(build(rng)))
    scales = 2.0 ** np.ceil(np.log2(jaxsnn.percentile_scales(network, images, percentile=100)))
    snn = jaxsnn.balance_thresholds(
        network,
        jnp.asarray(scales),
        initial_potential=0.5,
        reset=jaxsnn.reset_by_subtraction,
        encode=jaxsnn.constant,
    )
    one, two = (
        jaxsnn.simulate(snn, images, key=0, duration=0.01, engine=engine, arithmetic=arithmetic)
        for engine in ("scan", "events")
    )
    for a, b in zip(one.spike_counts, two.spike_counts, strict=True):
        np.testing.assert_array_equal(a, b)
    assert sum(counts.sum() for counts in one.spike_counts) > 0


def test_spiking_networks_without_neurons_of_poolings_are_right_sooner(rng):
    """The error of the scores after a few steps, which the poolings' neurons round once more."""
    images = rng.uniform(0, 1, (50, 8, 8, 1)).astype(np.float32)
    network = read(chain(rng))

    def error(network, steps):
        scales = jaxsnn.percentile_scales(network, images, percentile=100)
        snn = jaxsnn.balance_thresholds(
            network,
            scales,
            initial_potential=0.5,
            reset=jaxsnn.reset_by_subtraction,
            encode=jaxsnn.constant,
        )
        run = jaxsnn.simulate(snn, images, key=0, duration=steps * 1e-3)
        return float(jnp.abs(jax.nn.relu(run.scores[-1]) / steps - network(images)).mean())

    assert error(jaxsnn.merge_poolings(network), 4) < 0.8 * error(network, 4)
