"""Spiking networks as graphs of the Neuromorphic Intermediate Representation (NIR).

Source: Pedersen et al. 2024, "Neuromorphic intermediate representation: A unified instruction set
for interoperable brain-inspired computing"; version 1.0.8 of its package.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import jax
import numpy as np

from jaxsnn import encoding, neurons
from jaxsnn.conversion.balancing import SpikingNetwork
from jaxsnn.conversion.fixed_point import FixedPointNetwork
from jaxsnn.interchange.nir_nodes import (
    Chain,
    Node,
    Pooling,
    as_matrix,
    by_channel,
    chain_of,
    start,
    times,
    with_bias,
)
from jaxsnn.network import (
    INPUT,
    AveragePooling,
    Connection,
    Convolution,
    Layer,
    Multiply,
    Network,
    Operation,
)
from jaxsnn.support.arrays import Shape, all_known
from jaxsnn.support.typed import typed

if TYPE_CHECKING:
    import nir

_LARGEST_THRESHOLD = 1 << 22  # in float32, numbers below have a half


@typed
def to_nir(
    network: SpikingNetwork | FixedPointNetwork,
    *,
    pooling: Pooling = "average",
    allow_lossy: bool = False,
) -> nir.NIRGraph:
    """The network as a graph of NIR, for other simulators and for chips: `nir.write(path, graph)`.

    Weights are normalised, so that thresholds are 1 and spikes weigh 1 (`normalize_weights`), and
    biases are currents of each step, for inputs at the full rate of one spike in every step. With
    steps of 1 the graph computes in each of them what `simulate` does:

        V ← V + Σ W·spikes + b        S = 1 where V > θ        V ← 0 after a spike

    NIR spikes above its threshold, and we from it on: the graph has the next smaller number of the
    type of the weights. So spikes are the same where sums of weights are exact, as they are for
    multiples of a power of two; else rounding differs between simulators. A network of `quantize`
    keeps its integers, with thresholds of θ - 1/2, so that the spikes are also those of simulators
    that spike from the threshold on, for as long as potentials are below 2^24.

    Images are channels first, as in PyTorch: `np.moveaxis(images, -1, 1)` of a network that takes
    them last. Outputs without a ReLU are currents, and the scores their sum over the steps.
    Operations that NIR does not have, such as shifts and crops, become the product with their
    matrix. NIR has no ceilings of activations: neurons have them by spiking once a step at most.

    Args:
        network: the spiking network.
        pooling: average poolings as `AvgPool2d`, or as `SumPool2d`, with the division in the
            weights or thresholds behind. Few simulators read both.
        allow_lossy: whether to leave to the metadata what NIR does not have: the reset by
            subtraction ("reset" of the graph) and initial potentials ("initial_potential" of the
            neurons). A simulator that does not look there resets to zero and starts at zero;
            `from_nir` looks.

    Returns:
        The graph. A file of it is read with `nir.read(path)`, and with `type_check=False` if it
        has kernels that are not square, or groups, whose types NIR 1.0.8 infers wrong.

    Raises:
        ImportError: the package `nir` is not installed.
        ValueError: what NIR cannot express, by name, and what can be done.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsnn
        >>> model = lambda x: jax.nn.relu(x @ jnp.array([[1.0], [0.5]]))
        >>> network = jaxsnn.read_network(model, jnp.zeros((1, 2)))
        >>> graph = jaxsnn.to_nir(jaxsnn.balance_thresholds(network, 2.0))
        >>> graph.nodes["layer1_affine"].weight.tolist()
        [[0.5, 0.25]]
        >>> graph.edges
        [('input', 'layer1_affine'), ('layer1_affine', 'layer1'), ('layer1', 'output')]
    """
    package = installed()
    network.check()
    _check_expressible(network, allow_lossy)
    integers = isinstance(network, FixedPointNetwork)
    graph = _Graph(package, np.dtype(np.float32) if integers else np.dtype(network.dtype))
    form = start(network.network.input_shape, _channels_of_input(network.network), pooling)
    graph.add("input", Node("Input", {"input_type": form.shape}, form.shape, form.shape))
    sent = {INPUT: _Sent(form, ("input",))}
    for index in range(len(network.network.layers)):
        sent[index] = _add_layer(graph, network, index, sent)
    form, ends = sent[len(sent) - 2]
    graph.add("output", Node("Output", {"output_type": form.shape}, form.shape, form.shape), ends)
    lossy = network.reset is neurons.reset_by_subtraction
    metadata = {"reset": "subtraction"} if lossy else {}
    return package.NIRGraph(graph.nodes, graph.edges, metadata=metadata)


def installed() -> ModuleType:
    """The package `nir`, or ImportError with what installs it."""
    try:
        import nir
    except ImportError as error:
        raise ImportError(
            'NIR needs the package nir: pip install "jaxsnn-conversion[nir]".'
        ) from error
    return nir


def _check_expressible(network: SpikingNetwork | FixedPointNetwork, allow_lossy: bool) -> None:
    """Raise ValueError for what NIR does not have."""
    if not all_known(network):
        raise ValueError(
            "to_nir takes known weights, got tracers: call it outside of jit and grad."
        )
    for index, layer in enumerate(network.network.layers):
        if layer.pools_maxima:
            raise ValueError(
                f"{network.network.name(index)}: NIR has no max pooling; train the model with "
                "average poolings, or with strides in their place."
            )
    lossy = " With allow_lossy=True the graph's metadata say so, which simulators may not read."
    if network.reset is neurons.reset_by_subtraction and not allow_lossy:
        raise ValueError(
            "NIR resets potentials to a value, and has no reset by subtraction: take "
            f"reset=reset_to_zero.{lossy}"
        )
    if network.reset not in (neurons.reset_to_zero, neurons.reset_by_subtraction):
        raise ValueError("NIR resets potentials to a value, as reset_to_zero does; take that.")
    starts = [np.any(np.asarray(potential) != 0) for potential in network.start()]
    if starts[-1] and not network.network.layers[-1].spiking:
        raise ValueError("outputs without a ReLU start at 0 in NIR; take initial_potential=0.")
    if any(starts) and not allow_lossy:
        raise ValueError(
            "NIR does not say where potentials start, and simulators start at 0: take "
            f"initial_potential=0.{lossy}"
        )
    if isinstance(network, FixedPointNetwork):
        _check_integers(network)


def _check_integers(network: FixedPointNetwork) -> None:
    """Raise ValueError where the graph would not compute the integers of fixed point."""
    for index, threshold in enumerate(network.thresholds):
        name = network.network.name(index)
        if network.network.is_a_sum(index):
            raise ValueError(
                f"{name}: in fixed point a sum that several layers read is rounded, for which NIR "
                "has no node; export the network before quantize."
            )
        if np.max(threshold) > _LARGEST_THRESHOLD:
            raise ValueError(
                f"{name}: a threshold of {np.max(threshold)} steps, but float32, in which other "
                f"simulators compute, has halves up to {_LARGEST_THRESHOLD} only; take 8 bits."
            )
    if network.encode is encoding.constant:
        raise ValueError(
            "constant currents are rounded in fixed point, for which NIR has no node: export the "
            "network before quantize, or quantize one with encode=poisson."
        )


def _channels_of_input(network: Network) -> int:
    """The axis along which images have their channels: that of a convolution, else the last."""
    parts = (part for layer in network.layers for part in layer.all_connections)
    for part in parts:
        first = next((one for one in part.operations if not isinstance(one, Multiply)), None)
        if part.source == INPUT and isinstance(first, Convolution):
            return first.channels.inputs
    return -1


# -- Layers ----------------------------------------------------------------------------------------


class _Sent(NamedTuple):
    """What the input or a layer sends: its form, and the nodes whose sum it is."""

    form: Chain
    nodes: tuple[str, ...]


class _Graph:
    """Nodes and edges of NIR, in the order in which they are computed."""

    def __init__(self, package: ModuleType, dtype: np.dtype):
        self.package, self.dtype = package, dtype
        self.nodes: dict[str, Any] = {}
        self.edges: list[tuple[str, str]] = []

    def add(self, name: str, node: Node, sources: Sequence[str] = ()) -> str:
        """Add a node that receives the sum of some others; return its name."""
        names = [name, *(f"{name}_{number}" for number in range(2, len(self.nodes) + 3))]
        free = next(one for one in names if one not in self.nodes)
        fields = {key: self._in_type(value) for key, value in node.fields.items()}
        made = getattr(self.package, node.kind)(**fields)
        # NIR 1.0.8 infers those of kernels that are not square, and of groups, wrong.
        made.input_type, made.output_type = (
            {"input": np.array(node.inputs)},
            {"output": np.array(node.outputs)},
        )
        self.nodes[free] = made
        self.edges += [(source, free) for source in sources]
        return free

    def add_chain(self, layer: str, chain: Chain, sources: Sequence[str]) -> Sequence[str]:
        """Add nodes one after the other; return those whose sum they return."""
        for node in chain.nodes:
            sources = (self.add(f"{layer}_{node.kind.lower()}", node, sources),)
        return sources

    def _in_type(self, value: Any) -> Any:
        floats = isinstance(value, np.ndarray) and value.dtype.kind == "f"
        return np.ascontiguousarray(value, self.dtype) if floats else value


def _add_layer(
    graph: _Graph,
    network: SpikingNetwork | FixedPointNetwork,
    index: int,
    sent: dict[int, _Sent],
) -> _Sent:
    """Add the nodes of a layer."""
    layer, name = _normalized(network, index), f"layer{index + 1}"
    threshold = _threshold(network, index)
    chains = _chains(network, index, layer, sent)
    if layer.spiking and len(chains) == 1 and chains[0].factor > 0:
        threshold = np.asarray(threshold / chains[0].factor)
        chains = [replace(chains[0], factor=1.0)]
    ends: list[str] = []
    for part, chain in zip(layer.all_connections, chains, strict=True):
        if chain.factor != 1:
            chain = times(chain, np.ones(chain.shape))
        for end in graph.add_chain(name, chain, sent[part.source].nodes):
            if end in ends:  # an edge is there once
                (same,) = times(replace(chain, nodes=()), np.ones(chain.shape)).nodes
                end = graph.add(f"{name}_again", same, (end,))
            ends.append(end)
    form = replace(chains[0], nodes=(), factor=1.0)
    if not layer.spiking:
        return _Sent(form, tuple(ends))
    _add_neurons(graph, network, index, form, threshold)
    graph.edges += [(end, name) for end in ends]
    return _Sent(form, (name,))


def _add_neurons(
    graph: _Graph,
    network: SpikingNetwork | FixedPointNetwork,
    index: int,
    form: Chain,
    threshold: np.ndarray,
) -> None:
    """Add the neurons of a layer, with thresholds that are as far below as NIR's `>` asks for."""
    unit = threshold / np.asarray(network.thresholds[index], np.float64)
    potential = np.asarray(network.start()[index], np.float64) * unit
    if isinstance(network, FixedPointNetwork):
        threshold = threshold - unit / 2
    values = form.in_nir(threshold).astype(graph.dtype)
    if isinstance(network, SpikingNetwork):
        values = np.nextafter(values, np.zeros((), graph.dtype))
    fields = {"r": np.ones(form.shape), "v_threshold": values}
    name = graph.add(f"layer{index + 1}", Node("IF", fields, form.shape, form.shape))
    if np.any(potential != 0):
        start = form.in_nir(potential).astype(graph.dtype)
        graph.nodes[name].metadata["initial_potential"] = start


