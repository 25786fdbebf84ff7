"""Convolutions as products of patches, where CPUs compute these faster.

A convolution of an image with one channel is too small a product for each output: 25 terms for 12
maps, say. Several neighbouring outputs at once see a patch that is a little wider, and are one
product of this patch with a matrix in which the kernel is repeated, shifted by one from output to
output. Most of that matrix is zero, and it is much faster all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from jaxsnn.network import Connection, Convolution, Operation
from jaxsnn.network.operations import FULL_PRECISION
from jaxsnn.support.arrays import AnyArray, static_field

_MOST_CHANNELS = 4
_MOST_OUTPUTS = 8


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Patches(Operation):
    """A convolution as a product: y[b, h, v·n + j, m] = Σₚ patch[b, h, v, p] · matrix[p, j, m].

    Attributes:
        matrix: the repeated kernel `[height · (outputs + width - 1) · channels, outputs · maps]`.
        window: height and width of the kernel.
        outputs: the number n of neighbouring outputs of a patch.
        padding: of both axes of the image.
    """

    matrix: AnyArray
    window: tuple[int, int] = static_field()
    outputs: int = static_field()
    padding: tuple[tuple[int, int], ...] = static_field()
    weighted: ClassVar[bool] = True

    def __call__(self, x: Array) -> Array:
        return self.product(x, self.matrix, **FULL_PRECISION)

    def product(self, x: Array, weights: Array, **how: Any) -> Array:
        """The operation with another matrix, and with options of `jax.numpy.matmul`."""
        x = jnp.pad(x, ((0, 0), *self.padding, (0, 0)))
        height, width = self.window
        rows, columns = x.shape[1] - height + 1, x.shape[2] - width + 1
        wide = self.outputs + width - 1
        strips = [
            jnp.stack(
                [
                    x[:, row : row + rows, left : left + wide].reshape(*x.shape[:1], rows, -1)
                    for left in range(0, columns, self.outputs)
                ],
                axis=2,
            )
            for row in range(height)
        ]
        found = jnp.matmul(jnp.concatenate(strips, -1), weights, **how)
        return found.reshape(x.shape[0], rows, columns, -1)

    def __str__(self) -> str:
        return f"Patches of {self.outputs} outputs"


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Unfolded(Operation):
    """Any convolution as a product of the patches of all its outputs.

    In a loop, XLA on CPUs computes the gradient of its kernel many times faster so.
    """

    convolution: Convolution
    weighted: ClassVar[bool] = True

    def __call__(self, x: Array) -> Array:
        given = self.convolution
        image, maps, out = given.dimension_numbers
        kernel = jnp.asarray(given.kernel).transpose(*maps[2:], maps[1], maps[0])
        edges = zip(given.padding, given.input_dilation)
        sides = [(*pad, step - 1) for pad, step in edges]
        x = x.transpose(image[0], *image[2:], image[1])
        x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *sides, (0, 0, 0)])
        *window, channels, features = kernel.shape
        found = jnp.einsum(
            "...kgc,kcgm->...gm",
            self._patches(x, window).reshape(-1, prod(window), given.groups, channels),
            kernel.reshape(prod(window), channels, given.groups, -1),
            **FULL_PRECISION,
        )
        outputs = self._outputs(x, window)
        order = np.argsort([out[0], *out[2:], out[1]])
        return found.reshape(len(x), *outputs, features).transpose(*order)

    def _outputs(self, x: Array, window: Sequence[int]) -> list[int]:
        """How many outputs there are along each axis of a padded image [B, ..., channels]."""
        steps = zip(x.shape[1:-1], window, self.convolution.kernel_dilation, strict=True)
        reach = [size - (wide - 1) * step for size, wide, step in steps]
        return [(n - 1) // step + 1 for n, step in zip(reach, self.convolution.strides)]

    def _patches(self, x: Array, window: Sequence[int]) -> Array:
        """What each output sees of a padded image [B, ..., window, channels]."""
        spans = [
            [
                slice(place * dilation, place * dilation + (count - 1) * stride + 1, stride)
                for place in range(wide)
            ]
            for wide, dilation, stride, count in zip(
                window,
                self.convolution.kernel_dilation,
                self.convolution.strides,
                self._outputs(x, window),
            )
        ]
        return jnp.stack([x[:, *span] for span in product(*spans)], -2)

    def __str__(self) -> str:
        return f"{self.convolution} as a product"


def as_patches(convolution: Convolution, width: int) -> Patches | None:
    """The convolution as a product of patches, if that is worth while.

    It is for two axes, channels last, strides of 1 and few channels.

    Args:
        convolution: the convolution.
        width: the number of outputs along the second axis.

    Returns:
        The same linear map, or None.
    """
    numbers = convolution.dimension_numbers
    plain = (*convolution.strides, *convolution.input_dilation, *convolution.kernel_dilation)
    last = numbers.lhs_spec == (0, 3, 1, 2) == numbers.out_spec
    outputs = max(n for n in range(1, _MOST_OUTPUTS + 1) if width % n == 0)
    if min(map(min, convolution.padding)) < 0:
        return None
    if not last or set(plain) != {1} or convolution.groups > 1 or outputs == 1:
        return None
    maps, channels, *window = numbers.rhs_spec
    kernel = convolution.kernel.transpose(*window, channels, maps)
    high, wide, few, many = kernel.shape
    if few > _MOST_CHANNELS:
        return None
    matrix = jnp.zeros((high, outputs + wide - 1, few, outputs, many), kernel.dtype)
    for output in range(outputs):
        matrix = matrix.at[:, output : output + wide, :, output].set(kernel)
    flat = matrix.reshape(-1, outputs * many)
    return Patches(flat, (high, wide), outputs, convolution.padding)


def as_products(connection: Connection) -> Connection:
    """The connection with its convolutions as products of patches."""
    operations = (
        Unfolded(operation) if isinstance(operation, Convolution) else operation
        for operation in connection.operations
    )
    return Connection(tuple(operations), connection.source)
