"""Reading models: the same network from every library, and errors that name the source line."""

import inspect
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from jax import lax

import jaxsnn
from jaxsnn.network import AveragePooling, Convolution, Dense, Multiply, Reshape, Transpose

import models
from models import assert_reads

pytestmark = pytest.mark.promotes

NHWC = ("NHWC", "HWIO", "NHWC")


def read_flat(function, size=4):
    return jaxsnn.read_network(function, jnp.zeros((1, size)))


def assert_same(one, two):
    assert jax.tree.structure(one) == jax.tree.structure(two)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_array_equal(a, b)


def test_nnx_linen_and_plain_jax_read_the_same(rng):
    weights = models.convolution_weights(rng)
    versions = (
        models.NNXConvolutions(weights),
        models.linen_convolutions(weights),
        models.convolution_function(weights),
        jax.jit(models.convolution_function(weights)),
    )
    example = jnp.zeros((1, *models.IMAGE_SHAPE))
    first, *others = (jaxsnn.read_network(version, example) for version in versions)
    for other in others:
        assert_same(first, other)
    assert [type(layer.operations[0]) for layer in first.layers] == [
        Convolution,
        AveragePooling,
        Convolution,
        AveragePooling,
        Reshape,
    ]
    assert first.shapes == [(12, 12, 4), (6, 6, 4), (4, 4, 6), (2, 2, 6), (5,)]


def test_relu_pass_equals_the_model_and_the_oracle(rng):
    network, layers = models.convolution_network(rng)
    images = models.dyadic_images(rng, 3, *models.IMAGE_SHAPE)
    activations = network.activations(images)
    for sample, image in enumerate(images):
        for mine, theirs in zip(
            activations, models.reference.relu_activations(layers, image), strict=True
        ):
            np.testing.assert_array_equal(mine[sample], theirs)


@pytest.mark.parametrize("batch", [1, 2, 3, 17])
def test_any_batch_size(rng, batch):
    weights = models.convolution_weights(rng)
    images = models.dyadic_images(rng, batch, *models.IMAGE_SHAPE)
    model = models.convolution_function(weights)
    network = jaxsnn.read_network(model, images[:1])
    np.testing.assert_array_equal(network(images), model(images))


def test_reading_leaves_the_model_in_training_mode(rng):
    model = models.NNXConvolutions(models.convolution_weights(rng))
    model.train()
    before = jax.tree.leaves(nnx.state(model))
    jaxsnn.read_network(model, jnp.zeros((1, *models.IMAGE_SHAPE)))
    assert not model.dropout.deterministic
    for old, new in zip(before, jax.tree.leaves(nnx.state(model)), strict=True):
        if jnp.issubdtype(old.dtype, jnp.floating):
            np.testing.assert_array_equal(old, new)


def convolve(x, kernel, strides=(1, 1), padding="VALID", numbers=NHWC, **options):
    return lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=numbers, **options
    )


@pytest.mark.parametrize(
    ("kernel_shape", "options"),
    [
        ((3, 3, 4, 8), {}),
        ((3, 3, 4, 8), {"strides": (2, 2)}),
        ((3, 3, 4, 8), {"padding": "SAME"}),
        ((3, 3, 4, 8), {"padding": ((1, 2), (0, 1)), "strides": (3, 2)}),
        ((3, 3, 4, 8), {"rhs_dilation": (2, 2)}),
        ((3, 3, 1, 8), {"feature_group_count": 4}),
        ((3, 3, 2, 8), {"feature_group_count": 2, "padding": "SAME"}),
        ((3, 3, 4, 8), {"lhs_dilation": (2, 2), "padding": ((1, 1), (1, 1))}),
    ],
)
def test_convolutions(rng, kernel_shape, options):
    kernel = rng.normal(size=kernel_shape).astype(np.float32)
    images = rng.random((5, 9, 9, 4)).astype(np.float32)
    assert_reads(lambda x: jax.nn.relu(convolve(x, kernel, **options)), images)


def test_channels_first(rng):
    """A model in PyTorch's layout keeps it: its activations are its own."""
    kernel = rng.normal(size=(6, 1, 3, 3)).astype(np.float32)
    last = rng.normal(size=(3, 6 * 4 * 4)).astype(np.float32)
    images = rng.random((5, 10, 10, 1)).astype(np.float32)

    def hidden(x):
        x = lax.conv_general_dilated(x.transpose(0, 3, 1, 2), kernel, (1, 1), "VALID")
        return jax.nn.relu(x)

    def model(x):
        x = jax.nn.relu(nnx.avg_pool(hidden(x).transpose(0, 2, 3, 1), (2, 2), (2, 2)))
        x = x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)
        return jax.nn.relu((last @ x.T).T)

    network = assert_reads(model, images)
    np.testing.assert_array_equal(network.activations(images)[0], hidden(images))


@pytest.mark.parametrize("count_include_pad", [True, False])
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_poolings(rng, padding, count_include_pad):
    images = rng.random((5, 7, 7, 2)).astype(np.float32)

    def model(x):
        pooled = nnx.avg_pool(x, (3, 2), (2, 1), padding, count_include_pad)
        return nnx.relu(pooled)

    network = assert_reads(model, images)
    assert [type(operation) for operation in network.layers[0].operations] == [AveragePooling]


def test_global_average_and_sum_pooling(rng):
    images = rng.random((5, 4, 4, 2)).astype(np.float32)
    network = assert_reads(lambda x: jax.nn.relu(x.mean((1, 2))), images)
    assert [type(operation) for operation in network.layers[0].operations] == [
        AveragePooling,
        Reshape,
    ]
    network = assert_reads(lambda x: jax.nn.relu(x.sum((1, 2))), images)
    assert isinstance(network.layers[0].operations[-1], Multiply)
    assert float(network.layers[0].weights[0]) == 16


