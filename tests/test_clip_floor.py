"""The clip-floor: its gradients and its reading."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import jaxsnn
from jaxsnn.network import ClipFloor
from jaxsnn.neurons import clip_floor

import models

KERNEL = 4 * models.dyadic(np.random.default_rng(5), 6, 4)


@pytest.fixture
def images(rng):
    return models.dyadic_images(rng, 50, 6)


def read_exactly(model, images):
    """The network read, which must compute what the model does, to the bit."""
    network = jaxsnn.read_network(model, images[:1])
    expected = np.asarray(jax.jit(lambda x: model(x))(images))
    assert len(np.unique(expected)) > 1
    np.testing.assert_array_equal(jax.jit(lambda x: network(x))(images), expected)
    return network


# -- The function ----------------------------------------------------------------------------------


def of_paper(x, threshold, levels):
    """The value and both derivatives by the paper's formulas, of one number."""
    y = threshold / levels * np.floor(np.clip(x * levels / threshold + 0.5, 0, levels))
    half = threshold / (2 * levels)
    if x <= -half:
        return y, 0, 0
    if x >= threshold - half:
        return y, 0, 1
    return y, 1, (y - x) / threshold


@pytest.mark.parametrize(("threshold", "levels"), [(2.0, 4), (0.5, 2), (4.0, 1), (3.0, 6)])
def test_values_and_gradients_are_the_papers(threshold, levels):
    x = np.arange(-32, 96, dtype=np.float32) / 16
    expected = np.array([of_paper(float(value), threshold, levels) for value in x]).T
    gradients = jax.vmap(jax.grad(clip_floor, (0, 1)), (0, None, None))
    found = [clip_floor(x, threshold, levels), *gradients(x, threshold, levels)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_transformations_change_nothing(rng):
    x = rng.normal(size=(5, 3, 4)).astype(np.float32)
    of_channels = jnp.array([0.5, 1.0, 2.0, 4.0])
    expected = clip_floor(x, of_channels)
    for channel, threshold in enumerate(of_channels.tolist()):
        found = clip_floor(x[..., channel], threshold)
        np.testing.assert_array_equal(found, expected[..., channel])
    np.testing.assert_array_equal(jax.jit(clip_floor)(x, of_channels), expected)
    np.testing.assert_array_equal(jax.vmap(clip_floor, (0, None))(x, of_channels), expected)
    np.testing.assert_array_equal(jax.vmap(clip_floor, (-1, 0), -1)(x, of_channels), expected)

    def loss(threshold):
        return (clip_floor(x, threshold) ** 2).sum()

    gradient = jax.grad(loss)(of_channels)
    assert gradient.shape == (4,)
    for changed in (jax.jit(jax.grad(loss)), jax.grad(jax.remat(loss)), jax.jacfwd(loss)):
        np.testing.assert_allclose(changed(of_channels), gradient, rtol=1e-5)
    assert clip_floor(x.astype(jnp.bfloat16), 1.0).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((0.5, 0.0), ValueError, "threshold=0.*positive"),
        ((0.5, -1.0), ValueError, "threshold=-1.*positive"),
        ((0.5, np.nan), ValueError, "threshold=nan"),
        ((np.ones(3), np.ones(2)), ValueError, r"threshold of shape \(2,\).*\(3,\)"),
        ((0.5, "1"), TypeError, "threshold is '1'"),
        ((0.5, 1.0, 0), ValueError, "levels=0; there must be at least 1"),
        ((0.5, 1.0, 2.0), TypeError, "levels is 2.0, but must be an integer"),
        ((0.5, 1.0, True), TypeError, "levels is True"),
    ],
)
def test_wrong_arguments_are_named(arguments, error, words):
    with pytest.raises(error, match=words):
        clip_floor(*arguments)


# -- Reading ---------------------------------------------------------------------------------------


class OfLinen(linen.Module):
    @linen.compact
    def __call__(self, x):
        threshold = self.param("threshold", linen.initializers.constant(2.0), ())
        return clip_floor(x @ KERNEL, threshold, 8)


class OfNnx(nnx.Module):
    def __init__(self):
        self.threshold = nnx.Param(jnp.asarray(2.0))

    def __call__(self, x):
        return clip_floor(x @ KERNEL, self.threshold, 8)


def as_scan(x):
    """Two layers by a scan, the second of the unit matrix."""
    weights = jnp.stack([jnp.asarray(KERNEL), jnp.eye(6)[:, :4]])
    layer = lambda x, w: (jnp.pad(clip_floor(x @ w, 2.0, 8), ((0, 0), (0, 2))), None)  # noqa: E731
    return jax.lax.scan(layer, x, weights)[0][:, :4]


