"""Linear operations: what each computes, and the facts that other modules ask of it.

To add one, write a class here or elsewhere, and register how the engines compute it:
`jaxsnn.engines.scan.lowering.compiled_operation` and, as a sparse matrix,
`jaxsnn.engines.events.runs.matrix_of`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array

from jaxsnn.support.arrays import AnyArray, Shape, static_field

# The default of GPUs and TPUs rounds weights in products to 10 or 7 bits.
FULL_PRECISION: dict[str, Any] = {"precision": lax.Precision.HIGHEST}


class Channels(NamedTuple):
    """The axes along which the channels of an operation with weights lie, or None.

    Attributes:
        weights_in: axis of the weights along the input channels; None where inputs of a channel
            share no weights.
        inputs: axis of the inputs, without the batch axis.
        weights_out: axis of the weights along the output channels; None where there is none.
        outputs: axis of the outputs, without the batch axis.
    """

    weights_in: int | None = None
    inputs: int = -1
    weights_out: int | None = None
    outputs: int = -1


class Operation:
    """A linear map of a batch `[B, ...]`, always keeping the batch axis first.

    A *weighted* operation has exactly one leaf, its weights; the others have none. So
    `jax.tree.map` gives the same operation with other weights. Of the others, those that *permute*
    give each input to one output; the rest divide sums of inputs by `divisors`.
    """

    weighted: ClassVar[bool] = False
    permutes: ClassVar[bool] = False

    @property
    def channels(self) -> Channels:
        """The axes of its channels, for an operation with weights."""
        return Channels()

    def __call__(self, x: Array) -> Array:
        """Return the operation's value for a batch."""
        raise NotImplementedError

    def product(self, x: Array, weights: Array, **how: Any) -> Array:
        """The operation with other weights, and with options of the product that it is."""
        raise TypeError(f"{self} has no weights to multiply with.")

    def output_shape(self, shape: Shape) -> Shape:
        """The shape of the output for inputs of a shape, both without the batch axis."""
        leaves, tree = jax.tree.flatten(self)
        one, *weights = (
            jax.ShapeDtypeStruct(size, jnp.float32)
            for size in ((1, *shape), *map(jnp.shape, leaves))
        )
        return jax.eval_shape(lambda w, x: jax.tree.unflatten(tree, w)(x), weights, one).shape[1:]

    def sum_inputs(self, weights: AnyArray) -> AnyArray:
        """Sum weights like those of the operation over the inputs of each output."""
        raise TypeError(f"{self} has no weights to sum.")

    def over_inputs(self, values: np.ndarray) -> np.ndarray | None:
        """Values of the input channels as they broadcast to the weights; None if they cannot."""
        along, (weights,) = self.channels.weights_in, jax.tree.leaves(self)
        if along is None:
            return None
        return values.reshape([-1 if axis == along else 1 for axis in range(np.ndim(weights))])

    def sum(self, x: Array) -> Array:
        """Without weights: the sum of the inputs of each output, before any division."""
        return self(x)

    def paths(self, x: Array) -> Array:
        """As the operation, with 1 in the place of each weight that is not zero, and no division.

        For inputs of 1 it counts the synapses of each output; its gradient, those of each input.
        """
        if not self.weighted:
            return self.sum(x)
        return jax.tree.map(lambda w: (w != 0).astype(x.dtype), self)(x)

    def permute(self, values: np.ndarray) -> np.ndarray:
        """Values of neurons in the order that the operation gives them; a scalar stays as it is."""
        if not self.permutes:
            raise TypeError(f"{self} does not permute its inputs.")
        if values.ndim == 0:
            return values
        numbers = self(jnp.arange(values.size, dtype=jnp.int32).reshape(1, *values.shape))
        return values.reshape(-1)[np.asarray(numbers)[0]]


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Dense(Operation):
    """y[..., j] = Σᵢ x[..., i] · kernel[i, j]."""

    kernel: AnyArray  # [in, out]
    weighted: ClassVar[bool] = True

    @property
    def channels(self) -> Channels:
        return Channels(weights_in=0, weights_out=1)

    def __call__(self, x: Array) -> Array:
        return self.product(x, self.kernel, **FULL_PRECISION)

    def product(self, x: Array, weights: Array, **how: Any) -> Array:
        """The operation with another kernel, and with options of `jax.numpy.matmul`."""
        return jnp.matmul(x, weights, **how)

    def sum_inputs(self, weights: AnyArray) -> AnyArray:
        """Sum over the inputs of each output."""
        return weights.sum(0)

    def __str__(self) -> str:
        return "Dense {} → {}".format(*self.kernel.shape)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Convolution(Operation):
    """`jax.lax.conv_general_dilated` in the layout of the model it was read from."""

    kernel: AnyArray  # the axes as dimension_numbers say
    strides: Shape = static_field()
    padding: tuple[tuple[int, int], ...] = static_field()
    input_dilation: Shape = static_field()
    kernel_dilation: Shape = static_field()
    groups: int = static_field()
    dimension_numbers: lax.ConvDimensionNumbers = static_field()
    weighted: ClassVar[bool] = True

    @property
    def channels(self) -> Channels:
        image, kernel, out = self.dimension_numbers
        shared = kernel[1] if self.groups == 1 else None  # groups share no weights
        return Channels(shared, image[1] - 1, kernel[0], out[1] - 1)

    def __call__(self, x: Array) -> Array:
        return self.product(x, self.kernel, **FULL_PRECISION)

    def product(self, x: Array, weights: Array, **how: Any) -> Array:
        """The operation with another kernel, and with options of the convolution."""
        padding, dilation = self.padding, self.input_dilation
        if min(map(min, padding), default=0) < 0:
            # XLA's convolution on CPUs computes wrong values where a padding is negative: it crops.
            edges = dict(zip(self.dimension_numbers.lhs_spec[2:], zip(padding, dilation)))
            sides = (edges.get(axis, ((0, 0), 1)) for axis in range(x.ndim))
            x = lax.pad(x, jnp.zeros((), x.dtype), [(*pad, step - 1) for pad, step in sides])
            padding, dilation = [(0, 0)] * len(padding), (1,) * len(padding)
        return lax.conv_general_dilated(
            x,
            weights,
            self.strides,
            padding,
            dilation,
            self.kernel_dilation,
            self.dimension_numbers,
            self.groups,
            **how,
        )

    def sum_inputs(self, weights: AnyArray) -> AnyArray:
        """Sum over the whole kernel of each output map."""
        maps = self.dimension_numbers.rhs_spec[0]
        return weights.sum(tuple(axis for axis in range(weights.ndim) if axis != maps))

    def over_inputs(self, values: np.ndarray) -> np.ndarray | None:
        """Values of the input channels as they broadcast to the weights, of groups too."""
        if self.groups == 1:
            return super().over_inputs(values)
        maps, channels = self.dimension_numbers.rhs_spec[:2]
        of_groups = values.reshape(self.groups, -1)
        spread = of_groups.repeat(self.kernel.shape[maps] // self.groups, 0)  # [maps, channels]
        axes = [axis for axis in range(self.kernel.ndim) if axis not in (maps, channels)]
        ordered = spread if maps < channels else spread.T
        return np.expand_dims(ordered, axes)

    def __str__(self) -> str:
        maps, _, *window = (self.kernel.shape[axis] for axis in self.dimension_numbers.rhs_spec)
        return f"Convolution {'x'.join(map(str, window))}, {maps} maps"


def _for_batch(factor: AnyArray, axes: int) -> AnyArray:
    """A factor of features with as many axes as a batch of them."""
    rank = jnp.ndim(factor)
    return factor if rank in (0, axes) else factor.reshape((1,) * (axes - rank) + factor.shape)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Multiply(Operation):
    """y = x · factor: one synapse from each input to its own neuron."""

    factor: AnyArray  # [] or broadcasting to the features
    weighted: ClassVar[bool] = True

    def __call__(self, x: Array) -> Array:
        return self.product(x, self.factor)

    def product(self, x: Array, weights: Array, **how: Any) -> Array:
        """The operation with another factor; there is but one way to multiply two numbers."""
        del how
        return x * _for_batch(weights, x.ndim)

    def sum_inputs(self, weights: AnyArray) -> AnyArray:
        """Each output has one input."""
        return weights

    def __str__(self) -> str:
        return "Multiply"


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Gain(Operation):
    """y = x · factor in integers, which puts several connections on one grid and is no synapse."""

    factor: AnyArray  # [] or broadcasting to the features

    def __call__(self, x: Array) -> Array:
        return x * _for_batch(self.factor, x.ndim)

    def sum(self, x: Array) -> Array:
        """Each output has one input."""
        return x

    def __str__(self) -> str:
        return "Gain"


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class AveragePooling(Operation):
    """Mean over windows; `window`, `strides` and `padding` have one entry for each feature axis.

    With `count_padding` the mean divides by the size of the window, otherwise by the number of
    inputs that the window really covers.
    """

    window: Shape = static_field()
    strides: Shape = static_field()
    padding: tuple[tuple[int, int], ...] = static_field()
    count_padding: bool = static_field()

    def __call__(self, x: Array) -> Array:
        if self.count_padding:
            return self.sum(x) / prod(self.window)
        return self.sum(x) / self.counts(x.shape[1:], x.dtype)

    def divisors(self, shape: Shape) -> np.ndarray:
        """What the sum of each window is divided by, for inputs of this shape."""
        counts = np.asarray(self.counts(shape), np.int64)[0]
        return np.full_like(counts, prod(self.window)) if self.count_padding else counts

    def sum(self, x: Array) -> Array:
        """Sum over each window."""
        return self.reduce(x, 0, lax.add)

    def reduce(self, x: Array, start: float, over: Callable[[Any, Any], Any]) -> Array:
        """Reduce each window with a function of two numbers."""
        return lax.reduce_window(
            x,
            np.asarray(start, x.dtype)[()],
            over,
            (1, *self.window),
            (1, *self.strides),
            ((0, 0), *self.padding),
        )

    def counts(self, shape: Shape, dtype: DTypeLike = float) -> Array:
        """How many inputs each window covers, for inputs of this shape."""
        return self.sum(jnp.ones((1, *shape), dtype))

    def __str__(self) -> str:
        return f"AveragePooling {'x'.join(str(size) for size in self.window if size > 1)}"


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MaxPooling(Operation):
    """Maximum over windows of values that are not negative, the only operation of its layer.

    It is not linear: a spiking network takes it of the numbers of spikes that were sent so far.
    """

    window: Shape = static_field()
    strides: Shape = static_field()
    padding: tuple[tuple[int, int], ...] = static_field()

    def __call__(self, x: Array) -> Array:
        # Padded by hand: JAX knows the gradient of maxima that begin with the lowest number alone.
        sides = [(0, 0, 0), *((low, high, 0) for low, high in self.padding)]
        padded = lax.pad(x, jnp.zeros((), x.dtype), sides)
        floating = jnp.issubdtype(x.dtype, jnp.floating)
        lowest = -np.inf if floating else np.iinfo(x.dtype).min
        return lax.reduce_window(
            padded,
            np.asarray(lowest, x.dtype)[()],
            lax.max,
            (1, *self.window),
            (1, *self.strides),
            "VALID",
        )

    def __str__(self) -> str:
        return f"MaxPooling {'x'.join(str(size) for size in self.window if size > 1)}"


class Places:
    """An array of integers that can be compared and hashed, for fields of the structure."""

    values: np.ndarray

    def __init__(self, values: np.ndarray):
        self.values = np.ascontiguousarray(values, np.int32)
        self._key = self.values.shape, self.values.tobytes()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Places) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        return f"Places{self.values.shape}"


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Select(Operation):
    """Features chosen by their places, such as slices, padded and concatenated parts.

    Attributes:
        places: for each value of the output its place among the inputs in row-major order, or -1
            where it is 0.
        shape: shape of the inputs, without the batch axis.
    """

    places: Places = static_field()
    shape: Shape = static_field()

    def __call__(self, x: Array) -> Array:
        places = self.places.values
        flat = x.reshape(x.shape[0], -1)
        if flat.shape[1] != prod(self.shape) or places.max(initial=-1) >= flat.shape[1]:
            raise ValueError(
                f"{self} has inputs of shape {x.shape[1:]}, but is for {self.shape}, with places "
                f"up to {places.max(initial=-1)}."
            )
        zero = jnp.zeros((len(flat), 1), x.dtype)
        padded = jnp.concatenate([flat, zero], 1) if places.min(initial=0) < 0 else flat
        chosen = np.where(places.ravel() < 0, flat.shape[1], places.ravel())
        return jnp.take(padded, chosen, axis=1).reshape(len(flat), *places.shape)

    def __str__(self) -> str:
        return f"Select {self.places.values.shape}"


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Reshape(Operation):
    """Features reshaped in row-major order, such as flatten."""

    shape: Shape = static_field()

    permutes: ClassVar[bool] = True

    def __call__(self, x: AnyArray) -> AnyArray:
        return x.reshape(x.shape[0], *self.shape)

    def __str__(self) -> str:
        return f"Reshape to {self.shape}"


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Transpose(Operation):
    """Axes reordered as by `jax.numpy.transpose`; the first stays the batch."""

    axes: Shape = static_field()

    permutes: ClassVar[bool] = True

    def __call__(self, x: AnyArray) -> AnyArray:
        return x.transpose(self.axes)

    def __str__(self) -> str:
        return f"Transpose {self.axes}"
