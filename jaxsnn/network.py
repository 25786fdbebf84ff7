"""The network between the rooms: linear operations, each layer of them followed by a ReLU.

A `Network` is what the reader makes of a trained model, what the scale rules measure and what the
simulator runs. It is an immutable pytree whose leaves are the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float

from jaxsnn.typed import Images, Numbers, described, typed

Shape = tuple[int, ...]
if TYPE_CHECKING:
    AnyArray = Array
else:
    # A field of a pytree holds arrays of a device or of the host, and while JAX transforms it
    # whatever JAX puts there.
    AnyArray = Any


def static_field():
    """A field that belongs to the structure of the pytree and not to its leaves."""
    return field(metadata={"static": True})


_ROUNDING = 1e-6  # of pixels that are to be at most 1

# The default of GPUs and TPUs rounds weights in products to 10 or 7 bits.
FULL_PRECISION: dict[str, Any] = {"precision": lax.Precision.HIGHEST}


class Operation:
    """A linear map of a batch `[B, ...]`, always keeping the batch axis first.

    A *weighted* operation has exactly one leaf, its weights; the others (average pooling, reshape,
    transpose) have none. So `jax.tree.map` gives the same operation with other weights.
    """

    weighted: ClassVar[bool] = False

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


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Dense(Operation):
    """y[..., j] = Σᵢ x[..., i] · kernel[i, j]."""

    kernel: AnyArray  # [in, out]
    weighted: ClassVar[bool] = True

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

    def __str__(self) -> str:
        maps, _, *window = (self.kernel.shape[axis] for axis in self.dimension_numbers.rhs_spec)
        return f"Convolution {'x'.join(map(str, window))}, {maps} maps"


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
        return x * weights

    def sum_inputs(self, weights: AnyArray) -> AnyArray:
        """Each output has one input."""
        return weights

    def __str__(self) -> str:
        return "Multiply"


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
class Reshape(Operation):
    """Features reshaped in row-major order, such as flatten."""

    shape: Shape = static_field()

    def __call__(self, x: Array) -> Array:
        return x.reshape(x.shape[0], *self.shape)

    def __str__(self) -> str:
        return f"Reshape to {self.shape}"


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Transpose(Operation):
    """Axes reordered as by `jax.numpy.transpose`; the first stays the batch."""

    axes: Shape = static_field()

    def __call__(self, x: Array) -> Array:
        return x.transpose(self.axes)

    def __str__(self) -> str:
        return f"Transpose {self.axes}"


def moved(operation: Operation, values: np.ndarray) -> np.ndarray:
    """Values of neurons in the order that a reshape or transpose gives them."""
    if values.ndim == 0:
        return values
    places = operation(jnp.arange(values.size, dtype=jnp.int32).reshape(1, *values.shape))
    return values.reshape(-1)[np.asarray(places)[0]]


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Layer:
    """The linear operations in front of one ReLU, or of one layer of spiking neurons.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsnn.network import Dense, Layer
        >>> layer = Layer((Dense(jnp.array([[1.0], [2.0]])),))
        >>> layer(jnp.array([[1.0, 1.0]])).tolist(), layer.weighted, str(layer)
        ([[3.0]], True, 'Dense 2 → 1')
    """

    operations: tuple[Operation, ...]

    def __call__(self, x: Array) -> Array:
        for operation in self.operations:
            x = operation(x)
        return x

    @property
    def weighted(self) -> bool:
        """Whether the layer has weights; average poolings and reshapes alone have none."""
        return any(operation.weighted for operation in self.operations)

    @property
    def weights(self) -> list[Array]:
        """The weights of the layer's operations, in order."""
        return jax.tree.leaves(self)

    def times(self, factor: ArrayLike) -> Layer:
        """The layer with its first weights multiplied by a factor; without weights, as it is."""
        operations = list(self.operations)
        for index, operation in enumerate(operations):
            if operation.weighted:
                operations[index] = jax.tree.map(lambda w: (w * factor).astype(w.dtype), operation)
                break
        return Layer(tuple(operations))

    @property
    def kind(self) -> str:
        """The first operation that is more than another order of numbers: "Dense 784 → 1200"."""
        moves = (Reshape, Transpose)
        named = [str(part) for part in self.operations if not isinstance(part, moves)]
        return named[0] if named else str(self)

    def __str__(self) -> str:
        return ", ".join(map(str, self.operations))


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Network:
    """A bias-free ReLU network: layers of linear operations, each followed by a ReLU.

    Attributes:
        layers: the layers, in the order of the data.
        input_shape: shape of one image, such as (28, 28, 1).

    Example:
        >>> import jax, jax.numpy as jnp, jaxsnn
        >>> weights = jnp.array([[1.0, -1.0], [0.5, 2.0]])
        >>> network = jaxsnn.read_network(lambda x: jax.nn.relu(x @ weights), jnp.zeros((1, 2)))
        >>> network(jnp.array([[1.0, 0.25]])).tolist()
        [[1.125, 0.0]]
        >>> print(network)
        Network with inputs (2,)
          layer 1: Dense 2 → 2 → (2,)
    """

    layers: tuple[Layer, ...]
    input_shape: Shape = static_field()

    @typed
    def __call__(self, images: Images) -> Float[Array, "batch ..."]:
        """The outputs of the last ReLU, for a batch of images."""
        return self.activations(images)[-1]

    @typed
    def activations(self, images: Images) -> list[Float[Array, "batch ..."]]:
        """The outputs of every ReLU, one array for each layer."""
        x = jnp.asarray(self.check_images(images)).astype(self.dtype)
        activations = []
        for layer in self.layers:
            x = jnp.maximum(layer(x), 0)
            activations.append(x)
        return activations

    @property
    def dtype(self) -> jnp.dtype:
        """The floating-point type of the weights."""
        return jnp.result_type(jnp.float32, *jax.tree.leaves(self))

    @cached_property
    def shapes(self) -> list[Shape]:
        """Shape of the neurons of each layer, without the batch axis."""
        one, network = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), self.dtype),
            (np.zeros((1, *self.input_shape)), self),
        )
        return [a.shape[1:] for a in jax.eval_shape(lambda n, x: n.activations(x), network, one)]

    def check_images(self, images: ArrayLike) -> AnyArray:
        """Return the images as an array, or raise ValueError where their shape or type is wrong."""
        shape, dtype = np.shape(images), jnp.result_type(images)
        if not shape or shape[1:] != self.input_shape:
            raise ValueError(
                f"images have shape {shape}, but this network takes a batch of images of shape "
                f"{self.input_shape}: [B, {', '.join(map(str, self.input_shape))}]. "
                + _shape_advice(shape, self.input_shape)
            )
        if not jnp.issubdtype(dtype, jnp.floating):
            eight_bits = jnp.issubdtype(dtype, jnp.integer)
            advice = "divide 8-bit pixels by 255" if eight_bits else "images.astype(np.float32)"
            raise ValueError(
                f"images have dtype {dtype}, but pixels are floats in [0, 1]: {advice}."
            )
        return cast(AnyArray, images if isinstance(images, np.ndarray) else jnp.asarray(images))

    def check_pixels(self, images: ArrayLike) -> AnyArray:
        """As `check_images`; there must also be images, and pixels be numbers in [0, 1]."""
        checked = self.check_images(images)
        if len(checked) == 0:
            raise ValueError("there are no images; give at least one.")
        check_range(images)
        return checked

    def name(self, index: int) -> str:
        """What error messages call a layer: its number, counted from 1, and its operations."""
        return f"layer {index + 1} of {len(self.layers)} ({self.layers[index]})"

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        lines = [f"Network with inputs {self.input_shape}"]
        for number, (layer, shape) in enumerate(zip(self.layers, self.shapes, strict=True), 1):
            lines.append(f"  layer {number}: {layer} → {shape}")
        return "\n".join(lines)