def test_window_sum_with_a_start_value_that_is_traced(rng):
    images = rng.random((5, 4, 4, 2)).astype(np.float32)

    @jax.jit
    def model(x):
        pooled = lax.reduce_window(x, jnp.zeros(()), lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        return jax.nn.relu(0.25 * pooled)

    network = assert_reads(model, images)
    assert network.layers[0].operations == (
        AveragePooling((2, 2, 1), (2, 2, 1), ((0, 0), (0, 0), (0, 0)), True),
    )


@pytest.mark.parametrize(
    "relu",
    [
        nnx.relu,
        jax.nn.relu,
        linen.relu,
        lambda x: jnp.maximum(x, 0),
        lambda x: jnp.maximum(0.0, x),
        lambda x: lax.max(x, jnp.zeros_like(x)),
        lambda x: jnp.clip(x, 0),
        jax.checkpoint(jax.nn.relu),
        lambda x: jax.nn.relu(jax.nn.relu(x)),
    ],
)
def test_every_way_to_write_a_relu(rng, relu):
    weights = models.dense_weights(rng)

    def model(x):
        for kernel in weights:
            x = relu(x @ kernel)
        return x

    example = jnp.zeros((1, 12))
    assert_same(
        jaxsnn.read_network(model, example),
        jaxsnn.read_network(models.dense_function(weights), example),
    )


def test_constant_factors_go_into_the_weights(rng):
    images = rng.random((5, 6)).astype(np.float32)
    kernel = rng.normal(size=(6, 3)).astype(np.float32)
    channels = np.array([1.0, 2.0, 0.5], np.float32)
    network = assert_reads(lambda x: jax.nn.relu(-(x / 2.0) @ kernel * channels), images)
    (operation,) = network.layers[0].operations
    assert isinstance(operation, Dense)
    np.testing.assert_array_equal(operation.kernel, -kernel / 2 * channels)


def test_factor_for_each_map_goes_into_the_kernel(rng):
    images = rng.random((5, 6, 6, 2)).astype(np.float32)
    kernel = rng.normal(size=(3, 3, 2, 4)).astype(np.float32)
    maps = rng.random(4).astype(np.float32)
    network = assert_reads(lambda x: jax.nn.relu(convolve(x, kernel) * maps), images)
    assert [type(operation) for operation in network.layers[0].operations] == [Convolution]


def test_factor_for_each_pixel_is_an_operation(rng):
    images = rng.random((5, 6)).astype(np.float32)
    mask = np.array([1, 1, 0, 1, 0, 1], np.float32)
    network = assert_reads(lambda x: jax.nn.relu((x * mask) @ jnp.ones((6, 2))), images)
    assert isinstance(network.layers[0].operations[0], Multiply)


def test_matrix_products_in_other_forms(rng):
    images = rng.random((5, 3, 4)).astype(np.float32)
    kernel = rng.normal(size=(3, 4, 6, 2)).astype(np.float32)
    assert_reads(lambda x: jax.nn.relu(jnp.einsum("bij,ijkl->blk", x, kernel)), images)
    assert_reads(lambda x: jax.nn.relu(jnp.einsum("bij,ik->bkj", x, kernel[:, 0, :, 0])), images)
    assert_reads(jax.vmap(lambda x: jax.nn.relu(kernel[:, 0, :, 0].T @ x)), images)


def test_two_layers_without_a_relu_between_keep_their_synapses(rng):
    first, second = models.dyadic(rng, 6, 5), models.dyadic(rng, 5, 3)
    network = read_flat(lambda x: jax.nn.relu(x @ first @ second), 6)
    assert [layer.spiking for layer in network.layers] == [False, True]
    assert jaxsnn.metrics.dense_operations(network) == 6 * 5 + 5 * 3
    images = models.dyadic_images(rng, 4, 6)
    np.testing.assert_array_equal(network(images), np.maximum(images @ first @ second, 0))


def test_zero_bias_is_no_bias(rng):
    model = nnx.Sequential(nnx.Linear(4, 3, use_bias=True, rngs=nnx.Rngs(0)), nnx.relu)
    assert len(read_flat(model).layers[0].operations) == 1


def test_permutations_after_the_last_relu_belong_to_its_layer(rng):
    images = rng.random((5, 4, 6)).astype(np.float32)
    kernel = rng.normal(size=(6, 3)).astype(np.float32)
    network = assert_reads(lambda x: jax.nn.relu(x @ kernel).transpose(0, 2, 1), images)
    assert network.shapes == [(3, 4)]


def test_trailing_factor_of_one_is_no_layer():
    assert len(read_flat(lambda x: jax.nn.relu(x @ jnp.ones((4, 2))) * 1.0).layers) == 1


def test_models_that_count_their_calls():
    class Counting(nnx.Module):
        def __init__(self):
            self.layer = nnx.Linear(4, 2, use_bias=False, rngs=nnx.Rngs(0))
            self.calls = nnx.Variable(jnp.zeros((), int))

        def __call__(self, x):
            self.calls[...] += 1
            return nnx.relu(self.layer(x))

    model = Counting()
    assert len(read_flat(model).layers) == 1
    assert int(model.calls[...]) == 0


def test_a_function_that_changes_a_model_is_told_what_to_do():
    model = nnx.Sequential(nnx.Dropout(0.5, rngs=nnx.Rngs(0)), nnx.relu)
    with pytest.raises(jaxsnn.ReadingError, match=r"model\.eval\(\)"):
        read_flat(lambda x: model(x))


def test_unused_branches_do_not_matter():
    def model(x):
        jnp.tanh(x).sum()
        return jax.nn.relu(x @ jnp.ones((4, 2)))

    assert len(read_flat(model).layers) == 1


def test_example_of_any_batch_size_reads_the_same(rng):
    weights = models.dense_weights(rng)
    one, many = (
        jaxsnn.read_network(models.dense_function(weights), jnp.zeros((batch, 12)))
        for batch in (1, 64)
    )
    assert_same(one, many)


# -- Broadcasting ----------------------------------------------------------------------------------

V = np.array([[1.0, -0.5], [0.25, 2.0], [-1.0, 0.75]], np.float32)


@pytest.mark.parametrize(
    "model",
    [
        lambda z: (z[:, :, None] + jnp.zeros(5)).mean(-1) @ V,
        lambda z: (z[:, :, None] + jnp.zeros(5)).sum(-1) @ V,
        lambda z: (z[:, :, None] - jnp.zeros(5)).sum((1, 2)).reshape(-1, 1) @ V[:1],
        lambda z: jnp.maximum(z[:, :, None], jnp.zeros(5)).mean(-1) @ V,
        lambda z: (z[:, :, None] * jnp.ones((1, 3, 5))).mean(-1) @ V,
        lambda z: (z[:, :, None] / jnp.arange(1.0, 6.0)).sum(-1) @ V,
        lambda z: jnp.broadcast_to(z[:, None], (z.shape[0], 4, 3)).mean(1) @ V,
        lambda z: jnp.einsum("bik,io->bok", z[:, :, None] + jnp.zeros(5), V).mean(2),
    ],
)
def test_copies_that_are_summed_are_one_value(rng, model):
    kernel = rng.normal(size=(4, 3)).astype(np.float32)
    images = rng.random((5, 4)).astype(np.float32)
    network = assert_reads(lambda x: jax.nn.relu(model(jax.nn.relu(x @ kernel))), images)
    assert network.shapes[0] == (3,)
    assert network.shapes[1] == (2,)
    jaxsnn.quantize(jaxsnn.balance_thresholds(network, 1.0), bits=16)


STD = np.array([0.5, 0.25, 0.3], np.float32)


@pytest.mark.parametrize(
    "color", [lambda x: x * jnp.ones(3), lambda x: x / STD, lambda x: x + jnp.zeros(3)]
)
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("channels_first", [False, True])
def test_gray_images_for_a_model_of_three_channels(rng, color, groups, channels_first):
    """The kernels of the channels are one kernel; that is exact, and has a fixed-point form."""
    kernel = rng.normal(size=(3, 3, 3 // groups, 6)).astype(np.float32)
    images = rng.random((5, 6, 6, 1)).astype(np.float32)

    def model(x):
        x = color(x)
        if channels_first:
            x, turned = x.transpose(0, 3, 1, 2), kernel.transpose(3, 2, 0, 1)
            x = lax.conv_general_dilated(x, turned, (1, 1), "SAME", feature_group_count=groups)
        else:
            x = convolve(x, kernel, padding="SAME", feature_group_count=groups)
        return jax.nn.relu(x).reshape(x.shape[0], -1)

    network = assert_reads(model, images)
    (operation,) = (part for part in network.layers[0].operations if part.weighted)
    assert isinstance(operation, Convolution)
    jaxsnn.quantize(jaxsnn.balance_thresholds(network, 1.0), bits=16)


@pytest.mark.parametrize(
    "model",
    [
        lambda z: jnp.maximum(z * 2, jnp.zeros(5)),
        lambda z: jnp.maximum(z * jnp.array([1.0, -2.0, 3.0]), 0),
        lambda z: jax.nn.relu(jnp.tile(z, (1, 7)) * 0.5),
        lambda z: jax.nn.relu(z @ jnp.array([[0.5]])) + jnp.zeros(4),
    ],
)
def test_copies_that_stay_are_one_dense_layer(rng, model):
    network = assert_reads(model, rng.random((5, 1)).astype(np.float32))
    assert len(network.layers) == 1
    (operation,) = (part for part in network.layers[0].operations if part.weighted)
    assert isinstance(operation, Dense)
    jaxsnn.quantize(jaxsnn.balance_thresholds(network, 1.0), bits=16)


@pytest.mark.slow
def test_copies_in_every_arithmetic_and_engine(rng):
    """Copies are synapses: their neurons spike as those of the same layer, written by hand."""
    images = models.dyadic_images(rng, 5, 3)
    factors = np.array([1.0, -0.5, 0.25, 2.0], np.float32)
    by_hand = np.kron(np.eye(3, dtype=np.float32), factors)
    copies, dense = (
        jaxsnn.balance_thresholds(jaxsnn.read_network(model, images), 1.0)
        for model in (
            lambda x: jax.nn.relu(x[:, :, None] * factors).reshape(-1, 12),
            lambda x: jax.nn.relu(x @ by_hand),
        )
    )
    options = {"key": 0, "duration": 0.05}
    for engine, arithmetic in (
        ("scan", None),
        ("scan", jaxsnn.FixedPoint(bits=16)),
        ("auto", jaxsnn.FixedPoint(bits=16)),
    ):
        first, second = (
            jaxsnn.simulate(snn, images, engine=engine, arithmetic=arithmetic, **options)
            for snn in (copies, dense)
        )
        np.testing.assert_array_equal(first.spike_counts[0], second.spike_counts[0])
        assert int(first.spike_counts[0].sum()) > 0


def test_copies_between_weights_have_no_fixed_point_form(rng):
    kernel = rng.normal(size=(8, 3)).astype(np.float32)
    images = rng.random((5, 4)).astype(np.float32)
    network = assert_reads(lambda x: jax.nn.relu(jnp.repeat(x, 2, 1) @ kernel), images)
    with pytest.raises(ValueError, match="use float32"):
        jaxsnn.quantize(jaxsnn.balance_thresholds(network, 1.0), bits=16)


def test_repeated_pixels(rng):
    images = rng.random((5, 4, 4, 2)).astype(np.float32)
    kernel = rng.normal(size=(3, 3, 2, 4)).astype(np.float32)
    tall = rng.normal(size=(8 * 4 * 2 * 3, 3)).astype(np.float32)

    def model(x):
        x = jax.nn.relu(convolve(jnp.repeat(jnp.repeat(x, 2, 1), 3, 2), kernel))
        return jax.nn.relu(nnx.avg_pool(x, (2, 2), (2, 2)))

    assert_reads(model, images)
    assert_reads(
        lambda x: jax.nn.relu(jnp.tile(x, (1, 2, 1, 3)).reshape(x.shape[0], -1) @ tall), images
    )


def broadcast_somehow(rng, x, shape):
    """An array broadcast to a shape, in one of the ways that a model may have."""
    zeros, ones = jnp.zeros(shape[1:]), jnp.ones(shape[1:])
    factors = rng.uniform(-2, 2, [n if rng.random() < 0.5 else 1 for n in shape[1:]])
    factors = jnp.asarray(factors, jnp.float32)
    ways = [
        lambda: x + zeros,
        lambda: zeros + x,
        lambda: x - zeros,
        lambda: zeros - x,
        lambda: x * ones,
        lambda: x / ones,
        lambda: x * factors * ones,
        lambda: x / (factors + 3) + zeros,
        lambda: jnp.maximum(x, zeros),
        lambda: jnp.where(ones > 0, x, zeros),
        lambda: jnp.broadcast_to(x, shape),
        lambda: jax.vmap(lambda one: one + zeros)(x),
    ]
    return ways[rng.integers(len(ways))]()


def random_broadcasting_model(seed):
    """A function of images `[B, h, w, c]` with some axes of size 1, and the shape of its images.

    Its random choices are the same in each call.
    """
    start = np.random.default_rng(seed)
    full = [int(n) for n in start.integers(2, 5, 3)]
    image_shape = [n if start.random() < 0.5 else 1 for n in full]

    def model(x):
        rng = np.random.default_rng((seed, 1))
        kind, order = rng.integers(5), rng.permutation(3)
        x = x.transpose(0, *(1 + order))
        shape = [full[axis] for axis in order]
        if kind == 0 or rng.random() < 0.5:  # a layer before, without which there may be none
            kernel = rng.normal(size=(x.shape[-1], x.shape[-1])).astype(np.float32)
            x = jax.nn.relu(x @ np.abs(kernel))
        x = broadcast_somehow(rng, x, (x.shape[0], *shape))
        if rng.random() < 0.5:
            turn = rng.permutation(3)
            x = x.transpose(0, *(1 + turn))
        if kind == 0:
            axes = tuple(1 + rng.permutation(3)[: rng.integers(1, 4)])
            x = x.mean(axes) if rng.random() < 0.5 else x.sum(axes)
        elif kind == 1:
            x = convolve(x, rng.normal(size=(2, 2, x.shape[-1], 3)).astype(np.float32))
        elif kind == 2:
            x = jnp.einsum("bijk,jm->bimk", x, rng.normal(size=(x.shape[2], 3)).astype(np.float32))
        elif kind == 3:
            x = x.reshape(x.shape[0], -1)
            x = x @ rng.normal(size=(x.shape[1], 3)).astype(np.float32)
        else:
            x = nnx.avg_pool(x, (2, 1), (1, 1), "SAME", bool(rng.integers(2)))
        return jax.nn.relu(x) * 2.0 if rng.random() < 0.5 else jax.nn.relu(-x)

    return model, image_shape


@pytest.mark.parametrize("seed", range(48))
@pytest.mark.thinned(4)
def test_random_broadcasting_models(seed):
    model, image_shape = random_broadcasting_model(seed)
    images = np.random.default_rng(seed).random((5, *image_shape), np.float32) + 0.1
    assert_reads(model, images, rtol=2e-6, least=1.0)


def test_broadcasting_along_the_batch_is_an_error():
    model = lambda x: jax.nn.relu(x[:1] * jnp.ones((x.shape[0], 1)))  # noqa: E731
    with pytest.raises(jaxsnn.ReadingError, match="slice"):
        read_flat(model)
    with pytest.raises(jaxsnn.ReadingError, match="any number of images"):
        read_flat(lambda x: jax.nn.relu(x * jnp.ones((3, 1))))


# -- Padding, loops, choices -----------------------------------------------------------------------


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("library", [nnx, linen])
def test_causal_convolutions(rng, dilation, library):
    images = rng.random((5, 9, 4)).astype(np.float32)
    options = {"padding": "CAUSAL", "use_bias": False, "kernel_dilation": dilation}
    if library is nnx:
        layer = nnx.Conv(4, 3, (3,), rngs=nnx.Rngs(0), **options)
    else:
        module = linen.Conv(3, (3,), **options)
        layer = module.bind(module.init(jax.random.key(0), images))
    network = assert_reads(lambda x: jax.nn.relu(layer(x)), images)
    assert [type(operation) for operation in network.layers[0].operations] == [Convolution]


def test_explicit_padding_goes_into_what_follows(rng):
    images = rng.random((5, 6, 5, 2)).astype(np.float32)
    kernel = rng.normal(size=(3, 3, 2, 4)).astype(np.float32)
    padding = ((0, 0), (1, 2), (3, 0), (0, 0))

    def convolution(x):
        options = {"lhs_dilation": (2, 3), "padding": ((1, 0), (0, 2))}
        return jax.nn.relu(convolve(jnp.pad(x, padding), kernel, **options))

    def pooling(x):
        return jax.nn.relu(nnx.avg_pool(jnp.pad(x, padding), (2, 2), (2, 2)))

    for model in (convolution, pooling):
        network = assert_reads(model, images)
        assert len(network.layers[0].operations) == 1


@pytest.mark.parametrize(
    "model",
    [
        lambda x: jnp.pad(x, ((0, 0), (1, 0))) @ jnp.ones((5, 2)),
        lambda x: jnp.pad(x - 1, ((0, 0), (1, 0))),
        lambda x: (jnp.pad(x, ((0, 0), (1, 0))) + 0.5) * 2 @ jnp.ones((5, 2)),
        lambda x: jnp.pad(x, ((0, 0), (1, 2)), constant_values=3),
        lambda x: jnp.pad(x @ jnp.ones((4, 3)) + x[:, :1], ((0, 0), (1, 0)), constant_values=3),
        lambda x: lax.pad(x, 0.0, ((0, 0, 0), (-1, 2, 1))),
        lambda x: jnp.pad(x, ((0, 0), (1, 1))) + jnp.pad(2 * x, ((0, 0), (0, 2))),
        lambda x: nnx.max_pool(jnp.pad(x, ((0, 0), (1, 1)))[..., None], (2,), (2,)),
        lambda x: jnp.pad(x, ((0, 0), (1, 1)))[:, :, None].repeat(2, 2).sum(1),
    ],
)
def test_explicit_padding_before_anything_else(rng, model):
    kernel = rng.normal(size=(4, 4)).astype(np.float32)
    images = rng.random((5, 4)).astype(np.float32)
    assert_reads(lambda x: jax.nn.relu(model(jax.nn.relu(x @ kernel + 1))), images)


def test_loops_over_layers_are_unrolled(rng):
    kernels = models.dyadic(rng, 3, 4, 4)
    images = models.dyadic_images(rng, 5, 4)

    def step(x, kernel):
        return jax.nn.relu(x @ kernel), kernel.sum()

    def scan(reverse, x):
        x, sums = lax.scan(step, x, kernels, reverse=reverse)
        return x * sums[0]

    def plain(order, x):
        for kernel in order:
            x = jax.nn.relu(x @ kernel)
        return x * kernels[0].sum()

    def loop(x):
        body = lambda i, x: jax.nn.relu(x @ jnp.asarray(kernels)[i])  # noqa: E731
        return lax.fori_loop(0, 3, body, x) * kernels[0].sum()

    forward, backward = partial(plain, kernels), partial(plain, kernels[::-1])
    for model, unrolled in (
        (partial(scan, False), forward),
        (partial(scan, True), backward),
        (loop, forward),
    ):
        network = jaxsnn.read_network(model, images)
        assert_same(network, jaxsnn.read_network(unrolled, images))


def test_scan_over_modules(rng):
    class Scanned(nnx.Module):
        def __init__(self):
            @nnx.split_rngs(splits=3)
            @nnx.vmap(in_axes=(0,), out_axes=0)
            def make(rngs):
                return nnx.Linear(4, 4, use_bias=False, rngs=rngs)

            self.layers = make(nnx.Rngs(0))

        def __call__(self, x):
            forward = lambda x, layer: nnx.relu(layer(x))  # noqa: E731
            return nnx.scan(forward, in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)(x, self.layers)

    network = assert_reads(Scanned(), rng.random((5, 4)).astype(np.float32))
    assert len(network.layers) == 3


@pytest.mark.parametrize("index", [0, 1])
def test_known_branches(rng, index):
    kernel = models.dyadic(rng, 4, 3)
    branches = (lambda x: jax.nn.relu(x @ kernel), lambda x: jnp.tanh(x @ kernel))
    model = lambda x: lax.switch(jnp.array(index), branches, x)  # noqa: E731
    if index == 0:
        assert_reads(model, models.dyadic_images(rng, 5, 4))
    else:
        with pytest.raises(jaxsnn.ReadingError, match="tanh"):
            read_flat(model)


# -- Errors ----------------------------------------------------------------------------------------


def here(function) -> str:
    """File and line at which a function of one line is defined."""
    return f"{__file__}:{inspect.getsourcelines(function)[1]}"


def trained(norm):
    """A batch norm with statistics and parameters as after training."""
    for name in ("mean", "var", "scale", "bias"):
        variable = getattr(norm, name)
        variable[...] = jnp.linspace(0.5, 1.5, variable.size)
    return norm


class NNXBatchNorm(nnx.Module):
    def __init__(self, norm):
        self.layer = nnx.Conv(2, 4, (3, 3), use_bias=False, rngs=nnx.Rngs(0))
        self.norm = norm

    def __call__(self, x):
        x = self.layer(x)
        x = self.norm(x)
        return nnx.relu(x)


class LinenBatchNorm(linen.Module):
    dropout: float = 0.0

    @linen.compact
    def __call__(self, x, train):
        x = linen.Dense(3, use_bias=False)(x)
        x = linen.BatchNorm(use_running_average=not train)(x)
        return linen.Dropout(self.dropout, deterministic=not train)(linen.relu(x))


def bound_linen(**options):
    model = LinenBatchNorm(**options)
    variables = model.init(jax.random.key(0), jnp.zeros((1, 4)), train=False)
    return model.bind(jax.tree.map(lambda leaf: leaf + 0.5, variables))


def test_a_batch_norm_that_only_scales_is_read(rng):
    norm = trained(nnx.BatchNorm(4, rngs=nnx.Rngs(0)))
    norm.mean[...] = norm.bias[...] = jnp.zeros(4)
    model = NNXBatchNorm(norm)
    model.eval()
    network = assert_reads(model, rng.random((5, 6, 6, 2)).astype(np.float32))
    assert [type(operation) for operation in network.layers[0].operations] == [Convolution]


def test_linen_models_in_training_mode():
    evaluation = r"lambda x: model\(x, train=False\)"
    model = bound_linen(dropout=0.5)
    with pytest.raises(jaxsnn.ReadingError, match=evaluation):
        read_flat(model)  # without the argument
    with pytest.raises(jaxsnn.ReadingError, match=f"training mode.*{evaluation}"):
        read_flat(lambda x: model(x, train=True))
    dropout = linen.Dropout(0.5, deterministic=False).bind({})
    with pytest.raises(jaxsnn.ReadingError, match=f"training mode.*{evaluation}"):
        read_flat(lambda x: dropout(jax.nn.relu(x)))
    variables = model.variables
    with pytest.raises(jaxsnn.ReadingError, match=r"^BatchNorm at .*statistics of the batch"):
        read_flat(
            lambda x: LinenBatchNorm().apply(variables, x, train=True, mutable=["batch_stats"])[0]
        )


MODULES = {
    "LayerNorm": nnx.LayerNorm(4, rngs=nnx.Rngs(0)),
    "RMSNorm": nnx.RMSNorm(4, rngs=nnx.Rngs(0)),
    "GroupNorm": nnx.GroupNorm(4, num_groups=2, rngs=nnx.Rngs(0)),
    "MultiHeadAttention": nnx.MultiHeadAttention(2, 4, decode=False, rngs=nnx.Rngs(0)),
}


@pytest.mark.parametrize("name", MODULES)
def test_modules_are_named(name):
    model = lambda x: jax.nn.relu(MODULES[name](x))  # noqa: E731
    with pytest.raises(jaxsnn.ReadingError, match=rf"{name} at") as caught:
        jaxsnn.read_network(model, jnp.zeros((1, 7, 4)))
    assert here(model) in str(caught.value)


def convolution_of_frames(x):
    return jax.nn.relu(nnx.Conv(4, 3, (3, 3), use_bias=False, rngs=nnx.Rngs(0))(x))


def test_images_merged_with_the_batch():
    with pytest.raises(jaxsnn.ReadingError, match=r"in Conv .*single frame.*\(1, 3, 3\)"):
        jaxsnn.read_network(convolution_of_frames, jnp.zeros((1, 5, 6, 6, 4)))


def test_the_line_is_the_innermost_of_the_users():
    def activation(x):
        return jnp.tanh(x)

    def model(x):
        return activation(x @ jnp.ones((4, 2)))

    with pytest.raises(jaxsnn.ReadingError) as caught:
        read_flat(model)
    assert f"{__file__}:{inspect.getsourcelines(activation)[1] + 1}" in str(caught.value)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: jnp.tanh(x), "unsupported operation tanh"),
        (lambda x: jax.nn.silu(x), "unsupported operation logistic"),
        (lambda x: jax.nn.softmax(jax.nn.relu(x)), "exp in softmax.*last.*return the logits"),
        (lambda x: jax.nn.relu(x * x), "not linear"),
        (lambda x: jax.nn.relu(x + jnp.inf), "NaN or infinite"),
        (lambda x: jnp.maximum(x, jnp.inf), "not finite"),
        (lambda x: jax.nn.relu(x) / x.sum(1, keepdims=True), "not linear"),
        (lambda x: x @ jnp.ones((4, 2)), "no ReLU"),
        (lambda x: jax.nn.relu(lax.reduce(x, 0.0, lambda a, b: b * a, (1,))), "reduce_prod|reduce"),
        (lambda x: jax.nn.relu(lax.reduce(x, 0.0, lambda a, b: a + 2 * b, (1,))), "reduce"),
        (lambda x: jax.nn.relu(jnp.pad(x, 1)), "pad at .*images of a batch"),
        (lambda x: jnp.einsum("bg,gj->bgj", jax.nn.relu(x), jnp.ones((4, 2))), "group"),
        (lambda x: jax.nn.relu(x).argmax(1), "argmax"),
        (lambda x: jax.nn.relu(x - x.mean(0)), "batch"),
        (lambda x: jax.nn.relu(x * jnp.arange(len(x), dtype=float)[:, None]), "between the images"),
        (lambda x: nnx.Dropout(0.5, rngs=nnx.Rngs(0))(jax.nn.relu(x)), "evaluation form"),
        (lambda x: lax.while_loop(lambda y: y.sum() < 9, lambda y: y * 2, x), "lax.fori_loop"),
        (lambda x: jax.nn.relu(x.astype(jnp.int32)), "rounding"),
    ],
)
def test_what_cannot_be_read_names_its_line(function, message):
    with pytest.raises(jaxsnn.ReadingError, match=message) as caught:
        read_flat(function)
    assert here(function) in str(caught.value)


