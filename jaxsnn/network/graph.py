"""The network that every stage shares: layers of ReLUs, and the linear operations between them.

A `Network` is what the reader makes of a trained model, what the scale rules measure and what the
engines simulate. It is an immutable pytree whose leaves are the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from math import inf, prod
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxsnn.network.operations import MaxPooling, Multiply, Operation
from jaxsnn.neurons import clip_floor
from jaxsnn.support.arrays import AnyArray, Shape, all_true, for_batches, is_known, static_field
from jaxsnn.support.typed import Images, Numbers, described, typed
from jaxsnn.support.warn import warn

# Sources of connections that are not numbers of layers.
INPUT = -1
LAYER_BEFORE = -2
_ROUNDING = 1e-6  # of pixels that are to be at most 1
_LIKE_BYTES = 64  # what pixels of other kinds hardly reach

Activation = Callable[[Array], Array]


def relu(x: Array) -> Array:
    """max(x, 0), for which integrate-and-fire neurons spike."""
    return jnp.maximum(x, 0)


def linear(x: Array) -> Array:
    """Keep x: outputs without a ReLU, such as logits, which accumulate and never spike."""
    return x


@dataclass(frozen=True)
class Capped:
    """min(max(x, 0), ceiling), such as ReLU6.

    Neurons whose threshold stands for the ceiling, or for less, compute it: they spike in every
    step at most.
    """

    ceiling: float

    def __call__(self, x: Array) -> Array:
        return jnp.clip(x, 0, jnp.asarray(self.ceiling, x.dtype))

    def __str__(self) -> str:
        return f"at most {self.ceiling:g}"


@dataclass(frozen=True)
class ClipFloor(Capped):
    """`neurons.clip_floor`: between 0 and the ceiling, rounded to so many levels above 0.

    Neurons compute it in as many steps if their threshold stands for the ceiling, and for nothing
    less: the model was trained for it.
    """

    levels: int

    def __call__(self, x: Array) -> Array:
        return clip_floor(x, self.ceiling, self.levels)

    def __str__(self) -> str:
        return f"{super().__str__()} in {self.levels} levels"


class Name(str):
    """Where a layer stands in the user's model; it does not tell compiled programs apart."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Name)

    def __hash__(self) -> int:
        return hash(Name)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Connection:
    """What leads from one layer to another: a chain of linear operations.

    Attributes:
        operations: the operations, in order; none is the identity.
        source: the index of the layer that sends, `INPUT`, or `LAYER_BEFORE`.
    """

    operations: tuple[Operation, ...]
    source: int = static_field(default=LAYER_BEFORE)

    def __call__(self, x: Array) -> Array:
        for operation in self.operations:
            x = operation(x)
        return x

    @property
    def weighted(self) -> bool:
        """Whether there are weights; average poolings and reshapes alone have none."""
        return any(operation.weighted for operation in self.operations)

    def times(self, factor: ArrayLike) -> Connection:
        """The connection multiplied by a factor, which goes into its first weights if it has any.

        Without weights, it becomes an operation.
        """
        operations = list(self.operations)
        for index, operation in enumerate(operations):
            if operation.weighted:
                operations[index] = jax.tree.map(lambda w: (w * factor).astype(w.dtype), operation)
                break
        else:
            operations.append(Multiply(jnp.asarray(factor)))
        return Connection(tuple(operations), self.source)

    @property
    def kind(self) -> str:
        """The first operation with weights, or that does more than permute: "Dense 784 → 1200"."""
        weighted = [operation for operation in self.operations if operation.weighted]
        named = weighted or [operation for operation in self.operations if not operation.permutes]
        return str(named[0]) if named else str(self)

    def __str__(self) -> str:
        return ", ".join(map(str, self.operations)) or "identity"


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Layer:
    """One layer of ReLUs or of spiking neurons, and what leads into it.

    Attributes:
        connections: its connections, whose sum the neurons receive; operations alone stand for
            one connection from the layer before.
        bias: a constant input of each neuron, broadcasting to them; None is none.
        activation: `relu`; `Capped` for one with a ceiling, or `ClipFloor`; or `linear` for a sum
            without neurons: the last layer of a model that returns logits, or a value that several
            layers read.
        name: where the layer stands in the user's model, if that is known.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsnn.network import Dense, Layer
        >>> layer = Layer((Dense(jnp.array([[1.0], [2.0]])),))
        >>> layer.connection(jnp.array([[1.0, 1.0]])).tolist(), layer.weighted, str(layer)
        ([[3.0]], True, 'Dense 2 → 1')
    """

    connections: tuple[Connection, ...] | tuple[Operation, ...]
    bias: AnyArray | None = None
    activation: Activation = static_field(default=relu)
    name: str = static_field(default=Name(""))

    def __post_init__(self) -> None:
        if not any(isinstance(part, Connection) for part in self.connections):
            operations = cast(tuple[Operation, ...], tuple(self.connections))
            object.__setattr__(self, "connections", (Connection(operations),))
        object.__setattr__(self, "name", Name(self.name))

    def received(self, values: Mapping[int, Array]) -> Array:
        """What the neurons receive, bias included, for the values of every source [B, ...]."""
        total = reduce(jnp.add, (part(values[part.source]) for part in self.all_connections))
        if self.bias is None:
            return total
        return total + for_batches(self.bias, total.shape[1:], total.dtype)

    @property
    def all_connections(self) -> tuple[Connection, ...]:
        """The connections, as which operations alone are understood, too."""
        return cast(tuple[Connection, ...], self.connections)

    @property
    def spiking(self) -> bool:
        """Whether the layer has neurons that spike, and is not a sum alone."""
        return self.activation is not linear

    @property
    def pools_maxima(self) -> bool:
        """Whether the layer is a max pooling, whose spikes follow from numbers of spikes."""
        parts = (operation for part in self.all_connections for operation in part.operations)
        return any(isinstance(operation, MaxPooling) for operation in parts)

    @property
    def ceiling(self) -> float:
        """The largest activation that the ReLU lets pass."""
        return self.activation.ceiling if isinstance(self.activation, Capped) else inf

    @property
    def scale_is_trained(self) -> bool:
        """Whether the ceiling is the scale factor that the layer was trained for."""
        return isinstance(self.activation, ClipFloor)

    @property
    def connection(self) -> Connection:
        """The only connection of the layer."""
        (connection,) = self.all_connections
        return connection

    @property
    def operations(self) -> tuple[Operation, ...]:
        """The operations of the only connection."""
        return self.connection.operations

    @property
    def weighted(self) -> bool:
        """Whether the layer has weights; average poolings and reshapes alone have none."""
        return any(connection.weighted for connection in self.all_connections)

    @property
    def weights(self) -> list[Array]:
        """The weights of the layer's operations, in order."""
        return jax.tree.leaves(self.connections)

    def with_operations(self, operations: Sequence[Operation]) -> Layer:
        """The layer with other operations on its only connection."""
        connection = Connection(tuple(operations), self.connection.source)
        return Layer((connection,), self.bias, self.activation, self.name)

    def with_bias(self, bias: AnyArray | None) -> Layer:
        """The layer with another bias."""
        return Layer(self.connections, bias, self.activation, self.name)

    def times(self, factor: ArrayLike) -> Layer:
        """The layer with the weights of each connection multiplied by a factor.

        The bias, and connections without weights, stay as they are.
        """
        connections = tuple(
            part.times(factor) if part.weighted else part for part in self.all_connections
        )
        return Layer(connections, self.bias, self.activation, self.name)

    @property
    def kind(self) -> str:
        """What its connections are: "Dense 784 → 1200", "Convolution 3x3, 16 maps + identity"."""
        return " + ".join(dict.fromkeys(connection.kind for connection in self.all_connections))

    def __str__(self) -> str:
        parts = [" + ".join(map(str, self.connections)), *["bias"] * (self.bias is not None)]
        if self.activation is not relu:
            parts.append("no ReLU" if self.activation is linear else str(self.activation))
        return ", ".join(parts)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Network:
    """A ReLU network: a graph of layers of linear operations, each followed by a ReLU.

    A layer receives the sum of what its connections bring from the input and from layers before.
    The last layer may be `linear` instead of a ReLU, and its outputs logits.

    Attributes:
        layers: the layers, each after all that it receives from.
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

    def __post_init__(self) -> None:
        # While JAX transforms a network, its fields may be anything.
        if isinstance(self.layers, tuple) and all(isinstance(part, Layer) for part in self.layers):
            layers = tuple(_placed(layer, index) for index, layer in enumerate(self.layers))
            object.__setattr__(self, "layers", layers)

    @typed
    def __call__(self, images: Images) -> Float[Array, "batch ..."]:
        """The outputs of the last layer, for a batch of images."""
        return self.activations(images)[-1]

    @typed
    def activations(self, images: Images) -> list[Float[Array, "batch ..."]]:
        """The outputs of every layer, one array for each."""
        values = {INPUT: jnp.asarray(self.check_images(images)).astype(self.dtype)}
        for index, layer in enumerate(self.layers):
            values[index] = layer.activation(layer.received(values))
        return list(values.values())[1:]

    def shape_of(self, source: int) -> Shape:
        """The shape of what a source sends, without the batch axis: a layer's, or the input's."""
        return self.input_shape if source == INPUT else self.shapes[source]

    def spikes_from(self, source: int) -> bool:
        """Whether a source is a layer that spikes, and not the input or a sum."""
        return source != INPUT and self.layers[source].spiking

    def is_a_sum(self, source: int) -> bool:
        """Whether a source is a layer without neurons that others read, and not the output."""
        return 0 <= source < len(self.layers) - 1 and not self.layers[source].spiking

    @cached_property
    def dtype(self) -> jnp.dtype:
        """The floating-point type of the weights."""
        leaves = (jnp.result_type(leaf) for leaf in jax.tree.leaves(self))
        floats = [dtype for dtype in leaves if jnp.issubdtype(dtype, jnp.floating)]
        return max([jnp.dtype(jnp.float32), *floats], key=lambda dtype: dtype.itemsize)

    @cached_property
    def shapes(self) -> list[Shape]:
        """Shape of the neurons of each layer, without the batch axis."""
        two, network = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), self.dtype),
            (np.zeros((2, *self.input_shape)), self),
        )
        found = jax.eval_shape(lambda n, x: n.activations(x), network, two)
        for index, values in enumerate(found):
            if values.shape[:1] != (2,):
                raise ValueError(f"{self.name(index)} does not keep the batch axis first.")
        return [values.shape[1:] for values in found]

    def check_images(self, images: ArrayLike) -> AnyArray:
        """Return the images as an array, or raise ValueError where their shape or type is wrong."""
        shape = np.shape(images)
        dtype = images.dtype if isinstance(images, np.ndarray) else jnp.result_type(images)
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
        checked = self._checked_batch(images)
        check_range(images)
        return checked

    def _checked_batch(self, images: ArrayLike) -> AnyArray:
        checked = self.check_images(images)
        if len(checked) == 0:
            raise ValueError("there are no images; give at least one.")
        return checked

    def check_finite(self, images: ArrayLike) -> AnyArray:
        """As `check_images`; there must also be images, and pixels be finite numbers."""
        checked = self._checked_batch(images)
        if not all_true(lambda pixels: abs(pixels) < np.inf, images):
            raise ValueError("some pixels are nan or infinite; find out where they come from.")
        return checked

    def images_on_host(self, images: ArrayLike) -> np.ndarray:
        """As `check_finite`, by NumPy; ValueError where JAX traces the images."""
        if not is_known(images):
            raise ValueError(
                "the images are traced, but must be known here: call this outside of jit, vmap and "
                "grad."
            )
        return np.asarray(self.check_finite(images))

    def name(self, index: int) -> str:
        """What error messages call a layer: its number, counted from 1, and its operations."""
        return f"layer {index + 1} of {len(self.layers)} ({self.layers[index]})"

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        lines = [f"Network with inputs {self.input_shape}"]
        for index, shape in enumerate(self.shapes):
            lines.append(f"  layer {index + 1}: {self._described(index)} → {shape}")
        return "\n".join(lines)

    def _described(self, index: int) -> str:
        """A layer as text, with the sources of its connections that are not the layer before."""
        layer, before = self.layers[index], index - 1 if index else INPUT
        parts = []
        for connection in layer.all_connections:
            source = "the input" if connection.source == INPUT else f"layer {connection.source + 1}"
            parts.append(f"{connection} of {source}" if connection.source != before else connection)
        text = " + ".join(map(str, parts))
        return str(layer).replace(" + ".join(map(str, layer.connections)), text, 1)


def _placed(layer: Layer, index: int) -> Layer:
    """The layer with the numbers of its sources, or ValueError for what a layer cannot be."""
    before = index - 1 if index else INPUT
    sources = [
        before if part.source == LAYER_BEFORE else part.source for part in layer.all_connections
    ]
    if not sources or not all(INPUT <= source < index for source in sources):
        names = ["the input" if s == INPUT else f"layer {s + 1}" for s in sources] or ["nothing"]
        raise ValueError(
            f"layer {index + 1} receives from {' and '.join(names)}; a layer receives from the "
            "input and from layers before it, at least from one of them."
        )
    if layer.activation not in (relu, linear) and not isinstance(layer.activation, Capped):
        raise ValueError(
            f"layer {index + 1} has the activation {described(layer.activation)}; it must be relu, "
            "linear, Capped(...) or ClipFloor(...)."
        )
    if layer.pools_maxima:
        alone = len(sources) == 1 and sources != [INPUT] and layer.activation is relu
        parts = [part for one in layer.all_connections for part in one.operations]
        if not alone or not all(part.permutes or isinstance(part, MaxPooling) for part in parts):
            raise ValueError(
                f"layer {index + 1} has a max pooling; it must be a layer of its own, after one of "
                "ReLUs, with reshapes and transposes alone beside it."
            )
    if layer.bias is not None and not layer.weighted:
        raise ValueError(
            f"layer {index + 1} has a bias and no weights, by which both are scaled; give it "
            "Multiply(jnp.ones(()))."
        )
    if sources == [part.source for part in layer.all_connections]:
        return layer
    placed = [Connection(p.operations, s) for p, s in zip(layer.all_connections, sources)]
    return Layer(tuple(placed), layer.bias, layer.activation, layer.name)


def needed_layers(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """The layers that the last one needs, with the numbers that their sources then have.

    Example:
        >>> from jaxsnn.network import INPUT, Connection, Layer, Reshape
        >>> from jaxsnn.network.graph import needed_layers
        >>> unused, last = (Layer((Connection((Reshape((4,)),), INPUT),)) for _ in range(2))
        >>> len(needed_layers([unused, last]))
        1
    """
    needed = {len(layers) - 1}
    for index in reversed(range(len(layers))):
        if index in needed:
            needed.update(part.source for part in layers[index].all_connections)
    kept = sorted(needed - {INPUT})
    places = {INPUT: INPUT, **{old: new for new, old in enumerate(kept)}}
    found = []
    for layer in (layers[index] for index in kept):
        connections = tuple(
            Connection(part.operations, places[part.source]) for part in layer.all_connections
        )
        found.append(Layer(connections, layer.bias, layer.activation, layer.name))
    return tuple(found)


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
    if not all_true(lambda pixels: (pixels >= 0) & (pixels <= 1 + _ROUNDING), images):
        raise ValueError(_range_advice(float(np.min(images)), float(np.max(images))))


def warn_of_bytes(images: ArrayLike) -> None:
    """Warn of floating-point pixels from 0 to 255, which models that were trained on [0, 1] take.

    Constant currents may be any numbers, so that nothing else would tell.
    """
    if not is_known(images) or all_true(lambda pixels: pixels < _LIKE_BYTES, images):
        return
    if all_true(lambda pixels: (pixels >= 0) & (pixels < 256) & (pixels % 1 == 0), images):
        warn(
            f"pixels are whole numbers up to {float(np.max(images)):g}, as those of 8 bits: divide "
            "them by 255, unless the model was trained on such pixels."
        )


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


def per_layer(network: Network, values: Numbers, what: str) -> list[AnyArray]:
    """One value for each layer: a scalar is that of all layers, a sequence has one entry for each.

    Arrays of JAX stay where they are; other numbers become arrays of NumPy.

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
        if not broadcasts(array.shape, shape):
            raise ValueError(
                f"{what}: {network.name(index)} has neurons of shape {shape}, to which a value of "
                f"shape {array.shape} does not broadcast."
            )
    return arrays


def broadcasts(shape: Shape, neurons: Shape) -> bool:
    """Whether an array of a shape broadcasts to the neurons of a layer, and to no more.

    Example:
        >>> from jaxsnn.network.graph import broadcasts
        >>> broadcasts((3,), (2, 3)), broadcasts((2,), (2, 3)), broadcasts((1, 2, 3), (2, 3))
        (True, False, False)
    """
    pairs = zip(shape[::-1], neurons[::-1], strict=False)
    return len(shape) <= len(neurons) and all(size in (1, number) for size, number in pairs)


def _real(value: Any, what: str) -> AnyArray:
    """A number or array as an array of floats."""
    unfit = isinstance(value, Sequence | np.ma.MaskedArray)
    dtype = np.dtype(object) if unfit else getattr(value, "dtype", None) or np.asarray(value).dtype
    if not any(jnp.issubdtype(dtype, kind) for kind in (jnp.floating, jnp.integer)):
        raise ValueError(
            f"{what}: {described(value)}; it must be a real number, or an array of them for the "
            "neurons of a layer."
        )
    numbers: Any = jnp if isinstance(value, jax.Array) else np
    return numbers.asarray(value, jnp.result_type(float, value))