def _shape_advice(shape: Shape, expected: Shape) -> str:
    """The likely cause of images of another shape than the network takes, and its remedy."""
    batch, found = shape[:1], shape[1:]
    if shape == expected:
        return "A single image needs a batch axis: images[None]."
    if expected[-1:] == (1,) and found == expected[:-1]:
        return "The axis of the channel is missing: images[..., None]."
    if expected[-1:] == (1,) and shape == expected[:-1]:
        return "A single image needs a batch axis and a channel: images[None, ..., None]."
    if len(found) == len(expected) > 1 and found == (expected[-1], *expected[:-1]):
        return "The channels come first here: np.moveaxis(images, 1, -1)."
    if batch and prod(found) == prod(expected):
        return f"They have as many pixels: images.reshape(-1, {', '.join(map(str, expected))})."
    if len(found) != len(expected):
        return f"They have {len(shape)} axes, not {len(expected) + 1}."
    axes = [axis for axis, (a, b) in enumerate(zip(found, expected), 1) if a != b]
    differing = ", ".join(f"axis {a} has {shape[a]} entries, not {expected[a - 1]}" for a in axes)
    advice = "resize or crop the images"
    if axes == [len(expected)] and len(expected) > 1:
        advice = "convert colour images to grey: images.mean(-1, keepdims=True)"
        if expected[-1] > 1:
            advice = f"the network takes {expected[-1]} channels"
    return f"{differing}: {advice}."