WEIGHTS = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: jax.nn.log_softmax(jax.nn.relu(x)), "exp in log_softmax.*return the logits"),
        (lambda x: jax.nn.gelu(x @ WEIGHTS), "in gelu.*train the model with ReLUs"),
        (lambda x: jax.nn.gelu(x @ WEIGHTS, approximate=False), "in gelu.*train the model with"),
        (lambda x: jax.nn.elu(x @ WEIGHTS), "elu.*train the model with ReLUs"),
        (lambda x: jax.nn.softplus(x @ WEIGHTS), "in softplus.*ReLUs"),
        (lambda x: jax.nn.squareplus(x @ WEIGHTS), "in squareplus.*ReLUs"),
        (lambda x: jax.nn.celu(x @ WEIGHTS), "in celu.*ReLUs"),
        (lambda x: jax.nn.selu(x @ WEIGHTS), "in selu.*ReLUs"),
        (lambda x: jax.nn.hard_swish(x @ WEIGHTS), "in hard_silu.*ReLUs"),
        (lambda x: jnp.tanh(x @ WEIGHTS), "tanh.*hard_tanh"),
        (lambda x: jax.nn.sigmoid(x @ WEIGHTS), "logistic.*hard_sigmoid"),
        (lambda x: nnx.softmax(nnx.relu(x) @ WEIGHTS), "in softmax.*the logits"),
        (lambda x: jax.nn.logsumexp(nnx.relu(x), 1), "in logsumexp.*the logits"),
        (lambda x: (x @ WEIGHTS > 0).astype(float), "comparison.*train the model with ReLUs"),
        (lambda x: jax.nn.relu(x**2), "not linear"),
        (lambda x: jax.nn.relu(x * jax.nn.sigmoid(x)), "logistic.*ReLUs"),
        (lambda x: jax.nn.one_hot(x, 4), "one_hot"),
        (lambda x: jnp.einsum("bi,bj->bij", x, x), "product of two values"),
        (lambda x: jax.nn.relu((x * 1j).real), "complex"),
        (lambda x: jnp.fft.fft(x).real, "fft.*complex"),
        (lambda x: jax.nn.relu(jnp.sort(x)), "sort"),
        (lambda x: jax.nn.relu(jnp.cumsum(x, 1)), "cumsum"),
        (lambda x: jax.nn.relu(x.at[:, 0].add(x[:, 1])), "scatter-add"),
        (lambda x: jax.nn.relu(x / jnp.linalg.norm(x)), "product of two|depends? on the images"),
        (lambda x: lax.top_k(jax.nn.relu(x), 2)[0], "top_k"),
        (lambda x: jax.nn.relu(x @ WEIGHTS / 0.0), "divides by 0"),
        (lambda x: jax.nn.relu(x.T @ x), "depend on the images"),
        (lambda x: lax.cond(x.sum() > 0, jnp.negative, jnp.abs, x), "batch"),
        (lambda x: lax.scan(lambda h, v: (h + v, None), x, x)[0], "axis of the images"),
        (lambda x: jax.nn.relu(x) if x.sum() > 0 else x, "values that depend on the images"),
        (lambda x: jax.nn.relu(np.dot(x, WEIGHTS)), "functions of NumPy"),
        (lambda x: jax.nn.relu(x) * float(x[0, 0]), "values that depend on the images"),
        (lambda x: {}["a"], "KeyError"),
        (lambda x: 1 // 0 * x, "ZeroDivisionError"),
        (lambda x: nnx.Linear(4, 3, rngs=nnx.Rngs(0))(nnx.relu(x)), "outside of the function"),
    ],
)
def test_what_else_cannot_be_read_names_its_line(function, message):
    with pytest.raises(jaxsnn.ReadingError, match=message) as caught:
        read_flat(function)
    assert here(function) in str(caught.value)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: {"logits": jax.nn.relu(x), "images": x}, r"\['images'\] of shape \[B, 4\]"),
        (lambda x: None, "returns no arrays"),
        (lambda x: "class", "str"),
        (lambda parameters, x: jax.nn.relu(x @ parameters), r"model\(parameters, x\)"),
        (lambda x, deterministic: x, "deterministic=True"),
    ],
)
def test_functions_of_another_form(function, message):
    with pytest.raises(jaxsnn.ReadingError, match=message):
        read_flat(function)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (jaxsnn.networks.FullyConnected, r"is a class: .*FullyConnected\(\.\.\.\)"),
        (linen.Dense(3), r"model\.bind\(variables\)"),
        (linen.Dense(3).apply, r"model\.bind\(variables\)"),
    ],
)
def test_models_that_are_not_ready(model, message):
    with pytest.raises(TypeError, match=message):
        read_flat(model)


