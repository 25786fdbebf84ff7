"""Primitives that move values: slices, splits, concatenations, and choices by known indices.

The values of an image are numbered; where the primitive moves the numbers, it moves the values.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from jaxsnn.network import Select
from jaxsnn.network.operations import Places
from jaxsnn.reading.errors import ReadingError
from jaxsnn.reading.signals import Signal, Sum
from jaxsnn.reading.tracing import TRACED_BATCH

MOVES = (
    *("slice", "rev", "gather", "concatenate", "stack", "split"),
    *("dynamic_slice", "dynamic_update_slice", "scatter"),
)


def moved(primitive: Any, params: dict, inputs: Sequence[Any]) -> list[Signal | Sum]:
    """The outputs of a primitive, each the sum of what it takes from its inputs.

    Args:
        primitive: the primitive.
        params: its parameters.
        inputs: signals and known arrays, of which those of integers are indices.
    """
    if primitive.name == "gather":
        params = {**params, "fill_value": 0}

    def outputs(arguments: Sequence[Any]) -> list[np.ndarray]:
        found = primitive.bind(*arguments, **params)
        return list(map(np.asarray, found if primitive.multiple_results else [found]))

    terms: list[list[Signal]] = []
    for place, value in enumerate(inputs):
        for term in value.terms if isinstance(value, Signal | Sum) else ():
            stored = term.in_model_form()
            numbers = np.arange(TRACED_BATCH * prod(stored.shape), dtype=np.int32) + 1
            zeros = [_zeros(x, np.int32) for x in inputs]
            zeros[place] = numbers.reshape(TRACED_BATCH, *stored.shape)
            terms.append([_selected(stored, array) for array in outputs(zeros)])
    sums: list[Any] = [Sum.of(of_output) for of_output in zip(*terms, strict=True)]
    if any(_is_constant(x) for x in inputs):
        # In one type, whatever that of the model is.
        values = [np.asarray(x, np.float32) if _is_constant(x) else x for x in inputs]
        constants = outputs([x if _is_constant(x) else _zeros(x, np.float32) for x in values])
        sums = [value.plus(constant) for value, constant in zip(sums, constants, strict=True)]
    return sums


def _is_constant(x: Any) -> bool:
    """Whether an input is known and no index."""
    return not isinstance(x, Signal | Sum) and np.asarray(x).dtype.kind not in "iub"


def _zeros(x: Any, dtype: Any) -> Any:
    """Zeros in the place of a signal or a constant; indices stay as they are."""
    if isinstance(x, Signal | Sum):
        return np.zeros(x.model_shape, dtype)
    return np.zeros(np.shape(x), dtype) if _is_constant(x) else x


def _selected(signal: Signal, numbers: np.ndarray) -> Signal:
    """The signal at the places that the numbers from 1 on say; 0 stands for the value 0."""
    size = prod(signal.shape)
    first = numbers[:1]
    images = np.arange(len(numbers)).reshape(-1, *[1] * (numbers.ndim - 1))
    alone = np.where(first > 0, first + size * images, 0)
    if len(numbers) != TRACED_BATCH or first.max(initial=0) > size or np.any(numbers != alone):
        raise ReadingError("the images of a batch are mixed with each other, or cut off, here.")
    places = first[0] - 1
    if np.array_equal(places.ravel(), np.arange(size)):
        return signal.stored_as(places.shape)
    return signal.then(Select(Places(places), signal.shape))