def check_range(images: ArrayLike) -> None:
    """Raise ValueError unless all pixels are in [0, 1], or exceed 1 by the rounding of float32."""
    if not holds(lambda pixels: (pixels >= 0) & (pixels <= 1 + _ROUNDING), images):
        raise ValueError(_range_advice(float(np.min(images)), float(np.max(images))))


def _range_advice(low: float, high: float) -> str:
    """What to do about pixels from `low` to `high`."""
    text = (
        f"pixels range from {low:.9g} to {high:.9g}; they must be numbers in [0, 1], since they "
        "stand for firing probabilities. "
    )
    if np.isnan(low):
        return "some pixels are nan; " + text.partition("; ")[2] + "Find out where nan comes from."
    if low < 0:
        return text + "Do not subtract a mean: (images - images.min()) / np.ptp(images)."
    return text + (
        f"Divide them by {255 if high <= 255 else high:g}; a model that divides its input itself "
        "must not do so twice: read_network(lambda x: model(255 * x), example)."
    )


def is_known(value: object) -> bool:
    """Whether a value can be looked at: under `jit`, `vmap` or `grad` it may be a tracer."""
    return not isinstance(value, Tracer)


def remembered(thing: Any, name: str, function: Callable[[Any], Any]) -> Any:
    """The value of a function of something immutable, computed once if its arrays are known."""
    if name in thing.__dict__:
        return thing.__dict__[name]
    if not all(map(is_known, jax.tree.leaves(thing))):
        return function(thing)
    with jax.ensure_compile_time_eval():
        thing.__dict__[name] = function(thing)
    return thing.__dict__[name]


def holds(condition: Callable[[Any], Any], value: ArrayLike) -> bool:
    """Whether a condition holds everywhere; a tracer passes, since nothing is known of it."""
    if not is_known(value):
        return True
    if isinstance(value, np.ndarray | np.generic | float | int):
        return bool(np.all(condition(value)))
    with jax.ensure_compile_time_eval():  # under jit, operations on known arrays are traced too
        return bool(jnp.all(condition(value)))


def per_layer(network: Network, values: Numbers, what: str) -> list[Array]:
    """One value for each layer: a scalar is that of all layers, a sequence has one entry for each.

    Raises:
        ValueError: the sequence has another length than the network has layers, or an entry is no
            real number, or an array that does not broadcast to its layer's neurons.
    """
    layers = len(network.layers)
    one_for_all = not isinstance(values, Sequence) and np.ndim(values) == 0
    entries: list[Any] = [values] * layers if one_for_all else list(cast(Any, values))
    if len(entries) != layers:
        raise ValueError(
            f"{what}: {len(entries)} values for {layers} layers; give one value for all layers, or "
            "one for each."
        )
    arrays = [_real(entry, what) for entry in entries]
    for index, (array, shape) in enumerate(zip(arrays, network.shapes, strict=True)):
        fits = len(array.shape) <= len(shape) and all(
            size in (1, neurons)
            for size, neurons in zip(array.shape[::-1], shape[::-1], strict=False)
        )
        if not fits:
            raise ValueError(
                f"{what}: {network.name(index)} has neurons of shape {shape}, to which a value of "
                f"shape {array.shape} does not broadcast."
            )
    return arrays


def _real(value: Any, what: str) -> Array:
    """A number or array as an array of floats."""
    unfit = isinstance(value, Sequence | np.ma.MaskedArray)
    dtype = np.dtype(object) if unfit else getattr(value, "dtype", None) or np.asarray(value).dtype
    if not any(jnp.issubdtype(dtype, kind) for kind in (jnp.floating, jnp.integer)):
        raise ValueError(
            f"{what}: {described(value)}; it must be a real number, or an array of them for the "
            "neurons of a layer."
        )
    return jnp.asarray(value, jnp.result_type(float, value))