def test_the_line_is_not_that_of_an_earlier_trace():
    """JAX traces `jax.nn.gelu` once; the second use must not be blamed on the first."""
    first = lambda x: jax.nn.sigmoid(x)  # noqa: E731
    second = lambda x: jax.nn.sigmoid(x)  # noqa: E731
    for function in (first, second):
        with pytest.raises(jaxsnn.ReadingError) as caught:
            read_flat(function)
        assert here(function) in str(caught.value)


@pytest.mark.parametrize(
    "last",
    [
        lambda x: x / 10,
        lambda x: x.reshape(x.shape[0], 3, 2).mean(1),
        lambda x: nnx.avg_pool(x[..., None], (2,), (2,)),
        lambda x: x @ jnp.array(np.eye(6)[:, ::-1]),
        lambda x: x * jnp.arange(6.0),
        lambda x: (x[:, :, None] + jnp.zeros(5)).mean(-1),
    ],
)
def test_outputs_that_cannot_be_negative_spike(rng, last):
    kernel = rng.normal(size=(4, 6)).astype(np.float32)
    images = rng.random((5, 4)).astype(np.float32)
    assert assert_reads(lambda x: last(jax.nn.relu(x @ kernel)), images).layers[-1].spiking


def test_model_for_one_batch_size_only():
    with pytest.raises(jaxsnn.ReadingError, match="any number"):
        read_flat(lambda x: jax.nn.relu(x.reshape(1, 4)))


