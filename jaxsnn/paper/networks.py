"""The paper's two networks, bias-free and with a ReLU wherever a spiking neuron will sit.

A bias has no counterpart in a network of integrate-and-fire neurons that sum weighted spikes alone,
and a ReLU's output is what a firing rate can stand for. Hence no layer here has a bias, and every
layer ends in a ReLU, the output and the poolings too. After a pooling it changes nothing (a mean of
non-negative numbers is non-negative): it marks the place of the paper's spiking pooling neurons.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import inf, prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from jaxsnn.neurons import clip_floor
from jaxsnn.support.typed import Count, Images, Real, typed

Initializer = Callable[..., Array]

he_normal: Initializer = nnx.initializers.he_normal()


@typed
def symmetric_uniform(limit: Real) -> Initializer:
    """Return an initialiser that draws weights uniformly from [-limit, limit).

    It is the one of the paper's code; `jax.nn.initializers.uniform` draws from [0, limit).

    Args:
        limit: the largest absolute weight.

    Raises:
        ValueError: the limit is not a finite positive number.

    Example:
        >>> import jax
        >>> weights = symmetric_uniform(0.1)(jax.random.key(0), (100, 10))
        >>> bool(weights.min() < -0.09), bool(weights.max() > 0.09)
        (True, True)
    """
    if not 0 < limit < inf:
        raise ValueError(f"limit={limit:g}; it must be a finite number above 0.")

    def initializer(key, shape, dtype=jnp.float32, out_sharding=None) -> Array:
        del out_sharding  # part of the interface of JAX's initialisers; these weights are small
        return jax.random.uniform(key, shape, dtype, -limit, limit)

    return initializer


class FullyConnected(nnx.Module):
    """Bias-free fully connected network: ReLU after every layer, dropout on the hidden ones.

    A call flattens images `[B, ...]` and returns the ReLU outputs `[B, classes]`; `logits` returns
    what enters the last ReLU. A new model is in training mode; `model.eval()` ends the dropout.

    Args:
        sizes: number of inputs, of the neurons of each hidden layer, and of classes.
        dropout: probability with which a hidden neuron is dropped in training.
        kernel_init: initialiser of the weights.
        rngs: random streams; `params` draws the weights and `dropout` what is dropped.

    Example:
        >>> import jax.numpy as jnp
        >>> model = FullyConnected((784, 32, 10), rngs=nnx.Rngs(0))
        >>> model.eval()
        >>> model(jnp.ones((2, 28, 28, 1))).shape
        (2, 10)
    """

    @typed
    def __init__(
        self,
        sizes: Sequence[Any] = (784, 1200, 1200, 10),
        *,
        dropout: Real = 0.5,
        kernel_init: Initializer = he_normal,
        rngs: nnx.Rngs,
    ):
        if len(sizes) < 2:
            raise ValueError(f"sizes needs the inputs and the classes at least, got {sizes}")
        check_sizes(sizes=sizes)
        _check_dropout(dropout)
        self.sizes = tuple(sizes)
        _check_initializer(kernel_init, tuple(sizes[:2]))
        self.layers = nnx.List(
            nnx.Linear(*pair, use_bias=False, kernel_init=kernel_init, rngs=rngs)
            for pair in pairwise(sizes)
        )
        self.dropout = nnx.Dropout(dropout, rngs=rngs)

    @typed
    def logits(self, images: Images) -> Array:
        """Return the input of the last ReLU, `[B, classes]`."""
        x = jnp.asarray(images)
        if x.ndim < 2 or prod(x.shape[1:]) != self.sizes[0]:
            raise ValueError(
                f"the network takes images [B, ...] with {self.sizes[0]} inputs each, not of shape "
                f"{x.shape}; a single image needs a batch axis: images[None]"
            )
        x = _real(x).reshape(len(x), self.sizes[0])
        for index, layer in enumerate(self.layers[:-1]):
            x = self.dropout(self._activated(index, layer(x)))
        return self.layers[-1](x)

    @typed
    def __call__(self, images: Images) -> Array:
        """Return the ReLU outputs, `[B, classes]`."""
        return nnx.relu(self.logits(images))

    def _activated(self, index: int, x: Array) -> Array:
        """Return the activations of hidden layer `index`."""
        del index
        return nnx.relu(x)


class ConvNet(nnx.Module):
    """Bias-free convolutional network: (convolution, ReLU, 2x2 average, ReLU) per entry of maps.

    A call takes images `[B, H, W, C]` and returns the ReLU outputs `[B, classes]` of a dense layer;
    `logits` returns what enters the last ReLU. A new model is in training mode; `model.eval()` ends
    the dropout.

    Args:
        image_shape: height, width and channels of an image.
        maps: number of maps of each convolution, which pads nothing ("valid").
        kernel: height and width of the convolutions.
        classes: number of outputs.
        dropout: probability with which a whole map is dropped in training.
        kernel_init: initialiser of the weights.
        rngs: random streams; `params` draws the weights and `dropout` what is dropped.

    Example:
        >>> import jax.numpy as jnp
        >>> model = ConvNet((12, 12, 1), maps=(3,), rngs=nnx.Rngs(0))
        >>> model.eval()
        >>> model(jnp.ones((2, 12, 12, 1))).shape
        (2, 10)
    """

    @typed
    def __init__(
        self,
        image_shape: Sequence[Any] = (28, 28, 1),
        maps: Sequence[Any] = (12, 64),
        kernel: Count = 5,
        classes: Count = 10,
        *,
        dropout: Real = 0.1,
        kernel_init: Initializer = he_normal,
        rngs: nnx.Rngs,
    ):
        check_image_shape(image_shape)
        check_sizes(maps=maps, kernel=[kernel], classes=[classes])
        _check_dropout(dropout)
        *size, channels = image_shape
        height, width = _pooled(size, convolutions=len(maps), kernel=kernel)
        features = height * width * (channels, *maps)[-1]
        _check_initializer(kernel_init, (features, classes))
        self.image_shape = tuple(image_shape)
        self.convolutions = nnx.List(
            nnx.Conv(
                *pair,
                kernel_size=(kernel, kernel),
                padding="VALID",
                use_bias=False,
                kernel_init=kernel_init,
                rngs=rngs,
            )
            for pair in pairwise((channels, *maps))
        )
        self.dense = nnx.Linear(
            features, classes, use_bias=False, kernel_init=kernel_init, rngs=rngs
        )
        # One draw for each map of each image: height and width share it.
        self.dropout = nnx.Dropout(dropout, broadcast_dims=(1, 2), rngs=rngs)

    @typed
    def logits(self, images: Images) -> Array:
        """Return the input of the last ReLU, `[B, classes]`."""
        x = checked_images(images, self.image_shape)
        for index, convolution in enumerate(self.convolutions):
            convolve = convolution if self.dropout.deterministic else _patch_product(convolution)
            x = self.dropout(self._pooled(index, convolve(x)))
        return self.dense(x.reshape(len(x), self.dense.in_features))

    @typed
    def __call__(self, images: Images) -> Array:
        """Return the ReLU outputs, `[B, classes]`."""
        return nnx.relu(self.logits(images))

    def _pooled(self, index: int, x: Array) -> Array:
        """Return the activations behind convolution `index`, with their pooling."""
        del index
        return nnx.relu(nnx.avg_pool(nnx.relu(x), (2, 2), strides=(2, 2)))


class _ClipFloors(nnx.Module):
    """Clip-floors for the hidden layers of a network, each with a threshold that it learns.

    What the network returns are its logits `[B, classes]`, which spiking networks accumulate.
    """

    logits: Callable[[Images], Array]

    def _add_clip_floors(self, layers: int, levels: int, threshold: float) -> None:
        clip_floor(jnp.zeros(()), threshold, levels)  # which checks them
        self.levels = levels
        self.thresholds = nnx.List(
            nnx.Param(jnp.asarray(threshold, jnp.float32)) for _ in range(layers)
        )

    @typed
    def __call__(self, images: Images) -> Array:
        """Return the logits, `[B, classes]`."""
        return self.logits(images)

    def _activated(self, index: int, x: Array) -> Array:
        return clip_floor(x, self.thresholds[index], self.levels)


class ClipFloorFullyConnected(_ClipFloors, FullyConnected):
    """`FullyConnected` for a few steps: a `neurons.clip_floor` after every layer but the last.

    Each learns its threshold. The outputs are logits `[B, classes]`, which spiking networks
    accumulate.

    Args:
        arguments: those of `FullyConnected`.
        levels: of the clip-floors, the number of steps to train for.
        threshold: of each clip-floor, where training starts.
        options: those of `FullyConnected`.

    Example:
        >>> import jax.numpy as jnp
        >>> model = ClipFloorFullyConnected((784, 32, 10), levels=2, rngs=nnx.Rngs(0))
        >>> model.eval()
        >>> model(jnp.ones((2, 28, 28, 1))).shape, len(model.thresholds)
        ((2, 10), 1)
    """

    @typed
    def __init__(self, *arguments: Any, levels: Count = 4, threshold: Real = 2.0, **options: Any):
        super().__init__(*arguments, **options)
        self._add_clip_floors(len(self.layers) - 1, levels, threshold)


class ClipFloorConvNet(_ClipFloors, ConvNet):
    """`ConvNet` for a few steps: (convolution, clip-floor, 2x2 average) per entry of maps.

    Each `neurons.clip_floor` learns its threshold. The poolings have no neurons of their own, and
    are part of the next layer of a network that is read; the outputs are logits `[B, classes]`,
    which spiking networks accumulate.

    Args:
        arguments: those of `ConvNet`.
        levels: of the clip-floors, the number of steps to train for.
        threshold: of each clip-floor, where training starts.
        options: those of `ConvNet`.

    Example:
        >>> import jax.numpy as jnp
        >>> model = ClipFloorConvNet((12, 12, 1), maps=(3,), levels=2, rngs=nnx.Rngs(0))
        >>> model.eval()
        >>> model(jnp.ones((2, 12, 12, 1))).shape, len(model.thresholds)
        ((2, 10), 1)
    """

    @typed
    def __init__(self, *arguments: Any, levels: Count = 4, threshold: Real = 2.0, **options: Any):
        super().__init__(*arguments, **options)
        self._add_clip_floors(len(self.convolutions), levels, threshold)

    def _pooled(self, index: int, x: Array) -> Array:
        return nnx.avg_pool(self._activated(index, x), (2, 2), strides=(2, 2))


def _patch_product(convolution: nnx.Conv) -> Callable[[Array], Array]:
    """Return a valid convolution as the product of the input's patches with the kernel.

    The sums are the same. On CPUs XLA computes the gradients of this form about twice as fast.
    """
    kernel = convolution.kernel.get_value()
    height, width, _, maps = kernel.shape

    def convolve(x: Array) -> Array:
        rows, columns = x.shape[1] - height + 1, x.shape[2] - width + 1
        x = jnp.concatenate([x[:, :, j : j + columns] for j in range(width)], -1)
        x = jnp.concatenate([x[:, i : i + rows] for i in range(height)], -1)
        return x @ kernel.reshape(-1, maps)

    return convolve


def checked_images(images: Images, image_shape: tuple[int, ...]) -> Array:
    """The images, or ValueError where they are not of the network's shape or not real."""
    x = jnp.asarray(images)
    if x.shape[1:] != image_shape:
        raise ValueError(
            f"the network takes images [B, ...] of {image_shape} each, not of shape {x.shape}; a "
            "single image needs a batch axis: images[None]"
        )
    return _real(x)


