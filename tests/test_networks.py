"""The networks: shapes, no biases, a ReLU wherever a neuron will sit, dropout in training alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxsnn.network import ClipFloor
from jaxsnn.paper.networks import ClipFloorConvNet, ConvNet, FullyConnected, symmetric_uniform

import models

pytestmark = pytest.mark.promotes

IMAGES = jax.random.uniform(jax.random.key(0), (3, 12, 12, 1))


def small_dense(**options) -> nnx.Module:
    return FullyConnected((144, 20, 30, 7), rngs=nnx.Rngs(0), **options)


def small_conv(**options) -> nnx.Module:
    return ConvNet((12, 12, 1), maps=(4,), classes=7, rngs=nnx.Rngs(0), **options)


SMALL = pytest.mark.parametrize("build", [small_dense, small_conv])


def primitives(jaxpr) -> list[str]:
    """Names of the operations of a jaxpr in order, a ReLU being one of them."""
    names = []
    for equation in jaxpr.eqns:
        inner = equation.params.get("jaxpr") or equation.params.get("call_jaxpr")
        if equation.params.get("name") == "relu":
            names.append("relu")
        elif inner is not None:
            names += primitives(inner.jaxpr)
        else:
            names.append(equation.primitive.name)
    return names


def test_the_papers_networks_have_the_papers_sizes():
    dense, conv = FullyConnected(rngs=nnx.Rngs(0)), ConvNet(rngs=nnx.Rngs(0))
    shapes = [[w.shape for w in jax.tree.leaves(nnx.state(m, nnx.Param))] for m in (dense, conv)]
    assert shapes[0] == [(784, 1200), (1200, 1200), (1200, 10)]
    assert shapes[1] == [(5, 5, 1, 12), (5, 5, 12, 64), (1024, 10)]
    for model in (dense, conv):
        model.eval()
        assert model(jnp.ones((2, 28, 28, 1))).shape == (2, 10)


def test_evaluation_consists_of_linear_operations_and_relus_alone():
    dense, conv = small_dense(), ConvNet(rngs=nnx.Rngs(0))
    dense.eval()
    conv.eval()
    assert primitives(jax.make_jaxpr(dense)(IMAGES).jaxpr) == [
        "reshape", "dot_general", "relu", "dot_general", "relu", "dot_general", "relu",
    ]  # fmt: skip
    block = ["conv_general_dilated", "relu", "reduce_window_sum", "div", "relu"]
    assert primitives(jax.make_jaxpr(conv)(jnp.ones((2, 28, 28, 1))).jaxpr) == [
        *block, *block, "reshape", "dot_general", "relu",
    ]  # fmt: skip


@SMALL
def test_no_biases_so_black_gives_nothing_and_brightness_scales_the_output(build):
    model = build()
    model.eval()
    assert not model(jnp.zeros_like(IMAGES)).any()
    np.testing.assert_array_equal(model.logits(2 * IMAGES), 2 * model.logits(IMAGES))


@SMALL
def test_outputs_are_the_relu_of_the_logits(build):
    model = build()
    model.eval()
    logits = model.logits(IMAGES)
    assert (logits < 0).any()
    np.testing.assert_array_equal(model(IMAGES), np.maximum(logits, 0))


def test_convolutions_and_poolings_are_the_textbooks():
    model = small_conv()
    model.eval()
    kernel, dense = (np.asarray(w) for w in jax.tree.leaves(nnx.state(model, nnx.Param)))
    x = np.asarray(IMAGES)
    maps = np.zeros((3, 8, 8, 4))
    for i in range(8):
        for j in range(8):
            maps[:, i, j] = np.einsum("bhwc,hwcm->bm", x[:, i : i + 5, j : j + 5], kernel)
    pooled = np.maximum(maps, 0).reshape(3, 4, 2, 4, 2, 4).mean((2, 4))
    expected = np.maximum(pooled.reshape(3, -1) @ dense, 0)
    np.testing.assert_allclose(model(IMAGES), expected, rtol=1e-5, atol=1e-6)  # float32 rounding


@SMALL
def test_dropout_in_training_only(build):
    model = build(dropout=0.5)
    assert not np.array_equal(model.logits(IMAGES), model.logits(IMAGES))
    model.eval()
    np.testing.assert_array_equal(model.logits(IMAGES), model.logits(IMAGES))


@SMALL
def test_without_dropout_training_and_evaluation_compute_the_same(build):
    model = build(dropout=0.0)
    training = model(IMAGES)
    model.eval()
    np.testing.assert_allclose(training, model(IMAGES), rtol=1e-5, atol=1e-6)  # float32 rounding


def test_the_conv_net_drops_whole_maps():
    model = ConvNet((12, 12, 1), maps=(50,), dropout=0.5, rngs=nnx.Rngs(0))
    maps = model.dropout(jnp.ones((2, 4, 4, 50)))
    np.testing.assert_array_equal(maps, jnp.broadcast_to(maps[:, :1, :1], maps.shape))
    assert set(np.unique(maps)) == {0.0, 2.0}
    assert not np.array_equal(maps[0], maps[1])


@SMALL
def test_the_initialiser_is_an_argument(build):
    model = build(kernel_init=symmetric_uniform(0.01))
    for weights in jax.tree.leaves(nnx.state(model, nnx.Param)):
        assert -0.01 <= weights.min() < -0.009
        assert 0.009 < weights.max() <= 0.01


@SMALL
@pytest.mark.parametrize("shape", [(2, 10, 12, 1), (12, 12, 1), (144,), ()])
def test_other_image_shapes_are_refused(build, shape):
    with pytest.raises(ValueError, match=r"takes images \[B, ...\].*batch axis: images\[None\]"):
        build()(jnp.ones(shape))


@SMALL
def test_complex_images_are_refused(build):
    with pytest.raises(ValueError, match=r"images are complex64; .* real numbers"):
        build()(jnp.ones((2, 12, 12, 1), complex))


@SMALL
def test_no_images_have_no_outputs(build):
    model = build()
    model.eval()
    assert model(IMAGES[:0]).shape == (0, 7)


@pytest.mark.parametrize("wrong", [None, 2.5, 2.0, "3", True])
def test_sizes_are_integers_all_of_them(wrong):
    for _ in range(5):
        with pytest.raises(TypeError, match="sizes must be integers"):
            FullyConnected((4, 3, 2, wrong), rngs=nnx.Rngs(0))
        with pytest.raises(TypeError, match="image_shape must be integers"):
            ConvNet((12, wrong, 1), rngs=nnx.Rngs(0))
        with pytest.raises(TypeError, match="maps must be integers"):
            ConvNet(maps=(12, wrong), rngs=nnx.Rngs(0))


@pytest.mark.parametrize("limit", [0.0, -0.1, float("nan"), float("inf")])
def test_a_limit_is_a_finite_positive_number(limit):
    with pytest.raises(ValueError, match=f"limit={limit:g}; it must be a finite number above 0"):
        symmetric_uniform(limit)


def test_two_models_share_their_compiled_programs():
    graphs = [nnx.split(small_dense())[0] for _ in range(2)]
    assert hash(graphs[0]) == hash(graphs[1])
    assert graphs[0] == graphs[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sizes": (784,)}, "inputs and the classes"),
        ({"sizes": (784, 0, 10)}, "positive"),
        ({"sizes": (2**40, 10)}, "sizes must be positive and below"),
        ({"dropout": 1.0}, "dropout"),
        ({"dropout": -0.1}, "dropout"),
        ({"dropout": float("nan")}, "dropout"),
        ({"kernel_init": lambda key: key}, "kernel_init must be a function of a key, a shape"),
        ({"kernel_init": lambda k, s, d: None}, r"kernel_init returns None .*\(784, 1200\)"),
        ({"kernel_init": lambda k, s, d: jnp.ones(7)}, r"kernel_init returns .*shape=\(7,\)"),
        ({"kernel_init": lambda k, s, d: "a"}, "kernel_init must be a function .* array"),
        ({"kernel_init": nnx.initializers.he_normal}, "kernel_init"),
    ],
)
def test_bad_dense_sizes_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        FullyConnected(rngs=nnx.Rngs(0), **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_shape": (28, 28)}, "height, width and channels"),
        ({"maps": (12, 0)}, "maps must be positive"),
        ({"kernel": 0}, "kernel must be positive"),
        ({"image_shape": (29, 28, 1)}, "even"),
        ({"maps": (12, 64, 8)}, "convolution 3"),
        ({"dropout": 1.5}, "dropout"),
        ({"dropout": float("nan")}, "dropout"),
        ({"classes": 0}, "classes must be positive"),
        ({"kernel_init": lambda k, s, d: jnp.ones(7)}, r"kernel_init .*\(1024, 10\)"),
    ],
)
def test_bad_convolutional_sizes_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ConvNet(rngs=nnx.Rngs(0), **arguments)


def test_the_network_for_few_steps_has_a_learned_threshold_in_each_layer():
    model = ClipFloorConvNet((12, 12, 1), maps=(4,), levels=2, threshold=0.5, rngs=nnx.Rngs(0))
    assert len(jax.tree.leaves(nnx.state(model, nnx.Param))) == 3
    images = jnp.concatenate([IMAGES, -IMAGES])
    model.train()
    assert model(images).shape == (6, 10)
    model.eval()
    network = models.assert_reads(model, images)
    assert [type(part).__name__ for part in network.layers[1].operations] == [
        "AveragePooling", "Reshape", "Dense",
    ]  # fmt: skip
    assert network.layers[0].activation == ClipFloor(0.5, 2)
    assert np.unique(network.activations(images)[0]).tolist() == [0.0, 0.25, 0.5]


@pytest.mark.parametrize(
    ("arguments", "words"), [({"levels": 0}, "levels=0"), ({"threshold": -1.0}, "threshold=-1")]
)
def test_thresholds_and_levels_are_positive(arguments, words):
    with pytest.raises(ValueError, match=words):
        ClipFloorConvNet(rngs=nnx.Rngs(0), **arguments)