def test_flattened_batch():
    with pytest.raises(jaxsnn.ReadingError, match="first axis"):
        read_flat(lambda x: jax.nn.relu(x.reshape(-1)))


def test_several_outputs():
    kernel = jnp.ones((4, 3))

    def model(x):
        hidden = x @ kernel
        aux = jnp.tanh(hidden), jax.nn.relu(hidden - 1) @ jnp.ones((3, 2))
        return {"logits": jax.nn.relu(hidden), "aux": aux}

    for chosen in ("logits", "['logits']"):
        network = jaxsnn.read_network(model, jnp.zeros((1, 4)), output=chosen)
        assert_same(network, read_flat(lambda x: jax.nn.relu(x @ kernel)))
    network = jaxsnn.read_network(model, jnp.zeros((1, 4)), output="['aux'][1]")
    assert network.shapes == [(3,), (2,)]
    pair = lambda x: (jax.nn.relu(x @ kernel), x)  # noqa: E731
    assert jaxsnn.read_network(pair, jnp.zeros((1, 4)), output=0).shapes == [(3,)]
    assert jaxsnn.convert(pair, jnp.ones((2, 4)), output=0).network.shapes == [(3,)]
    names = r"\['aux'\]\[0\] of shape \[B, 3\], .*\['logits'\] of shape \[B, 3\]; "
    for wrong, message in ((None, "choose"), ("aux", "output='aux' is 2"), (1, "output=1 is none")):
        with pytest.raises(jaxsnn.ReadingError, match=names + message):
            jaxsnn.read_network(model, jnp.zeros((1, 4)), output=wrong)
    with pytest.raises(jaxsnn.ReadingError, match="returns 1 array"):
        jaxsnn.read_network(jax.nn.relu, jnp.zeros((1, 4)), output=3)
    with pytest.raises(jaxsnn.ReadingError, match="unsupported operation tanh"):
        jaxsnn.read_network(model, jnp.zeros((1, 4)), output="['aux'][0]")