def _is_normalized(network: SpikingNetwork | FixedPointNetwork, index: int) -> bool:
    """Whether a layer gets the threshold 1: integers and poolings alone keep theirs."""
    layer = network.network.layers[index]
    several = layer.weighted or len(layer.all_connections) > 1
    return isinstance(network, SpikingNetwork) and layer.spiking and several


def _threshold(network: SpikingNetwork | FixedPointNetwork, index: int) -> np.ndarray:
    """The threshold of a layer of `_normalized`, before it becomes the next smaller number."""
    if _is_normalized(network, index):
        return np.ones(())
    return np.asarray(network.thresholds[index], np.float64)


def _normalized(network: SpikingNetwork | FixedPointNetwork, index: int) -> Layer:
    """A layer of 64-bit numbers whose spikes weigh 1, with a threshold of 1 if it has weights."""
    layer, row = network.network.layers[index], network.amplitudes[index]
    unit = np.asarray(network.thresholds[index], np.float64)
    unit = unit if _is_normalized(network, index) else np.ones(())
    connections = []
    for part, amplitude in zip(layer.all_connections, row, strict=True):
        operations = [jax.tree.map(_wide, operation) for operation in part.operations]
        if isinstance(network, FixedPointNetwork):
            operations = _sums(operations)
        weight = np.asarray(1.0 if amplitude is None else amplitude, np.float64)
        if weight.ndim == unit.ndim == 0:  # one factor, so that it is rounded once
            before = [] if weight == unit else [Multiply(cast(Any, weight / unit))]
            operations = [*before, *operations]
        else:
            shape = network.network.shape_of(part.source)
            operations = [*_with_amplitude(operations, weight, shape), Multiply(1 / unit)]  # type: ignore[arg-type]
        connections.append(Connection(tuple(operations), part.source))
    bias = None if layer.bias is None else _wide(layer.bias) / unit
    if bias is not None and isinstance(network, FixedPointNetwork):
        bias = np.rint(bias)
    return replace(layer, connections=tuple(connections), bias=bias)


