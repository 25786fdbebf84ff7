"""A residual network and a VGG, with biases, batch norm and logits, for images in colour.

They take pixels in [0, 1] and standardise them by themselves, so that images stay what `poisson`
and the other parts of the library expect.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from math import inf, isfinite
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxsnn.paper.networks import check_image_shape, check_sizes, checked_images, he_normal
from jaxsnn.support.typed import Count, Images, Real, typed

# Mean and standard deviation of the pixels of CIFAR-10's training set, by colour, as usually given.
CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2470, 0.2435, 0.2616)

_normalization = partial(nnx.BatchNorm, momentum=0.9, epsilon=1e-5)
_convolution = partial(
    nnx.Conv, kernel_size=(3, 3), padding=1, use_bias=False, kernel_init=he_normal
)


class Standardization(nnx.Module):
    """(x - mean) / std, for each channel.

    Args:
        mean: of each channel.
        std: standard deviation of each channel.

    Example:
        >>> import jax.numpy as jnp
        >>> Standardization([0.5], [0.25])(jnp.ones((1, 1, 1, 1))).item()
        2.0
    """

    @typed
    def __init__(self, mean: Sequence[Any], std: Sequence[Any]):
        if not all(isinstance(number, Real) for number in (*mean, *std)):
            raise TypeError(
                f"mean={mean} and std={std}; they must be real numbers, of each channel"
            )
        positive = all(0 < deviation < inf for deviation in std)
        if len(mean) != len(std) or not positive or not all(map(isfinite, mean)):
            raise ValueError(
                f"mean={mean} and std={std}; each channel needs a finite mean and a positive "
                "standard deviation"
            )
        self.mean, self.std = tuple(map(float, mean)), tuple(map(float, std))

    @typed
    def __call__(self, images: Images) -> Array:
        """Return the standardised images."""
        x = jnp.asarray(images)
        return (x - jnp.asarray(self.mean, x.dtype)) / jnp.asarray(self.std, x.dtype)


def _standardization(channels: int, mean: Sequence[Any], std: Sequence[Any]) -> Standardization:
    if len(mean) != channels:
        raise ValueError(
            f"mean={mean} and std={std}, but images have {channels} channels; give mean=... and "
            "std=... of each"
        )
    return Standardization(mean, std)


def _check_not_empty(name: str, *lists: Any) -> None:
    if not all(isinstance(entries, Sequence) and len(entries) for entries in lists):
        raise ValueError(f"{name}={lists[0]}; it must have an entry for each stage, none empty")


class ResidualBlock(nnx.Module):
    """relu(f(x) + shortcut(x)), with f of two convolutions and two batch norms.

    The shortcut has no weights: where the convolutions halve the sides or add maps, it takes every
    second pixel and fills the new maps with zeros.

    Source: He et al. 2015, "Deep residual learning for image recognition", figure 2 and option A.

    Args:
        maps: the number of maps that enter and that leave.
        stride: of the first convolution.
        rngs: random streams.

    Example:
        >>> import jax.numpy as jnp
        >>> block = ResidualBlock((4, 8), stride=2, rngs=nnx.Rngs(0))
        >>> block(jnp.ones((1, 6, 6, 4))).shape
        (1, 3, 3, 8)
    """

    @typed
    def __init__(self, maps: Sequence[Any], *, stride: Count = 1, rngs: nnx.Rngs):
        check_sizes(maps=maps, stride=[stride])
        before, after = maps
        if after < before:
            raise ValueError(f"maps={maps}; a shortcut without weights cannot end in fewer maps")
        self.maps, self.stride = (before, after), stride
        self.first = _convolution(before, after, strides=stride, rngs=rngs)
        self.first_norm = _normalization(after, rngs=rngs)
        self.second = _convolution(after, after, rngs=rngs)
        self.second_norm = _normalization(after, rngs=rngs)

    @typed
    def __call__(self, images: Images) -> Array:
        """Return the block's ReLU outputs `[B, H, W, maps]`."""
        x = jnp.asarray(images)
        before, after = self.maps
        residual = self.second_norm(self.second(nnx.relu(self.first_norm(self.first(x)))))
        shortcut = x[:, :: self.stride, :: self.stride]
        if after > before:
            new = jnp.zeros((*shortcut.shape[:-1], after - before), x.dtype)
            shortcut = jnp.concatenate([shortcut, new], -1)
        return nnx.relu(residual + shortcut)


