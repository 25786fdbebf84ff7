"""The types of arguments, checked at run time by beartype, with errors that name the remedy.

`typed` guards the public functions: an argument of a wrong type is a TypeError that names the
function, the argument, the value and what is expected. Values (ranges, shapes) are checked by the
functions themselves.

A type here is an annotation: `Images`, `Real`, `Count`, ... stand for what users may pass, and are
plain types of Python for a static type checker.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import re
import sys
import typing
from collections.abc import Callable, Iterator, Sequence
from types import NoneType, SimpleNamespace, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, Union, cast

import jax
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

F = TypeVar("F", bound=Callable[..., Any])
C = TypeVar("C", bound=type)

# What makes an object of a class that users do not construct themselves.
_MADE_BY = {
    "Network": "jaxsnn.read_network(model, example)",
    "SpikingNetwork": "jaxsnn.convert(model, images) or jaxsnn.balance_thresholds(network, scales)",
    "FixedPointNetwork": "jaxsnn.quantize(network)",
    "State": "the run before: run.state",
    "Simulation": "jaxsnn.simulate(network, images, key=0)",
    "Grid": "jaxsnn.Grid(scales=..., threshold=...)",
    "FixedPoint": "jaxsnn.FixedPoint(bits=8)",
    "Recipe": 'jaxsnn.training.RECIPES["fc-modern"]',
    "LabelledImages": "jaxsnn.Dataset(images, labels)",
    "xarray.Dataset": "jaxsnn.sweep(network, images, labels, grid)",
    "nir.NIRGraph": "nir.read(path)",
    "Mesh": 'jax.make_mesh((1, 1), ("points", "images"))',
}
_LONGEST = 60  # characters of a value that a message shows


class _Kind(type):
    """A type whose instances are what a predicate accepts."""

    accepts: Callable[[Any], bool]
    expected: str

    def __instancecheck__(cls, value: object) -> bool:
        return cls.accepts(value)


def _kind(name: str, expected: str, accepts: Callable[[Any], bool]) -> Any:
    return _Kind(name, (), {"expected": expected, "accepts": staticmethod(accepts)})


def _is_array(value: Any) -> bool:
    """Whether a value is an array of numbers in the byte order of the machine, without a mask."""
    if isinstance(value, np.ndarray):
        plain = value.dtype.kind in "biufcV" and value.dtype.fields is None
        return plain and value.dtype.isnative and not isinstance(value, np.ma.MaskedArray)
    return isinstance(value, jax.Array)


def _is_number(value: Any) -> bool:
    """Whether a value is one number; bools are none."""
    return isinstance(value, int | float | complex | np.number) and not isinstance(value, bool)


def _is_scalar(value: Any) -> bool:
    """Whether a value is a real number, or an array without axes, traced or not."""
    if _is_array(value):
        return value.ndim == 0 and jax.numpy.issubdtype(value.dtype, np.number)
    return _is_number(value) and not isinstance(value, complex | np.complexfloating)


def _is_real(value: Any) -> bool:
    return _is_scalar(value) and not isinstance(value, Tracer)


def _is_count(value: Any) -> bool:
    if _is_array(value):
        whole = value.ndim == 0 and jax.numpy.issubdtype(value.dtype, np.integer)
        return whole and not isinstance(value, Tracer)
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _is_key(value: Any) -> bool:
    if _is_array(value):
        return jax.numpy.issubdtype(value.dtype, jax.dtypes.prng_key) or value.dtype.kind in "iu"
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


if TYPE_CHECKING:
    Images = ArrayLike
    Values = jax.Array
    Numbers = ArrayLike | Sequence[Any]
    Entries = Sequence[Any]
    Scalar = ArrayLike
    Real = float
    Count = int
    Key = ArrayLike
else:
    Images = _kind("Images", "an array of NumPy or JAX: np.asarray(images, np.float32)", _is_array)
    Numbers = _kind(
        "Numbers",
        "a number, an array, or a list of them",
        lambda value: _is_array(value) or _is_number(value) or _is_list(value),
    )
    Values = _kind(
        "Values", "a number or an array", lambda value: _is_array(value) or _is_number(value)
    )
    Entries = _kind("Entries", "a list with an entry for each layer", _is_list)
    Scalar = _kind("Scalar", "one real number", _is_scalar)
    Real = _kind("Real", "one real number that is known, not traced", _is_real)
    Count = _kind("Count", "an integer that is known, not traced", _is_count)
    Key = _kind("Key", "a JAX key, such as jax.random.key(0), or an integer seed", _is_key)


class _Loaded(type):
    """Stands for a class of a module that is slow to import: nothing is an instance before."""

    module: str
    path: str

    def __instancecheck__(cls, value: object) -> bool:
        found = getattr(sys.modules.get(cls.module), cls.path, None)
        return found is not None and isinstance(value, found)

    def __getitem__(cls, parameters: object) -> _Loaded:
        return cls  # what it is parametrized by is not checked


def _loaded(module: str, path: str) -> Any:
    return _Loaded(f"{module.split('.')[0]}.{path}", (), {"module": module, "path": path})


# What the library's modules import for a static type checker only.
_LATER = {
    "Figure": _loaded("matplotlib.figure", "FigureBase"),
    "Dataset": _loaded("xarray", "Dataset"),
    "xr": SimpleNamespace(Dataset=_loaded("xarray", "Dataset")),
    "nnx": SimpleNamespace(Variable=_loaded("flax.nnx", "Variable")),
    "nir": SimpleNamespace(NIRGraph=_loaded("nir", "NIRGraph")),
}


def typed(function: F) -> F:
    """Check the types of the arguments of a function, or of the fields of a dataclass.

    The checker is built when the function is first called, since beartype is slow to import.

    Args:
        function: a function, or a dataclass, whose constructor is then checked.

    Returns:
        The function with checked arguments; the class itself.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsnn.support.typed import Real, typed
        >>> @typed
        ... def half(number: Real) -> float:
        ...     return number / 2
        >>> half(3)
        1.5
        >>> half("3")
        Traceback (most recent call last):
        ...
        TypeError: half(): number is '3', but must be one real number that is known, not traced.
    """
    if isinstance(function, type):
        function.__init__ = typed(function.__init__)  # type: ignore[misc]
        return cast(F, function)
    check: Callable[..., None] | None = None

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        nonlocal check
        if check is None:
            if _importing():  # this package, which would have to wait for beartype
                return function(*args, **kwargs)
            check = _checker(function)
        check(*args, **kwargs)
        return function(*args, **kwargs)

    checked.__signature__ = readable_signature(inspect.signature(function))  # type: ignore[attr-defined]
    return cast(F, checked)


class _Named:
    """A function that is a default value: `help` shows its name in the place of its address."""

    def __init__(self, function: Callable[..., Any]):
        self.function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return self.function.__name__


class _Unquoted(str):
    """An annotation: `help` shows it without quotes."""

    __repr__ = str.__str__


def readable(cls: C) -> C:
    """A dataclass whose `help` shows the functions that are defaults by their names.

    Example:
        >>> import dataclasses, inspect
        >>> from jaxsnn.support.typed import readable
        >>> @readable
        ... @dataclasses.dataclass
        ... class Settings:
        ...     compare: Callable = max
        >>> inspect.signature(Settings)
        <Signature (compare: Callable = max) -> None>
    """
    cls.__signature__ = readable_signature(inspect.signature(cls))  # type: ignore[attr-defined]
    return cls


def readable_signature(signature: inspect.Signature) -> inspect.Signature:
    """The signature with the names of types and functions, and not what they stand for.

    Example:
        >>> import inspect
        >>> from jaxsnn.support.typed import readable_signature
        >>> def larger(x: int, compare=max): ...
        >>> print(readable_signature(inspect.signature(larger)))
        (x: int, compare=max)
    """

    def shown(parameter: inspect.Parameter) -> inspect.Parameter:
        default = parameter.default
        named = callable(default) and not isinstance(default, type | _Named)
        return parameter.replace(
            annotation=_unquoted(parameter.annotation),
            default=_Named(default) if named else default,
        )

    return signature.replace(
        parameters=list(map(shown, signature.parameters.values())),
        return_annotation=_unquoted(signature.return_annotation),
    )


def _unquoted(annotation: Any) -> Any:
    return _Unquoted(annotation) if isinstance(annotation, str) else annotation


def _importing() -> bool:
    return getattr(sys.modules["jaxsnn"].__spec__, "_initializing", False)


def _checker(function: Callable[..., Any]) -> Callable[..., None]:
    """A function of the same arguments that raises TypeError where one is of a wrong type."""
    from beartype import BeartypeConf, beartype
    from beartype.door import is_bearable
    from beartype.roar import BeartypeCallHintParamViolation

    hints = _hints(function)
    conf = BeartypeConf(is_pep484_tower=True)  # an int where a float is asked for, as in PEP 484

    # Without attributes of the function, by which beartype knows those that it has seen.
    plain = inspect.unwrap(function)
    nothing = functools.update_wrapper(lambda *args, **kwargs: None, plain, updated=())
    nothing.__annotations__ = hints
    check = beartype(conf=conf)(nothing)

    def explained(*args: Any, **kwargs: Any) -> None:
        try:
            check(*args, **kwargs)
        except BeartypeCallHintParamViolation as error:
            bound = inspect.signature(function).bind(*args, **kwargs)
            for name, value in bound.arguments.items():
                hint = hints.get(name, Any)
                if not is_bearable(value, hint, conf=conf):
                    raise TypeError(_message(function, name, value, hint)) from None
            # A sequence of which one entry, picked at random, is of a wrong type.
            raise TypeError(str(error)) from None

    return explained


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of the arguments; those of modules that are imported late stand for them."""
    names = {**_LATER, **vars(sys.modules[function.__module__])}
    hints = typing.get_type_hints(function, names, include_extras=True)
    hints.pop("return", None)
    return hints


