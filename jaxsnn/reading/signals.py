"""The values of the interpreter that depend on the images, and the operations that lead to them.

Such a value is a `Signal`, what one layer sends through a chain of operations, or a `Sum` of
several. Transposes and broadcasts of the model are lazy: the signal records them, and most are
merged into a later product or sum, so that they need no operation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from math import prod
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxsnn.network import (
    INPUT,
    AveragePooling,
    Dense,
    Layer,
    MaxPooling,
    Multiply,
    Operation,
    Reshape,
    Select,
    Shape,
    Transpose,
)
from jaxsnn.network.operations import Places
from jaxsnn.reading.errors import ReadingError
from jaxsnn.reading.origins import Origin
from jaxsnn.reading.tracing import TRACED_BATCH
from jaxsnn.support.arrays import AnyArray, as_jax, static_field
from jaxsnn.support.digests import digest

Pairs = tuple[tuple[int, int], ...]  # padding below and above, for each feature axis
Factors = np.ndarray | None


@dataclass
class Graph:
    """The layers that were read so far, in order; equal layers are one."""

    layers: list[Layer]
    places: dict[Any, int]

    def add(self, layer: Layer) -> int:
        """The index of a layer, which is new if there is none that is equal."""
        key = jax.tree.structure(layer), *map(digest, jax.tree.leaves(layer))
        if key not in self.places:
            self.places[key] = len(self.layers)
            self.layers.append(layer)
        return self.places[key]


@dataclass(frozen=True, eq=False)
class Sum:
    """A sum of signals, of one shape in the model."""

    terms: tuple[Signal, ...]

    @classmethod
    def of(cls, terms: Sequence[Signal]) -> Signal | Sum:
        """The sum of signals, which JAX broadcasts to each other; multiples of one are one."""
        shape = np.broadcast_shapes(*(term.model_shape for term in terms))
        found: list[tuple[Signal, float, Any]] = []
        for term in (term.broadcast_to(shape) for term in terms):
            base, factor, shift = term.affine()
            for place, (other, so_far, before) in enumerate(found):
                if base.same_as(other):
                    found[place] = other, so_far + factor, before + shift
                    break
            else:
                found.append((base, factor, shift))
        whole = tuple(base.times(factor).shifted(shift) for base, factor, shift in found)
        return whole[0] if len(whole) == 1 else cls(whole)

    @property
    def graph(self) -> Graph:
        """The layers that were read so far."""
        return self.terms[0].graph

    @property
    def model_shape(self) -> Shape:
        """The shape that the model sees, with the batch."""
        return self.terms[0].model_shape

    @property
    def line(self) -> str:
        """Source line of the last operation."""
        return self.terms[0].line

    @property
    def name(self) -> str:
        """Where the operations of the first term that has any stand in the user's model."""
        return next((term.source for term in self.terms if term.source), self.line)

    def with_origin(self, origin: Origin, before: Any) -> Sum:
        """The sum with the origin of the operation that made it."""
        del before
        return Sum(tuple(replace(term, line=origin.line) for term in self.terms))

    def broadcast_to(self, shape: Sequence[int]) -> Sum:
        """The sum as JAX broadcasts it against this shape."""
        return Sum(tuple(term.broadcast_to(shape) for term in self.terms))

    def plus(self, constant: ArrayLike) -> Signal | Sum:
        """The sum with a constant."""
        first, *others = self.terms
        shape = np.broadcast_shapes(self.model_shape, np.shape(constant))
        return Sum(tuple(term.broadcast_to(shape) for term in (first.plus(constant), *others)))

    def times(self, factor: ArrayLike) -> Sum:
        """The product with a constant."""
        return Sum(tuple(term.times(factor) for term in self.terms))