def test_output_without_input():
    with pytest.raises(jaxsnn.ReadingError, match="does not depend"):
        read_flat(lambda x: jnp.ones((x.shape[0], 2)))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite(value):
    weights = np.ones((4, 2), np.float32)
    weights[1, 1] = value
    with pytest.raises(jaxsnn.ReadingError, match=r"layer 1 of 1.* 1 weights"):
        read_flat(lambda x: jax.nn.relu(x @ weights))


@pytest.mark.parametrize(
    ("example", "remedy"),
    [
        (np.zeros(4, np.float32), r"image\[None\]"),
        (np.float32(1.0), "must be an array of NumPy or JAX"),
        (np.zeros((1, 0)), "batch of images"),
        (np.zeros((1, 4), np.uint8), "divide 8-bit pixels by 255"),
        (np.zeros((1, 4), bool), r"astype\('float32'\)"),
        (np.zeros((1, 4), complex), "pixels are floats"),
        (np.array([["a"]]), "must be an array of NumPy or JAX"),
        (np.array([[1.0, None]]), "dtype object, but must be an array of NumPy or JAX"),
        (np.ma.array(np.zeros((1, 4))), r"filled\(0\)"),
    ],
)
def test_example_that_is_no_batch_of_images(example, remedy):
    with pytest.raises((ValueError, TypeError), match=f"example.*{remedy}") as caught:
        jaxsnn.read_network(jax.nn.relu, example)
    assert ("255" in str(caught.value)) == (remedy == "divide 8-bit pixels by 255")


