"""Graphs of the Neuromorphic Intermediate Representation (NIR) as spiking networks.

A graph may come from anyone: every node, shape and number is checked before it is used.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from graphlib import CycleError, TopologicalSorter
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from jax import lax
from jax.dtypes import canonicalize_dtype

from jaxsnn import encoding, neurons
from jaxsnn.conversion.balancing import SpikingNetwork
from jaxsnn.conversion.rounding import compact
from jaxsnn.interchange.nir_export import installed
from jaxsnn.network import (
    INPUT,
    AveragePooling,
    Connection,
    Convolution,
    Dense,
    Layer,
    Multiply,
    Network,
    Operation,
    Reshape,
    Transpose,
    linear,
    relu,
)
from jaxsnn.support.arrays import Shape, as_jax
from jaxsnn.support.typed import Entries, Real, described, typed

if TYPE_CHECKING:
    import nir

_MOST_NUMBERS = 1 << 28  # that a node may return for one image
_REMEDIES = {
    "LIF": "its potential leaks, ours does not: use IF",
    "CubaLIF": "its potential leaks, ours does not: use IF",
    "LI": "its potential leaks, ours does not: leave it out at the output",
    "CubaLI": "its potential leaks, ours does not: leave it out at the output",
    "I": "leave it out at the output, where potentials accumulate in any case",
    "Threshold": "use IF",
    "Delay": "spikes reach later layers within their step",
    "NIRGraph": "put its nodes into the graph itself",
}


@typed
def from_nir(
    graph: nir.NIRGraph,
    input_shape: Entries | None = None,
    *,
    dt: Real = 1.0,
    encode: encoding.Encoding = encoding.poisson,
) -> SpikingNetwork:
    """A graph of NIR as a spiking network, for `simulate`: `from_nir(nir.read(path), (28, 28, 1))`.

    The nodes are IF, Affine, Linear, Conv1d, Conv2d, AvgPool2d, SumPool2d, Flatten and Scale; where
    several edges meet, their sum is taken. Outputs without an IF accumulate. Images are channels
    last: a graph for inputs (1, 28, 28) becomes a network for images (28, 28, 1), and so do its
    layers.

    NIR spikes above its threshold, and we from it on: thresholds are the next larger numbers. A
    neuron receives the biases in every step at `max_rate` 1/dt. Of a graph by `to_nir`, spikes are
    those of the network where sums of weights are exact; and what it left to the metadata is
    followed: the reset by subtraction, and initial potentials.

    Args:
        graph: the graph, such as `nir.read(path)`.
        input_shape: shape of one image, channels last; by default that of the graph's input.
        dt: the duration of a step in the graph's unit of time: a neuron adds r·dt times its input.
        encode: how pixels drive the first layer: NIR does not say.

    Returns:
        The spiking network. Its layers have the names of the nodes.

    Raises:
        ImportError: the package `nir` is not installed.
        ValueError: a node that is not known here, a graph with a cycle, shapes that do not fit, or
            numbers that cannot be; the message names the node.

    Example:
        >>> import nir, numpy as np, jax.numpy as jnp, jaxsnn
        >>> affine = nir.Affine(weight=np.array([[0.5, 0.25]]), bias=np.zeros(1))
        >>> neurons = nir.IF(r=np.ones(1), v_threshold=np.array([0.75]))
        >>> snn = jaxsnn.from_nir(nir.NIRGraph.from_list(affine, neurons))
        >>> run = jaxsnn.simulate(snn, jnp.ones((1, 2)), key=0, duration=0.004)
        >>> run.spike_counts[0].tolist()  # a potential of 0.75 is not above the threshold
        [[2.0]]
    """
    installed()
    if not 0 < dt < np.inf:
        raise ValueError(f"dt={dt}; the duration of a step must be positive and finite.")
    order, sources = _order(graph)
    built = _Built(dt, Counter(source for name in order for source in sources[name]))
    for name in order:
        node = _Node(name, graph.nodes[name])
        if node.kind == "Input":
            built.sent[name] = _Signal((), INPUT, _input_shape(node, input_shape))
        elif node.kind == "IF":
            built.add_neurons(node, sources[name])
        elif node.kind == "Output":
            built.add_output(node, sources[name])
        else:
            built.add_operation(node, sources[name])
    return built.network(graph, encode)


def _order(graph: nir.NIRGraph) -> tuple[list[str], dict[str, list[str]]]:
    """The nodes that the output needs, each after those that it reads; and these."""
    kinds = {name: type(node).__name__ for name, node in graph.nodes.items()}
    ends = [[name for name in kinds if kinds[name] == kind] for kind in ("Input", "Output")]
    if [len(names) for names in ends] != [1, 1]:
        raise ValueError(
            f"the graph has the inputs {ends[0]} and the outputs {ends[1]}; it must have one Input "
            "and one Output."
        )
    sources: dict[str, list[str]] = {name: [] for name in kinds}
    for source, target in graph.edges:
        missing = {source, target} - set(kinds)
        if missing or source in sources[target]:
            what = f"names {missing.pop()!r}, which is no node" if missing else "is there twice"
            raise ValueError(f"the edge from {source!r} to {target!r} {what}.")
        sources[target].append(source)
    needed, left = set(), [ends[1][0]]
    while left:
        name = left.pop()
        if name not in needed:
            needed.add(name)
            left += sources[name]
    try:
        order = list(TopologicalSorter({name: sources[name] for name in needed}).static_order())
    except CycleError as error:
        cycle = " → ".join(map(repr, reversed(error.args[1])))
        raise ValueError(
            f"the graph is recurrent: {cycle}. Spikes reach later layers within their step here; "
            "leave out one of these edges."
        ) from None
    for name in order:
        if not sources[name] and kinds[name] != "Input":
            raise ValueError(f"node {name!r} ({kinds[name]}) receives nothing; give it an edge.")
    return order, sources


# -- Nodes -----------------------------------------------------------------------------------------


class _Node:
    """A node whose fields are checked where they are read."""

    def __init__(self, name: str, node: Any):
        self.name, self.node, self.kind = name, node, type(node).__name__

    def error(self, text: str) -> ValueError:
        return ValueError(f"node {self.name!r} ({self.kind}): {text}.")

    def numbers(self, field: str, values: Any = None) -> np.ndarray:
        """A field of finite real numbers, or the values that are given for it."""
        values = getattr(self.node, field, None) if values is None else values
        try:
            found = np.asarray(values)
        except ValueError:
            found = np.asarray(None)
        if found.dtype.kind not in "iuf" or not found.size or not np.all(np.isfinite(found)):
            raise self.error(
                f"{field} is {described(values)}; it must be an array of finite real numbers"
            )
        return found

    def per_neuron(self, field: str, shape: Shape, values: Any = None) -> np.ndarray:
        """A field of one number, or one for each neuron, as 64-bit numbers channels last."""
        found = self.numbers(field, values).astype(np.float64)
        if found.size == 1:
            return found.reshape(())
        if found.shape != shape:
            raise self.error(
                f"{field} has shape {found.shape}, but its input {shape}; both must be the same, "
                "or it one number"
            )
        return compact(channels_last(found))

    def whole(self, field: str, count: int, least: int) -> Shape:
        """A field of so many integers, or of one that stands for all."""
        found = self.numbers(field).ravel()
        fits = np.all(found == np.rint(found)) and least <= found.min() <= found.max() < 1 << 31
        if found.size not in (1, count) or not fits:
            raise self.error(
                f"{field} is {found.tolist()}; it must be {count} integers of at least {least}"
            )
        return tuple(int(number) for number in np.broadcast_to(found, count))


def channels_last(values: np.ndarray) -> np.ndarray:
    """Values of a shape of NIR in ours.

    Example:
        >>> import numpy as np
        >>> from jaxsnn.interchange.nir_import import channels_last
        >>> channels_last(np.zeros((1, 28, 20))).shape
        (28, 20, 1)
    """
    return np.moveaxis(values, 0, -1)


def _last(shape: Shape) -> Shape:
    return (*shape[1:], *shape[:1])


def _input_shape(node: _Node, given: Sequence[Any] | None) -> Shape:
    """The shape of the input, channels first."""
    declared = (node.node.input_type or {}).get("input")
    shape = None if declared is None else tuple(np.asarray(declared).ravel().tolist())
    if given is not None:
        given = tuple(given)
        if shape is not None and _last(shape) != given:
            raise node.error(
                f"it takes {shape}, channels first, so that images are {_last(shape)}, not {given}"
            )
        shape = (*given[-1:], *given[:-1])
    if not shape or not all(isinstance(n, int | np.integer) and n > 0 for n in shape):
        raise node.error(
            f"its shape is {shape}; give the shape of one image: from_nir(graph, (28, 28, 1))"
        )
    if prod(shape) > _MOST_NUMBERS:
        raise node.error(f"its shape is {shape}; that is more than {_MOST_NUMBERS} numbers")
    return tuple(map(int, shape))


# -- What nodes send -------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Signal:
    """What a node sends: a chain of operations on what a layer or the input sends, and a bias.

    Attributes:
        operations: the operations, on numbers channels last.
        source: the number of the layer, or `INPUT`.
        shape: the shape of the result, channels first as in the graph.
        amplitude: what a spike of the source weighs.
        bias: a constant, of the shape of the result channels last; None is 0.
    """

    operations: tuple[Operation, ...]
    source: int
    shape: Shape
    amplitude: float = 1.0
    bias: np.ndarray | None = None

    def then(self, shape: Shape, *operations: Operation, amplitude: float = 1.0) -> _Signal:
        """The signal after operations with results of a shape."""
        bias = self.bias
        if bias is not None:
            all_at_once = Connection(operations)
            bias = np.asarray(all_at_once(as_jax(bias * np.float32(amplitude))[None]))[0]
        return _Signal(
            (*self.operations, *operations), self.source, shape, self.amplitude * amplitude, bias
        )


class _Built:
    """The layers so far, and what the nodes before send."""

    def __init__(self, dt: float, readers: Mapping[str, int]):
        self.dt, self.readers = dt, readers
        self.sent: dict[str, _Signal] = {}
        self.layers: list[Layer] = []
        self.amplitudes: list[list[Any]] = []
        self.thresholds: list[np.ndarray] = []
        self.starts: list[np.ndarray] = []
        self.sums: dict[frozenset[str], _Signal] = {}

    def add_neurons(self, node: _Node, sources: Sequence[str]) -> None:
        """A layer of integrate-and-fire neurons: V ← V + r·dt·I, with V in units of r·dt."""
        shape = self._shape(node, sources)
        gain = node.per_neuron("r", shape) * self.dt
        threshold = node.per_neuron("v_threshold", shape)
        if np.any(gain <= 0) or np.any(threshold <= 0):
            raise node.error("r and v_threshold must be positive")
        if np.any(node.per_neuron("v_reset", shape) != 0):
            raise node.error("v_reset is not 0, the only value that potentials are reset to here")
        start = (node.node.metadata or {}).get("initial_potential", 0.0)
        start = node.per_neuron("initial_potential", shape, start)
        self.sent[node.name] = self._add_layer(node.name, sources, threshold / gain, start / gain)

    def add_output(self, node: _Node, sources: Sequence[str]) -> None:
        """The output: a layer that accumulates, unless it is that of neurons."""
        shape = self._shape(node, sources)
        if len(shape) != 1:
            raise node.error(
                f"it has the shape {shape}; classes need one axis, so put Flatten(start_dim=0) in "
                "front of it"
            )
        only, *others = (self.sent[source] for source in sources)
        of_neurons = only.source != INPUT and self.layers[only.source].spiking
        if others or only.operations or not of_neurons:
            self._add_layer(node.name, sources)

    def add_operation(self, node: _Node, sources: Sequence[str]) -> None:
        """A linear node; a product that several nodes read is a sum without neurons."""
        read = _READ.get(node.kind)
        if read is None:
            raise node.error(f"there is no such node here; {_REMEDIES.get(node.kind, _KNOWN)}")
        self._shape(node, sources)
        signal = self.sent[sources[0]] if len(sources) == 1 else self._sum(node.name, sources)
        self.sent[node.name] = read(node, signal)
        if self.readers[node.name] > 1 and node.kind in _PRODUCTS:
            self.sent[node.name] = self._add_layer(node.name, [node.name])

    def network(self, graph: nir.NIRGraph, encode: encoding.Encoding) -> SpikingNetwork:
        """The network of all layers."""
        reset = graph.metadata.get("reset")
        if reset not in (None, "subtraction"):
            raise ValueError(
                f"the graph's metadata have the reset {reset!r}; 'subtraction' is known here, and "
                "none for the reset to zero."
            )
        made = Network(tuple(self.layers), self.input_shape)
        thresholds = [_next_above(theta, made.dtype) for theta in self.thresholds]
        starts = [as_jax(start, made.dtype) for start in self.starts]
        return SpikingNetwork(
            made,
            thresholds,
            self.amplitudes,
            starts if any(np.any(start != 0) for start in self.starts) else None,
            neurons.reset_by_subtraction if reset else neurons.reset_to_zero,
            encode,
        )

    @property
    def input_shape(self) -> Shape:
        """The shape of an image, channels last."""
        return next(
            _last(signal.shape)
            for signal in self.sent.values()
            if signal.source == INPUT and not signal.operations
        )

    def _shape(self, node: _Node, sources: Sequence[str]) -> Shape:
        """The shape of what a node receives."""
        shapes = {name: self.sent[name].shape for name in sources}
        if len(set(shapes.values())) > 1:
            raise node.error(f"it receives different shapes: {shapes}")
        return shapes[sources[0]]

    def _sum(self, name: str, sources: Sequence[str]) -> _Signal:
        """The sum of several nodes as a layer without neurons, the same for all that read it."""
        if frozenset(sources) not in self.sums:
            self.sums[frozenset(sources)] = self._add_layer(name, sources)
        return self.sums[frozenset(sources)]

    def _add_layer(
        self, name: str, sources: Sequence[str], threshold: Any = None, start: Any = 0.0
    ) -> _Signal:
        """Add a layer, without neurons where it has no threshold."""
        signals = [self.sent[source] for source in sources]
        connections, row = [], []
        for signal in signals:
            operations, weight = signal.operations, signal.amplitude
            spikes = signal.source != INPUT and self.layers[signal.source].spiking
            if not spikes and weight != 1:
                operations = (Multiply(as_jax(np.float32(weight))), *operations)
            connections.append(Connection(operations, signal.source))
            row.append(as_jax(np.float32(weight)) if spikes else None)
        biases = [signal.bias for signal in signals if signal.bias is not None]
        bias = as_jax(compact(reduce(np.add, biases))) if biases else None
        activation = linear if threshold is None else relu
        self.layers.append(Layer(tuple(connections), bias, activation, name))
        self.amplitudes.append(row)
        self.thresholds.append(np.asarray(np.inf if threshold is None else threshold))
        self.starts.append(np.asarray(start))
        return _Signal((), len(self.layers) - 1, signals[0].shape)


def _next_above(threshold: np.ndarray, dtype: Any) -> Any:
    """The smallest number of a type above a threshold: what exceeds that is at least this."""
    found = threshold.astype(dtype)
    above = np.nextafter(found, np.full((), np.inf, dtype))
    return as_jax(np.where(found > threshold, found, above))


# -- Linear nodes ----------------------------------------------------------------------------------


def _weights(values: np.ndarray) -> Any:
    """Weights in floating point, of 64 bits if these are and JAX allows it."""
    return as_jax(values, canonicalize_dtype(np.result_type(values.dtype, np.float32)))


def _read_affine(node: _Node, signal: _Signal) -> _Signal:
    weight = node.numbers("weight")
    if weight.ndim != 2 or signal.shape != weight.shape[1:]:
        raise node.error(
            f"weight has shape {weight.shape}, but its input {signal.shape}; it must be [outputs, "
            "inputs], and Flatten(start_dim=0) stand in front where the input has several axes"
        )
    found = signal.then(weight.shape[:1], Dense(_weights(weight.T)))
    return found if node.kind == "Linear" else _with_bias(node, found)


def _with_bias(node: _Node, signal: _Signal) -> _Signal:
    """The signal plus the bias of a node, one number for each channel."""
    bias = node.numbers("bias")
    if bias.shape != signal.shape[:1]:
        raise node.error(f"bias has shape {bias.shape}; it must be {signal.shape[:1]}")
    if not np.any(bias):
        return signal
    ours = _last(signal.shape)
    before = 0 if signal.bias is None else signal.bias
    total = np.broadcast_to(bias, ours) + before
    return replace(signal, bias=total.astype(np.result_type(total.dtype, np.float32)))


def _read_convolution(node: _Node, signal: _Signal) -> _Signal:
    space = int(node.kind[-2])
    weight = node.numbers("weight")
    (groups,) = node.whole("groups", 1, 1)
    if len(signal.shape) != space + 1 or weight.ndim != space + 2:
        raise node.error(
            f"weight has shape {weight.shape}, and its input {signal.shape}; they must have "
            f"{space + 2} axes and {space + 1}"
        )
    if weight.shape[1] * groups != signal.shape[0] or weight.shape[0] % groups:
        raise node.error(
            f"weight has shape {weight.shape} in {groups} groups, which does not fit "
            f"{signal.shape[0]} input channels"
        )
    strides = node.whole("stride", space, 1)
    dilation = node.whole("dilation", space, 1)
    spread = [step * (size - 1) + 1 for step, size in zip(dilation, weight.shape[2:])]
    padding = _padding(node, spread, strides)
    shape = _outputs(node, (len(weight), *signal.shape[1:]), padding, spread, strides)
    axes = (0, space + 1, *range(1, space + 1))
    numbers = lax.ConvDimensionNumbers(axes, (space + 1, space, *range(space)), axes)
    operation = Convolution(
        _weights(np.moveaxis(weight, (0, 1), (-1, -2))),
        strides,
        padding,
        (1,) * space,
        dilation,
        groups,
        numbers,
    )
    return _with_bias(node, signal.then(shape, operation))


def _padding(node: _Node, window: Sequence[int], strides: Shape) -> tuple[tuple[int, int], ...]:
    """The padding on both sides of each axis; "same" keeps the size, with more behind."""
    name = getattr(node.node, "padding", None)
    name = name.decode(errors="replace") if isinstance(name, bytes) else name
    if not isinstance(name, str):
        return tuple((side, side) for side in node.whole("padding", len(window), 0))
    if name == "valid":
        return ((0, 0),) * len(window)
    if name != "same" or any(step > 1 for step in strides):
        raise node.error(f"padding is {name!r} at strides of {strides}; give integers")
    return tuple(((size - 1) // 2, size // 2) for size in window)


def _outputs(
    node: _Node,
    shape: Shape,
    padding: Sequence[tuple[int, int]],
    window: Sequence[int],
    strides: Shape,
) -> Shape:
    """The channels, and how many windows fit along each axis behind them."""
    rows = zip(shape[1:], padding, window, strides)
    found = [(size + sum(sides) - wide) // step + 1 for size, sides, wide, step in rows]
    if min(found) < 1 or prod(found) * shape[0] > _MOST_NUMBERS:
        raise node.error(f"its output would have the shape {(shape[0], *found)}; check its sizes")
    return (shape[0], *found)


def _read_pooling(node: _Node, signal: _Signal) -> _Signal:
    """Averages that count the padding; sums are averages of spikes that weigh more."""
    window, strides = node.whole("kernel_size", 2, 1), node.whole("stride", 2, 1)
    if len(signal.shape) != 3:
        raise node.error(f"its input has the shape {signal.shape}; it must have three axes")
    padding = _padding(node, window, strides)
    if any(2 * max(sides) > size for sides, size in zip(padding, window)):
        raise node.error(f"padding is {padding}; it must be at most half of the window {window}")
    operation = AveragePooling((*window, 1), (*strides, 1), (*padding, (0, 0)), True)
    shape = _outputs(node, signal.shape, padding, window, strides)
    amplitude = float(prod(window)) if node.kind == "SumPool2d" else 1.0
    return signal.then(shape, operation, amplitude=amplitude)


def _read_flatten(node: _Node, signal: _Signal) -> _Signal:
    rank = len(signal.shape)
    first, last = (int(node.whole(field, 1, -rank)[0]) for field in ("start_dim", "end_dim"))
    first, last = (axis + rank if axis < 0 else axis for axis in (first, last))
    if not first <= last < rank:
        raise node.error(
            f"it flattens the axes {first} to {last} of {signal.shape}; in NIR the batch is no "
            "axis, and Flatten(start_dim=0) flattens all"
        )
    merged = prod(signal.shape[first : last + 1])
    shape = (*signal.shape[:first], merged, *signal.shape[last + 1 :])
    if shape == signal.shape:
        return signal
    to_first = (0, rank, *range(1, rank))
    to_last = (0, *range(2, len(shape) + 1), 1)
    back = () if len(shape) == 1 else (Transpose(to_last),)
    return signal.then(shape, Transpose(to_first), Reshape(shape), *back)


def _read_scale(node: _Node, signal: _Signal) -> _Signal:
    factor = node.per_neuron("scale", signal.shape)
    dtype = canonicalize_dtype(np.result_type(node.numbers("scale").dtype, np.float32))
    return signal.then(signal.shape, Multiply(as_jax(factor, dtype)))


_READ: dict[str, Callable[[_Node, _Signal], _Signal]] = {
    "Affine": _read_affine,
    "Linear": _read_affine,
    "Conv1d": _read_convolution,
    "Conv2d": _read_convolution,
    "AvgPool2d": _read_pooling,
    "SumPool2d": _read_pooling,
    "Flatten": _read_flatten,
    "Scale": _read_scale,
}
_PRODUCTS = ("Affine", "Linear", "Conv1d", "Conv2d", "Scale")
_KNOWN = f"known are Input, IF, {', '.join(_READ)} and Output"
