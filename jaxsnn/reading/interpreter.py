"""The interpreter of jaxprs: what depends on the images is a `Signal`, all else is computed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from math import prod
from typing import Any, cast

import jax.numpy as jnp
import numpy as np
from jax.extend.core import Jaxpr, JaxprEqn, Literal

from jaxsnn.reading.errors import NOT_A_RELU, ReadingError, UnsupportedError, explained
from jaxsnn.reading.maxima import settled
from jaxsnn.reading.moves import MOVES, moved
from jaxsnn.reading.origins import Names, Origin, is_library, origin_of
from jaxsnn.reading.pieces import disjoint
from jaxsnn.reading.primitives import BEFORE_RELU, HANDLERS, MAXIMA, OF_MASKS, OF_SUMS, PRODUCTS
from jaxsnn.reading.signals import Mask, Signal, Sum
from jaxsnn.reading.simplify import as_layer, as_neurons, shared
from jaxsnn.reading.tracing import opened


def interpret(
    jaxpr: Jaxpr,
    consts: Sequence[Any],
    arguments: Sequence[Any],
    names: Names,
    origin: Origin | None = None,
) -> Sequence[Any]:
    """Outputs of a jaxpr. What cannot be read becomes an error that is raised only if it is used.

    Args:
        jaxpr: the operations.
        consts: the constants that they read.
        arguments: the inputs.
        names: where in the model the weights are.
        origin: that of the call where the jaxpr is that of a library function.
    """
    readers = Counter(
        atom
        for atoms in (*(equation.invars for equation in jaxpr.eqns), jaxpr.outvars)
        for atom in atoms
        if not isinstance(atom, Literal)
    )
    values: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))

    def keep(variables: Sequence[Any], found: Sequence[Any]) -> None:
        """Several readers of a product share its result: it becomes a layer, without neurons."""
        for variable, value in zip(variables, found, strict=True):
            several = readers[variable] > 1 and isinstance(value, Signal | Sum)
            values[variable] = shared(value) if several else value

    keep(jaxpr.invars, arguments)

    def value(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    for equation in jaxpr.eqns:
        inputs = [value(atom) for atom in equation.invars]
        outputs: Sequence[Any]
        try:
            where = origin or origin_of(equation)
            path = names.of(inputs) or where.path
            outputs = _outputs(equation, inputs, where._replace(path=path), names)
        except ReadingError as error:
            outputs = [error] * len(equation.outvars)
        keep(equation.outvars, outputs)
    return [value(atom) for atom in jaxpr.outvars]


def _outputs(equation: JaxprEqn, inputs: list[Any], origin: Origin, names: Names) -> Sequence[Any]:
    """Outputs of one equation."""
    shapes = [getattr(variable.aval, "shape", ()) for variable in equation.outvars]
    if all(0 in shape for shape in shapes):  # such as the edges of an axis that is not padded
        return [np.zeros(shape, np.float32) for shape in shapes]
    for error in (x for x in inputs if isinstance(x, ReadingError)):
        raise error.with_traceback(None)  # or it would grow with every equation
    name, params = equation.primitive.name, equation.params
    if name in _CALLS:
        called = str(params.get("name", "")).strip("_")
        origin = origin._replace(function=origin.function or called)
        return _of_body(next(filter(None, map(params.get, _BODIES))), inputs, origin, names)
    if name == "random_bits":
        raise ReadingError(
            f"random numbers are drawn at {origin.line}: read the model in its evaluation form, "
            "with its dropout off (model.eval(), deterministic=True), and make its layers once, "
            "outside of the function."
        )
    signal = next((x for x in inputs if isinstance(x, Signal | Sum | Mask)), None)
    if signal is None:
        output = equation.primitive.bind(*inputs, **params)
        outputs = output if equation.primitive.multiple_results else [output]
        names.inherit(inputs, outputs)
        return outputs
    try:
        if name in _CONTROL:
            return _CONTROL[name](params, inputs, origin, names)
        if not (name in BEFORE_RELU and _keeps_shape(inputs, shapes[0])):
            inputs = list(map(settled, inputs))
        if name in MOVES:
            found = moved(equation.primitive, params, inputs)
        elif name in HANDLERS:
            found = [_handled(name, params, inputs)]
        else:
            raise UnsupportedError(name)
        return [value.with_origin(origin, signal) for value in found]
    except ReadingError as error:
        raise explained(name, error, origin) from None


def _keeps_shape(inputs: list[Any], shape: Sequence[int]) -> bool:
    """Whether an operation is one of a single value that depends on the images, without copies."""
    if any(isinstance(x, Mask) for x in inputs):
        return True
    signals = [x for x in inputs if isinstance(x, Signal | Sum)]
    return len(signals) == 1 and prod(signals[0].model_shape) == prod(shape)


def _handled(name: str, params: dict, inputs: list[Any]) -> Any:
    """What the handler of a primitive makes of its inputs; sums go term by term."""
    sums = [x for x in inputs if isinstance(x, Sum)]
    if name not in OF_MASKS and any(isinstance(x, Mask) for x in inputs):
        raise ReadingError(f"a comparison of values that depend on the images; {NOT_A_RELU}")
    if name in OF_SUMS or not sums:
        return HANDLERS[name](params, *inputs)
    several = sum(isinstance(x, Signal | Sum) for x in inputs) > 1
    if several or name in MAXIMA or (name in PRODUCTS and not disjoint(sums[0].terms)):
        whole = as_neurons if name in MAXIMA else as_layer
        return HANDLERS[name](params, *(whole(x) if isinstance(x, Sum) else x for x in inputs))
    (whole,) = sums
    found = [
        HANDLERS[name](params, *(term if x is whole else x for x in inputs)) for term in whole.terms
    ]
    return Sum.of(cast(list[Signal], found))


# -- Primitives that run functions -----------------------------------------------------------------

# Those that run a function once, on their inputs, and where they keep it.
_CALLS = (
    *("jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint"),
    *("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"),
)
_BODIES = ("jaxpr", "call_jaxpr", "fun_jaxpr")


def _of_body(body: Any, arguments: Sequence[Any], origin: Origin, names: Names) -> Sequence[Any]:
    """Outputs of the function that a primitive runs."""
    jaxpr, consts = opened(body)
    return interpret(jaxpr, consts, arguments, names, origin if is_library(jaxpr) else None)


def _scan(params: dict, inputs: list[Any], origin: Origin, names: Names) -> Sequence[Any]:
    """A scan, or a loop with fixed bounds, is its body as many times."""
    constants, carried = params["num_consts"], params["num_consts"] + params["num_carry"]
    consts, carry, xs = inputs[:constants], inputs[constants:carried], inputs[carried:]
    if any(isinstance(x, Signal | Sum) for x in xs):
        raise ReadingError(
            "the loop runs over an axis of the images, as recurrent networks do; only a chain of "
            "layers can be read."
        )
    steps, collected = range(params["length"]), []
    for step in reversed(steps) if params["reverse"] else steps:
        arguments = [*consts, *carry, *(x[step] for x in xs)]
        outputs = _of_body(params["jaxpr"], arguments, origin, names)
        carry = outputs[: len(carry)]
        collected.append(outputs[len(carry) :])
    if params["reverse"]:
        collected.reverse()
    results = len(opened(params["jaxpr"])[0].outvars) - len(carry)
    return [*carry, *(_stacked([found[n] for found in collected]) for n in range(results))]


def _stacked(values: Sequence[Any]) -> Any:
    if not values or any(isinstance(value, Signal | Sum | ReadingError) for value in values):
        return ReadingError("a scan collects values that depend on the images: use the last.")
    return jnp.stack(values)


def _cond(params: dict, inputs: list[Any], origin: Origin, names: Names) -> Sequence[Any]:
    """The branch of a known index."""
    index, *arguments = inputs
    if isinstance(index, Signal | Sum):
        raise ReadingError(f"the branch depends on the images, which is not linear; {NOT_A_RELU}")
    branches = params["branches"]
    return _of_body(branches[int(np.clip(index, 0, len(branches) - 1))], arguments, origin, names)


_CONTROL: dict[str, Callable[[dict, list[Any], Origin, Names], Sequence[Any]]] = {
    "scan": _scan,
    "cond": _cond,
}