def _wide(values: Any) -> np.ndarray:
    return np.asarray(values, np.float64)


def _sums(operations: Sequence[Operation]) -> list[Operation]:
    """The operations of integers, where average poolings stand for sums."""
    found: list[Operation] = []
    for operation in operations:
        if isinstance(operation, AveragePooling):
            size = np.asarray(float(prod(operation.window)))
            found += [replace(operation, count_padding=True), Multiply(size)]  # type: ignore[arg-type]
        else:
            found.append(operation)
    return found


def _with_amplitude(
    operations: Sequence[Operation], weight: np.ndarray, shape: Shape
) -> list[Operation]:
    """The operations for spikes that weigh 1 and not what an array says, in the first weights."""
    found = list(operations)
    values: Any = np.broadcast_to(weight, shape)
    for index, operation in enumerate(operations):
        if operation.permutes:
            values = operation(values[None])[0]  # type: ignore[arg-type]
            continue
        channels = by_channel(np.moveaxis(values, operation.channels.inputs, 0))
        factor = (
            operation.over_inputs(channels) if operation.weighted and channels is not None else None
        )
        if factor is None:
            break
        found[index] = jax.tree.map(lambda weights: weights * factor, operation)  # noqa: B023
        return found
    return [Multiply(weight), *operations]  # type: ignore[arg-type]


