"""From a model to a `Network`, by tracing: any JAX function made of linear operations and ReLUs.

The model is traced to a jaxpr, the list of the primitive operations that JAX would run, and that
list is interpreted with two kinds of values: what depends on the images is a `_Signal`, the linear
operations since the last ReLU; everything else is known and simply computed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx
from flax.errors import TraceContextError
from jax.extend import source_info_util
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal
from jax.typing import ArrayLike

from jaxsnn.network import (
    AveragePooling,
    Convolution,
    Dense,
    Layer,
    Multiply,
    Network,
    Operation,
    Reshape,
    Shape,
    Transpose,
)

# Traced with more than one image, so that a model that flattens the batch away is found out.
_TRACED_BATCH = 3


class ReadingError(ValueError):
    """The model has a part that no spiking network of ours computes; the message says where.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsnn
        >>> try:
        ...     jaxsnn.read_network(lambda x: jnp.tanh(x), jnp.zeros((1, 2)))
        ... except jaxsnn.ReadingError as error:
        ...     print(str(error).split(" at ")[0])
        unsupported operation tanh
    """


def read_network(model: Callable[[Any], Any], example: ArrayLike) -> Network:
    """Read the linear operations between the ReLUs of a model, with their weights.

    Args:
        model: a Flax NNX module, a bound Linen module (`module.bind(variables)`) or any JAX
            function from a batch of images `[B, ...]` to the outputs `[B, ...]`. NNX modules are
            read in evaluation form, so that dropout is not there; the model is left as it is.
        example: a batch of images, of any size; only its shape matters.

    Returns:
        The network, with one layer for each ReLU. Average pooling with a ReLU after it is a layer
        of its own; without, it belongs to the next layer. Neurons keep the model's own layout.

    Raises:
        ReadingError: the model has a bias, an operation that is not linear (the message names it,
            its place in your source and the remedy), no ReLU, or weights that are not finite.
        ValueError: the example is not a batch of images.

    Warns:
        UserWarning: the model does not end in a ReLU; the network read gets one.

    Example:
        >>> import jax.numpy as jnp, jaxsnn
        >>> from flax import nnx
        >>> model = jaxsnn.networks.FullyConnected((4, 8, 3), rngs=nnx.Rngs(0))
        >>> network = jaxsnn.read_network(model, jnp.zeros((1, 2, 2, 1)))
        >>> network.shapes
        [(8,), (3,)]
    """
    example_shape, example_dtype = np.shape(example), jnp.result_type(example)
    if len(example_shape) < 2 or not jnp.issubdtype(example_dtype, jnp.floating):
        raise ValueError(
            f"the example has shape {example_shape} and dtype {example_dtype}, but must be a batch "
            "of images [B, ...] of floats in [0, 1], such as train.images[:1]."
        )
    batch = jax.ShapeDtypeStruct((_TRACED_BATCH, *example_shape[1:]), example_dtype)
    closed = _trace(_evaluation_form(model), batch)
    axes = tuple(range(len(example_shape)))
    signal = _Signal((), (), example_shape[1:], axes, "the input")
    outputs = _interpret(*_opened(closed), [signal])
    if len(outputs) != 1:
        raise ReadingError(f"the model returns {len(outputs)} arrays; let it return its outputs.")
    network = Network(_finish(outputs[0]), example_shape[1:])
    expected = closed.out_avals[0].shape[1:]
    assert network.shapes[-1] == expected, f"{network} should end in {expected}"
    _check_weights(network)
    return network


def _evaluation_form(model: Callable[[Any], Any]) -> Callable[[Any], Any]:
    if isinstance(model, nnx.Module):
        graph, state = nnx.split(nnx.clone(model))

        def forward(images: Any) -> Any:
            # Made inside the trace, where a model may count its calls or sow values.
            traced = nnx.merge(graph, state, copy=True)
            traced.eval()
            return traced(images)  # type: ignore[operator]

        return forward
    if isinstance(model, linen.Module) and model.scope is None:
        raise TypeError(
            f"{type(model).__name__} is a Linen module without its variables: "
            "give read_network the bound module, model.bind(variables)."
        )
    if not callable(model):
        raise TypeError(f"a {type(model).__name__} is no model: give a module or a function.")
    return model


def _trace(model: Callable[[Any], Any], batch: jax.ShapeDtypeStruct) -> ClosedJaxpr:
    try:
        return jax.make_jaxpr(model)(batch)
    except TraceContextError as error:
        raise ReadingError(
            "the function changes an NNX model, as dropout in training mode does: call "
            "model.eval() first, or give read_network the model itself."
        ) from error
    except (TypeError, ValueError) as error:
        raise ReadingError(
            f"the model fails for a batch of {_TRACED_BATCH} images, of shape {batch.shape} (it "
            f"must take any number of them): {error}"
        ) from error


def _check_weights(network: Network) -> None:
    for index, layer in enumerate(network.layers):
        for weights in layer.weights:
            bad = int(np.sum(~np.isfinite(weights)))
            if bad:
                raise ReadingError(
                    f"{network.name(index)} has {bad} weights that are NaN or infinite; "
                    "its training diverged: train again with a smaller learning rate."
                )


# -- The interpreter -------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Signal:
    """A value that depends on the images: the layers so far and the operations since the last.

    `shape` is that of the features, held with the batch first; `axes[i]` is the axis of
    `[batch, *shape]` that the model has in place i. The two orders differ while the model holds its
    data transposed. `place` is the source line of the last operation.
    """

    layers: tuple[Layer, ...]
    operations: tuple[Operation, ...]
    shape: Shape
    axes: Shape
    place: str

    @property
    def model_shape(self) -> Shape:
        held = (_TRACED_BATCH, *self.shape)
        return tuple(held[axis] for axis in self.axes)

    def then(self, operation: Operation) -> _Signal:
        """The signal after one more operation, in the order in which it is held."""
        held = jax.ShapeDtypeStruct((_TRACED_BATCH, *self.shape), jnp.float32)
        shape = jax.eval_shape(operation, held).shape[1:]
        axes = tuple(range(len(shape) + 1))
        return replace(self, operations=(*self.operations, operation), shape=shape, axes=axes)

    def reordered(self, order: Shape) -> _Signal:
        """The signal held in another order of its axes, of which the first is the batch."""
        return self if order == tuple(range(len(order))) else self.then(Transpose(order))

    def in_order(self) -> _Signal:
        """The signal held as the model has it."""
        if self.axes[0] != 0:
            batch = self.axes.index(0)
            raise ReadingError(f"the batch is on axis {batch} here; transpose it to the front.")
        return self.reordered(self.axes)

    def batch_first(self) -> _Signal:
        """The features held in the model's order, wherever the model has the batch."""
        batch = self.axes.index(0)
        held = self.reordered((0, *(axis for axis in self.axes if axis != 0)))
        places = [*range(1, len(self.axes))]
        places.insert(batch, 0)
        return replace(held, axes=tuple(places))


