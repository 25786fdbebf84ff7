"""From signals to layers: a ReLU ends a layer, which then gets as few operations as possible."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

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
)
from jaxsnn.reading.errors import ReadingError
from jaxsnn.reading.signals import Broadcast, Signal, WindowSum

# -- The end of a layer ----------------------------------------------------------------------------


def relu(signal: Signal) -> Signal:
    """End the layer. Where pixels or ReLU outputs are only permuted, a ReLU changes nothing."""
    if any(factors is not None and np.any(factors < 0) for factors in signal.copies):
        signal = signal.with_copies_made()  # other copies may be made after the ReLU as well
    signal = signal.batch_first()
    layer = _layer(signal)
    if _only_permutes(layer):
        return signal
    return replace(signal, layers=(*signal.layers, layer), operations=(), source="")


def layers_of(output: Any) -> tuple[tuple[Layer, ...], str | None]:
    """The layers of the whole network, which ends in a ReLU, and what to warn of."""
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
    if positive and _only_permutes(_layer(output)):
        # Permutations and copies can as well be made before the last ReLU.
        operations = (*last.operations, *output.operations)
        output = replace(output, operations=operations, source=str(last.name))
        return (*layers, _layer(output.in_model_form())), None
    output = output.in_model_form()
    warning = None if _never_negative(output.operations) else f"{output.line}: {_NO_LAST_RELU}"
    return (*output.layers, _layer(output)), warning


_NO_LAST_RELU = (
    "the model does not end in a ReLU, so the output neurons stand for max(output, 0). The class "
    "is that of the model wherever at least one output is positive, and nothing else is lost; "
    "images whose outputs are all negative stay undecided (-1). How many are decided: "
    "(model(images).max(-1) > 0).mean()."
)


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
    for operation in signal.operations:
        whole = isinstance(operation, WindowSum)
        for part in operation.divided(np.ones(())) if whole else (operation,):
            if isinstance(part, Multiply) and part.factor.ndim == 0:
                scalar = scalar * np.asarray(part.factor, np.float64)
                continue
            kept.append(part)
            while len(kept) > 1 and (merged := _merged(*kept[-2:])) is not None:
                kept[-2:] = [merged]
    kept = [Dense(part.kernel) if isinstance(part, Broadcast) else part for part in kept]
    layer = Layer((Connection(tuple(kept)),), name=signal.name)
    if abs(scalar - 1.0) < 1e-6:
        return layer
    factor = jnp.asarray(scalar, jnp.result_type(float))
    if layer.weighted:
        return layer.times(factor)
    return layer.with_operations([*kept, Multiply(factor)])


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