@dataclass(frozen=True, eq=False)
class Signal:
    """A value that depends on the images: the layers before it, and the operations since the last.

    The features are stored with their axes in another order than the model's, and what the model
    copies by broadcasting is stored once:

        model     [B, 3, 5, 4]     x.transpose(0, 2, 1)[:, :, None] * jnp.ones((5, 1))
        stored    [B, 4, 3, 1]     x[..., None]
        axes      (0, 2, 3, 1)     where the model's axes are stored
        copies    (None, None, ones(5))

    Attributes:
        graph: the layers that were read so far.
        layer: the index of the layer that sends the signal, or `INPUT`.
        operations: the operations since that layer.
        shape: shape of the features as they are stored, without the batch, which is axis 0.
        copies: for each stored axis of the features None, or the factors of the copies along it:
            there the stored size is 1, and the model has as many values as there are factors.
        axes: `axes[i]` is the stored axis of the model's axis i.
        line: source line of the last operation.
        source: module and source line of the last operation that does more than permute.
    """

    graph: Graph
    layer: int
    operations: tuple[Operation, ...]
    shape: Shape
    copies: tuple[Factors, ...]
    axes: Shape
    line: str
    source: str = ""

    @classmethod
    def of_images(cls, shape: Shape) -> Signal:
        """The images themselves, of this shape, with a new graph."""
        return cls.stored(Graph([], {}), INPUT, (), shape, "the input")

    @classmethod
    def stored(
        cls,
        graph: Graph,
        layer: int,
        operations: tuple[Operation, ...],
        shape: Shape,
        line: str,
        source: str = "",
    ) -> Signal:
        """A signal that is stored as the model has it: in its order, without copies."""
        axes = tuple(range(len(shape) + 1))
        return cls(graph, layer, operations, shape, (None,) * len(shape), axes, line, source)

    @property
    def model_shape(self) -> Shape:
        """The shape that the model sees, with the batch."""
        sizes = [n if c is None else len(c) for n, c in zip(self.shape, self.copies, strict=True)]
        return tuple((TRACED_BATCH, *sizes)[axis] for axis in self.axes)

    @property
    def terms(self) -> tuple[Signal, ...]:
        """The signal itself, as the only term of a sum."""
        return (self,)

    @property
    def name(self) -> str:
        """Where the operations stand in the user's model."""
        return self.source or self.line

    def with_origin(self, origin: Origin, before: Any) -> Signal:
        """The signal with the origin of the operation that made it from the value before."""
        last, earlier = _last_linear(self.operations), _last_linear(before.terms[-1].operations)
        changed = last is not None and last is not earlier
        return replace(self, line=origin.line, source=str(origin) if changed else self.source)

    # -- One more operation --

    def then(self, operation: Operation, copies: tuple[Factors, ...] | None = None) -> Signal:
        """The signal after an operation on the stored features; the model sees what it returns.

        `copies` are those of the result; without them the signal must have none.
        """
        assert copies is not None or all(factors is None for factors in self.copies)
        shape = operation.output_shape(self.shape)
        return replace(
            self,
            operations=(*self.with_padding_made().operations, operation),
            shape=shape,
            copies=copies or (None,) * len(shape),
            axes=tuple(range(len(shape) + 1)),
        )

    def with_padding_made(self) -> Signal:
        """The signal with the explicit padding that it ends with as an operation of its own.

        Only convolutions and poolings can take it up.
        """
        before, padding = self.without_padding()
        if before is self:
            return self
        numbers = np.arange(prod(before.shape)).reshape(before.shape)
        places = Select(Places(np.pad(numbers, padding, constant_values=-1)), before.shape)
        return replace(self, operations=(*before.operations, places))

    def without_padding(self) -> tuple[Signal, Pairs]:
        """The signal before the explicit padding that it ends with, and that padding."""
        *rest, last = self.operations or (None,)
        if not isinstance(last, Padding):
            return self, ((0, 0),) * len(self.shape)
        return replace(self, operations=tuple(rest), shape=last.shape), last.padding

    # -- Max poolings --

    @property
    def awaits_relu(self) -> bool:
        """Whether there is a max pooling whose ReLU has not been read yet."""
        return any(isinstance(operation, Maximum) for operation in self.operations)

    def around_maximum(self) -> tuple[Signal, Maximum, tuple[Operation, ...]]:
        """The signal before its max pooling, the pooling, and the operations after it."""
        place = next(n for n, part in enumerate(self.operations) if isinstance(part, Maximum))
        maximum = cast(Maximum, self.operations[place])
        before = Signal.stored(
            *(self.graph, self.layer, self.operations[:place], maximum.shape),
            *(self.line, self.source),
        )
        return before, maximum, self.operations[place + 1 :]

    # -- The order of the axes --

    def transposed(self, order: Shape) -> Signal:
        """The signal stored, and seen by the model, with its stored axes in this order."""
        if order == tuple(range(len(order))):
            return replace(self, axes=order)
        return self.then(Transpose(order), tuple(self.copies[axis - 1] for axis in order[1:]))

    def in_model_order(self) -> Signal:
        """The signal stored in the model's order, with the batch first."""
        if self.axes[0] != 0:
            batch = self.axes.index(0)
            raise ReadingError(f"the batch is on axis {batch} here; transpose it to the front.")
        return self.transposed(self.axes)

    def batch_first(self) -> Signal:
        """The features stored in the model's order, wherever the model has the batch."""
        stored = self.transposed((0, *(axis for axis in self.axes if axis != 0)))
        axes = [*range(1, len(self.axes))]
        axes.insert(self.axes.index(0), 0)
        return replace(stored, axes=tuple(axes))

    def in_model_form(self) -> Signal:
        """The signal stored exactly as the model has it: in its order, with all copies."""
        return self.in_model_order().with_copies_made().in_model_order()

    # -- Copies --

    @property
    def copies_differ(self) -> bool:
        """Whether copies are other than what is copied, multiplied by a factor."""
        return any(factors is not None and np.any(factors != 1) for factors in self.copies)

    def broadcast_to(self, shape: Sequence[int]) -> Signal:
        """The signal as JAX broadcasts it against this shape: axes of size 1 become copies."""
        shape = np.broadcast_shapes(self.model_shape, tuple(shape))
        copies = list(self.copies)
        for axis, old, new in zip(self.axes, self.model_shape, shape, strict=True):
            if old != new:
                copies[axis - 1] = np.ones(new)
        return replace(self, copies=tuple(copies))

    def with_copies_made(self) -> Signal:
        """The signal with all copies stored, by a dense operation from 1 value to its copies."""
        copied = {axis: f for axis, f in enumerate(self.copies, 1) if f is not None}
        if not copied:
            return self
        single = [axis for axis in range(1, len(self.axes)) if axis not in copied]
        order = (0, *single, *copied)
        stored = replace(self.transposed(order), copies=(None,) * len(self.shape))
        kernel = reduce(np.outer, copied.values()).reshape(1, -1)
        outer = stored.shape[: len(single)]
        broadcast = Broadcast(as_jax(kernel, jnp.result_type(float)))
        made = stored.stored_as((*outer, 1)).then(broadcast)
        made = made.stored_as((*outer, *map(len, copied.values())))
        return replace(made, axes=tuple(order.index(axis) for axis in self.axes))

    # -- The shape --

    def stored_as(self, shape: Shape) -> Signal:
        """The signal with its stored features in another shape."""
        return self if shape == self.shape else self.then(Reshape(shape))

    def reshaped(self, shape: Sequence[int]) -> Signal:
        """The signal in another shape of the model, of which the batch must stay an axis."""
        old, shape = self.model_shape, tuple(shape)
        if shape == old:
            return self
        if [n for n in shape if n != 1] == [n for n in old if n != 1]:
            return self._with_unit_axes(shape)
        signal = self.in_model_form()
        if shape[0] != TRACED_BATCH:
            raise ReadingError(
                "the batch must stay the first axis, as in x.reshape(x.shape[0], -1). (A "
                "convolution merges it with further axes, such as time: read the model for a "
                "single frame, or use a kernel for all axes, such as (1, 3, 3).)"
            )
        return signal.stored_as(shape[1:])

    def _with_unit_axes(self, shape: Shape) -> Signal:
        """The signal with axes of size 1 inserted or removed, as in the model's new shape."""
        longer = iter(axis for axis, n in zip(self.axes, self.model_shape, strict=True) if n != 1)
        # The axis that is now stored for each axis of the model; None for those of size 1.
        stored = [next(longer) if n != 1 else None for n in shape]
        order, kept = stored, [axis for axis in stored if axis is not None]
        if stored[0] != 0 or kept != sorted(kept):
            order = [*sorted(kept), *(axis for axis in stored if axis is None)]
        sizes = tuple(1 if axis is None else self.shape[axis - 1] for axis in order[1:])
        copies = tuple(None if axis is None else self.copies[axis - 1] for axis in order[1:])
        units = iter(new for new, axis in enumerate(order) if axis is None)
        axes = tuple(next(units) if axis is None else order.index(axis) for axis in stored)
        signal = self if sizes == self.shape else self.then(Reshape(sizes), copies)
        return replace(signal, axes=axes, copies=copies)

    # -- Multiples --

    def affine(self) -> tuple[Signal, float, Any]:
        """The signal as base·factor + shift, with the shift for the features as they are stored."""
        known = len(self.operations)
        while known and _is_affine(self.operations[known - 1]):
            known -= 1
        factor, shift = 1.0, cast(Any, 0.0)
        for operation in self.operations[known:]:
            if isinstance(operation, Shift):
                shift = shift + np.asarray(operation.constant, np.float64)
            elif isinstance(operation, Multiply):
                number = float(operation.factor)
                factor, shift = factor * number, shift * number
        return replace(self, operations=self.operations[:known]), factor, shift

    def shifted(self, shift: ArrayLike) -> Signal:
        """The signal plus a constant for the features as they are stored."""
        if not np.any(shift):
            return self
        constant = as_jax(shift, jnp.result_type(float))
        return replace(self, operations=(*self.operations, Shift(constant, self.shape)))

    def same_as(self, other: Signal) -> bool:
        """Whether two signals come from one layer through the same operations."""
        copies = zip(self.copies, other.copies, strict=False)
        return (
            self.graph is other.graph
            and (self.layer, self.axes, self.shape) == (other.layer, other.axes, other.shape)
            and len(self.operations) == len(other.operations)
            and all(a is b for a, b in zip(self.operations, other.operations))
            and all(
                a is b or (a is not None and b is not None and np.array_equal(a, b))
                for a, b in copies
            )
        )

    # -- Addition and multiplication by constants --

    def plus(self, constant: ArrayLike) -> Signal:
        """The sum with a constant."""
        signal = self.broadcast_to(np.shape(constant))
        smallest = signal._in_stored_order(constant)
        if not np.any(smallest):
            return signal
        copied = [(axis, f) for axis, f in enumerate(signal.copies) if f is not None]
        if any(smallest.shape[axis] != 1 or np.any(factors != 1) for axis, factors in copied):
            return signal.with_copies_made().plus(constant)
        return signal.with_padding_made().shifted(smallest)

    def times(self, factor: ArrayLike) -> Signal:
        """The product with a constant."""
        signal = self.broadcast_to(np.shape(factor))
        smallest = signal._in_stored_order(factor)
        varying = [axis for axis, n in enumerate(smallest.shape) if n != 1]
        if any(signal.copies[axis] is not None for axis in varying):
            axis, *others = varying
            factors = signal.copies[axis]
            if others or factors is None:
                return signal.with_copies_made().times(factor)
            return signal.with_factors(axis, factors * smallest.reshape(-1))
        smallest = smallest.reshape(()) if smallest.size == 1 else smallest
        signal = signal.with_padding_made()
        *rest, last = signal.operations or (None,)
        if isinstance(last, WindowSum):
            return replace(signal, operations=(*rest, *last.divided(smallest)))
        if np.all(smallest == 1):
            return signal
        return replace(signal, operations=(*signal.operations, Multiply(as_jax(smallest))))

    def _in_stored_order(self, factor: ArrayLike) -> np.ndarray:
        """A constant for the stored features, of size 1 along the axes where it does not vary."""
        everywhere = np.broadcast_to(np.asarray(factor), self.model_shape)
        smallest = without_repeats(everywhere.transpose(np.argsort(self.axes)))
        if smallest.shape[0] != 1:
            raise ReadingError("the constant differs between the images of a batch.")
        return np.asarray(smallest[0], jnp.result_type(float))

    def with_factors(self, axis: int, factors: Factors) -> Signal:
        """The signal with other factors of the copies along one of its stored axes of features."""
        return replace(self, copies=(*self.copies[:axis], factors, *self.copies[axis + 1 :]))