def _chains(
    network: SpikingNetwork | FixedPointNetwork, index: int, layer: Layer, sent: dict[int, _Sent]
) -> list[Chain]:
    """The connections of a layer as nodes that end in one form, and the bias in one of them.

    Where they do not, all of them end in one axis, in our order, as the outputs always do.
    """
    name, is_last = network.network.name(index), index == len(network.network.layers) - 1
    pairs = [(part, sent[part.source].form) for part in layer.all_connections]
    found = [chain_of(part, form) for part, form in pairs]
    first = found[0]
    if is_last or first is None or not all(part and part.same_form(first) for part in found):
        flat = [None if part is None else part.flattened() for part in found]
        found = [
            part if part and part.is_flat else as_matrix(*pair, name)
            for part, pair in zip(flat, pairs)
        ]
    chains = cast(list[Chain], found)
    if layer.bias is None:
        return chains
    biased = _biased(chains, layer.bias)
    if biased is None:  # neither in a product nor by channel
        biased = _biased([as_matrix(*pair, name) for pair in pairs], layer.bias)
    return cast(list[Chain], biased)


def _biased(chains: list[Chain], bias: Any) -> list[Chain] | None:
    """The chains with the bias in the last node of one of them; None where it fits in none."""
    values = chains[0].in_nir(bias)
    first = chains[0]
    for index, chain in enumerate([*chains, times(first, np.ones(first.shape))]):
        found = with_bias(chain, values)
        if found is not None:
            place = index % len(chains)
            return [*chains[:place], found, *chains[place + 1 :]]
    return None
