"""Reading models: the same network from every library, and errors that name the place."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from jax import lax

import jaxsnn
from jaxsnn.network import AveragePooling, Convolution, Dense, Multiply, Reshape, Transpose

import models

NHWC = ("NHWC", "HWIO", "NHWC")


def read_flat(function, size=4):
    return jaxsnn.read_network(function, jnp.zeros((1, size)))


def assert_same(one, two):
    assert jax.tree.structure(one) == jax.tree.structure(two)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_array_equal(a, b)


def assert_reads(model, images, rtol=1e-6):
    """The network read computes what the model computes, to the rounding of float32 sums."""
    network = jaxsnn.read_network(model, images[:1])
    expected = model(images)
    scale = float(jnp.abs(expected).max())
    assert scale > 0
    np.testing.assert_allclose(network(images), expected, rtol=0, atol=rtol * scale)
    return network


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


def test_two_layers_without_a_relu_between_are_one(rng):
    first, second = models.dyadic(rng, 6, 5), models.dyadic(rng, 5, 3)
    network = read_flat(lambda x: jax.nn.relu(x @ first @ second), 6)
    assert len(network.layers) == 1
    images = models.dyadic_images(rng, 4, 6)
    np.testing.assert_array_equal(network(images), np.maximum(images @ first @ second, 0))


def test_zero_bias_is_no_bias(rng):
    model = nnx.Sequential(nnx.Linear(4, 3, use_bias=True, rngs=nnx.Rngs(0)), nnx.relu)
    assert len(read_flat(model).layers[0].operations) == 1


def test_moves_after_the_last_relu_belong_to_its_layer(rng):
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


# -- Errors ----------------------------------------------------------------------------------------


def here(function) -> str:
    """File and line at which a function of one line is defined."""
    return f"{__file__}:{inspect.getsourcelines(function)[1]}"


def test_bias_names_its_place():
    class Biased(nnx.Module):
        def __init__(self):
            self.layer = nnx.Linear(4, 2, use_bias=True, rngs=nnx.Rngs(0))
            self.layer.bias[...] = jnp.array([0.5, 0.0])

        def __call__(self, x):
            return nnx.relu(self.layer(x))

    with pytest.raises(jaxsnn.ReadingError, match=r"bias.*use_bias=False") as caught:
        read_flat(Biased())
    line = inspect.getsourcelines(Biased.__call__)[1] + 1
    assert f"{__file__}:{line}" in str(caught.value)


def test_the_place_is_the_innermost_of_the_users():
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
        (lambda x: jax.nn.softmax(jax.nn.relu(x)), "without softmax"),
        (lambda x: jax.nn.relu(x + x), "two branches"),
        (lambda x: jax.nn.relu(x * x), "not linear"),
        (lambda x: jax.nn.relu(x + 1.0), "bias"),
        (lambda x: jnp.maximum(x, 0.5), "only max"),
        (lambda x: jax.nn.relu(x) / x.sum(1, keepdims=True), "not linear"),
        (lambda x: jax.nn.relu(jnp.concatenate([x, x], 1)), "concatenate"),
        (lambda x: x @ jnp.ones((4, 2)), "no ReLU"),
        (lambda x: jax.nn.relu(lax.reduce(x, 0.0, lambda a, b: b * a, (1,))), "reduce_prod|reduce"),
        (lambda x: jax.nn.relu(lax.reduce(x, 0.0, lambda a, b: a + 2 * b, (1,))), "reduce"),
        (lambda x: jax.nn.relu(jnp.pad(x, 1)), "pad at .*padding to the convolution"),
        (lambda x: jnp.einsum("bg,gj->bgj", jax.nn.relu(x), jnp.ones((4, 2))), "group"),
        (lambda x: jax.nn.relu(x).argmax(1), "argmax"),
        (lambda x: jax.nn.relu(x - x.mean(0)), "batch"),
        (lambda x: jax.nn.relu(x * jnp.arange(3.0)[:, None]), "between the images"),
        (lambda x: nnx.Dropout(0.5, rngs=nnx.Rngs(0))(jax.nn.relu(x)), "evaluation form"),
        (lambda x: nnx.max_pool(jax.nn.relu(x)[:, None], (2,)), "average pooling"),
        (lambda x: lax.fori_loop(0, 2, lambda _, y: y * 2, jax.nn.relu(x)), "unsupported"),
        (lambda x: jax.nn.relu(x.astype(jnp.int32)), "rounding"),
    ],
)
def test_what_cannot_be_read_names_its_place(function, message):
    with pytest.raises(jaxsnn.ReadingError, match=message) as caught:
        read_flat(function)
    assert here(function) in str(caught.value)


def test_the_place_is_not_that_of_an_earlier_trace():
    """JAX traces `jax.nn.gelu` once; the second use must not be blamed on the first."""
    first = lambda x: jax.nn.sigmoid(x)  # noqa: E731
    second = lambda x: jax.nn.sigmoid(x)  # noqa: E731
    for function in (first, second):
        with pytest.raises(jaxsnn.ReadingError) as caught:
            read_flat(function)
        assert here(function) in str(caught.value)


def test_missing_last_relu_is_given_and_said():
    model = lambda x: jax.nn.relu(x @ jnp.ones((4, 2))) @ jnp.ones((2, 3))  # noqa: E731
    with pytest.warns(UserWarning, match="does not end in a ReLU") as caught:
        network = read_flat(model)
    assert here(model) in str(caught[0].message)
    assert len(network.layers) == 2


def test_model_for_one_batch_size_only():
    with pytest.raises(jaxsnn.ReadingError, match="any number"):
        read_flat(lambda x: jax.nn.relu(x.reshape(1, 4)))


def test_flattened_batch():
    with pytest.raises(jaxsnn.ReadingError, match="first axis"):
        read_flat(lambda x: jax.nn.relu(x.reshape(-1)))


def test_several_outputs():
    with pytest.raises(jaxsnn.ReadingError, match="returns 2 arrays"):
        read_flat(lambda x: (jax.nn.relu(x), x))


def test_output_without_input():
    with pytest.raises(jaxsnn.ReadingError, match="does not depend"):
        read_flat(lambda x: jnp.ones((x.shape[0], 2)))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite(value):
    weights = np.ones((4, 2), np.float32)
    weights[1, 1] = value
    with pytest.raises(jaxsnn.ReadingError, match=r"layer 1 of 1.* 1 weights"):
        read_flat(lambda x: jax.nn.relu(x @ weights))


def test_linen_module_without_variables():
    with pytest.raises(TypeError, match="bind"):
        read_flat(linen.Dense(3))


@pytest.mark.parametrize("example", [np.zeros(4), np.zeros((1, 4), np.uint8), 1.0])
def test_example_that_is_no_batch_of_images(example):
    with pytest.raises(ValueError, match="example"):
        jaxsnn.read_network(jax.nn.relu, example)


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
