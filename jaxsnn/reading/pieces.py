"""Pieces of a concatenation: values of several layers at places that do not overlap.

A product with weights takes them piece by piece, with the weights of each: no value is multiplied
twice, and spikes stay spikes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import cast

import numpy as np
from jax.typing import ArrayLike

from jaxsnn.network import (
    AveragePooling,
    Convolution,
    Dense,
    Multiply,
    Operation,
    Reshape,
    Select,
    Transpose,
)
from jaxsnn.network.operations import Places
from jaxsnn.reading.signals import Padding, Shift, Signal, WindowSum
from jaxsnn.support.arrays import as_jax


def disjoint(terms: Sequence[Signal]) -> bool:
    """Whether no two of the terms of a sum have values at the same place."""
    found = [_support(term.operations) for term in terms]
    known = [support for support in found if support is not None]
    shapes = {support.shape for support in known}
    return len(known) == len(terms) and len(shapes) == 1 and bool(np.all(sum(known) <= 1))


def _support(operations: Sequence[Operation]) -> np.ndarray | None:
    """1 where a value may be other than 0, after the last selection; None if that is not known."""
    support: np.ndarray | None = None
    for operation in operations:
        if isinstance(operation, WindowSum):
            operation = operation.pooling
        if isinstance(operation, Select):
            support = np.asarray(operation.places.values >= 0, int)
        elif support is not None and isinstance(operation, Reshape | Transpose):
            support = np.asarray(operation(support[None]))[0]  # type: ignore[arg-type]
        elif support is not None and isinstance(operation, AveragePooling | Padding):
            support = _of_windows(operation, support)
        elif not isinstance(operation, Multiply | Shift):
            return None
    return support


def _of_windows(operation: AveragePooling | Padding, support: np.ndarray) -> np.ndarray | None:
    """The support after windows or padding along axes on which it does not vary."""
    shape = operation.output_shape(support.shape)
    for axis, size in enumerate(shape):
        first = support.take([0], axis)
        if np.array_equal(np.broadcast_to(first, support.shape), support):
            support = first.repeat(size, axis)
        elif not _leaves_alone(operation, axis):
            return None
    return support


def _leaves_alone(operation: AveragePooling | Padding, axis: int) -> bool:
    """Whether windows or padding do nothing along an axis."""
    if operation.padding[axis] != (0, 0):
        return False
    single = isinstance(operation, Padding)
    return single or (operation.window[axis], operation.strides[axis]) == (1, 1)


def without_zeros(operations: Sequence[Operation]) -> list[Operation]:
    """The operations without weights for the zeros that a selection puts beside a whole layer.

    A selection is exchanged with what follows it, until it meets weights and disappears in them.
    """
    found = list(operations)
    place = 0
    while place + 1 < len(found):
        first = found[place]
        pair = _exchanged(first, found[place + 1]) if isinstance(first, Select) else None
        if pair is None:
            place += 1
        else:
            found[place : place + 2] = pair
    return found


def _exchanged(selection: Select, second: Operation) -> list[Operation] | None:
    """A selection and the operation after it, the other way round or as one; None if they stay."""
    places = selection.places.values
    match second:
        case Reshape() | Transpose():
            moved = np.asarray(second(places[None])[0])  # type: ignore[arg-type]
            return [Select(Places(moved), selection.shape)]
        case AveragePooling():
            return _pooled(selection, second)
        case Convolution() if second.groups == 1:
            axis, weights_axis = second.channels.inputs, second.channels.weights_in
            return _without_zeros(selection, second, second.kernel, axis, cast(int, weights_axis))
        case Dense():
            return _without_zeros(selection, second, second.kernel, places.ndim - 1, 0)
    return None


def _without_zeros(
    selection: Select,
    product: Convolution | Dense,
    kernel: ArrayLike,
    axis: int,
    weights_axis: int,
) -> list[Operation] | None:
    """The product with the weights of the selected layer alone."""
    kept = _whole_layer(selection, axis)
    if kept is None:
        return None
    shorter = as_jax(np.asarray(kernel).take(kept, weights_axis))
    return [*_as_stored(selection, axis, len(kept)), replace(product, kernel=shorter)]


def _as_stored(selection: Select, axis: int, size: int) -> list[Operation]:
    """What brings the inputs of a selection into its shape, but for the size of one axis."""
    shape = list(selection.places.values.shape)
    shape[axis] = size
    return [] if tuple(shape) == selection.shape else [Reshape(tuple(shape))]


def _pooled(selection: Select, pooling: AveragePooling) -> list[Operation] | None:
    """The pooling of a whole layer before it is selected along an axis that is not pooled."""
    places = selection.places.values
    for axis, size in enumerate(places.shape):
        kept = _whole_layer(selection, axis)
        if kept is not None and len(kept) < size and _leaves_alone(pooling, axis):
            before = _as_stored(selection, axis, len(kept))
            shape = (*places.shape[:axis], len(kept), *places.shape[axis + 1 :])
            pooled = pooling.output_shape(shape)
            moved = np.full((*pooled[:axis], size, *pooled[axis + 1 :]), -1)
            numbers = np.arange(prod(pooled)).reshape(pooled)
            np.moveaxis(moved, axis, 0)[kept] = np.moveaxis(numbers, axis, 0)
            return [*before, pooling, Select(Places(moved), pooled)]
    return None


def _whole_layer(selection: Select, axis: int) -> np.ndarray | None:
    """Where along an axis a whole layer is, in its order, with zeros elsewhere; None if it is not.

    A layer whose features have another shape is the same numbers in the same order.
    """
    places = selection.places.values
    others = tuple(place for place in range(places.ndim) if place != axis)
    there = (places >= 0).any(others)
    chosen = places.compress(there, axis)
    whole = np.array_equal(chosen.ravel(), np.arange(prod(selection.shape)))
    return np.flatnonzero(there) if whole else None
