"""Functions compared by what they are, so that the same lambda, made anew, is the same function."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from types import CodeType, FunctionType, ModuleType
from typing import Any

_BY_VALUE = bool | int | float | complex | str | bytes | None
_BY_IDENTITY = FunctionType | ModuleType | type


@dataclass(frozen=True)
class Same:
    """A function that equals every other with the same code that sees the same values.

    Attributes:
        content: its code, and what it sees.
        function: the function.
        seen: what it sees, kept alive so that no identity is given to something else.
    """

    content: Hashable
    function: Callable[..., Any] = field(compare=False)
    seen: tuple[Any, ...] = field(compare=False)

    @property
    def __name__(self) -> str:
        return self.function.__name__

    def __call__(self, *arguments: Any) -> Any:
        return self.function(*arguments)


def by_content(function: Any) -> Any:
    """The function, comparable by its content, or as it is where that cannot be compared.

    Compared are the code, and the defaults, global variables and variables of outer functions that
    it sees: numbers and strings by their values, functions, modules and classes by identity. A
    function that sees anything else, such as an array, is equal to itself alone.

    Example:
        >>> from jaxsnn.support.functions import by_content
        >>> def picks(layer):
        ...     return by_content(lambda step: step.spikes[layer])
        >>> picks(0) == picks(0), picks(0) == picks(1)
        (True, False)
    """
    if type(function) is not FunctionType:
        return function
    seen = list(_seen(function))
    if not all(isinstance(value, _BY_VALUE | _BY_IDENTITY) for _, value in seen):
        return function
    values = tuple(
        (name, id(value) if isinstance(value, _BY_IDENTITY) else (type(value), value))
        for name, value in seen
    )
    return Same((function.__code__, values), function, tuple(value for _, value in seen))


def _seen(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """The names and values that a function refers to, other than its arguments."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or ()):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not defined yet
            yield name, cell
    yield from (("", value) for value in function.__defaults__ or ())
    yield from (function.__kwdefaults__ or {}).items()
    for name in sorted(set(_names(function.__code__))):
        if name in function.__globals__:
            yield name, function.__globals__[name]


def _names(code: CodeType) -> Iterator[str]:
    """The names that code refers to, and that of the functions inside."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
