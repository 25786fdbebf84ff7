"""The deeper networks: shapes, standardisation, shortcuts, and what is read of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxsnn
from jaxsnn.networks import VGG, ResNet
from jaxsnn.paper.deep_networks import CIFAR10_MEAN, CIFAR10_STD, ResidualBlock, Standardization

from models import assert_reads

pytestmark = pytest.mark.promotes

IMAGES = jax.random.uniform(jax.random.key(0), (4, 8, 8, 3))


def small_resnet(**options):
    return ResNet((8, 8, 3), maps=(4, 6), blocks=1, classes=5, rngs=nnx.Rngs(0), **options)


def small_vgg(**options):
    return VGG((8, 8, 3), stages=((4,), (6, 5)), classes=5, rngs=nnx.Rngs(0), **options)


SMALL = pytest.mark.parametrize("build", [small_resnet, small_vgg])


def used(model):
    """A model with the statistics, gains and biases that batch norm may have after a training."""
    keys = iter(jax.random.split(jax.random.key(1), 100))
    for _, norm in nnx.iter_graph(model):
        if isinstance(norm, nnx.BatchNorm):
            for variable in (norm.mean, norm.var, norm.scale, norm.bias):
                low = 0.5 if variable is norm.var else -1.0
                shape = variable.get_value().shape
                variable.set_value(jax.random.uniform(next(keys), shape, minval=low, maxval=1.5))
    model.eval()
    return model


def weights(model):
    return jax.tree.leaves(nnx.eval_shape(lambda: nnx.state(model(), nnx.Param)))


def test_the_networks_have_the_published_sizes():
    resnet = weights(lambda: ResNet(rngs=nnx.Rngs(0)))
    kernels = [w.shape for w in resnet if len(w.shape) > 1]
    assert len(kernels) == 20
    assert round(sum(np.prod(w.shape) for w in resnet) / 1e6, 2) == 0.27  # table 6 of He et al.
    kernels = [w.shape for w in weights(lambda: VGG(rngs=nnx.Rngs(0))) if len(w.shape) == 4]
    assert [shape[-1] for shape in kernels] == [64, 128, 256, 256, 512, 512, 512, 512]


@SMALL
@pytest.mark.slow
def test_logits_of_images(build):
    model = used(build())
    found = model(IMAGES)
    assert found.shape == (4, 5)
    assert (found < 0).any()
    np.testing.assert_array_equal(found, model.logits(IMAGES))
    assert model(IMAGES[:0]).shape == (0, 5)


@SMALL
def test_pixels_are_standardised_inside(build):
    mean, std = jnp.asarray(CIFAR10_MEAN), jnp.asarray(CIFAR10_STD)
    plain = used(build(mean=(0, 0, 0), std=(1, 1, 1)))
    np.testing.assert_allclose(
        used(build())(IMAGES), plain((IMAGES - mean) / std), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("size", [6, 7])
def test_a_shortcut_takes_every_second_pixel_and_adds_maps_of_zeros(size):
    """Where the convolutions are silent, the block is its shortcut."""
    block = ResidualBlock((2, 5), stride=2, rngs=nnx.Rngs(0))
    block.second_norm.scale.set_value(jnp.zeros(5))
    images = jax.random.uniform(jax.random.key(2), (3, size, size, 2))
    found = block(images)
    np.testing.assert_array_equal(found[..., :2], images[:, ::2, ::2])
    np.testing.assert_array_equal(found[..., 2:], 0)


@SMALL
def test_batch_norm_takes_the_statistics_of_the_batch_in_training_only(build):
    model = build()
    alone = model(IMAGES[:2])
    assert not np.allclose(alone, model(IMAGES)[:2], atol=1e-2)
    model.eval()
    np.testing.assert_allclose(model(IMAGES[:2]), model(IMAGES)[:2], atol=1e-5)


@SMALL
def test_what_is_read(build, monkeypatch):
    """All of it, exactly, with as many multiply-adds as the model has."""
    expected = []
    convolve, multiply = nnx.Conv.__call__, nnx.Linear.__call__

    def counted_convolution(self, x):
        ones = jnp.ones((1, *x.shape[1:3], 1))  # padding adds no pixels
        taps = jax.lax.conv_general_dilated(
            ones, jnp.ones((3, 3, 1, 1)), (self.strides,) * 2, [(1, 1)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip
        expected.append(float(taps.sum()) * self.in_features * self.out_features)
        return convolve(self, x)

    def counted_product(self, x):
        # A mean has no neurons: each pixel of the last maps reaches all classes.
        pixels = 4 * 4 if build is small_resnet else 1
        expected.append(pixels * self.in_features * self.out_features)
        return multiply(self, x)

    model = used(build())
    network = assert_reads(model, IMAGES, rtol=1e-5)
    with monkeypatch.context() as patch:
        patch.setattr(nnx.Conv, "__call__", counted_convolution)
        patch.setattr(nnx.Linear, "__call__", counted_product)
        model(IMAGES)
    assert jaxsnn.metrics.dense_operations(network) == sum(expected)
    assert not network.layers[-1].spiking
    pooled = [layer.kind for layer in network.layers].count("MaxPooling 2x2")
    assert pooled == (2 if build is small_vgg else 0)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda rngs: ResNet((8, 8), rngs=rngs), "height, width and channels"),
        (lambda rngs: ResNet((8, 8, 1), rngs=rngs), "images have 1 channels; give mean="),
        (lambda rngs: ResNet(maps=(), rngs=rngs), "maps=.*none empty"),
        (lambda rngs: ResNet(maps=(8, 4), rngs=rngs), r"maps=\(8, 4\); a shortcut without weights"),
        (lambda rngs: ResNet(blocks=0, rngs=rngs), "blocks must be positive"),
        (lambda rngs: VGG((8, 8), rngs=rngs), "height, width and channels"),
        (lambda rngs: VGG((8, 8, 3), rngs=rngs), "5 stages halve .* multiples of 32"),
        (lambda rngs: VGG(stages=(64, 128), rngs=rngs), "stages=.*an entry for each stage"),
        (lambda rngs: VGG(stages=((64,), ()), rngs=rngs), "stages=.*none empty"),
        (lambda rngs: VGG(classes=0, rngs=rngs), "classes must be positive"),
        (lambda rngs: Standardization([0.5], [0.0]), "a positive standard deviation"),
        (lambda rngs: Standardization([0.5], [0.5, 0.5]), "each channel needs a finite mean"),
        (lambda rngs: Standardization([float("nan")], [0.5]), "each channel needs a finite mean"),
    ],
)
def test_bad_sizes_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build(nnx.Rngs(0))


@SMALL
def test_other_image_shapes_are_refused(build):
    with pytest.raises(ValueError, match=r"takes images \[B, ...\].*batch axis: images\[None\]"):
        build()(IMAGES[0])
