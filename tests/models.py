"""Small networks with weights that are dyadic rationals, so that float32 sums are exact."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx
from jax import lax

import jaxsnn

import reference


def dyadic(rng, *shape, scale=16, spread=12):
    """Integers over a power of two: their float32 sums do not depend on the order."""
    return (rng.integers(-spread, spread + 1, shape) / scale).astype(np.float32)


def dyadic_images(rng, batch, *shape):
    return (rng.integers(0, 17, (batch, *shape)) / 16).astype(np.float32)


@jax.jit
def output_of(network, images):
    """The output of a network: one program for all networks of one structure."""
    return network(images)


def assert_reads(model, images, rtol=1e-6, least=None):
    """The network read computes what the model computes, to the rounding of float32 sums.

    The outputs must not be all 0, unless a `least` scale for their differences is given.
    """
    network = jaxsnn.read_network(model, images[:1])
    # As one program each, which compiles faster than a program for each operation.
    if isinstance(model, nnx.Module):
        expected = np.asarray(nnx.jit(lambda model, x: model(x))(model, images))
    else:
        expected = np.asarray(jax.jit(lambda x: model(x))(images))
    scale = float(np.abs(expected).max())
    assert scale > 0 or least is not None
    found = output_of(network, images)
    np.testing.assert_allclose(found, expected, rtol=0, atol=rtol * max(scale, least or 0.0))
    return network


def dense_weights(rng, sizes=(12, 20, 16, 4)):
    return [dyadic(rng, *pair) for pair in itertools.pairwise(sizes)]


def dense_function(weights):
    def model(images):
        x = images.reshape(images.shape[0], -1)
        for kernel in weights:
            x = jax.nn.relu(x @ kernel)
        return x

    return model


def dense_network(rng, sizes=(12, 20, 16, 4)):
    weights = dense_weights(rng, sizes)
    network = jaxsnn.read_network(dense_function(weights), np.zeros((1, sizes[0]), np.float32))
    return network, [[reference.dense(kernel)] for kernel in weights]


def biased_network(rng, sizes=(12, 20, 16, 4)):
    """Dense layers with biases, and a last layer without a ReLU."""
    weights = dense_weights(rng, sizes)
    biases = [dyadic(rng, size) for size in sizes[1:]]

    def model(x):
        *hidden, last = zip(weights, biases)
        for kernel, bias in hidden:
            x = jax.nn.relu(x @ kernel + bias[None])
        return x @ last[0] + last[1][None]

    network = jaxsnn.read_network(model, np.zeros((1, sizes[0]), np.float32))
    layers = zip(weights, biases)
    return network, [[reference.dense(kernel), reference.shift(b)] for kernel, b in layers]


def convolution_weights(rng):
    return dyadic(rng, 3, 3, 1, 4), dyadic(rng, 3, 3, 4, 6), dyadic(rng, 2 * 2 * 6, 5)


def convolution_function(weights):
    first, second, last = weights

    def convolve(x, kernel):
        numbers = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=numbers)

    def pool(x):
        return lax.reduce_window(x, 0.0, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID") / 4

    def model(images):
        x = jax.nn.relu(pool(jax.nn.relu(convolve(images, first))))
        x = jax.nn.relu(pool(jax.nn.relu(convolve(x, second))))
        return jax.nn.relu(x.reshape(x.shape[0], -1) @ last)

    return model


IMAGE_SHAPE = (14, 14, 1)


def convolution_network(rng):
    weights = convolution_weights(rng)
    example = np.zeros((1, *IMAGE_SHAPE), np.float32)
    network = jaxsnn.read_network(convolution_function(weights), example)
    first, second, last = weights
    layers = [
        [reference.convolution(first)],
        [reference.average_pooling(2)],
        [reference.convolution(second)],
        [reference.average_pooling(2)],
        [reference.flatten, reference.dense(last)],
    ]
    return network, layers


class NNXConvolutions(nnx.Module):
    def __init__(self, weights, dropout=0.5):
        rngs = nnx.Rngs(0)
        self.first = nnx.Conv(1, 4, (3, 3), padding="VALID", use_bias=False, rngs=rngs)
        self.second = nnx.Conv(4, 6, (3, 3), padding="VALID", use_bias=False, rngs=rngs)
        self.last = nnx.Linear(24, 5, use_bias=False, rngs=rngs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)
        for module, kernel in zip((self.first, self.second, self.last), weights, strict=True):
            module.kernel[...] = jnp.asarray(kernel)

    def __call__(self, images):
        x = nnx.relu(self.first(images))
        x = self.dropout(nnx.relu(nnx.avg_pool(x, (2, 2), (2, 2))))
        x = nnx.relu(self.second(x))
        x = self.dropout(nnx.relu(nnx.avg_pool(x, (2, 2), (2, 2))))
        return nnx.relu(self.last(x.reshape(x.shape[0], -1)))


class LinenConvolutions(linen.Module):
    @linen.compact
    def __call__(self, images):
        x = linen.relu(linen.Conv(4, (3, 3), padding="VALID", use_bias=False)(images))
        x = linen.relu(linen.avg_pool(x, (2, 2), (2, 2)))
        x = linen.relu(linen.Conv(6, (3, 3), padding="VALID", use_bias=False)(x))
        x = linen.relu(linen.avg_pool(x, (2, 2), (2, 2)))
        return linen.relu(linen.Dense(5, use_bias=False)(x.reshape(x.shape[0], -1)))


def linen_convolutions(weights):
    first, second, last = map(jnp.asarray, weights)
    parameters = {"Conv_0": {"kernel": first}, "Conv_1": {"kernel": second}}
    return LinenConvolutions().bind({"params": {**parameters, "Dense_0": {"kernel": last}}})