class ResNet(nnx.Module):
    """Residual network for small images; by default the ResNet-20 of He et al. 2015.

    A convolution, stages of residual blocks, of which each but the first halves the sides, the
    mean of each map, and a dense layer. With n blocks in each of three stages it has 6n + 2 layers
    with weights. A call takes images `[B, H, W, C]` and returns the logits `[B, classes]`. A new
    model is in training mode: batch norm takes the statistics of the batch until `model.eval()`.

    Source: He et al. 2015, section 4.2.

    Args:
        image_shape: height, width and channels of an image.
        maps: number of maps in each stage.
        blocks: residual blocks in each stage.
        classes: number of outputs.
        mean: of the pixels of each channel, for the standardisation.
        std: standard deviation of the pixels of each channel.
        rngs: random streams; `params` draws the weights.

    Example:
        >>> import jax.numpy as jnp
        >>> model = ResNet((8, 8, 3), maps=(4, 8), blocks=1, rngs=nnx.Rngs(0))
        >>> model.eval()
        >>> model(jnp.ones((2, 8, 8, 3))).shape
        (2, 10)
    """

    @typed
    def __init__(
        self,
        image_shape: Sequence[Any] = (32, 32, 3),
        maps: Sequence[Any] = (16, 32, 64),
        blocks: Count = 3,
        classes: Count = 10,
        *,
        mean: Sequence[Any] = CIFAR10_MEAN,
        std: Sequence[Any] = CIFAR10_STD,
        rngs: nnx.Rngs,
    ):
        check_image_shape(image_shape)
        _check_not_empty("maps", maps)
        check_sizes(maps=maps, blocks=[blocks], classes=[classes])
        self.image_shape = tuple(image_shape)
        self.standardization = _standardization(image_shape[-1], mean, std)
        self.convolution = _convolution(image_shape[-1], maps[0], rngs=rngs)
        self.norm = _normalization(maps[0], rngs=rngs)
        ends = [of_stage for of_stage in maps for _ in range(blocks)]
        self.blocks = nnx.List(
            ResidualBlock(pair, stride=2 if index and index % blocks == 0 else 1, rngs=rngs)
            for index, pair in enumerate(pairwise([maps[0], *ends]))
        )
        self.dense = nnx.Linear(maps[-1], classes, kernel_init=he_normal, rngs=rngs)

    @typed
    def logits(self, images: Images) -> Array:
        """Return the logits, `[B, classes]`."""
        x = self.standardization(checked_images(images, self.image_shape))
        x = nnx.relu(self.norm(self.convolution(x)))
        for block in self.blocks:
            x = block(x)
        return self.dense(x.mean((1, 2)))

    @typed
    def __call__(self, images: Images) -> Array:
        """Return the logits, `[B, classes]`."""
        return self.logits(images)


class VGG(nnx.Module):
    """VGG for small images, with batch norm; by default VGG-11, configuration A.

    Stages of (convolution, batch norm, ReLU), each of which ends in a 2x2 max pooling, and a dense
    layer in place of the three of the original, whose images are larger. A call takes images
    `[B, H, W, C]` and returns the logits `[B, classes]`. A new model is in training mode: batch
    norm takes the statistics of the batch until `model.eval()`.

    Source: Simonyan and Zisserman 2015, "Very deep convolutional networks for large-scale image
    recognition", table 1; batch norm: Ioffe and Szegedy 2015.

    Args:
        image_shape: height, width and channels of an image; every stage halves the sides, which
            must be even.
        stages: for each stage the number of maps of each convolution.
        classes: number of outputs.
        mean: of the pixels of each channel, for the standardisation.
        std: standard deviation of the pixels of each channel.
        rngs: random streams; `params` draws the weights.

    Example:
        >>> import jax.numpy as jnp
        >>> model = VGG((8, 8, 3), stages=((4,), (8, 8)), rngs=nnx.Rngs(0))
        >>> model.eval()
        >>> model(jnp.ones((2, 8, 8, 3))).shape
        (2, 10)
    """

    @typed
    def __init__(
        self,
        image_shape: Sequence[Any] = (32, 32, 3),
        stages: Sequence[Any] = ((64,), (128,), (256, 256), (512, 512), (512, 512)),
        classes: Count = 10,
        *,
        mean: Sequence[Any] = CIFAR10_MEAN,
        std: Sequence[Any] = CIFAR10_STD,
        rngs: nnx.Rngs,
    ):
        check_image_shape(image_shape)
        _check_not_empty("stages", stages, *stages)
        maps = [number for stage in stages for number in stage]
        check_sizes(stages=maps, classes=[classes])
        height, width, channels = image_shape
        smallest = 1 << len(stages)
        if height % smallest or width % smallest:
            raise ValueError(
                f"image_shape={tuple(image_shape)}; {len(stages)} stages halve the sides so often "
                f"that they must be multiples of {smallest}"
            )
        self.image_shape = tuple(image_shape)
        self.standardization = _standardization(image_shape[-1], mean, std)
        pairs = list(pairwise([channels, *maps]))
        self.convolutions = nnx.List(_convolution(*pair, rngs=rngs) for pair in pairs)
        self.norms = nnx.List(_normalization(number, rngs=rngs) for number in maps)
        self.depths = tuple(map(len, stages))
        features = (height // smallest) * (width // smallest) * maps[-1]
        self.dense = nnx.Linear(features, classes, kernel_init=he_normal, rngs=rngs)

    @typed
    def logits(self, images: Images) -> Array:
        """Return the logits, `[B, classes]`."""
        x = self.standardization(checked_images(images, self.image_shape))
        layers = iter(zip(self.convolutions, self.norms, strict=True))
        for depth in self.depths:
            for _ in range(depth):
                convolution, norm = next(layers)
                x = nnx.relu(norm(convolution(x)))
            x = nnx.max_pool(x, (2, 2), strides=(2, 2))
        return self.dense(x.reshape(len(x), self.dense.in_features))

    @typed
    def __call__(self, images: Images) -> Array:
        """Return the logits, `[B, classes]`."""
        return self.logits(images)