@pytest.mark.parametrize("kind", [jaxsnn.networks.FullyConnected, jaxsnn.networks.ConvNet])
def test_example_that_is_one_image(kind):
    model, images = kind(rngs=nnx.Rngs(0)), jnp.zeros((2, 28, 28, 1))
    with pytest.raises(jaxsnn.ReadingError, match=r"one image .*images\[:1\] or image\[None\]"):
        jaxsnn.read_network(model, images[0])


@pytest.mark.parametrize("images", [np.zeros((2, 5)), np.zeros(4), np.zeros((2, 4), np.uint8)])
def test_images_of_another_shape(rng, images):
    network = read_flat(models.dense_function(models.dense_weights(rng, (4, 3, 2))))
    with pytest.raises(ValueError, match="images have"):
        network(images)


def test_the_network_prints_its_layers(rng):
    network, _ = models.convolution_network(rng)
    assert str(network).splitlines()[1:3] == [
        "  layer 1: Convolution 3x3, 4 maps → (12, 12, 4)",
        "  layer 2: AveragePooling 2x2 → (6, 6, 4)",
    ]


def test_transposes_are_operations(rng):
    network = read_flat(
        lambda x: jax.nn.relu(x.reshape(-1, 2, 2).transpose(0, 2, 1).reshape(-1, 4) @ np.eye(4))
    )
    kinds = [type(operation) for operation in network.layers[0].operations]
    assert kinds == [Reshape, Transpose, Reshape, Dense]


# -- Constants that are added ----------------------------------------------------------------------


def test_biases_belong_to_their_layers(rng):
    kernel, bias = models.dyadic(rng, 6, 3), models.dyadic(rng, 3)
    images = models.dyadic_images(rng, 4, 6)
    network = assert_reads(lambda x: jax.nn.relu(x @ kernel + bias), images)
    (layer,) = network.layers
    np.testing.assert_array_equal(layer.bias, bias)
    assert [type(operation) for operation in layer.operations] == [Dense]


