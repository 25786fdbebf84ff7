"""From a model to a `Network`, by tracing: any JAX function made of linear operations and ReLUs.

The model is traced to a jaxpr, the list of the primitive operations that JAX would run, and that
list is interpreted with two kinds of values: what depends on the images is a `_Signal`, the linear
operations since the last ReLU; everything else is known and simply computed.
"""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx
from flax.errors import InvalidRngError, ModifyScopeVariableError, TraceContextError
from jax.extend import source_info_util
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal
from jax.typing import ArrayLike

from jaxsnn.network import (
    AveragePooling,
    Connection,
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
from jaxsnn.support.typed import Images, typed
from jaxsnn.support.warn import warn

Model = Annotated[
    Callable[[Any], Any], "a Flax module or a function from images [B, ...] to outputs [B, ...]"
]

# Traced with more than one image, so that a model that flattens the batch away is noticed, and with
# a number that is rarely the size of another axis, so that constants do not pass for batches.
_TRACED_BATCH = 13


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


@typed
def read_network(model: Model, example: Images) -> Network:
    """Read the linear operations between the ReLUs of a model, with their weights.

    Args:
        model: a Flax NNX module, a bound Linen module (`module.bind(variables)`) or any JAX
            function from a batch of images `[B, ...]` to the outputs `[B, ...]`. NNX modules are
            read in evaluation form, so that dropout is not there; the model is left as it is.
        example: a batch of images, of any size; only its shape matters.

    Returns:
        The network, with one layer for each ReLU. Average pooling with a ReLU after it is a layer
        of its own; without, it belongs to the next layer. Neurons keep the model's own layout; a
        value that the model copies by broadcasting stays one neuron where that is exact.

    Raises:
        ReadingError: the model has a bias, an operation that is not linear (the message names it,
            its place in your source and the remedy), no ReLU, or weights that are not finite.
        ValueError: the example is not a batch of images.

    Warns:
        UserWarning: the model does not end in a ReLU and its outputs may be negative; the output
            neurons stand for max(output, 0).

    Example:
        >>> import jax.numpy as jnp, jaxsnn
        >>> from flax import nnx
        >>> model = jaxsnn.networks.FullyConnected((4, 8, 3), rngs=nnx.Rngs(0))
        >>> network = jaxsnn.read_network(model, jnp.zeros((1, 2, 2, 1)))
        >>> network.shapes
        [(8,), (3,)]
    """
    shape, dtype = _check_example(example)
    function = _evaluation_form(model)
    try:
        network, warning = _read(function, shape[1:], dtype)
    except ReadingError as error:
        unsupported = str(error).startswith("unsupported operation")
        if not unsupported and _can_be_read(function, shape, dtype):
            raise ReadingError(
                f"the example of shape {shape} looks like one image without a batch axis: give "
                "images[:1] or image[None]."
            ) from error
        raise
    _check_weights(network)
    if warning:
        warn(warning)
    return network


def _check_example(example: ArrayLike) -> tuple[Shape, Any]:
    """Shape and type of the example, if it can be a batch of images."""
    shape, dtype = np.shape(example), jnp.result_type(example)
    remedy = "give floats in [0, 1], such as train.images[:1]"
    if dtype == np.bool_:
        remedy = "convert it: example.astype('float32')"
    elif jnp.issubdtype(dtype, jnp.integer):
        remedy = "give floats in [0, 1]: divide 8-bit pixels by 255"
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"the example has dtype {dtype}, but pixels are floats: {remedy}.")
    if len(shape) < 2 or 0 in shape[1:]:
        raise ValueError(
            f"the example has shape {shape}, but must be a batch of images [B, ...], such as "
            "train.images[:1]; a single image needs a batch axis: image[None]."
        )
    return shape, dtype


def _read(
    function: Callable[[Any], Any], image_shape: Shape, dtype: Any
) -> tuple[Network, str | None]:
    """The network that a function is for images of this shape, and what to warn of."""
    closed = _trace(function, jax.ShapeDtypeStruct((_TRACED_BATCH, *image_shape), dtype))
    if (count := len(closed.out_avals)) != 1:
        raise ReadingError(
            f"the model returns {count or 'no'} arrays; let it return one, its outputs, such as "
            "read_network(lambda x: model(x)[0], example)."
        )
    outputs = _interpret(*_opened(closed), [_images(image_shape)])
    layers, warning = _finish(outputs[0])
    network = Network(layers, image_shape)
    expected = closed.out_avals[0].shape[1:]
    assert network.shapes[-1] == expected, f"{network} should end in {expected}"
    return network, warning


def _can_be_read(function: Callable[[Any], Any], image_shape: Shape, dtype: Any) -> bool:
    try:
        _read(function, image_shape, dtype)
    except ReadingError:
        return False
    return True


def _evaluation_form(model: Callable[[Any], Any]) -> Callable[[Any], Any]:
    name = getattr(model, "__name__", type(model).__name__)
    if isinstance(model, type):
        raise TypeError(f"{name} is a class: give read_network an instance of it, {name}(...).")
    if not callable(model):
        raise TypeError(f"a {name} is no model: give a module or a function of a batch of images.")
    if isinstance(model, nnx.Module):
        graph, state = nnx.split(nnx.clone(model))

        def forward(images: Any) -> Any:
            # Made inside the trace, where a model may count its calls or sow values.
            traced = nnx.merge(graph, state, copy=True)
            traced.eval()
            return traced(images)  # type: ignore[operator]

        return forward
    owner: Any = getattr(model, "__self__", model)
    if isinstance(owner, linen.Module) and owner.scope is None:
        raise TypeError(
            f"{type(owner).__name__} is a Linen module without its variables: "
            "give read_network the bound module, model.bind(variables)."
        )
    return model


