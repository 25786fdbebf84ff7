"""From signals to layers: a ReLU ends a layer, which then gets as few operations as possible."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxsnn.network import (
    INPUT,
    Capped,
    ClipFloor,
    Connection,
    Convolution,
    Dense,
    Layer,
    Multiply,
    Operation,
    Reshape,
    Transpose,
    linear,
)
from jaxsnn.network import relu as relu_activation
from jaxsnn.network.graph import needed_layers
from jaxsnn.reading.errors import NOT_A_RELU, ReadingError
from jaxsnn.reading.pieces import without_zeros
from jaxsnn.reading.signals import (
    Broadcast,
    Mask,
    Shift,
    Signal,
    Sum,
    WindowSum,
    without_repeats,
)
from jaxsnn.support.arrays import as_jax

# -- The end of a layer ----------------------------------------------------------------------------


def relu(value: Signal | Sum) -> Signal:
    """End a layer. Where what a ReLU sends is only permuted, another changes nothing."""
    if isinstance(value, Sum):
        return _sent_by(value, _layer_of_sum(value))
    negative = any(factors is not None and np.any(factors < 0) for factors in value.copies)
    # Other copies may be made after the ReLU as well.
    signal = (value.with_copies_made() if negative else value).batch_first()
    layer = _layer(signal)
    if _only_permutes(layer) and layer.bias is None and not _is_sum(signal):
        if signal.layer != INPUT:
            return signal
        layer = replace(layer, connections=(layer.connection.times(1.0),))  # of negative pixels
    return _sent_by(signal, layer)


def never_negative(signal: Signal) -> bool:
    """Whether a layer of ReLUs sends the signal, through weights of which none is negative."""
    if signal.layer == INPUT or _is_sum(signal) or np.any(_bias(signal.operations)):
        return False
    return _none_negative([part for part in signal.operations if part.weighted])


def capped(value: Signal | Sum, ceiling: np.ndarray) -> Signal | None:
    """min(value, ceiling), where the value is what a ReLU sends, or that plus a number; else None.

    A layer with the ceiling takes the place of the one without, unless others read that one.
    """
    if isinstance(value, Sum) or value.layer == INPUT or ceiling.size != 1:
        return None
    shift = np.unique(_bias(value.operations))
    limit = float(ceiling.reshape(())) - float(shift[0])
    return _limited(value, Capped(limit)) if shift.size == 1 and limit > 0 else None


def clip_floored(value: Signal | Sum, activation: ClipFloor) -> Signal:
    """The clip-floor of what a ReLU sends: in the place of the ReLU where that is possible."""
    limited = None if isinstance(value, Sum) else _limited(value, activation)
    if limited is not None:
        return limited
    if isinstance(value, Sum):
        return _sent_by(value, replace(_layer_of_sum(value), activation=activation))
    value = value.batch_first()
    again = _layer(value).connection.times(1.0)
    return _sent_by(value, Layer((again,), activation=activation, name=value.name))


def _limited(value: Signal, activation: Capped) -> Signal | None:
    """What a layer of ReLUs sends, with a ceiling in their place; None where it is anything else.

    It may be permuted, and have a constant added.
    """
    graph, layer = value.graph, value.graph.layers[value.layer]
    moved = all(part.permutes or isinstance(part, Shift) for part in value.operations)
    neurons = graph.layers[layer.connection.source] if layer.pools_maxima else layer
    plain = neurons.activation is relu_activation
    if type(neurons.activation) is type(activation) is Capped:
        plain, activation = True, Capped(min(activation.ceiling, neurons.ceiling))
    if value.copies_differ or not moved or not plain:
        return None
    limited = replace(neurons, activation=activation)
    if not layer.pools_maxima:
        return replace(value, layer=graph.add(limited))
    connection = replace(layer.connection, source=graph.add(limited))
    return replace(value, layer=graph.add(replace(layer, connections=(connection,))))


def shared(value: Signal | Sum) -> Signal | Sum:
    """A value that is read several times: with weights, as what one layer sends."""
    if isinstance(value, Signal) and value.awaits_relu:
        before, maximum, after = value.around_maximum()
        (read,) = shared(before).terms
        return replace(value, layer=read.layer, operations=(*read.operations, maximum, *after))
    products = (part for term in value.terms for part in term.affine()[0].operations)
    return as_layer(value) if any(part.weighted for part in products) else value


def with_one_product(signal: Signal) -> Signal:
    """The signal that a product with weights is made of: two in a row multiply their synapses."""
    products = (Dense, Convolution)
    weighted = [part for part in signal.operations if isinstance(part, products)]
    several = any(not isinstance(part, Broadcast) for part in weighted)
    return as_layer(signal) if several else signal


def as_neurons(value: Sum) -> Signal:
    """A sum as what one layer sends: of ReLUs, whose spikes count, where it is never negative."""
    return relu(value) if all(map(never_negative, value.terms)) else as_layer(value)


def as_layer(value: Signal | Sum) -> Signal:
    """The value as what one layer without neurons sends; its bias is left to those who read it."""
    if isinstance(value, Sum):
        layer = _layer_of_sum(value)
    else:
        value = value.batch_first()
        layer = _layer(value)
    signal = _sent_by(value, replace(layer, bias=None, activation=linear))
    if layer.bias is None:
        return signal
    return replace(signal, operations=(Shift(layer.bias, np.shape(layer.bias)),))


def _sent_by(value: Signal | Sum, layer: Layer) -> Signal:
    """What a layer sends that was made of a value."""
    index = value.graph.add(layer)
    if isinstance(value, Signal):
        return replace(value, layer=index, operations=(), source="")
    return Signal.stored(value.graph, index, (), value.model_shape[1:], value.line)


def _layer_of_sum(value: Sum) -> Layer:
    """A layer that receives a sum, in the layout of the model."""
    return _layer(*(term.in_model_form() for term in value.terms), name=value.name)


def _is_sum(signal: Signal) -> bool:
    """Whether a layer without neurons sends the signal."""
    return signal.layer != INPUT and not signal.graph.layers[signal.layer].spiking


def layers_of(output: Any) -> tuple[Layer, ...]:
    """The layers of the whole network; the last is linear where its outputs may be negative."""
    if isinstance(output, ReadingError):
        raise output
    if isinstance(output, Mask):
        raise ReadingError(f"{output.line}: the model returns a comparison; {NOT_A_RELU}")
    if not isinstance(output, Signal | Sum):
        raise ReadingError("the model's output does not depend on its input.")
    layers = output.graph.layers
    if not any(layer.spiking for layer in layers):
        raise ReadingError(
            f"{output.line}: the model has no ReLU after a layer, so no neuron could spike; put "
            "nnx.relu, jax.nn.relu or jnp.maximum(x, 0) after its layers and train it so."
        )
    return _finished([*layers, _last_layer(output)])


def _last_layer(output: Signal | Sum) -> Layer:
    """The output layer."""
    if isinstance(output, Sum):
        return replace(_layer_of_sum(output), activation=linear)
    rest = _layer(output.in_model_form())
    positive = all(factors is None or np.all(factors >= 0) for factors in output.copies)
    if positive and _only_permutes(_layer(output)) and rest.bias is None and not _is_sum(output):
        if output.layer == INPUT:
            return rest
        # Permutations and copies can as well be made before the last ReLU.
        last = output.graph.layers[output.layer]
        simple = len(last.connections) == 1 and not last.pools_maxima
        if simple and last.activation is relu_activation:
            shift = () if last.bias is None else (Shift(last.bias, np.shape(last.bias)),)
            operations = (*last.operations, *shift, *output.operations)
            before = replace(
                output, layer=last.connection.source, operations=operations, source=str(last.name)
            )
            return _layer(before.in_model_form())
        if not rest.operations:
            return last
    spiking = rest.bias is None and _none_negative(rest.weights) and not _is_sum(output)
    return rest if spiking else replace(rest, activation=linear)


def _finished(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """The layers that the last one needs, and biases of size 1 where they do not vary."""
    return tuple(
        layer if layer.bias is None else layer.with_bias(_smallest(np.asarray(layer.bias)))
        for layer in needed_layers(layers)
    )


def _smallest(values: Any) -> Any:
    """The values with size 1 along the axes where they do not vary; a number if nowhere."""
    values = without_repeats(values)
    return values.reshape(()) if values.size == 1 else values


def _only_permutes(layer: Layer) -> bool:
    return all(operation.permutes for operation in layer.operations)


def _none_negative(weights: Any) -> bool:
    """Whether no weight is negative, and so no output where no input is."""
    return all(np.all(np.asarray(leaf) >= 0) for leaf in jax.tree.leaves(weights))


# -- The fewest operations -------------------------------------------------------------------------


def _layer(*terms: Signal, name: str = "") -> Layer:
    """The layer that receives signals, without more operations than it needs."""
    connections = list(map(_connection, terms))
    bias = sum((_bias(term.operations) for term in terms), np.zeros(()))
    if not np.any(bias):
        return Layer(tuple(connections), name=name or terms[0].name)
    if not any(connection.weighted for connection in connections):
        connections[0] = connections[0].times(1.0)  # by which the bias is scaled, too
    bias = cast(Any, np.asarray(bias, jnp.result_type(float)))
    return Layer(tuple(connections), bias, name=name or terms[0].name)


def _connection(signal: Signal) -> Connection:
    """What leads to a signal in the fewest operations, so that equal models read equal."""
    signal = signal.with_padding_made()
    assert not signal.awaits_relu
    scalar, kept = np.ones(()), []
    for operation in (part for part in signal.operations if not isinstance(part, Shift)):
        whole = isinstance(operation, WindowSum)
        for part in operation.divided(np.ones(())) if whole else (operation,):
            if isinstance(part, Multiply) and part.factor.ndim == 0:
                scalar = scalar * np.asarray(part.factor, np.float64)
                continue
            kept.append(part)
            while len(kept) > 1 and (merged := _merged(*kept[-2:])) is not None:
                kept[-2:] = [merged]
    kept = [Dense(part.kernel) if isinstance(part, Broadcast) else part for part in kept]
    connection = Connection(tuple(without_zeros(kept)), signal.layer)
    if abs(scalar - 1.0) < 1e-6:
        return connection
    return connection.times(as_jax(scalar, jnp.result_type(float)))


def _bias(operations: Sequence[Operation]) -> np.ndarray:
    """What the operations make of zeros, for each neuron."""
    shifts = [index for index, part in enumerate(operations) if isinstance(part, Shift)]
    if not shifts:
        return np.zeros(())
    first = cast(Shift, operations[shifts[0]])
    value: Any = np.zeros((1, *first.shape))
    for operation in operations[shifts[0] :]:
        # In NumPy where that is possible: JAX would compile a program for every shape.
        match operation:
            case Shift():
                value = np.asarray(value, np.float64) + np.asarray(operation.constant)
            case Multiply():
                value = np.asarray(value, np.float64) * np.asarray(operation.factor)
            case _ if operation.permutes:
                value = operation(value)
            case _:
                value = operation(as_jax(value, jnp.result_type(float)))
    return np.asarray(value, np.float64)[0]


def _merged(first: Operation, second: Operation) -> Operation | None:
    """Two successive operations as one, or None where they must stay two."""
    match first, second:
        case Reshape(), Reshape():
            return second
        case Transpose(), Transpose():
            return Transpose(tuple(first.axes[axis] for axis in second.axes))
        case Multiply(), Multiply():
            return Multiply(_product(first.factor, second.factor))
        case Dense(), Broadcast() if first.kernel.shape[1] == 1:
            return Dense(_product(first.kernel, second.kernel))
        case Dense(), Multiply() if second.factor.shape[-1] == second.factor.size:
            return Dense(_product(first.kernel, np.ravel(second.factor)))
        case Convolution(), Multiply():
            return _scaled_maps(first, second.factor)
    return None


def _product(weights: Any, factor: Any) -> jax.Array:
    """Weights times a factor, by NumPy: JAX would compile a program for every shape."""
    return as_jax(np.asarray(weights) * np.asarray(factor))


def _scaled_maps(convolution: Convolution, factor: jax.Array) -> Convolution | None:
    """The convolution with one factor for each of its maps, or None for any other factor."""
    channels = convolution.channels
    if factor.ndim <= channels.outputs or factor.shape[channels.outputs] != factor.size:
        return None
    others = [axis for axis in range(convolution.kernel.ndim) if axis != channels.weights_out]
    along_maps = np.expand_dims(np.ravel(factor), others)
    return replace(convolution, kernel=_product(convolution.kernel, along_maps))