CONSTANTS = {
    "a bias": lambda x, k, b: jax.nn.relu(x @ k + b) @ k.T + 1.0,
    "a mean and a standard deviation": lambda x, k, b: jax.nn.relu(((x - 0.13) / 0.3) @ k),
    "1 - x": lambda x, k, b: jax.nn.relu((1 - x) @ k),
    "a constant minus a layer": lambda x, k, b: jax.nn.relu(1 - x @ k),
    "a factor after a bias": lambda x, k, b: jax.nn.relu((x @ k + b) * 3 - b / 2),
    "a constant for each pixel": lambda x, k, b: jax.nn.relu((x - jnp.arange(6) / 6) @ k),
    "before the first layer": lambda x, k, b: jax.nn.relu(x - 0.5),
    "after a pooling": lambda x, k, b: jax.nn.relu(
        jax.nn.relu(x @ k).reshape(-1, 2, 2).mean(2) - 0.01
    ),
    "max(x, c)": lambda x, k, b: jnp.maximum(x @ k, 0.25) @ k.T,
    "max(x, c) at the end": lambda x, k, b: jnp.maximum(x @ k, -0.5),
    "copies": lambda x, k, b: jax.nn.relu((x[:, :, None] + 0.5) * b).sum(2) @ k,
    "a constant along copies": lambda x, k, b: jax.nn.relu(x[:, :, None] - b).sum(2) @ k,
    "copies with factors": lambda x, k, b: jax.nn.relu(x[:, :, None] * b + 0.5).sum(2) @ k,
    "after a transpose": lambda x, k, b: jax.nn.relu((x @ k + b).reshape(-1, 2, 2).mT + 0.25),
    "between two products": lambda x, k, b: jax.nn.relu((x @ k + b) @ k.T + 0.5),
    "all negative": lambda x, k, b: jax.nn.relu(x @ k) @ -abs(k.T) - 1.0,
}


@pytest.mark.parametrize("name", CONSTANTS)
def test_constants_that_are_added(rng, name):
    kernel = rng.normal(size=(6, 4)).astype(np.float32)
    bias = rng.normal(size=4).astype(np.float32)
    images = rng.random((5, 6)).astype(np.float32)
    assert_reads(lambda x: CONSTANTS[name](x, kernel, bias), images)


@pytest.mark.parametrize("padding", ["SAME", "VALID", ((2, 0), (1, 3))])
def test_a_standardised_image_is_padded_by_zeros(rng, padding):
    """And not by what stands for zero in the pixels: the bias is another at the border."""
    kernel = rng.normal(size=(3, 3, 1, 4)).astype(np.float32)
    numbers = ("NHWC", "HWIO", "NHWC")

    def model(x):
        x = lax.conv_general_dilated(
            (x - 0.2) / 0.3, kernel, (1, 1), padding, dimension_numbers=numbers
        )
        return jax.nn.relu(x)

    network = assert_reads(model, rng.random((3, 6, 6, 1)).astype(np.float32))
    varies = np.ptp(np.broadcast_to(network.layers[0].bias, network.shapes[0]), (0, 1)) > 0
    assert np.all(varies == (padding != "VALID"))


def test_a_trained_batch_norm_goes_into_weights_and_biases(rng):
    model = NNXBatchNorm(trained(nnx.BatchNorm(4, rngs=nnx.Rngs(0))))
    model.eval()
    network = assert_reads(model, rng.random((5, 6, 6, 2)).astype(np.float32))
    (layer,) = network.layers
    assert [type(operation) for operation in layer.operations] == [Convolution]
    assert np.shape(layer.bias) == (1, 1, 4)
    linen_model = bound_linen()
    images = rng.random((5, 4)).astype(np.float32)
    assert_reads(lambda x: linen_model(x, train=False), images)


def test_a_last_layer_without_a_relu_is_linear(rng):
    kernel = rng.normal(size=(6, 3)).astype(np.float32)
    images = rng.random((5, 6)).astype(np.float32)
    network = assert_reads(lambda x: jax.nn.relu(x @ kernel) @ -abs(kernel.T), images)
    assert [layer.spiking for layer in network.layers] == [True, False]
    assert str(network.layers[1]) == "Dense 3 → 6, no ReLU"
    assert np.all(network(images) <= 0)


# -- Names -----------------------------------------------------------------------------------------


class Named(nnx.Module):
    def __init__(self):
        self.convolution = nnx.Conv(1, 2, (3, 3), use_bias=False, rngs=nnx.Rngs(0))
        self.dense = nnx.Linear(8, 3, use_bias=True, rngs=nnx.Rngs(0))

    def __call__(self, x):
        x = nnx.relu(self.convolution(x))
        x = nnx.relu(nnx.avg_pool(x, (2, 2), (2, 2)))
        x = self.dense(x.reshape(x.shape[0], -1))
        x = nnx.relu(x)
        return nnx.relu(x @ jnp.ones((3, 2))).reshape(-1, 2, 1)


def test_layers_are_named_by_their_last_linear_operation():
    """By its line, and by the path of its weights and module of Flax; a bias of 0 is nothing."""
    network = jaxsnn.read_network(Named(), jnp.zeros((1, 4, 4, 1)))
    first = inspect.getsourcelines(Named.__call__)[1] + 1
    expected = [
        ("convolution (Conv) at ", first),
        ("", first + 1),
        ("dense (Linear) at ", first + 2),
        ("", first + 4),
    ]
    for layer, (module, line) in zip(network.layers, expected, strict=True):
        assert str(layer.name).startswith(f"{module}{__file__}:{line}:"), layer.name
        assert layer.name.endswith("(Named.__call__)")


class Repeated(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.blocks = nnx.List([nnx.Linear(3, 3, rngs=rngs) for _ in range(3)])
        self.norms = nnx.List([nnx.BatchNorm(3, rngs=rngs) for _ in range(3)])

    def __call__(self, x):
        for block, norm in zip(self.blocks, self.norms):
            x = nnx.relu(norm(nnx.jit(lambda x, block=block: block(x))(x)) + x)
        return x


def test_layers_on_one_line_are_told_apart_by_the_paths_of_their_weights():
    model = Repeated()
    for number, norm in enumerate(model.norms):
        norm.bias[...] += number
    found = [str(layer.name).split(" at ")[0] for layer in read_flat(model, 3).layers]
    assert found == [f"norms.{number} (BatchNorm)" for number in range(3)]


def test_layers_without_a_last_relu_and_of_copies_are_named():
    kernel = jnp.ones((4, 2))
    copies = lambda x: jax.nn.relu(x[:, :, None] * jnp.array([1.0, -1.0]))  # noqa: E731
    linear = lambda x: copies(x).sum(2) @ kernel * 0.5  # noqa: E731
    first, last = read_flat(linear).layers
    assert str(first.name).startswith(here(copies))
    assert str(last.name).startswith(here(linear))


def test_flax_is_imported_with_its_models_only():
    code = "import sys, jaxsnn; print([name for name in sys.modules if name.startswith('flax')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