# -- Tracing ---------------------------------------------------------------------------------------


def _trace(model: Callable[[Any], Any], batch: jax.ShapeDtypeStruct) -> ClosedJaxpr:
    try:
        return jax.make_jaxpr(model)(batch)
    except TraceContextError as error:
        raise ReadingError(
            "the function changes an NNX model, as dropout and batch norm in training mode do: "
            "call model.eval() first, or give read_network the model itself."
        ) from error
    except Exception as error:
        own = [
            frame
            for frame in traceback.extract_tb(error.__traceback__)
            if not frame.filename.startswith(_LIBRARIES)
        ]
        place = f" at {own[-1].filename}:{own[-1].lineno} ({own[-1].name})" if own else ""
        raise ReadingError(
            f"the model fails{place} for a batch of images of shape {batch.shape}: "
            f"{_remedy_of_failure(error)} ({type(error).__name__}: {error})"
        ) from error


_TRAINING = (
    "it is in training mode; read it in evaluation mode, with the argument that your model has for "
    "this, such as read_network(lambda x: model(x, train=False), example)."
)
# The values with which these arguments mean evaluation.
_EVALUATION = {"train": False, "training": False, "is_training": False, "deterministic": True}


def _remedy_of_failure(error: Exception) -> str:
    """What helps against an exception that the model raised."""
    if isinstance(error, ModifyScopeVariableError | InvalidRngError):
        return _TRAINING
    missing = re.search(r"missing .*argument.*?: .*?'(\w+)'", str(error))
    if isinstance(error, TypeError) and missing:
        call = "model(parameters, x)"
        if missing[1] in _EVALUATION:
            call = f"model(x, {missing[1]}={_EVALUATION[missing[1]]})"
        return (
            "it takes more than the images; give it the rest, such as "
            f"read_network(lambda x: {call}, example)."
        )
    if isinstance(
        error, jax.errors.ConcretizationTypeError | jax.errors.TracerArrayConversionError
    ):
        return (
            "it looks at values that depend on the images, as if, while, int(...) and functions of "
            "NumPy do; write it in jax.numpy, and without such branches."
        )
    if isinstance(error, TypeError | ValueError | ArithmeticError):
        return "it must take any number of images of this shape, as model(images)."
    return "it must run under jax.jit."


def _check_weights(network: Network) -> None:
    for index, layer in enumerate(network.layers):
        for weights in layer.weights:
            bad = int(np.sum(~np.isfinite(weights)))
            if bad:
                raise ReadingError(
                    f"{network.name(index)} has {bad} weights that are NaN or infinite; "
                    "its training diverged: train again with a smaller learning rate."
                )


# -- The signal ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Signal:
    """A value that depends on the images: the layers so far and the operations since the last.

    Attributes:
        layers: the layers that end in a ReLU already.
        operations: the operations since the last ReLU.
        shape: shape of the features as they are held, with the batch first.
        copies: for each of these axes None, or the factors of the copies along it: there the axis
            is 1 long, and the model broadcasts it to as many values as there are factors.
        axes: `axes[i]` is the axis of `[batch, *shape]` that the model has in place i. The two
            orders differ while the model holds its data transposed.
        place: source line of the last operation.
    """

    layers: tuple[Layer, ...]
    operations: tuple[Operation, ...]
    shape: Shape
    copies: tuple[np.ndarray | None, ...]
    axes: Shape
    place: str

    @property
    def model_shape(self) -> Shape:
        held = [n if c is None else len(c) for n, c in zip(self.shape, self.copies, strict=True)]
        return tuple((_TRACED_BATCH, *held)[axis] for axis in self.axes)

    def then(
        self, operation: Operation, copies: tuple[np.ndarray | None, ...] | None = None
    ) -> _Signal:
        """The signal after one more operation, in the order in which it is held.

        `copies` are those of the result; without them the signal must have none.
        """
        assert copies is not None or not self.has_copies
        self.check_padding()
        held = jax.ShapeDtypeStruct((_TRACED_BATCH, *self.shape), jnp.float32)
        shape = jax.eval_shape(operation, held).shape[1:]
        return replace(
            self,
            operations=(*self.operations, operation),
            shape=shape,
            copies=copies or (None,) * len(shape),
            axes=tuple(range(len(shape) + 1)),
        )

    def check_padding(self) -> None:
        """Explicit padding can only be merged into what follows it."""
        if self.operations and isinstance(self.operations[-1], _Padding):
            raise ReadingError(
                f"the explicit padding at {self.place} can only be read right before a "
                f"convolution or pooling: {_PADDING}."
            )

    @property
    def has_copies(self) -> bool:
        return any(factors is not None for factors in self.copies)

    def reordered(self, order: Shape) -> _Signal:
        """The signal held in another order of its axes, of which the first is the batch."""
        if order == tuple(range(len(order))):
            return replace(self, axes=order)
        return self.then(Transpose(order), tuple(self.copies[axis - 1] for axis in order[1:]))

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

    def stretched(self, shape: Sequence[int]) -> _Signal:
        """The signal as JAX broadcasts it against this shape: axes of size 1 become longer."""
        shape = np.broadcast_shapes(self.model_shape, tuple(shape))
        copies = list(self.copies)
        for axis, old, new in zip(self.axes, self.model_shape, shape, strict=True):
            if old != new:
                copies[axis - 1] = np.ones(new)
        return replace(self, copies=tuple(copies))

    def copied(self) -> _Signal:
        """The signal with its copies made, by a dense layer that leads from 1 value to all."""
        if not self.has_copies:
            return self
        several = {axis: f for axis, f in enumerate(self.copies, 1) if f is not None}
        single = [axis for axis in range(1, len(self.axes)) if axis not in several]
        order = (0, *single, *several)
        held = replace(self.reordered(order), copies=(None,) * len(self.shape))
        kernel = np.ones(1)
        for factors in several.values():
            kernel = np.outer(kernel, factors).reshape(-1)
        outer = held.shape[: len(single)]
        kernel = jnp.asarray(kernel[None], jnp.result_type(float))
        made = _reshaped(
            _reshaped(held, (*outer, 1)).then(_Copies(kernel)),
            (*outer, *map(len, several.values())),
        )
        return replace(made, axes=tuple(order.index(axis) for axis in self.axes))


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class _Copies(Dense):
    """The dense layer of a broadcast, from 1 value to many; it joins the dense layer before it."""


