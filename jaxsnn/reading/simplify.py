"""From signals to layers: a ReLU ends a layer, which then gets as few operations as possible."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxsnn.network import (
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
from jaxsnn.reading.errors import ReadingError
from jaxsnn.reading.signals import Broadcast, Shift, Signal, WindowSum

# -- The end of a layer ----------------------------------------------------------------------------


def relu(signal: Signal) -> Signal:
    """End the layer. Where pixels or ReLU outputs are only permuted, a ReLU changes nothing."""
    if any(factors is not None and np.any(factors < 0) for factors in signal.copies):
        signal = signal.with_copies_made()  # other copies may be made after the ReLU as well
    signal = signal.batch_first()
    layer = _layer(signal)
    if _only_permutes(layer) and layer.bias is None:
        return signal
    return replace(signal, layers=(*signal.layers, layer), operations=(), source="")


def layers_of(output: Any) -> tuple[Layer, ...]:
    """The layers of the whole network; the last is linear where its outputs may be negative."""
    if isinstance(output, ReadingError):
        raise output
    if not isinstance(output, Signal):
        raise ReadingError("the model's output does not depend on its input.")
    if not output.layers:
        raise ReadingError(
            f"{output.line}: the model has no ReLU after a layer, so no neuron could spike; put "
            "nnx.relu, jax.nn.relu or jnp.maximum(x, 0) after its layers and train it so."
        )
    *layers, last = output.layers
    positive = all(factors is None or np.all(factors >= 0) for factors in output.copies)
    rest = _layer(output)
    if positive and _only_permutes(rest) and rest.bias is None:
        # Permutations and copies can as well be made before the last ReLU.
        shift = () if last.bias is None else (Shift(last.bias, np.shape(last.bias)),)
        operations = (*last.operations, *shift, *output.operations)
        output = replace(output, operations=operations, source=str(last.name))
        return _finished((*layers, _layer(output.in_model_form())))
    layer = _layer(output.in_model_form())
    spiking = layer.bias is None and _never_negative(layer.operations)
    return _finished((*output.layers, layer if spiking else replace(layer, activation=linear)))


def _finished(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """The layers with biases of size 1 along the axes where they do not vary."""
    return tuple(
        layer if layer.bias is None else layer.with_bias(_smallest(np.asarray(layer.bias)))
        for layer in layers
    )


def _smallest(bias: Any) -> Any:
    for axis in range(bias.ndim):
        one = bias.take([0], axis)
        bias = one if np.array_equal(np.broadcast_to(one, bias.shape), bias) else bias
    return bias.reshape(()) if bias.size == 1 else bias


def _only_permutes(layer: Layer) -> bool:
    return all(operation.permutes for operation in layer.operations)


def _never_negative(operations: Sequence[Operation]) -> bool:
    """Whether no output is negative where no input is."""
    weights = [leaf for part in operations if part.weighted for leaf in jax.tree.leaves(part)]
    return all(np.all(np.asarray(leaf) >= 0) for leaf in weights)


# -- The fewest operations -------------------------------------------------------------------------


def _layer(signal: Signal) -> Layer:
    """The layer that does the same in the fewest operations, so that equal models read equal."""
    signal.check_padding()
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
    layer = Layer((Connection(tuple(kept)),), _bias(signal.operations), name=signal.name)
    exact = abs(scalar - 1.0) < 1e-6
    factor = jnp.asarray(1.0 if exact else scalar, jnp.result_type(float))
    if layer.weighted:
        return layer if exact else layer.times(factor)
    if exact and layer.bias is None:
        return layer
    return layer.with_operations([*kept, Multiply(factor)])  # by which a bias is scaled, too


def _bias(operations: Sequence[Operation]) -> Any:
    """What the operations make of zeros, for each neuron; None if nothing."""
    shifts = [index for index, part in enumerate(operations) if isinstance(part, Shift)]
    if not shifts:
        return None
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
                value = operation(jnp.asarray(value, jnp.result_type(float)))
    bias = np.asarray(value, jnp.result_type(float))[0]
    return bias if np.any(bias) else None


def _merged(first: Operation, second: Operation) -> Operation | None:
    """Two successive operations as one, or None where they must stay two."""
    match first, second:
        case Reshape(), Reshape():
            return second
        case Transpose(), Transpose():
            return Transpose(tuple(first.axes[axis] for axis in second.axes))
        case Multiply(), Multiply():
            return Multiply(first.factor * second.factor)
        case Dense(), Broadcast() if first.kernel.shape[1] == 1:
            return Dense(first.kernel * second.kernel)
        case Dense(), Multiply() if second.factor.shape[-1] == second.factor.size:
            return Dense(first.kernel * second.factor.reshape(-1))
        case Convolution(), Multiply():
            return _scaled_maps(first, second.factor)
    return None


def _scaled_maps(convolution: Convolution, factor: jax.Array) -> Convolution | None:
    """The convolution with one factor for each of its maps, or None for any other factor."""
    channels = convolution.channels
    if factor.ndim <= channels.outputs or factor.shape[channels.outputs] != factor.size:
        return None
    others = [axis for axis in range(convolution.kernel.ndim) if axis != channels.weights_out]
    kernel = convolution.kernel * jnp.expand_dims(factor.reshape(-1), others)
    return replace(convolution, kernel=kernel)
