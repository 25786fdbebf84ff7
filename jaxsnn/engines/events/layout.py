"""From a network to flat arrays: who is connected to whom, and where the weights are."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple, cast

import numpy as np

from jaxsnn import metrics
from jaxsnn.conversion.executable import Executable
from jaxsnn.conversion.fixed_point import FixedPointNetwork
from jaxsnn.conversion.rounding import largest_sum
from jaxsnn.engines.events.kinds import DENSE, MAXIMA, NEURONS, POOL, SCATTER, TARGET
from jaxsnn.engines.events.runs import (
    Runs,
    UnsupportedError,
    in_vectors,
    merged,
    ordered,
    runs_of,
    singles,
    windows_of,
)
from jaxsnn.network import INPUT, Network
from jaxsnn.support.arrays import Shape, aligned

# Layers are padded to a multiple of so many neurons: whole vectors, and whole words of flags.
_LANES = 64


# What the kernels know of a layer: what it does with spikes, its first neuron, the neuron after its
# last one, with padding, and likewise its connections.
LAYER = np.dtype([(n, np.int64) for n in ("kind", "first", "end", "connection", "last_connection")])
# And of a connection: the layer that it comes from, or -1 for the input; how it brings spikes; and
# where its weights, its senders in `starts`, and those in `targets` begin.
CONNECTION = np.dtype([(n, np.int64) for n in ("source", "kind", "weight", "start", "target")])
# Of a run: its first neuron, its first weight, both counted from the connection's, and its length.
RUN = np.dtype([(n, np.int64) for n in ("neuron", "weight", "length")])


class Tables(NamedTuple):
    """A network for the kernels: L layers, C connections, P neurons in all, with padding.

    ================  ==========  ==================================================================
    field             shape       meaning
    ================  ==========  ==================================================================
    layers            [L]         `LAYER` of each layer
    connections       [C]         `CONNECTION` of each connection
    thresholds        [P]         firing thresholds; those of padding are never reached
    weights           [W]         all weights of `DENSE` and `SCATTER`
    starts            [.]         of `SCATTER`: for each sender its first run, and the end
    runs              [R]         `RUN` of each run
    targets           [.]         of `TARGET`: the one neuron that each sender leads to
    gains             [.]         and what its spikes weigh
    synapses          [P]         fan-out of each neuron
    input_synapses    [inputs]    fan-out of each input
    currents          [0]         an array of the type that holds the sum of a step's inputs
    classes           [classes]   the class of each output neuron
    units             [classes]   what 1 stands for in the potentials of the outputs, float32
    accumulates       []          whether the outputs never spike
    ================  ==========  ==================================================================
    """

    layers: np.ndarray
    connections: np.ndarray
    thresholds: np.ndarray
    weights: np.ndarray
    starts: np.ndarray
    runs: np.ndarray
    targets: np.ndarray
    gains: np.ndarray
    synapses: np.ndarray
    input_synapses: np.ndarray
    currents: np.ndarray
    classes: np.ndarray
    units: np.ndarray
    accumulates: bool


class Layout(NamedTuple):
    """A network for the kernels, and how its neurons are ordered there.

    Attributes:
        tables: the arrays.
        first: the first neuron of each layer, and the end.
        orders: for each layer the place of each neuron, of the layer's own shape, within it.
        in_order: for each layer whether that is the order of its own shape.
        most: for each layer that is a `POOL`, by its index, the most that a neuron receives in a
            step.
        biases: for each layer its bias, or None.
        memory: working memory of the kernels that no thread uses, by the sizes of the inputs.
    """

    tables: Tables
    first: np.ndarray
    orders: list[np.ndarray]
    in_order: list[bool]
    most: dict[int, float]
    biases: list[Any]
    memory: dict[tuple[int, int], list[Any]]


class _Placed(NamedTuple):
    """A connection with senders and neurons by their places in memory, for `Tables`."""

    source: int
    kind: int
    weights: np.ndarray
    starts: np.ndarray
    runs: np.ndarray
    targets: np.ndarray
    gains: np.ndarray


def lay_out(network: Executable) -> Layout:
    """Make the arrays of a network.

    Raises:
        UnsupportedError: why the events cannot simulate it.
    """
    relus, exact = network.network, np.issubdtype(network.dtype, np.integer)
    inputs = np.arange(prod(relus.input_shape)).reshape(relus.input_shape)
    orders: dict[int, np.ndarray] = {INPUT: inputs}
    sizes = {INPUT: inputs.size}
    found: list[list[_Placed]] = []
    for index, row in enumerate(network.amplitudes):
        shape = relus.shapes[index]
        parts = _parts(relus, index, row, exact)
        orders[index], sizes[index] = _order(parts, shape), _padded(prod(shape))
        found.append(
            [
                _placed(runs, orders[index], sizes[index], source, orders[source], sizes[source])
                for source, runs in parts
            ]
        )
    del orders[INPUT]
    in_memory = list(orders.values())
    first = _ends([_padded(order.size) for order in in_memory])
    kinds = [_kind(relus, index, parts, exact) for index, parts in enumerate(found)]
    return Layout(
        _tables(network, found, kinds, in_memory, first),
        first,
        in_memory,
        [np.array_equal(order.reshape(-1), np.arange(order.size)) for order in in_memory],
        {i: _most(found[i][0]) for i, kind in enumerate(kinds) if kind == POOL},
        [layer.bias for layer in relus.layers],
        {},
    )


def _tables(
    network: Executable,
    found: list[list[_Placed]],
    kinds: list[int],
    orders: list[np.ndarray],
    first: np.ndarray,
) -> Tables:
    connections = [part for parts in found for part in parts]
    starts = [part.starts for part in connections]
    first_run = _ends([len(part.runs) for part in connections])
    inputs, *fan_outs = map(np.asarray, metrics.fan_out(network.network))
    synapses = np.zeros(first[-1], np.int64)
    for start, order, numbers in zip(first, orders, fan_outs):
        synapses[start + order] = numbers
    weights, currents = _types(network, connections)
    ends = _ends(list(map(len, found)))
    facts = [
        [part.source for part in connections],
        [part.kind for part in connections],
        _ends([part.weights.size for part in connections])[:-1],
        _ends(list(map(len, starts)))[:-1],
        _ends([len(part.targets) for part in connections])[:-1],
    ]
    return Tables(
        layers=_records(LAYER, [kinds, first[:-1], first[1:], ends[:-1], ends[1:]]),
        connections=_records(CONNECTION, facts),
        thresholds=_thresholds(network, orders, first),
        weights=aligned(
            np.concatenate([part.weights.reshape(-1).astype(weights) for part in connections])
        ),
        starts=np.concatenate([start + of for start, of in zip(first_run, starts)]),
        runs=_records(RUN, np.concatenate([part.runs for part in connections]).T),
        targets=np.concatenate([part.targets for part in connections]),
        gains=np.concatenate([part.gains.astype(network.dtype) for part in connections]),
        synapses=synapses,
        input_synapses=inputs.reshape(-1).astype(np.int64),
        currents=np.zeros(0, currents),
        classes=np.argsort(orders[-1].reshape(-1)),
        units=_units(network, orders[-1]),
        accumulates=not network.network.layers[-1].spiking,
    )


def _units(network: Executable, order: np.ndarray) -> np.ndarray:
    """What 1 stands for in the potentials of the outputs, by their places in memory."""
    unit = network.step_sizes[-1]
    found = np.ones(order.size, np.float32)
    if unit is not None:
        found[order] = np.broadcast_to(np.asarray(unit), order.shape)
    return found


def _records(kind: np.dtype, columns: Any) -> np.ndarray:
    """Columns of integers as an array of records."""
    found = np.empty(len(columns[0]), kind)
    for name, values in zip(kind.names or (), columns, strict=True):
        found[name] = values
    return found


def _types(network: Executable, connections: list[_Placed]) -> tuple[Any, Any]:
    """The types of weights and of the sums of a step: the narrowest that hold them."""
    if not np.issubdtype(network.dtype, np.integer):
        return network.dtype, network.dtype
    largest = max((int(abs(part.weights).max(initial=0)) for part in connections), default=0)
    weights = next(kind for kind in (np.int8, np.int16, np.int32) if largest <= np.iinfo(kind).max)
    layers = range(len(network.network.layers))
    sums = (largest_sum(cast(FixedPointNetwork, network), index) for index in layers)
    narrow = weights != np.int32 and max(sums) <= np.iinfo(np.int16).max
    return weights, np.int16 if narrow else np.int32


def with_thresholds(layout: Layout, network: Executable) -> Layout:
    """The arrays with the thresholds of another network, whose weights are the same."""
    thresholds = _thresholds(network, layout.orders, layout.first)
    units = _units(network, layout.orders[-1])
    return layout._replace(tables=layout.tables._replace(thresholds=thresholds, units=units))


def _thresholds(
    network: Executable, orders: Sequence[np.ndarray], first: Sequence[int] | np.ndarray
) -> np.ndarray:
    """The thresholds of all neurons; padding never spikes, nor do outputs that accumulate."""
    exact = np.issubdtype(network.dtype, np.integer)
    never = np.iinfo(network.dtype).max if exact else np.inf
    found = np.full(first[-1], never, network.dtype)
    rows = zip(orders, first, network.thresholds, network.network.layers, strict=False)
    for order, start, values, layer in rows:
        if layer.spiking:
            found[start + order] = np.broadcast_to(np.asarray(values), order.shape)
    return found


def _ends(sizes: Sequence[int] | np.ndarray) -> np.ndarray:
    """Where parts of these sizes begin that follow each other, and the end."""
    return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])


def _padded(size: int) -> int:
    """The size of a layer with padding, at least one neuron."""
    return (size // _LANES + 1) * _LANES


# -- Layers ----------------------------------------------------------------------------------------


def _parts(network: Network, index: int, row: Sequence[Any], exact: bool) -> list[tuple[int, Runs]]:
    """The connections of a layer: their sources and runs."""
    layer, found = network.layers[index], []
    for connection, amplitude in zip(layer.all_connections, row, strict=True):
        source = connection.source
        try:
            if network.is_a_sum(index):
                raise UnsupportedError("it simulates neurons, and no sums sent as numbers")
            shape = network.shape_of(source)
            if layer.pools_maxima:
                found.append((source, windows_of(connection, shape)))
            else:
                found.append((source, runs_of(connection, shape, amplitude, exact)))
        except UnsupportedError as reason:
            raise UnsupportedError(f"{reason}, in {network.name(index)}") from None
    return found


def _order(parts: list[tuple[int, Runs]], shape: Shape) -> np.ndarray:
    """The places of the neurons of a layer in memory: as long runs need them, if there are any."""
    scattered = [runs.places for _, runs in parts if runs.width]
    return scattered[0] if scattered else np.arange(prod(shape)).reshape(shape)


def _placed(
    found: Runs, order: np.ndarray, size: int, source: int, senders: np.ndarray, sent: int
) -> _Placed:
    """A connection in terms of places in memory.

    Args:
        found: its runs.
        order: the place of each neuron of the layer.
        size: the number of these places.
        source: the layer that it comes from.
        senders: the place of each sender.
        sent: the number of these places.
    """
    places = np.empty(order.size, np.int64)  # of those neurons that runs speak of
    places[found.places.reshape(-1)] = order.reshape(-1)
    none = np.zeros(0, np.int64)
    if found.kind == DENSE:
        weights = np.zeros((sent, size), found.weights.dtype)
        weights[senders.reshape(-1)[:, None], places] = found.weights
        return _Placed(source, DENSE, weights, none, np.zeros((0, 3), np.int64), none, none)
    assert found.runs is not None
    if np.array_equal(places, np.arange(order.size)):
        runs = in_vectors(found, size).copy()
    else:
        runs = singles(found.runs)
        runs[:, 1] = places[runs[:, 1]]
        runs = merged(runs)
    runs[:, 0] = senders.reshape(-1)[runs[:, 0]]
    if found.kind == TARGET:
        targets, gains = np.full(sent, size - 1), np.zeros(sent, found.weights.dtype)
        targets[runs[:, 0]] = runs[:, 1]
        gains[runs[:, 0]] = found.weights[runs[:, 2]]
        return _Placed(source, TARGET, none, none, np.zeros((0, 3), np.int64), targets, gains)
    runs = ordered(runs)
    starts = _ends(np.bincount(runs[:, 0], minlength=sent))
    return _Placed(source, SCATTER, found.weights, starts, runs[:, 1:], none, none)


def _kind(network: Network, index: int, parts: list[_Placed], exact: bool) -> int:
    """What a layer does with the spikes that it receives.

    Neurons whose senders lead to one of them each are looked at only when they receive a spike. Not
    so outputs, whose total is kept, and floats, whose sums would depend on the order.
    """
    layer = network.layers[index]
    if layer.pools_maxima:
        return MAXIMA
    alone = len(parts) == 1 and parts[0].kind == TARGET and parts[0].source != INPUT
    inner = exact and index < len(network.layers) - 1 and layer.bias is None
    return POOL if alone and inner and np.all(parts[0].gains >= 0) else NEURONS


def _most(part: _Placed) -> float:
    """The most that a neuron receives in a step from senders that lead to one each."""
    return float(np.bincount(part.targets, part.gains).max())