@pytest.mark.parametrize(
    "model",
    [
        lambda x: clip_floor(x @ KERNEL, 2.0, 8),
        jax.jit(lambda x: clip_floor(x @ KERNEL, 2.0, 8)),
        jax.remat(lambda x: clip_floor(x @ KERNEL, jnp.full(4, 2.0), 8)),
        jax.vmap(lambda x: clip_floor(x @ KERNEL, 2.0, 8)),
        lambda x: clip_floor(jax.nn.relu(x @ KERNEL), 2.0, 8),
        lambda x: jax.nn.relu(clip_floor(x @ KERNEL, 2.0, 8)),
        OfLinen().bind({"params": {"threshold": jnp.asarray(2.0)}}),
        OfNnx(),
    ],
    ids=["plain", "jit", "remat", "vmap", "after a ReLU", "before a ReLU", "linen", "nnx"],
)
def test_it_is_read_as_the_activation_of_its_layer(model, images):
    (layer,) = read_exactly(model, images).layers
    assert layer.activation == ClipFloor(2.0, 8)
    assert str(layer) == "Dense 6 → 4, at most 2 in 8 levels"


def max_pooled(x):
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2), (1, 2), "VALID")


def average_pooled(x):
    return x.reshape(-1, 2, 2).mean(-1)


@pytest.mark.parametrize(
    "model",
    [
        as_scan,
        lambda x: clip_floor(x, 0.5, 2) @ KERNEL,
        lambda x: clip_floor(x - 0.5, 0.5, 2) @ KERNEL,
        lambda x: clip_floor(clip_floor(x @ KERNEL, 2.0, 8), 1.0, 2),
        lambda x: clip_floor(jnp.clip(x @ KERNEL, 0, 1.25), 2.0, 4),
        lambda x: jnp.clip(clip_floor(x @ KERNEL, 2.0, 4), 0, 1.25),
        lambda x: jnp.minimum(clip_floor(x @ KERNEL, 2.0, 4), 1.25),
        lambda x: clip_floor(max_pooled(x @ KERNEL), 2.0, 4),
        lambda x: max_pooled(clip_floor(x @ KERNEL, 2.0, 4)),
        lambda x: clip_floor(max_pooled(x @ KERNEL * jnp.array([[1.0, -1.0, -1.0, 1.0]])), 2.0, 4),
        lambda x: clip_floor(average_pooled(clip_floor(x @ KERNEL, 2.0, 4)), 1.0, 2),
        lambda x: clip_floor((x @ KERNEL)[:, :, None] * jnp.array([[[1.0, 0.5, -1.0]]]), 2.0, 4),
        lambda x: clip_floor(x @ KERNEL, 2.0, 4) + jax.nn.relu(x @ KERNEL),
        lambda x: clip_floor(x @ KERNEL, jnp.array([0.5, 1.0, 2.0, 4.0]), 4) @ KERNEL.T,
        lambda x: clip_floor(
            (x @ KERNEL).reshape(-1, 2, 2).transpose(0, 2, 1), jnp.array([[[0.5], [2.0]]]), 4
        ),
    ],
)
def test_networks_compute_what_models_with_clip_floors_do(model, images):
    network = read_exactly(model, images)
    assert any(isinstance(layer.activation, ClipFloor) for layer in network.layers)


def test_the_maxima_of_neurons_are_pooled():
    images = np.zeros((1, 6), np.float32)
    model = lambda x: clip_floor(max_pooled(x @ KERNEL), 2.0, 4) @ -np.ones((2, 3), np.float32)  # noqa: E731
    network = jaxsnn.read_network(model, images)
    assert [layer.pools_maxima for layer in network.layers] == [False, True, False]


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda x: clip_floor(x, x[:, :1]), "threshold depends on the images"),
        (lambda x: clip_floor(x, jax.jit(lambda: jnp.asarray(-1.0))()), "-1, and must be positive"),
        (lambda x: jnp.where(x > 0.5, 0.5, clip_floor(x, 0.5)), "difference is a multiple"),
    ],
)
def test_errors_name_the_line_of_the_model(model, words):
    with pytest.raises(jaxsnn.ReadingError, match=f"at .*test_clip_floor.*{words}"):
        jaxsnn.read_network(model, np.zeros((1, 6), np.float32))


def test_a_function_of_the_same_name_is_no_clip_floor():
    @jax.jit
    def clip_floor(x):
        return jax.nn.relu(x)

    network = jaxsnn.read_network(lambda x: clip_floor(x @ KERNEL), np.zeros((1, 6), np.float32))
    assert network.layers[0].ceiling == np.inf