def _opened(body: Any) -> tuple[Jaxpr, Sequence[Any]]:
    """A jaxpr and its constants, which JAX keeps in one object or in two."""
    return getattr(body, "jaxpr", body), getattr(body, "consts", ())


def _interpret(
    jaxpr: Jaxpr, consts: Sequence[Any], arguments: Sequence[Any], place: str | None = None
) -> Sequence[Any]:
    """Outputs of a jaxpr. What cannot be read becomes an error that is raised only if it is used.

    `place` is the user's source line where the jaxpr is that of a library function.
    """
    values: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
    values.update(zip(jaxpr.invars, arguments, strict=True))

    def value(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    for equation in jaxpr.eqns:
        inputs = [value(atom) for atom in equation.invars]
        outputs: Sequence[Any]
        try:
            outputs = _apply(equation, inputs, place or _place(equation))
        except ReadingError as error:
            outputs = [error] * len(equation.outvars)
        values.update(zip(equation.outvars, outputs, strict=True))
    return [value(atom) for atom in jaxpr.outvars]


def _apply(equation: JaxprEqn, inputs: list[Any], place: str) -> Sequence[Any]:
    """Outputs of one operation."""
    for error in (x for x in inputs if isinstance(x, ReadingError)):
        raise error
    name = equation.primitive.name
    if name in _CALLS:
        body, consts = _opened(next(filter(None, map(equation.params.get, _BODIES))))
        return _interpret(body, consts, inputs, place if _is_library(body) else None)
    if name == "random_bits":
        raise ReadingError(
            f"random numbers are drawn at {place}: read the model in its evaluation form, with "
            "its dropout off (deterministic=True)."
        )
    if not any(isinstance(x, _Signal) for x in inputs):
        output = equation.primitive.bind(*inputs, **equation.params)
        return output if equation.primitive.multiple_results else [output]
    if name not in _RULES:
        remedy = _REMEDIES.get(
            name,
            "between two ReLUs there may be dense layers, convolutions, average pooling, reshape, "
            "transpose and constant factors.",
        )
        raise ReadingError(f"unsupported operation {name} at {place}: {remedy}")
    try:
        signal = _RULES[name](equation.params, *inputs)
    except ReadingError as error:
        raise ReadingError(f"{name} at {place}: {error}") from None
    return [replace(signal, place=place)]


# The operations that run a function once, on their inputs, and where they keep it.
_CALLS = (
    *("jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint"),
    *("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"),
)
_BODIES = ("jaxpr", "call_jaxpr", "fun_jaxpr")
_LIBRARIES = (
    *(str(Path(str(module.__file__)).parent) for module in (jax, flax)),
    str(Path(__file__)),
)


def _is_library(body: Jaxpr) -> bool:
    """Whether JAX or Flax wrote the function: its trace is cached and its lines are not yours."""
    return str(body.debug_info.func_filename).startswith(_LIBRARIES)


def _place(equation: JaxprEqn) -> str:
    """File, line and function of the user's code that an operation comes from."""
    frames = source_info_util.summarize(equation.source_info, num_frames=50).splitlines()
    own = [frame for frame in frames if not frame.strip().startswith(_LIBRARIES)]
    return ("a place unknown", *frames, *own)[-1].strip()  # the innermost of them is the last


# -- One rule for each primitive operation ---------------------------------------------------------


def _maximum(_params: dict, x: Any, y: Any) -> _Signal:
    signal, floor = (x, y) if isinstance(x, _Signal) else (y, x)
    if isinstance(floor, _Signal):
        raise ReadingError("the maximum of two signals is not linear; use average pooling.")
    if np.any(np.asarray(floor)):
        raise ReadingError("only max(x, 0), the ReLU, can become a spiking neuron.")
    return _relu(signal)


def _relu(signal: _Signal) -> _Signal:
    """Close the layer. The ReLU of mere moves of pixels or of ReLU outputs changes nothing."""
    if _only_moves(signal.operations):
        return signal
    signal = signal.batch_first()
    layer = _simplify(signal.operations)
    return replace(signal, layers=(*signal.layers, layer), operations=())


def _dot_general(params: dict, lhs: Any, rhs: Any) -> _Signal:
    (contract, kernel_contract), (batch, _) = params["dimension_numbers"]
    signal, kernel = lhs, rhs
    if not isinstance(lhs, _Signal):
        signal, kernel, contract, kernel_contract = rhs, lhs, kernel_contract, contract
    if isinstance(kernel, _Signal):
        raise ReadingError("the product of two values that depend on the images is not linear.")
    contracted = tuple(signal.axes[axis] for axis in contract)
    if batch:
        raise ReadingError("weights of their own for each position or group are not supported.")
    if 0 in contracted:
        raise ReadingError("the images of a batch are mixed with each other here.")
    kernel = _weights(kernel)
    free = tuple(axis for axis in signal.axes if axis not in contracted)
    kernel_free = tuple(axis for axis in range(kernel.ndim) if axis not in kernel_contract)
    out_shape = tuple(kernel.shape[axis] for axis in kernel_free)
    kernel = kernel.transpose((*kernel_contract, *kernel_free)).reshape(-1, prod(out_shape))

    features = tuple(axis for axis in free if axis != 0)
    held = signal.reordered((0, *features, *contracted))
    free_shape = held.shape[: len(features)]
    result = _reshaped(held, (*free_shape, kernel.shape[0])).then(Dense(kernel))
    result = _reshaped(result, (*free_shape, *out_shape))
    # The model has the axes in the order of the operands.
    places = [0 if axis == 0 else 1 + features.index(axis) for axis in free]
    new = list(range(1 + len(features), 1 + len(features) + len(out_shape)))
    return replace(result, axes=tuple(places + new if signal is lhs else new + places))


def _weights(kernel: ArrayLike) -> jax.Array:
    """Weights in float32 or better: potentials summed in half precision would drift."""
    return jnp.asarray(kernel, jnp.promote_types(jnp.result_type(kernel), jnp.float32))


def _convolution(params: dict, signal: Any, kernel: Any) -> _Signal:
    if isinstance(kernel, _Signal):
        raise ReadingError("the kernel depends on the images; that is not linear.")
    numbers = params["dimension_numbers"]
    if (numbers.lhs_spec[0], numbers.out_spec[0], params["batch_group_count"]) != (0, 0, 1):
        raise ReadingError("the batch must be the first axis of a convolution.")
    return signal.in_order().then(
        Convolution(
            _weights(kernel),
            strides=tuple(params["window_strides"]),
            padding=tuple(tuple(pair) for pair in params["padding"]),
            input_dilation=tuple(params["lhs_dilation"]),
            kernel_dilation=tuple(params["rhs_dilation"]),
            groups=params["feature_group_count"],
            dimension_numbers=numbers,
        )
    )


@dataclass(frozen=True)
class _WindowSum(Operation):
    """The first half of an average pooling, until its division has been read."""

    pooling: AveragePooling
    counts: np.ndarray

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.pooling.sum(x)

    def divided(self, factor: np.ndarray) -> tuple[Operation, ...]:
        """The pooling whose sums are multiplied by this factor."""
        size = prod(self.pooling.window)
        if factor.ndim and np.allclose(factor * self.counts, 1.0, rtol=1e-6, atol=0.0):
            return (replace(self.pooling, count_padding=False),)
        return (self.pooling, Multiply(jnp.asarray(factor * size)))


def _window_sum(
    signal: _Signal, window: Shape, strides: Shape, padding: Sequence[tuple[int, int]]
) -> _Signal:
    if (window[0], strides[0], tuple(padding[0])) != (1, 1, (0, 0)):
        raise ReadingError("the window must not reach over the batch axis.")
    signal = signal.in_order()
    pairs = tuple((low, high) for low, high in padding[1:])
    pooling = AveragePooling(tuple(window[1:]), tuple(strides[1:]), pairs, count_padding=True)
    return signal.then(_WindowSum(pooling, np.asarray(pooling.counts(signal.shape))))


def _reduce_window_sum(params: dict, signal: _Signal) -> _Signal:
    if any(dilation != 1 for dilation in (*params["base_dilation"], *params["window_dilation"])):
        raise ReadingError("dilated pooling is not supported.")
    return _window_sum(
        signal, params["window_dimensions"], params["window_strides"], params["padding"]
    )


def _reduce_window(params: dict, signal: Any, start: Any, *others: Any) -> _Signal:
    body, _ = _opened(params["jaxpr"])
    names = [equation.primitive.name for equation in body.eqns]
    if others or names != ["add"] or isinstance(start, _Signal) or np.any(start):
        raise ReadingError("only sums over windows are linear; use average pooling.")
    return _reduce_window_sum(params, signal)


def _reduce_sum(params: dict, signal: _Signal) -> _Signal:
    shape, axes = signal.model_shape, params["axes"]
    window = tuple(size if axis in axes else 1 for axis, size in enumerate(shape))
    pooled = _window_sum(signal, window, (1,) * len(shape), ((0, 0),) * len(shape))
    return _reshaped(pooled, tuple(n for axis, n in enumerate(shape) if axis and axis not in axes))


def _multiply(_params: dict, x: Any, y: Any) -> _Signal:
    signal, factor = (x, y) if isinstance(x, _Signal) else (y, x)
    if isinstance(factor, _Signal):
        raise ReadingError("the product of two values that depend on the images is not linear.")
    return _times(signal, factor)


def _divide(_params: dict, x: Any, y: Any) -> _Signal:
    if isinstance(y, _Signal):
        raise ReadingError("dividing by a value that depends on the images is not linear.")
    return _times(x, 1.0 / np.asarray(y, np.float64))


def _times(signal: _Signal, factor: ArrayLike) -> _Signal:
    """Multiply by a constant, which becomes as small as its own constancy allows."""
    everywhere = np.broadcast_to(np.asarray(factor), signal.model_shape)
    small = everywhere.transpose(np.argsort(signal.axes))
    for axis in range(small.ndim):
        first = small.take([0], axis)
        if np.array_equal(np.broadcast_to(first, small.shape), small):
            small = first
    if small.shape[0] != 1:
        raise ReadingError("the factor differs between the images of a batch.")
    small = small.reshape(()) if small.size == 1 else small[0]
    small = small.astype(jnp.result_type(float))
    *rest, last = signal.operations or (None,)
    if isinstance(last, _WindowSum):
        return replace(signal, operations=(*rest, *last.divided(small)))
    if np.all(small == 1):
        return signal
    return replace(signal, operations=(*signal.operations, Multiply(jnp.asarray(small))))


def _add(_params: dict, x: Any, y: Any) -> _Signal:
    signal, bias = (x, y) if isinstance(x, _Signal) else (y, x)
    if isinstance(bias, _Signal):
        raise ReadingError("two branches are joined here; only a chain of layers can be read.")
    if np.any(np.asarray(bias)):
        raise ReadingError(
            "a bias, or another constant that is not zero, is added here; integrate-and-fire "
            "neurons of this kind have none: train the model without (use_bias=False)."
        )
    return signal


def _subtract(params: dict, x: Any, y: Any) -> _Signal:
    return _add(params, x, y) if isinstance(x, _Signal) else _times(_add(params, x, y), -1.0)


def _reshape(params: dict, signal: _Signal) -> _Signal:
    return _resized(signal, params["new_sizes"])


def _squeeze(params: dict, signal: _Signal) -> _Signal:
    gone = params["dimensions"]
    return _resized(signal, [n for axis, n in enumerate(signal.model_shape) if axis not in gone])


def _broadcast(params: dict, signal: _Signal) -> _Signal:
    shape, places = params["shape"], params["broadcast_dimensions"]
    if prod(shape) != prod(signal.model_shape) or tuple(sorted(places)) != tuple(places):
        raise ReadingError("copying values to several places is not supported.")
    return _resized(signal, shape)


def _resized(signal: _Signal, shape: Sequence[int]) -> _Signal:
    if tuple(shape) == signal.model_shape:
        return signal
    signal = signal.in_order()
    if shape[0] != _TRACED_BATCH:
        raise ReadingError("the batch must stay the first axis, as in x.reshape(x.shape[0], -1).")
    return _reshaped(signal, tuple(shape[1:]))


def _reshaped(signal: _Signal, shape: Shape) -> _Signal:
    return signal if shape == signal.shape else signal.then(Reshape(shape))


def _transpose(params: dict, signal: _Signal) -> _Signal:
    return replace(signal, axes=tuple(signal.axes[axis] for axis in params["permutation"]))


def _convert(params: dict, signal: _Signal) -> _Signal:
    if not jnp.issubdtype(params["new_dtype"], jnp.floating):
        raise ReadingError(f"rounding to {params['new_dtype']} is not linear.")
    return signal


def _unchanged(_params: dict, *signals: _Signal) -> _Signal:
    if len(signals) != 1:
        raise ReadingError("several arrays at once are not supported; pass one.")
    return signals[0]


_RULES: dict[str, Callable[..., _Signal]] = {
    "max": _maximum,
    "dot_general": _dot_general,
    "conv_general_dilated": _convolution,
    "reduce_window_sum": _reduce_window_sum,
    "reduce_window": _reduce_window,
    "reduce_sum": _reduce_sum,
    "mul": _multiply,
    "div": _divide,
    "neg": lambda params, x: _times(x, -1.0),
    "add": _add,
    "add_any": _add,
    "sub": _subtract,
    "reshape": _reshape,
    "squeeze": _squeeze,
    "broadcast_in_dim": _broadcast,
    "transpose": _transpose,
    "convert_element_type": _convert,
    "copy": _unchanged,
    "copy_p": _unchanged,
    "name": _unchanged,
    "sharding_constraint": _unchanged,
    "optimization_barrier": _unchanged,
    "stop_gradient": _unchanged,
}

_NOT_A_RELU = "train the model with ReLUs (nnx.relu, jax.nn.relu or jnp.maximum(x, 0)) instead."
_REMEDIES = {
    "reduce_window_max": "max pooling is not linear; train the model with average pooling.",
    "reduce_max": "a maximum is not linear: use average pooling; and return without softmax.",
    "pad": "give the padding to the convolution or pooling that follows.",
    "slice": "circular or explicit padding, and cropping, are not supported.",
    "concatenate": "two branches are joined here; only a chain of layers can be read.",
    "argmax": "let the model return the outputs of its last ReLU, not the class.",
    "exp": "let the model return its ReLU outputs, without softmax.",
    "select_n": "dropout must be off, and a ReLU written as max(x, 0), not as a choice.",
    **dict.fromkeys(("tanh", "logistic", "erf", "erfc", "min", "clamp", "abs"), _NOT_A_RELU),
    **dict.fromkeys(("gt", "ge", "lt", "le", "sign"), _NOT_A_RELU),
}


# -- The end of a layer ----------------------------------------------------------------------------


def _finish(output: Any) -> tuple[Layer, ...]:
    """The layers of the whole network, whose last operation must be a ReLU."""
    if isinstance(output, ReadingError):
        raise output
    if not isinstance(output, _Signal):
        raise ReadingError("the model's output does not depend on its input.")
    if not output.layers:
        raise ReadingError(
            f"{output.place}: the model has no ReLU after a layer, so no neuron could spike; put "
            "nnx.relu, jax.nn.relu or jnp.maximum(x, 0) after its layers and train it so."
        )
    output = output.in_order()
    if not _only_moves(output.operations):
        warnings.warn(
            f"{output.place}: the model does not end in a ReLU; the network read gets one, so "
            "negative outputs become 0. Better train the model with a last ReLU.",
            stacklevel=3,
        )
        return _relu(output).layers
    # Moves after the last ReLU do as well before it.
    *layers, last = output.layers
    return (*layers, _simplify((*last.operations, *output.operations)))


def _only_moves(operations: Sequence[Operation]) -> bool:
    return all(isinstance(operation, Reshape | Transpose) for operation in operations)


def _simplify(operations: Sequence[Operation]) -> Layer:
    """The layer that does the same in the fewest operations, so that equal models read equal."""
    scalar, kept = np.ones(()), []
    for operation in operations:
        parts = [operation]
        if isinstance(operation, _WindowSum):
            parts = operation.divided(np.ones(()))
        for part in parts:
            if isinstance(part, Multiply) and part.factor.ndim == 0:
                scalar = scalar * np.asarray(part.factor, np.float64)
            else:
                kept.append(part)
                while len(kept) > 1 and (joined := _join(*kept[-2:])) is not None:
                    kept[-2:] = [joined]
    layer = Layer(tuple(kept))
    if abs(scalar - 1.0) < 1e-6:
        return layer
    scalar = jnp.asarray(scalar, jnp.result_type(float))
    return layer.times(scalar) if layer.weighted else Layer((*kept, Multiply(scalar)))


def _join(first: Operation, second: Operation) -> Operation | None:
    """Two neighbouring operations as one, or None where they must stay two."""
    match first, second:
        case Reshape(), Reshape():
            return second
        case Transpose(), Transpose():
            return Transpose(tuple(first.axes[axis] for axis in second.axes))
        case Multiply(), Multiply():
            return Multiply(first.factor * second.factor)
        case Dense(), Multiply() if second.factor.shape[-1] == second.factor.size:
            return Dense(first.kernel * second.factor.reshape(-1))
        case Convolution(), Multiply():
            return _scaled_maps(first, second.factor)
    return None


def _scaled_maps(convolution: Convolution, factor: jax.Array) -> Convolution | None:
    """The convolution with one factor for each of its maps, or None if the factor is not so."""
    maps = convolution.dimension_numbers.out_spec[1] - 1
    if factor.ndim <= maps or factor.shape[maps] != factor.size:
        return None
    kernel_maps = convolution.dimension_numbers.rhs_spec[0]
    axes = tuple(axis for axis in range(convolution.kernel.ndim) if axis != kernel_maps)
    return replace(
        convolution, kernel=convolution.kernel * jnp.expand_dims(factor.reshape(-1), axes)
    )
