"""Models that are no chains, and activations other than the ReLU: read, and computed by spikes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import jaxsnn
from jaxsnn.engines import Scan
from jaxsnn.network import Capped, Select
from jaxsnn.network.operations import Places

import models
from large_models import with_statistics

pytestmark = pytest.mark.promotes


def read(model, images):
    return models.assert_reads(model, images, rtol=2e-6)


def converted(network, images):
    scales = jaxsnn.percentile_scales(network, images, percentile=100)
    options = {"initial_potential": 0.5, "reset": jaxsnn.reset_by_subtraction}
    return jaxsnn.balance_thresholds(network, scales, **options)


def error(network, images, steps):
    """Largest error of the scores, relative to the largest output.

    Hundreds of steps run as one program for each hundred.
    """
    options = {"duration": steps * 1e-3, "encode": jaxsnn.constant, "engine": Scan(chunk=10)}
    run = jaxsnn.simulate(converted(network, images), images, key=0, **options)
    expected = np.asarray(models.output_of(network, images))
    return float(np.abs(run.activations()[-1] - expected).max() / np.abs(expected).max())


# -- Residual networks -----------------------------------------------------------------------------


class Block(nnx.Module):
    def __init__(self, inputs, outputs, stride, before, rngs):
        options = {"use_bias": False, "rngs": rngs}
        self.before = before
        self.first = nnx.Conv(inputs, outputs, (3, 3), strides=stride, **options)
        self.second = nnx.Conv(outputs, outputs, (3, 3), **options)
        self.first_norm = nnx.BatchNorm(inputs if before else outputs, rngs=rngs)
        self.second_norm = nnx.BatchNorm(outputs, rngs=rngs)
        self.projects = stride != 1 or inputs != outputs
        self.projection = nnx.Conv(inputs, outputs, (1, 1), strides=stride, rngs=rngs)

    def __call__(self, x):
        shortcut = self.projection(x) if self.projects else x
        if self.before:
            x = self.first(nnx.relu(self.first_norm(x)))
            return self.second(nnx.relu(self.second_norm(x))) + shortcut
        x = nnx.relu(self.first_norm(self.first(x)))
        return nnx.relu(self.second_norm(self.second(x)) + shortcut)


class ResNet(nnx.Module):
    """Activations before or after the convolutions (He et al. 2016), n blocks for each width."""

    def __init__(self, n, before, width=4):
        rngs = nnx.Rngs(0)
        self.first = nnx.Conv(1, width, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4 * width if before else width, rngs=rngs)
        sizes = [(width, width, 1)] * n
        for wide in (2 * width, 4 * width):
            sizes += [(wide // 2, wide, 2), *[(wide, wide, 1)] * (n - 1)]
        self.blocks = nnx.List([Block(*size, before, rngs) for size in sizes])
        self.last = nnx.Linear(4 * width, 10, rngs=rngs)
        self.before = before

    def __call__(self, x):
        x = self.first((x - 0.13) / 0.3)
        if not self.before:
            x = nnx.relu(self.norm(x))
        for block in self.blocks:
            x = block(x)
        if self.before:
            x = nnx.relu(self.norm(x))
        return self.last(x.mean((1, 2)))


@pytest.mark.parametrize("before", [False, True], ids=["after", "before"])
@pytest.mark.thinned(2)
def test_residual_networks(rng, before):
    images = rng.random((6, 8, 8, 1)).astype(np.float32)
    network = read(with_statistics(lambda: ResNet(1, before)), images)
    assert sum(not layer.spiking for layer in network.layers[:-1]) == (3 if before else 0)
    errors = [error(network, images, steps) for steps in (100, 300, 900)]
    assert errors[1] < errors[0] / 2
    assert errors[2] < errors[1] / 2
    assert errors[2] < 0.02


def test_sums_of_other_kinds(rng):
    kernel = rng.normal(size=(6, 4)).astype(np.float32)
    images = rng.random((5, 6)).astype(np.float32)
    relu = jax.nn.relu
    for model in (
        lambda x: relu(x + x) @ kernel,
        lambda x: relu(x @ kernel + (1 - x) @ kernel * 2),
        lambda x: relu(x @ kernel) - relu(-(x @ kernel)) / 2,
        lambda x: relu(relu(x @ kernel) @ kernel.T + x) @ kernel + 0.5,
        lambda x: relu((x @ kernel)[:, :, None] + (x @ kernel)[:, None]).sum(2),
        lambda x: relu(x @ kernel) + relu(x @ kernel) - 0.25,
    ):
        read(model, images)


def test_equal_parts_are_read_once(rng):
    kernel = rng.normal(size=(6, 4)).astype(np.float32)
    images = rng.random((5, 6)).astype(np.float32)
    network = read(
        lambda x: jax.nn.relu(x @ kernel) @ kernel.T - jax.nn.relu(x @ kernel)[:, :1], images
    )
    assert len(network.layers) == 2


def test_what_nobody_needs_is_left_out(rng):
    kernel = rng.normal(size=(6, 4)).astype(np.float32)

    def model(x):
        jax.nn.relu(x @ kernel + 1)
        return jax.nn.relu(x @ kernel) @ kernel.T

    assert len(read(model, rng.random((5, 6)).astype(np.float32)).layers) == 2


# -- Moves -----------------------------------------------------------------------------------------

MOVES = {
    "a concatenation": lambda x: jnp.concatenate([jax.nn.relu(x), x[..., :1] * 2], -1),
    "with a constant": lambda x: jnp.concatenate([x, jnp.ones((len(x), 4, 4, 1))], -1),
    "of the rows": lambda x: jnp.concatenate([x, x[:, ::-1]], 1),
    "a slice": lambda x: x[:, 1:3, ::2],
    "a split": lambda x: jnp.split(x, 2, 1)[1],
    "a stack": lambda x: jnp.stack([x, 1 - x], 1),
    "a gather": lambda x: x[:, jnp.array([3, 0, 0])],
    "reflected padding": lambda x: jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), "reflect"),
    "circular padding": lambda x: jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), "wrap"),
    "edge padding": lambda x: jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), "edge"),
    "a roll": lambda x: jnp.roll(x, 1, 2),
    "nearest resizing": lambda x: jax.image.resize(x, (len(x), 8, 8, 2), "nearest"),
    "bilinear resizing": lambda x: jax.image.resize(x, (len(x), 8, 8, 2), "bilinear"),
}


@pytest.mark.parametrize("name", MOVES)
@pytest.mark.thinned(5)
def test_moves(rng, name):
    images = rng.random((3, 4, 4, 1)).astype(np.float32)
    first = nnx.Conv(1, 2, (3, 3), rngs=nnx.Rngs(0))

    def model(x):
        x = MOVES[name](jax.nn.relu(first(x) + 0.1))
        x = jax.nn.relu(x.reshape(len(x), -1) - 0.2)
        return x @ np.sin(np.arange(x.shape[1] * 3, dtype=np.float32)).reshape(-1, 3)

    network = read(model, images)
    assert error(network, images, 300) < 0.05


def test_an_inception_like_network(rng):
    narrow, wide, last = (
        nnx.Conv(1, 3, (1, 1), rngs=nnx.Rngs(0)),
        nnx.Conv(1, 5, (3, 3), rngs=nnx.Rngs(1)),
        nnx.Conv(8, 4, (3, 3), rngs=nnx.Rngs(2)),
    )

    def model(x):
        x = jnp.concatenate([nnx.relu(narrow(x)), nnx.relu(wide(x))], -1)
        return nnx.relu(last(x)).mean((1, 2)) - 0.1

    images = rng.random((4, 6, 6, 1)).astype(np.float32)
    network = read(model, images)
    assert error(network, images, 300) < 0.02


@pytest.mark.parametrize("head", ["dense", "convolution", "pooled", "flattened", "transposed"])
@pytest.mark.thinned(3)
def test_pieces_of_a_concatenation_keep_their_own_weights(rng, head):
    """A product reads each piece, with its part of the weights; no sum stands between."""
    kernels = [jnp.asarray(models.dyadic(rng, 3, 3, 2, maps)) for maps in (3, 5)]
    dense = jnp.asarray(models.dyadic(rng, 8 * 36, 4))

    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def model(x):
        x = jnp.concatenate([jax.nn.relu(convolve(x, kernel)) for kernel in kernels], -1)
        if head == "dense":
            return jax.nn.relu(x @ dense[:8])
        if head == "convolution":
            return jax.nn.relu(convolve(x, dense[:72].reshape(3, 3, 8, 4)))
        if head == "pooled":
            return nnx.avg_pool(x, (3, 3), (3, 3)).reshape(len(x), -1) @ dense[:32]
        x = x.transpose(0, 3, 1, 2) if head == "transposed" else x
        return x.reshape(len(x), -1) @ dense

    images = models.dyadic_images(rng, 3, 6, 6, 2)
    network = models.assert_reads(model, images)
    assert len(network.layers) == 3
    assert [part.source for part in network.layers[-1].connections] == [0, 1]
    whole = models.assert_reads(lambda x: model(x), images)
    of_pieces = jaxsnn.metrics.dense_operations(whole) - 36 * 16 * 8
    assert of_pieces > 0
    if head != "transposed":
        kinds = [type(part) for c in network.layers[-1].connections for part in c.operations]
        assert Select not in kinds
        sizes = [np.size(w) for c in network.layers[-1].connections for w in jax.tree.leaves(c)]
        assert sizes == [size * 3 // 8 for size in [sum(sizes)]] + [sum(sizes) * 5 // 8]


def test_a_relu_of_pixels_is_a_layer_as_they_may_be_negative(rng):
    kernel = jnp.asarray(models.dyadic(rng, 6, 4))
    images = models.dyadic_images(rng, 5, 6) - 0.5
    network = models.assert_reads(lambda x: jax.nn.relu(x) @ kernel, images)
    assert [layer.spiking for layer in network.layers] == [True, False]


def test_parts_of_a_layer_are_no_whole_one(rng):
    weights = jnp.asarray(models.dyadic(rng, 6, 4))
    kernel = jnp.asarray(models.dyadic(rng, 4, 3))

    def model(x):
        first, second = jnp.split(jax.nn.relu(x @ weights), 2, 1)
        return jnp.concatenate([second, first], -1) @ kernel

    models.assert_reads(model, models.dyadic_images(rng, 5, 6))


def test_concatenations_that_overlap_are_sums(rng):
    first, second = (jnp.asarray(models.dyadic(rng, 6, 4)) for _ in range(2))
    kernel = jnp.asarray(models.dyadic(rng, 8, 3))

    def model(x):
        one, other = jax.nn.relu(x @ first), jax.nn.relu(x @ second)
        return jnp.concatenate([one + other, other], -1) @ kernel

    network = models.assert_reads(model, models.dyadic_images(rng, 5, 6))
    assert [layer.spiking for layer in network.layers] == [True, True, False, False]


def test_circular_convolutions_of_flax(rng):
    images = rng.random((3, 5, 5, 1)).astype(np.float32)
    for padding in ("CIRCULAR", "REFLECT"):
        layer = nnx.Conv(1, 2, (3, 3), padding=padding, rngs=nnx.Rngs(0))
        read(lambda x, layer=layer: jax.nn.relu(layer(x)), images)


def test_a_mixture_of_images_is_refused():
    for model in (lambda x: x[::-1], lambda x: jnp.roll(x, 1, 0), lambda x: x[:1]):
        with pytest.raises(jaxsnn.ReadingError, match="batch"):
            jaxsnn.read_network(lambda x, m=model: jax.nn.relu(m(x)), jnp.zeros((1, 4)))


# -- Activations -----------------------------------------------------------------------------------

ACTIVATIONS = {
    "relu6": jax.nn.relu6,
    "clip": lambda x: jnp.clip(x, -0.25, 0.5),
    "clip from 0": lambda x: jnp.clip(x, 0, 0.5),
    "hard sigmoid": jax.nn.hard_sigmoid,
    "hard tanh": jax.nn.hard_tanh,
    "hard tanh, the other way round": lambda x: jnp.where(x < -1, -1, jnp.where(x > 1, 1, x)),
    "leaky relu": lambda x: jax.nn.leaky_relu(x, 0.1),
    "leaky relu by a maximum": lambda x: jnp.maximum(x, 0.1 * x),
    "prelu": nnx.PReLU(0.2),
    "prelu of linen": lambda x: linen.PReLU().apply(
        {"params": {"negative_slope": jnp.asarray(0.3)}}, x
    ),
    "abs": jnp.abs,
    "crelu": lambda x: jnp.concatenate([jax.nn.relu(x), jax.nn.relu(-x)], -1),
    "maxout": lambda x: jnp.maximum(x[:, :2], x[:, 2:]),
    "minimum of two": lambda x: jnp.minimum(x[:, :2], x[:, 2:]),
    "a constant mask": lambda x: jnp.where(np.arange(4) > 1, x, 0.5),
    "two by a constant mask": lambda x: jnp.where(np.arange(4) > 1, x, -x[:, ::-1]),
    "where": lambda x: jnp.where(x > 0, x, 0),
    "where not": lambda x: jnp.where(x < 0, 0.5 * x, x),
    "times its sign": lambda x: x * (x > 0),
    "a shifted step": lambda x: jnp.where(x - 0.1 > 0, x - 0.1, 0),
    "min of a constant": lambda x: jnp.minimum(x, 0.3),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.thinned(5)
def test_piecewise_linear_activations(rng, name):
    kernel = rng.normal(size=(6, 4)).astype(np.float32)
    images = rng.random((40, 6)).astype(np.float32)

    def model(x):
        x = ACTIVATIONS[name](x @ kernel + 0.1)
        x = jax.nn.relu(jnp.concatenate([x, -x], -1) + 0.1)
        return x @ np.sin(np.arange(x.shape[1] * 3, dtype=np.float32)).reshape(-1, 3)

    network = read(model, images)
    assert error(network, images, 500) < 0.04


def test_a_ceiling_is_part_of_its_layer(rng):
    kernel = 4 * rng.normal(size=(6, 4)).astype(np.float32)
    images = rng.random((40, 6)).astype(np.float32)
    network = read(lambda x: jax.nn.relu6(x @ kernel) @ kernel.T, images)
    first, _ = network.layers
    assert first.activation == Capped(6.0)
    assert str(first) == "Dense 6 → 4, at most 6"
    scales = jaxsnn.percentile_scales(network, images, percentile=100)
    assert scales[0] == 6.0 == np.max(network.activations(images)[0])
    assert jaxsnn.model_based_scales(network)[0] == 6.0
    with pytest.raises(ValueError, match=r"layer 1 of 2 .*must not exceed the ceiling.* 6"):
        jaxsnn.balance_thresholds(network, 7.0)
    low = read(lambda x: jnp.clip(x @ kernel, 0, 0.5) @ kernel.T, images)
    grid = jaxsnn.Grid(scales=[0.5, 1.0], duration=0.004)
    assert jaxsnn.sweep(low, images, [0] * 40, grid, progress=False).sizes["layer"] == 2
    normal = jaxsnn.normalize_weights(network, [3.0, 1.0])
    assert normal.network.layers[0].ceiling == 2.0
    fixed = jaxsnn.quantize(jaxsnn.balance_thresholds(network, scales))
    assert fixed.network.layers[0].ceiling == 6.0


def test_a_relu_with_and_without_a_ceiling_are_two_layers(rng):
    kernel = 4 * rng.normal(size=(6, 4)).astype(np.float32)

    def model(x):
        x = jax.nn.relu(x @ kernel)
        return jnp.minimum(x, 6) @ kernel.T + x @ kernel.T

    network = read(model, rng.random((40, 6)).astype(np.float32))
    assert [layer.ceiling for layer in network.layers] == [np.inf, 6.0, np.inf]


@pytest.mark.parametrize(
    ("activation", "words"),
    [
        (jax.nn.gelu, "erf|tanh|integer_pow|product"),
        (jax.nn.silu, "logistic"),
        (jax.nn.elu, "exp"),
        (jax.nn.softplus, "softplus"),
        (jax.nn.hard_swish, "mul in hard_silu .*ReLUs"),
        (lambda x: x * (x > 0.5), "difference is a multiple"),
        (lambda x: jnp.where(x > 0, 1.0, x), "difference is a multiple"),
        (lambda x: (x > 0).astype(jnp.float32), "rounding|comparison|chosen"),
        (lambda x: jnp.where((x > 0)[:, None], 1.0, x[:, None]), "comparison"),
        (lambda x: x / (1 + jnp.abs(x)), "dividing"),
        (lambda x: jnp.maximum(x, jnp.inf), "not finite"),
    ],
)
def test_what_is_not_piecewise_linear_is_named(activation, words):
    kernel = jnp.ones((6, 4))
    with pytest.raises(jaxsnn.ReadingError, match=words):
        jaxsnn.read_network(lambda x: jax.nn.relu(activation(x @ kernel)), jnp.zeros((1, 6)))


def test_places_tell_structures_apart():
    one, same, other = (
        Select(Places(np.array(places)), (3,)) for places in ([0, 2], [0, 2], [1, 2])
    )
    assert jax.tree.structure(one) == jax.tree.structure(same) != jax.tree.structure(other)
    assert one(jnp.array([[1.0, 2.0, 3.0]])).tolist() == [[1.0, 3.0]]
    padded = Select(Places(np.array([[-1, 1]])), (2,))
    assert padded(jnp.array([[1.0, 2.0]])).tolist() == [[[0.0, 2.0]]]
