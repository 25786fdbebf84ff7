"""Convolutions of few channels as products of patches, which CPUs compute faster.

A convolution of an image with one channel is too small a product for each output: 25 terms for 12
maps, say. Several neighbouring outputs at once see a patch that is a little wider, and are one
product of this patch with a matrix in which the kernel is repeated, shifted by one from output to
output. Most of that matrix is zero, and it is much faster all the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxsnn.network import Convolution, Operation
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
