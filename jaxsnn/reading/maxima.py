"""Max poolings: of neurons where a ReLU is before or after them, and else sums of ReLUs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any, cast

import numpy as np

from jaxsnn.network import (
    INPUT,
    Connection,
    Layer,
    MaxPooling,
    Multiply,
    Operation,
    Reshape,
    Select,
    Shape,
)
from jaxsnn.network.operations import Places
from jaxsnn.reading import simplify
from jaxsnn.reading.errors import ReadingError
from jaxsnn.reading.signals import Maximum, Shift, Signal, Sum, without_repeats
from jaxsnn.reading.simplify import shared
from jaxsnn.support.arrays import as_jax


def relu(value: Signal | Sum) -> Signal | Sum:
    """End a layer, which takes the ReLU of a value."""
    if isinstance(value, Signal) and value.awaits_relu:
        return _relu_of_maximum(value)
    return simplify.relu(value)


def max_pooled(signal: Signal, pooling: MaxPooling) -> Signal:
    """The signal of a layer that is a max pooling of a layer of ReLUs."""
    if signal.layer == INPUT or not all(operation.permutes for operation in signal.operations):
        signal = simplify.relu(signal)  # of their own, whose spikes are counted
    connection = Connection((*signal.operations, pooling), signal.layer)
    pooled = signal.then(pooling)
    layer = Layer((connection,), name=pooled.name)
    return replace(pooled, layer=signal.graph.add(layer), operations=(), source="")


def settled(value: Any) -> Any:
    """The value with its maxima as sums of ReLUs, where a max pooling still awaits its ReLU."""
    if not isinstance(value, Signal) or not value.awaits_relu:
        return value
    before, maximum, after = value.around_maximum()
    return _laid_out_as(value, _then(_largest(shared(before), maximum), after))


def _relu_of_maximum(signal: Signal) -> Signal | Sum:
    """relu(f · max(x) + b), which is max(relu(f · x + b)) where f is positive.

    That is a max pooling of neurons. Elsewhere the maximum is a sum of ReLUs, and each of the two
    has silent neurons in the place of the other's.
    """
    before, maximum, after = signal.around_maximum()
    pooling = MaxPooling(maximum.window, maximum.strides, maximum.padding)
    pooled_shape = pooling.output_shape(maximum.shape)
    moved = None if signal.copies_differ else _moved_before(maximum, after, pooled_shape)
    if moved is None:
        return simplify.relu(settled(signal))
    operations, positive = moved
    before = before if np.all(positive) else cast(Signal, shared(before))
    found: list[Signal] = []
    if np.any(positive):
        whole = cast(Signal, _then(before, operations)).times(positive)
        pooled = max_pooled(simplify.relu(whole), pooling)
        found.extend(_then(pooled, [part for part in after if part.permutes]).terms)
    if not np.all(positive):
        mask = np.broadcast_to(~positive, pooled_shape).reshape(signal.shape)
        rest = _largest(shared(before.times(~positive)), maximum)
        rest = _then(rest, [*after, Multiply(as_jax(mask, np.float32))])
        found.append(simplify.relu(rest))
    return _laid_out_as(signal, Sum.of(found))


def _moved_before(
    maximum: Maximum, after: Sequence[Operation], shape: Shape
) -> tuple[list[Operation], np.ndarray] | None:
    """Factors and constants after a max pooling as those before it, and which are positive.

    `shape` is that of the maxima. None where the constants differ within a window.
    """
    pooled_shape, moved, factors = shape, [], np.ones(())
    for part in after:
        if isinstance(part, Reshape):
            shape = part.shape
            continue
        if not isinstance(part, Multiply | Shift):
            return None
        values = np.asarray(part.factor if isinstance(part, Multiply) else part.constant)
        values = without_repeats(np.broadcast_to(values, shape).reshape(pooled_shape))
        sizes = zip(values.shape, maximum.window, maximum.shape)
        if any(n != 1 and (window != 1 or n != size) for n, window, size in sizes):
            return None
        if isinstance(part, Shift):
            moved.append(Shift(as_jax(values), maximum.shape))
        else:
            moved.append(Multiply(as_jax(values)))
            factors = factors * values
    return moved, np.asarray(factors > 0)


def _largest(value: Signal | Sum, maximum: Maximum) -> Signal | Sum:
    """The maxima over windows, one axis after the other, by max(a, b) = b + relu(a - b)."""
    shape = list(maximum.shape)
    windows = zip(maximum.window, maximum.strides, maximum.padding)
    for axis, (window, stride, (low, high)) in enumerate(windows):
        if max(low, high) >= window:
            raise ReadingError("a window has nothing but padding, of which there is no maximum.")
        size = shape[axis]
        starts = np.arange(0, size + low + high - window + 1, stride) - low
        numbers = np.arange(prod(shape)).reshape(shape)
        # A place in the padding is replaced by the nearest of the same window.
        places = [numbers.take(np.clip(starts + n, 0, size - 1), axis) for n in range(window)]
        if window > 1 or stride > 1:
            before = tuple(shape)
            parts = [_then(value, [Select(Places(chosen), before)]) for chosen in places]
            value, shape[axis] = _largest_of(parts), len(starts)
    return value


def _largest_of(parts: Sequence[Signal | Sum]) -> Signal | Sum:
    """The largest of several values, of which each two are compared, and then the larger ones."""
    if len(parts) == 1:
        return parts[0]
    half = len(parts) // 2
    one, other = _largest_of(parts[:half]), _largest_of(parts[half:])
    difference = Sum.of([*one.terms, *other.times(-1.0).terms])
    return Sum.of([*simplify.relu(difference).terms, *other.terms])


def _then(value: Signal | Sum, operations: Sequence[Operation]) -> Signal | Sum:
    """The value after linear operations and shifts of what is stored."""
    for operation in operations:
        first, *others = value.terms
        if not isinstance(operation, Shift):
            others = [term.then(operation) for term in others]
        terms = (first.then(operation), *others)
        value = Sum(terms) if others else terms[0]
    return value


def _laid_out_as(signal: Signal, value: Signal | Sum) -> Signal | Sum:
    """The value with the axes and the copies that the model sees in a signal."""
    terms = [replace(term, axes=signal.axes, copies=signal.copies) for term in value.terms]
    return terms[0] if len(terms) == 1 else Sum(tuple(terms))
