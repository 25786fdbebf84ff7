"""Statistics of activations over any number of images: largest values, percentiles, averages.

Images are computed in batches, and no more is kept than the result needs: memory does not grow with
their number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil, floor, prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxsnn.network import Network
from jaxsnn.support.arrays import AnyArray
from jaxsnn.support.progress import progress_bar

Axes = tuple[int | None, ...]  # for each layer the axis of its channels, without the batch axis


def batches(images: np.ndarray, batch_size: int, progress: bool | None) -> Iterator[Array]:
    """The images in batches, on the device, while a bar moves."""
    starts = range(0, len(images), batch_size)
    for start in progress_bar(progress, iterable=starts, desc="activations"):
        yield jnp.asarray(images[start : start + batch_size])


def over_all_but(axis: int | None, values: AnyArray) -> tuple[int, ...]:
    """The axes of activations [B, ...] beside that of the channels; None stands for no such axis.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsnn.conversion.statistics import over_all_but
        >>> over_all_but(2, jnp.zeros((1, 4, 4, 3))), over_all_but(None, jnp.zeros((1, 3)))
        ((0, 1, 2), (0, 1))
    """
    kept = None if axis is None else axis + 1
    return tuple(place for place in range(values.ndim) if place != kept)


def largest(
    network: Network, images: np.ndarray, axes: Axes, batch_size: int, progress: bool | None
) -> list[Array]:
    """The largest activation of each layer, of all its neurons or of each channel [G]."""
    groups = (1 if axis is None else shape[axis] for axis, shape in zip(axes, network.shapes))
    found: list[Any] = [np.full(count, -np.inf, network.dtype) for count in groups]
    for batch in batches(images, batch_size, progress):
        found = _larger(network, batch, found, axes)
    return found


@partial(jax.jit, static_argnames="axes")
def _larger(network: Network, images: Array, found: list[Array], axes: Axes) -> list[Array]:
    return [
        jnp.maximum(most, values.max(over_all_but(axis, values)))
        for most, values, axis in zip(found, network.activations(images), axes, strict=True)
    ]


@jax.jit
def _bits(network: Network, images: Array) -> list[Array]:
    """Activations as integers that are ordered as they are: the bits of non-negative floats."""
    return [
        jax.lax.bitcast_convert_type(activation.astype(jnp.float32), jnp.uint32)
        for activation in network.activations(images)
    ]


def percentiles(
    network: Network,
    images: np.ndarray,
    percentile: float,
    axes: Sequence[int | None],
    batch_size: int,
    progress: bool | None,
) -> tuple[list[np.ndarray], list[float]]:
    """Percentiles of every layer's activations, of all or of each channel, by radix selection.

    Each pass counts by some more bits the activations that agree with the result so far, which
    finds an order statistic exactly, whatever the order of the images; sorting would need all
    activations at once. With it comes the share of zeros in the layer, which is counted (and not
    0) only where a percentile is 0.
    """
    layers = [
        _Selection.of(len(images), shape, axis, percentile)
        for shape, axis in zip(network.shapes, axes, strict=True)
    ]
    widths = (16, 16) if all(axis is None for axis in axes) else (8, 8, 8, 8)
    for number, width in enumerate(widths):
        shift = 32 - sum(widths[: number + 1])
        for layer in layers:
            layer.begin(width)
        for batch in batches(images, batch_size, progress):
            for layer, bits in zip(layers, _bits(network, batch), strict=True):
                layer.count(np.asarray(bits), shift, width)
        for layer in layers:
            layer.end(width)
    return [layer.values for layer in layers], [layer.zeros for layer in layers]


@dataclass
class _Selection:
    """The search for the two activations between which a percentile lies, in G groups.

    Attributes:
        axis: the axis of the groups, without the batch axis; None for one group of all.
        position: the place of the percentile in the order of a group.
        size: how many activations a group has.
        prefix: the bits found so far `[2, G]`.
        rank: the place among the activations with this prefix `[2, G]`.
        counts: of the activations with this prefix, by their next bits `[2, G, bins]`.
    """

    axis: int | None
    position: float
    size: int
    prefix: np.ndarray
    rank: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(
        cls, images: int, shape: tuple[int, ...], axis: int | None, percentile: float
    ) -> _Selection:
        """The beginning of a search."""
        groups = 1 if axis is None else shape[axis]
        size = images * prod(shape) // groups
        position = percentile / 100 * (size - 1)
        rank = np.array([[floor(position)], [ceil(position)]]).repeat(groups, 1)
        return cls(axis, position, size, np.zeros((2, groups), np.uint32), rank, np.zeros(0))

    def begin(self, width: int) -> None:
        """No activation is counted."""
        self.counts = np.zeros((*self.prefix.shape, 1 << width), np.int64)

    def count(self, bits: np.ndarray, shift: int, width: int) -> None:
        """Count a batch of activations [B, ...], given as their bits."""
        _, groups, bins = self.counts.shape
        axis = None if self.axis is None else self.axis + 1
        rows = bits.reshape(1, -1) if axis is None else np.moveaxis(bits, axis, 0)
        rows = rows.reshape(groups, -1)
        places = (rows >> shift & (bins - 1)) + np.arange(groups)[:, None] * bins
        above = (rows.astype(np.uint64) >> np.uint64(shift + width)).astype(np.uint32)
        for counts, prefix in zip(self.counts, self.prefix):
            chosen = places[above == prefix[:, None]]
            counts += np.bincount(chosen, minlength=groups * bins).reshape(groups, bins)

    def end(self, width: int) -> None:
        """Choose the next bits."""
        until = self.counts.cumsum(-1)
        digits = (until <= self.rank[..., None]).sum(-1)
        before = np.take_along_axis(until, np.maximum(digits - 1, 0)[..., None], -1)[..., 0]
        self.rank = self.rank - np.where(digits > 0, before, 0)
        self.prefix = self.prefix << width | digits.astype(np.uint32)

    @property
    def values(self) -> np.ndarray:
        """The percentile of each group."""
        low, high = self.prefix.view(np.float32).astype(np.float64)
        if np.all(low == high):  # perhaps infinite
            return low
        return low + (high - low) * (self.position % 1)

    @property
    def zeros(self) -> float:
        """The share of zeros in the groups whose percentile starts with their bits."""
        first = self.prefix[0] < self.counts.shape[-1]
        return float(self.counts[0, first, 0].sum() / (self.size * max(1, first.sum())))