def _real(images: Array) -> Array:
    if jnp.iscomplexobj(images):
        raise ValueError(f"images are {images.dtype}; a ReLU network takes real numbers")
    return images


def _check_initializer(initializer: Initializer, shape: tuple[int, ...]) -> None:
    """Raise where an initialiser makes no weights of a shape."""
    key = jax.random.key(0)
    try:
        found = jax.eval_shape(lambda: initializer(key, shape, jnp.float32))
    except Exception as error:
        raise ValueError(
            "kernel_init must be a function of a key, a shape and a type that returns an array: "
            f"{error}"
        ) from error
    if np.shape(found) != shape:
        raise ValueError(
            f"kernel_init returns {found} for weights of shape {shape}; it must return an array of "
            "that shape, such as nnx.initializers.he_normal() does"
        )


def check_image_shape(image_shape: Sequence[Any]) -> None:
    """Raise unless a shape is that of an image, height, width and channels."""
    if len(image_shape) != 3:
        raise ValueError(f"image_shape needs height, width and channels, got {image_shape}")
    check_sizes(image_shape=image_shape)


def check_sizes(**named: Sequence[Any]) -> None:
    """Raise unless all sizes are positive integers."""
    for name, sizes in named.items():
        # All of them: the check of a type looks at one entry of a sequence, picked at random.
        if not all(isinstance(size, Count) for size in sizes):
            raise TypeError(f"{name} must be integers, got {tuple(sizes)}")
        if not all(1 <= size < 1 << 31 for size in sizes):
            raise ValueError(f"{name} must be positive and below 2**31, got {tuple(sizes)}")


def _check_dropout(rate: float) -> None:
    if not 0 <= rate < 1:
        raise ValueError(f"dropout is a probability below 1, got {rate}")


def _pooled(size: Sequence[int], *, convolutions: int, kernel: int) -> list[int]:
    """Return the size of a map after so many convolutions, each followed by a 2x2 pooling."""
    sides = list(size)
    for index in range(convolutions):
        convolved = [side - kernel + 1 for side in sides]
        # An odd side would lose its last row in the pooling without a word.
        if any(side < 2 or side % 2 for side in convolved):
            raise ValueError(
                f"convolution {index + 1} makes maps of {convolved[0]}x{convolved[1]} from "
                f"{sides[0]}x{sides[1]}; 2x2 pooling needs positive even sides"
            )
        sides = [side // 2 for side in convolved]
    return sides