# -- Messages --------------------------------------------------------------------------------------


def _message(function: Callable[..., Any], name: str, value: Any, hint: Any) -> str:
    called = function.__qualname__.removesuffix(".__init__").removesuffix(".__call__")
    text = f"{called}(): {name} is {described(value)}, but must be {_expected(hint)}."
    return f"{text}{_remedy(value, hint)}"


def described(value: Any) -> str:
    """A value in a few words, for a message.

    Example:
        >>> import numpy as np
        >>> from jaxsnn.support.typed import described
        >>> described([1, 2]), described(None), described(np.zeros((2, 3))), described(int)
        ('a list of 2', 'None', 'an array of shape (2, 3) and dtype float64', 'the class int')
    """
    if isinstance(value, Tracer):
        return f"a traced array of shape {value.shape} and dtype {value.dtype}"
    if isinstance(value, np.ndarray | jax.Array):
        masked = "a masked array" if isinstance(value, np.ma.MaskedArray) else "an array"
        return f"{masked} of shape {value.shape} and dtype {value.dtype}"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, str | bytes | int | float | complex | NoneType):
        text = repr(value)
        return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
    if isinstance(value, list | tuple | dict | set):
        return f"a {type(value).__name__} of {len(value)}"
    name = getattr(value, "__name__", None)
    return f"the function {name}" if callable(value) and name else f"a {type(value).__name__}"