@dataclass(frozen=True, eq=False)
class Mask:
    """1 where a value is positive (or not negative, which makes no difference), else 0."""

    value: Any
    line: str = ""

    @property
    def terms(self) -> tuple[Signal, ...]:
        """The terms of the value that is compared with 0."""
        return self.value.terms

    def with_origin(self, origin: Origin, before: Any) -> Mask:
        """The mask with the line of its comparison."""
        del before
        return replace(self, line=origin.line)


def without_repeats(values: np.ndarray) -> np.ndarray:
    """The values with size 1 along the axes where they do not vary."""
    for axis in range(values.ndim):
        first = values.take([0], axis)
        if np.array_equal(np.broadcast_to(first, values.shape), values):
            values = first
    return values


def _is_affine(operation: Operation) -> bool:
    """Whether an operation adds a constant or multiplies by a number."""
    if isinstance(operation, Multiply):
        return np.ndim(operation.factor) == 0
    return isinstance(operation, Shift)


def _last_linear(operations: tuple[Operation, ...]) -> Operation | None:
    """The last operation that does more than permute."""
    linear = (part for part in reversed(operations) if not isinstance(part, Shift))
    return next((part for part in linear if not part.permutes), None)


# -- Operations whose reading is not finished ------------------------------------------------------


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Broadcast(Dense):
    """The dense operation from 1 value to its copies; it joins the dense operation before it."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Shift(Operation):
    """A constant that is added, until the layer's bias has been computed from it."""

    constant: AnyArray  # broadcasting to the features
    shape: Shape = static_field()  # of the features

    def __call__(self, x: jax.Array) -> jax.Array:
        return x + self.constant


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Padding(Operation):
    """Explicit zero padding, until the convolution or pooling that it belongs to has been read."""

    shape: Shape = static_field()  # without it
    padding: Pairs = static_field()

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.pad(x, ((0, 0), *self.padding))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Maximum(MaxPooling):
    """A max pooling before its ReLU, until that has been read."""

    shape: Shape = static_field()  # of the inputs


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class WindowSum(Operation):
    """The sums of an average pooling, until their division has been read."""

    pooling: AveragePooling
    shape: Shape = static_field()  # of the inputs

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.pooling.sum(x)

    def divided(self, factor: np.ndarray) -> tuple[Operation, ...]:
        """The pooling whose sums are multiplied by this factor."""
        if factor.ndim:
            counts = np.asarray(self.pooling.counts(self.shape))
            if np.allclose(factor * counts, 1.0, rtol=1e-6, atol=0.0):
                return (replace(self.pooling, count_padding=False),)
        return (self.pooling, Multiply(as_jax(factor * prod(self.pooling.window))))