@dataclass(frozen=True)
class _Padding(Operation):
    """Explicit zero padding, until the convolution or pooling that it belongs to has been read."""

    shape: Shape  # without it
    padding: tuple[tuple[int, int], ...]

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.pad(x, ((0, 0), *self.padding))


def _images(shape: Shape) -> _Signal:
    return _Signal((), (), shape, (None,) * len(shape), tuple(range(len(shape) + 1)), "the input")


# -- The interpreter -------------------------------------------------------------------------------


class _Origin(NamedTuple):
    """Where an operation comes from.

    Attributes:
        place: file, line and function of the user's code.
        module: the Flax module that contains it, or "".
        function: the function of JAX or Flax that contains it, or "".
    """

    place: str
    module: str
    function: str = ""


def _opened(body: Any) -> tuple[Jaxpr, Sequence[Any]]:
    """A jaxpr and its constants, which JAX keeps in one object or in two."""
    return getattr(body, "jaxpr", body), getattr(body, "consts", ())


def _interpret(
    jaxpr: Jaxpr, consts: Sequence[Any], arguments: Sequence[Any], origin: _Origin | None = None
) -> Sequence[Any]:
    """Outputs of a jaxpr. What cannot be read becomes an error that is raised only if it is used.

    `origin` is that of the call where the jaxpr is that of a library function.
    """
    values: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
    values.update(zip(jaxpr.invars, arguments, strict=True))

    def value(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    for equation in jaxpr.eqns:
        inputs = [value(atom) for atom in equation.invars]
        outputs: Sequence[Any]
        try:
            outputs = _apply(equation, inputs, origin or _origin(equation))
        except ReadingError as error:
            outputs = [error] * len(equation.outvars)
        values.update(zip(equation.outvars, outputs, strict=True))
    return [value(atom) for atom in jaxpr.outvars]


def _interpret_body(body: Any, arguments: Sequence[Any], origin: _Origin) -> Sequence[Any]:
    """Outputs of the function that an operation runs."""
    jaxpr, consts = _opened(body)
    return _interpret(jaxpr, consts, arguments, origin if _is_library(jaxpr) else None)


def _apply(equation: JaxprEqn, inputs: list[Any], origin: _Origin) -> Sequence[Any]:
    """Outputs of one operation."""
    for error in (x for x in inputs if isinstance(x, ReadingError)):
        raise error
    name = equation.primitive.name
    if name in _CALLS:
        body = next(filter(None, map(equation.params.get, _BODIES)))
        called = str(equation.params.get("name", "")).strip("_")
        origin = origin._replace(function=origin.function or called)
        return _interpret_body(body, inputs, origin)
    if name == "random_bits":
        raise ReadingError(
            f"random numbers are drawn at {origin.place}: read the model in its evaluation form, "
            "with its dropout off (model.eval(), deterministic=True), and make its layers once, "
            "outside of the function."
        )
    if not any(isinstance(x, _Signal) for x in inputs):
        output = equation.primitive.bind(*inputs, **equation.params)
        return output if equation.primitive.multiple_results else [output]
    try:
        if name in _CONTROL:
            return _CONTROL[name](equation.params, inputs, origin)
        if name not in _RULES:
            raise _UnsupportedError(_REMEDIES.get(name, _WHAT_IS_SUPPORTED))
        signal = _RULES[name](equation.params, *inputs)
    except _UnsupportedError as error:
        raise _explained(f"unsupported operation {name}", error, origin) from None
    except ReadingError as error:
        raise _explained(name, error, origin) from None
    return [replace(signal, place=origin.place)]


# The operations that run a function once, on their inputs, and where they keep it.
_CALLS = (
    *("jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint"),
    *("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"),
)
_BODIES = ("jaxpr", "call_jaxpr", "fun_jaxpr")
_INSTALLED = Path(str(jax.__file__)).parents[1]
_LIBRARIES = (
    *(str(Path(str(module.__file__)).parent) + os.sep for module in (jax, flax, np)),
    *(str(_INSTALLED / name) + os.sep for name in ("jaxlib", "jaxtyping", "beartype")),
    str(Path(__file__).parent) + os.sep,
)


def _is_library(body: Jaxpr) -> bool:
    """Whether JAX or Flax wrote the function: its trace is cached and its lines are not yours."""
    return str(body.debug_info.func_filename).startswith(_LIBRARIES)


def _origin(equation: JaxprEqn) -> _Origin:
    """The innermost line of the user's code that an operation comes from, and what it calls."""
    frames = source_info_util.summarize(equation.source_info, num_frames=50).splitlines()
    frames = ["a place unknown", *(frame.strip() for frame in frames)]  # the innermost is the last
    own = [n for n, frame in enumerate(frames) if n and not frame.startswith(_LIBRARIES)]
    calls = frames[own[-1] + 1 if own else 1 :]
    modules = [found[1] for frame in calls if (found := _FLAX_MODULE.search(frame))]
    return _Origin(frames[own[-1]] if own else frames[-1], modules[0] if modules else "")


# A frame of a module's own call; containers are not what is at fault.
_FLAX_MODULE = re.compile(r"[/\\]flax[/\\].*\((?!Sequential|Module)(\w+)\.__call__\)$")


# -- Errors that name what the user wrote ----------------------------------------------------------


class _UnsupportedError(ReadingError):
    """There is no rule for the operation."""


class _ShiftError(ReadingError):
    """A constant that is not zero is added."""


def _explained(name: str, error: ReadingError, origin: _Origin) -> ReadingError:
    """The error of an operation, with its place and the name of the module that it belongs to."""
    module, place = origin.module, origin.place
    if module == "BatchNorm":
        remedy = _BATCH_NORM if isinstance(error, _ShiftError) else _BATCH_STATISTICS
        return ReadingError(f"{module} at {place}: {remedy}")
    if module in _NORMS:
        return ReadingError(f"{module} at {place}: {_NORM}")
    if module and isinstance(error, _ShiftError):
        return ReadingError(f"the bias of {module} at {place}: {_BIAS}")
    within = module or origin.function
    within = f" in {within}" if within not in ("", name.split()[-1]) else ""
    return ReadingError(f"{name}{within} at {place}: {error}")


_BIAS = (
    "integrate-and-fire neurons of this kind have none; train the model without (use_bias=False)."
)
_BATCH_NORM = (
    "a trained batch norm subtracts a mean and adds a bias, and no such shifts can be read; train "
    "the model without batch normalisation. (What only scales can be read: x * factors, or a batch "
    "norm whose running mean and bias are 0.)"
)
_BATCH_STATISTICS = (
    "it computes statistics of the batch, as in training mode; read the model in evaluation mode "
    "(model.eval(), use_running_average=True)."
)
_NORMS = ("LayerNorm", "RMSNorm", "GroupNorm", "InstanceNorm")
_NORM = (
    "it divides by statistics of each image, which is not linear; train the model without it. "
    "(Constant factors, x * factors, can be read.)"
)
_SHIFT = (
    "a bias, or another constant that is not 0, is added or subtracted here; integrate-and-fire "
    "neurons of this kind have none: train the model without (layers with use_bias=False)."
)
_SHIFTED_IMAGES = (
    "a constant is added to the images or subtracted from them, which is a bias of the first "
    "layer and cannot be read; scale the images only (x / std, without a mean) and train the model "
    "so."
)
_INVERTED_IMAGES = (
    "the images are subtracted from a constant, which is a bias of the first layer and cannot be "
    "read; read the model without this line, and give the network the images so computed, such as "
    "1 - images."
)
_PADDING = "give the padding to the convolution or pooling that follows (padding=...)"
_NOT_A_RELU = "train the model with ReLUs (nnx.relu, jax.nn.relu or jnp.maximum(x, 0)) instead."
_WHAT_IS_SUPPORTED = (
    "between two ReLUs there may be dense layers, convolutions, average pooling, reshape, "
    "transpose, broadcasting and constant factors."
)
_CHOICE = (
    "only a choice between values and 0 by a constant mask is linear; write a ReLU as max(x, 0)."
)
_TWO_SIGNALS = "the product of two values that depend on the images is not linear."
_BRANCHES = "two branches are joined here; only a chain of layers can be read."
_REMEDIES = {
    "reduce_window_max": "max pooling is not linear; train the model with average pooling.",
    "reduce_max": "a maximum is not linear: use average pooling; and return without softmax.",
    "slice": (
        "parts of an array, as in x[:, 1:-1], and circular padding cannot be read; cut the images "
        "before, or leave it out."
    ),
    "concatenate": _BRANCHES,
    "argmax": "let the model return the outputs of its last ReLU, not the class.",
    "exp": "let the model return its ReLU outputs, without softmax.",
    "gather": (
        "values chosen by index, as in x[:, indices], embeddings and nearest-neighbour resizing, "
        "cannot be read; repeat pixels by jnp.repeat."
    ),
    "while": (
        "write the loop as a Python `for` loop, or as a lax.fori_loop whose bounds are numbers, "
        "which are unrolled."
    ),
    **dict.fromkeys(("tanh", "logistic", "erf", "erfc", "min", "clamp", "abs"), _NOT_A_RELU),
    **dict.fromkeys(("gt", "ge", "lt", "le", "sign"), _NOT_A_RELU),
    **dict.fromkeys(
        ("pow", "integer_pow", "square", "sqrt", "rsqrt", "log"), f"not linear; {_NOT_A_RELU}"
    ),
}


# -- Operations that run functions -----------------------------------------------------------------


def _unroll(params: dict, inputs: list[Any], origin: _Origin) -> Sequence[Any]:
    """A scan, or a loop with fixed bounds, is its body as many times."""
    constants, carried = params["num_consts"], params["num_consts"] + params["num_carry"]
    consts, carry, xs = inputs[:constants], inputs[constants:carried], inputs[carried:]
    if any(isinstance(x, _Signal) for x in xs):
        raise ReadingError(
            "the loop runs over an axis of the images, as recurrent networks do; only a chain of "
            "layers can be read."
        )
    steps, collected = range(params["length"]), []
    for step in reversed(steps) if params["reverse"] else steps:
        arguments = [*consts, *carry, *(x[step] for x in xs)]
        outputs = _interpret_body(params["jaxpr"], arguments, origin)
        carry = outputs[: len(carry)]
        collected.append(outputs[len(carry) :])
    if params["reverse"]:
        collected.reverse()
    results = len(_opened(params["jaxpr"])[0].outvars) - len(carry)
    return [*carry, *(_stacked([found[n] for found in collected]) for n in range(results))]


def _stacked(values: Sequence[Any]) -> Any:
    if not values or any(isinstance(value, _Signal | ReadingError) for value in values):
        return ReadingError("a scan collects values that depend on the images: use the last.")
    return jnp.stack(values)


def _branch(params: dict, inputs: list[Any], origin: _Origin) -> Sequence[Any]:
    index, *arguments = inputs
    if isinstance(index, _Signal):
        raise ReadingError(f"the branch depends on the images, which is not linear; {_NOT_A_RELU}")
    branches = params["branches"]
    return _interpret_body(branches[int(np.clip(index, 0, len(branches) - 1))], arguments, origin)


_CONTROL: dict[str, Callable[[dict, list[Any], _Origin], Sequence[Any]]] = {
    "scan": _unroll,
    "cond": _branch,
}


# -- One rule for each primitive operation ---------------------------------------------------------


def _of_constant(x: Any, y: Any, error: str) -> tuple[_Signal, Any]:
    """The signal of two operands, as it is broadcast, and the other, which must be known."""
    signal, constant = (x, y) if isinstance(x, _Signal) else (y, x)
    if isinstance(constant, _Signal):
        raise ReadingError(error)
    return signal.stretched(np.shape(constant)), constant


def _maximum(_params: dict, x: Any, y: Any) -> _Signal:
    signal, floor = _of_constant(
        x, y, "the maximum of two signals is not linear; use average pooling."
    )
    if np.any(np.asarray(floor)):
        raise ReadingError("only max(x, 0), the ReLU, can become a spiking neuron.")
    return _relu(signal)


def _relu(signal: _Signal) -> _Signal:
    """Close the layer. The ReLU of mere moves of pixels or of ReLU outputs changes nothing."""
    if any(factors is not None and np.any(factors < 0) for factors in signal.copies):
        signal = signal.copied()  # other copies may be made after the ReLU as well
    signal = signal.batch_first()
    layer = _simplify(signal)
    if _only_moves(layer.operations):
        return signal
    return replace(signal, layers=(*signal.layers, layer), operations=())


def _dot_general(params: dict, lhs: Any, rhs: Any) -> _Signal:
    (contract, kernel_contract), (batch, _) = params["dimension_numbers"]
    signal, kernel = lhs, rhs
    if not isinstance(lhs, _Signal):
        signal, kernel, contract, kernel_contract = rhs, lhs, kernel_contract, contract
    if isinstance(kernel, _Signal):
        raise ReadingError(_TWO_SIGNALS)
    contracted = tuple(signal.axes[axis] for axis in contract)
    if batch:
        raise ReadingError("weights of their own for each position or group are not supported.")
    if 0 in contracted:
        raise ReadingError("the images of a batch are mixed with each other here.")
    kernel = _weights(kernel)
    for axis, kernel_axis in zip(contracted, kernel_contract, strict=True):
        kernel = _summed(kernel, kernel_axis, signal.copies[axis - 1])
    kernel_free = tuple(axis for axis in range(kernel.ndim) if axis not in kernel_contract)
    kernel = kernel.transpose((*kernel_contract, *kernel_free))
    product, free, new = _contracted(signal, contracted, kernel)
    # The model has the axes in the order of the operands.
    return replace(product, axes=free + new if signal is lhs else new + free)


def _contracted(
    signal: _Signal, contracted: Shape, kernel: jax.Array
) -> tuple[_Signal, Shape, Shape]:
    """The product over some held axes with the first axes of a kernel, and where its axes are.

    Returns:
        The product, the axes of it that are those left of the signal, in the model's order, and the
        axes that come from the kernel.
    """
    out_shape = kernel.shape[len(contracted) :]
    free = tuple(axis for axis in signal.axes if axis not in contracted)
    features = tuple(axis for axis in free if axis != 0)
    held = signal.reordered((0, *features, *contracted))
    copies = (*held.copies[: len(features)], *(None for _ in out_shape))
    held = replace(held, copies=(None,) * len(held.shape))
    free_shape = held.shape[: len(features)]
    kernel = kernel.reshape(prod(held.shape[len(features) :]), prod(out_shape))
    product = _reshaped(held, (*free_shape, kernel.shape[0])).then(Dense(kernel))
    product = replace(_reshaped(product, (*free_shape, *out_shape)), copies=copies)
    places = tuple(0 if axis == 0 else 1 + features.index(axis) for axis in free)
    return product, places, tuple(range(1 + len(features), 1 + len(copies)))


def _summed(kernel: jax.Array, axis: int, factors: np.ndarray | None) -> jax.Array:
    """The kernel of the one value whose copies along an axis have these factors."""
    if factors is None:
        return kernel
    along = jnp.asarray(factors, kernel.dtype).reshape([-1] + [1] * (kernel.ndim - axis - 1))
    return (kernel * along).sum(axis, keepdims=True)


def _weights(kernel: ArrayLike) -> jax.Array:
    """Weights in float32 or better: potentials summed in half precision would drift."""
    return jnp.asarray(kernel, jnp.promote_types(jnp.result_type(kernel), jnp.float32))


def _convolution(params: dict, signal: Any, kernel: Any) -> _Signal:
    if isinstance(kernel, _Signal):
        raise ReadingError("the kernel depends on the images; that is not linear.")
    numbers, groups = params["dimension_numbers"], params["feature_group_count"]
    if (numbers.lhs_spec[0], numbers.out_spec[0], params["batch_group_count"]) != (0, 0, 1):
        raise ReadingError("the batch must be the first axis of a convolution.")
    signal, kernel = signal.in_order(), _weights(kernel)
    channels = numbers.lhs_spec[1] - 1
    if (factors := signal.copies[channels]) is not None:
        kernel, groups = _of_one_channel(kernel, numbers.rhs_spec, groups, factors), 1
        copies = tuple(None if axis == channels else c for axis, c in enumerate(signal.copies))
        signal = replace(signal, copies=copies)
    signal, padding = _without_padding(signal.copied().in_order())
    # Zeros before a dilation are followed by the zeros of the dilation.
    wider = [
        tuple(own + dilation * more for own, more in zip(pair, padding[axis - 1], strict=True))
        for pair, axis, dilation in zip(
            params["padding"], numbers.lhs_spec[2:], params["lhs_dilation"], strict=True
        )
    ]
    if any(padding[channels]):
        raise ReadingError("padding of the channels is not supported.")
    return signal.then(
        Convolution(
            kernel,
            strides=tuple(params["window_strides"]),
            padding=tuple(wider),
            input_dilation=tuple(params["lhs_dilation"]),
            kernel_dilation=tuple(params["rhs_dilation"]),
            groups=groups,
            dimension_numbers=numbers,
        )
    )


def _of_one_channel(kernel: jax.Array, spec: Shape, groups: int, factors: np.ndarray) -> jax.Array:
    """The kernel for the one channel whose copies have these factors."""
    maps, channels = spec[:2]
    kernel = jnp.moveaxis(kernel, (channels, maps), (0, 1))
    # The maps of a group see the channels of the group.
    seen = factors.reshape(groups, -1).repeat(kernel.shape[1] // groups, 0).T
    seen = jnp.asarray(seen, kernel.dtype).reshape(*seen.shape, *[1] * (kernel.ndim - 2))
    return jnp.moveaxis((kernel * seen).sum(0, keepdims=True), (0, 1), (channels, maps))


def _pad(params: dict, signal: _Signal, value: Any) -> _Signal:
    """Explicit padding with zeros, which the convolution or pooling that follows takes over."""
    config = params["padding_config"]
    zeros = not isinstance(value, _Signal) and not np.any(value)
    if not zeros or any(n for n in config[signal.axes.index(0)]) or np.min(config) < 0:
        raise ReadingError(
            f"only padding with zeros, and not of the batch, can be read; {_PADDING}."
        )
    if any(interior for _, _, interior in config):
        raise ReadingError(f"zeros between the values cannot be padded; {_PADDING}.")
    signal = signal.in_order().copied().in_order()
    padding = tuple((int(low), int(high)) for low, high, _ in config[1:])
    return signal.then(_Padding(signal.shape, padding)) if np.any(padding) else signal


def _without_padding(signal: _Signal) -> tuple[_Signal, tuple[tuple[int, int], ...]]:
    """The signal before the explicit padding that it ends with, and that padding."""
    *rest, last = signal.operations or (None,)
    if not isinstance(last, _Padding):
        return signal, ((0, 0),) * len(signal.shape)
    return replace(signal, operations=tuple(rest), shape=last.shape), last.padding


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
    reached = zip(signal.copies, window[1:], strides[1:], padding[1:], strict=True)
    if any(c is not None and (n, step, *pair) != (1, 1, 0, 0) for c, n, step, pair in reached):
        signal = signal.copied().in_order()
    signal, explicit = _without_padding(signal)
    pairs = tuple(
        (low + more, high + above)
        for (low, high), (more, above) in zip(padding[1:], explicit, strict=True)
    )
    pooling = AveragePooling(tuple(window[1:]), tuple(strides[1:]), pairs, count_padding=True)
    counts = np.asarray(pooling.counts(signal.shape))
    return signal.then(_WindowSum(pooling, counts), signal.copies)


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
    axes, copies, total = set(params["axes"]), list(signal.copies), 1.0
    shape = tuple(1 if axis in axes else n for axis, n in enumerate(signal.model_shape))
    for axis in params["axes"]:
        held = signal.axes[axis] - 1
        if held >= 0 and (factors := copies[held]) is not None:
            total, copies[held] = total * factors.sum(), None
            axes.remove(axis)
    signal = replace(signal, copies=tuple(copies))
    if axes:
        sizes = signal.model_shape
        window = tuple(n if axis in axes else 1 for axis, n in enumerate(sizes))
        signal = _window_sum(signal, window, (1,) * len(sizes), ((0, 0),) * len(sizes))
    if total != 1:
        signal = _times(signal, total)
    return _resized(signal, [n for axis, n in enumerate(shape) if axis not in params["axes"]])


def _multiply(_params: dict, x: Any, y: Any) -> _Signal:
    return _times(*_of_constant(x, y, _TWO_SIGNALS))


def _divide(_params: dict, x: Any, y: Any) -> _Signal:
    if isinstance(y, _Signal):
        raise ReadingError("dividing by a value that depends on the images is not linear.")
    divisor = np.asarray(y, np.float64)
    if not np.all(divisor):
        raise ReadingError("the model divides by 0 here.")
    return _times(x, 1.0 / divisor)


def _times(signal: _Signal, factor: ArrayLike) -> _Signal:
    """Multiply by a constant, which becomes as small as its own constancy allows."""
    signal = signal.stretched(np.shape(factor))
    everywhere = np.broadcast_to(np.asarray(factor), signal.model_shape)
    small = everywhere.transpose(np.argsort(signal.axes))
    for axis in range(small.ndim):
        first = small.take([0], axis)
        if np.array_equal(np.broadcast_to(first, small.shape), small):
            small = first
    if small.shape[0] != 1:
        raise ReadingError("the factor differs between the images of a batch.")
    small = small[0].astype(jnp.result_type(float))
    varying = [axis for axis, n in enumerate(small.shape) if n != 1]
    if any(signal.copies[axis] is not None for axis in varying):
        return _times_copies(signal, varying, small, factor)
    small = small.reshape(()) if small.size == 1 else small
    signal.check_padding()
    *rest, last = signal.operations or (None,)
    if isinstance(last, _WindowSum):
        return replace(signal, operations=(*rest, *last.divided(small)))
    if np.all(small == 1):
        return signal
    return replace(signal, operations=(*signal.operations, Multiply(jnp.asarray(small))))


def _times_copies(
    signal: _Signal, varying: list[int], small: np.ndarray, factor: ArrayLike
) -> _Signal:
    """Multiply by a constant that differs between copies of one value."""
    axis, *others = varying
    factors = signal.copies[axis]
    if others or factors is None:
        return _times(signal.copied(), factor)
    copies = (*signal.copies[:axis], factors * small.reshape(-1), *signal.copies[axis + 1 :])
    return replace(signal, copies=copies)


def _select(_params: dict, which: Any, *cases: Any) -> _Signal:
    """A choice between the signal and 0 by a constant mask is a multiplication with the mask."""
    chosen = [case for case, x in enumerate(cases) if isinstance(x, _Signal)]
    if isinstance(which, _Signal) or len(cases) != 2 or len(chosen) != 1:
        raise ReadingError(_CHOICE)
    if np.any(np.asarray(cases[1 - chosen[0]])):
        raise ReadingError(_CHOICE)
    signal = cases[chosen[0]].stretched(np.shape(cases[1 - chosen[0]]))
    return _times(signal, np.asarray(which == chosen[0], np.float32))


def _add(_params: dict, x: Any, y: Any) -> _Signal:
    signal, shift = _of_constant(x, y, _BRANCHES)
    if np.any(np.asarray(shift)):
        raise _ShiftError(_SHIFTED_IMAGES if _is_image(signal) else _SHIFT)
    return signal


def _is_image(signal: _Signal) -> bool:
    """Whether no dense layer, convolution or ReLU came yet."""
    return not signal.layers and not any(
        isinstance(operation, Dense | Convolution) for operation in signal.operations
    )


def _subtract(params: dict, x: Any, y: Any) -> _Signal:
    if isinstance(x, _Signal):
        return _add(params, x, y)
    if np.any(np.asarray(x)) and _is_image(y):
        raise _ShiftError(_INVERTED_IMAGES)
    return _times(_add(params, x, y), -1.0)


def _reshape(params: dict, signal: _Signal) -> _Signal:
    return _resized(signal, params["new_sizes"])


def _squeeze(params: dict, signal: _Signal) -> _Signal:
    gone = params["dimensions"]
    return _resized(signal, [n for axis, n in enumerate(signal.model_shape) if axis not in gone])


def _broadcast(params: dict, signal: _Signal) -> _Signal:
    shape, single = params["shape"], [1] * len(params["shape"])
    for place, n in zip(params["broadcast_dimensions"], signal.model_shape, strict=True):
        single[place] = n
    return _resized(signal, single).stretched(shape)


def _tile(params: dict, signal: _Signal) -> _Signal:
    """Each axis of n values becomes [repetitions, n], and both together one axis again."""
    sizes, apart, shape = signal.model_shape, [], []
    for n, repetitions in zip(sizes, params["reps"], strict=True):
        copies = [] if repetitions == 1 else [repetitions]
        apart += [*(1 for _ in copies), n]
        shape += [*copies, n]
    tiled = [n * repetitions for n, repetitions in zip(sizes, params["reps"], strict=True)]
    return _resized(_resized(signal, apart).stretched(shape), tiled)


def _resized(signal: _Signal, shape: Sequence[int]) -> _Signal:
    """The signal in another shape, of which the batch must stay an axis."""
    old, shape = signal.model_shape, tuple(shape)
    if shape == old:
        return signal
    if [n for n in shape if n != 1] == [n for n in old if n != 1]:
        return _with_single_axes(signal, shape)
    signal = signal.in_order().copied().in_order()
    if shape[0] != _TRACED_BATCH:
        raise ReadingError(
            "the batch must stay the first axis, as in x.reshape(x.shape[0], -1). (A convolution "
            "merges it with further axes, such as time: read the model for a single frame, or use "
            "a kernel for all axes, such as (1, 3, 3).)"
        )
    return _reshaped(signal, shape[1:])


def _with_single_axes(signal: _Signal, shape: Shape) -> _Signal:
    """The signal with axes of size 1 put in or left out, as in the model's new shape."""
    kept = iter(axis for axis, n in zip(signal.axes, signal.model_shape, strict=True) if n != 1)
    now = [next(kept) if n != 1 else None for n in shape]  # the held axis of each of the model's
    held = [axis for axis in now if axis is not None]
    order = now
    if now[0] != 0 or held != sorted(held):
        order = [*sorted(held), *(axis for axis in now if axis is None)]
    sizes = tuple(1 if axis is None else signal.shape[axis - 1] for axis in order[1:])
    copies = tuple(None if axis is None else signal.copies[axis - 1] for axis in order[1:])
    singles = iter(place for place, axis in enumerate(order) if axis is None)
    axes = tuple(next(singles) if axis is None else order.index(axis) for axis in now)
    if sizes != signal.shape:
        signal = signal.then(Reshape(sizes), copies)
    return replace(signal, axes=axes, copies=copies)


def _reshaped(signal: _Signal, shape: Shape) -> _Signal:
    return signal if shape == signal.shape else signal.then(Reshape(shape))


def _transpose(params: dict, signal: _Signal) -> _Signal:
    return replace(signal, axes=tuple(signal.axes[axis] for axis in params["permutation"]))


def _convert(params: dict, signal: _Signal) -> _Signal:
    dtype = params["new_dtype"]
    if jnp.issubdtype(dtype, jnp.complexfloating):
        raise ReadingError("complex numbers are not supported.")
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ReadingError(f"rounding to {dtype} is not linear.")
    return signal


def _unchanged(_params: dict, *signals: _Signal) -> _Signal:
    if len(signals) != 1:
        raise ReadingError("several arrays at once are not supported; pass one.")
    return signals[0]


_RULES: dict[str, Callable[..., _Signal]] = {
    "max": _maximum,
    "dot_general": _dot_general,
    "conv_general_dilated": _convolution,
    "pad": _pad,
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
    "tile": _tile,
    "select_n": _select,
    "transpose": _transpose,
    "convert_element_type": _convert,
    "copy": _unchanged,
    "copy_p": _unchanged,
    "name": _unchanged,
    "sharding_constraint": _unchanged,
    "optimization_barrier": _unchanged,
    "stop_gradient": _unchanged,
}


# -- The end of a layer ----------------------------------------------------------------------------


def _finish(output: Any) -> tuple[tuple[Layer, ...], str | None]:
    """The layers of the whole network, whose last operation is a ReLU, and what to warn of."""
    if isinstance(output, ReadingError):
        raise output
    if not isinstance(output, _Signal):
        raise ReadingError("the model's output does not depend on its input.")
    if not output.layers:
        raise ReadingError(
            f"{output.place}: the model has no ReLU after a layer, so no neuron could spike; put "
            "nnx.relu, jax.nn.relu or jnp.maximum(x, 0) after its layers and train it so."
        )
    positive = all(factors is None or np.all(factors >= 0) for factors in output.copies)
    if positive and _only_moves(_simplify(output).operations):
        # Moves and copies after the last ReLU do as well before it.
        *layers, last = output.layers
        operations = (*last.operations, *output.operations)
        output = replace(output, layers=tuple(layers), operations=operations)
        return (*layers, _simplify(output.in_order().copied().in_order())), None
    output = output.in_order().copied().in_order()
    warning = None if _never_negative(output.operations) else f"{output.place}: {_NO_LAST_RELU}"
    return (*output.layers, _simplify(output)), warning


_NO_LAST_RELU = (
    "the model does not end in a ReLU, so the output neurons stand for max(output, 0). The class "
    "is that of the model wherever at least one output is positive, and nothing else is lost; "
    "images whose outputs are all negative stay undecided (-1). How many are decided: "
    "(model(images).max(-1) > 0).mean()."
)


def _only_moves(operations: Sequence[Operation]) -> bool:
    return all(isinstance(operation, Reshape | Transpose) for operation in operations)


def _never_negative(operations: Sequence[Operation]) -> bool:
    """Whether no output is negative where no input is."""
    weights = [leaf for part in operations if part.weighted for leaf in jax.tree.leaves(part)]
    return all(np.all(np.asarray(leaf) >= 0) for leaf in weights)


def _simplify(signal: _Signal) -> Layer:
    """The layer that does the same in the fewest operations, so that equal models read equal."""
    signal.check_padding()
    scalar, kept = np.ones(()), []
    for operation in signal.operations:
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
    kept = [Dense(part.kernel) if isinstance(part, _Copies) else part for part in kept]
    layer = Layer((Connection(tuple(kept)),))
    if abs(scalar - 1.0) < 1e-6:
        return layer
    scalar = jnp.asarray(scalar, jnp.result_type(float))
    if layer.weighted:
        return layer.times(scalar)
    return layer.with_operations((*kept, Multiply(scalar)))


def _join(first: Operation, second: Operation) -> Operation | None:
    """Two neighbouring operations as one, or None where they must stay two."""
    match first, second:
        case Reshape(), Reshape():
            return second
        case Transpose(), Transpose():
            return Transpose(tuple(first.axes[axis] for axis in second.axes))
        case Multiply(), Multiply():
            return Multiply(first.factor * second.factor)
        case Dense(), _Copies() if first.kernel.shape[1] == 1:
            return Dense(first.kernel * second.kernel)
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