def _expected(hint: Any) -> str:
    """What a type expects, in words."""
    found = list(dict.fromkeys(_alternatives(hint)))
    return found[0] if len(found) == 1 else f"{', '.join(found[:-1])} or {found[-1]}"


def _alternatives(hint: Any) -> Iterator[str]:
    origin = typing.get_origin(hint)
    if origin is Annotated:
        yield hint.__metadata__[0]
    elif origin in (Union, UnionType):
        for part in typing.get_args(hint):
            yield from _alternatives(part)
    elif origin is Literal:
        yield from map(repr, typing.get_args(hint))
    elif hint in (None, NoneType):
        yield "None"
    elif isinstance(hint, _Kind):
        yield hint.expected
    elif origin is not None and issubclass(origin, Callable):
        yield "a function"
    else:
        name = getattr(hint, "__name__", str(hint))
        yield {
            "str": "a string",
            "int": "an integer",
            "float": "a number",
            "bool": "True or False",
        }.get(name, f"a {name}" + (f" (from {_MADE_BY[name]})" if name in _MADE_BY else ""))


def _remedy(value: Any, hint: Any) -> str:
    """What to do about some frequent mistakes."""
    if isinstance(value, Tracer):
        return " It decides how the program is compiled: keep it out of the arguments of jit."
    if isinstance(value, np.ma.MaskedArray):
        return " Its mask would be ignored: fill it, with value.filled(0)."
    if isinstance(value, np.ndarray) and not value.dtype.isnative:
        return " Change its byte order: value.astype(value.dtype.newbyteorder('='))."
    kind = type(value).__name__
    if kind == "Dataset" and hasattr(value, "images"):
        return " Give its images: dataset.images."
    converted = kind in ("SpikingNetwork", "FixedPointNetwork")
    if converted and getattr(hint, "__name__", "") == "Network":
        return " Give its ReLU network: snn.network."
    words = value[0] if _is_list(value) and len(value) == 1 else value
    if isinstance(words, str) and (names := re.findall(r"jaxsnn\.([\w.]+)", _expected(hint))):
        near = {name.split(".")[-1]: name for name in names}
        close = [name for name in near if words and words.lower() in name]
        close += difflib.get_close_matches(words.lower(), near, n=1, cutoff=0.4)
        if close:
            return f" Give the function, not its name: jaxsnn.{near[close[0]]}."
    return ""
