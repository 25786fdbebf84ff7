"""Networks in files: tensors as safetensors, and beside them what they are tensors of, as JSON.

The JSON names classes and functions of this library, or of the reader's, and holds no code. A class
is described by the arguments of its constructor, so that a new operation needs nothing here:

    {"class": "Dense", "fields": {"kernel": {"array": "layers.0...kernel", "of": "jax"}}}

Tuples are arrays of JSON; lists, functions and numbers that are not finite are objects likewise.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from functools import cache
from importlib.metadata import version
from inspect import signature
from math import isfinite
from numbers import Integral, Real
from os import PathLike, fstat
from pathlib import Path
from types import UnionType
from typing import Any, BinaryIO, Union, get_args, get_origin, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from jax import lax

from jaxsnn import encoding, neurons
from jaxsnn import network as parts
from jaxsnn.conversion.balancing import SpikingNetwork
from jaxsnn.conversion.fixed_point import FixedPointNetwork
from jaxsnn.network import Network
from jaxsnn.network.operations import Places
from jaxsnn.support.arrays import all_known, as_jax
from jaxsnn.support.digests import digest
from jaxsnn.support.errors import explained
from jaxsnn.support.files import opened, replacing
from jaxsnn.support.typed import Values, described, typed

FORMAT = 1  # of the files that this version writes; it reads older ones too
_LONGEST_HEADER = 1 << 24
_DTYPES = {
    "BOOL": np.dtype(bool),
    **{
        f"{kind}{8 * size}": np.dtype(f"{kind}{size}".lower())
        for kind in "IU"
        for size in (1, 2, 4, 8)
    },
    **{f"F{8 * size}": np.dtype(f"f{size}") for size in (2, 4, 8)},
    "BF16": np.dtype(jnp.bfloat16),
}

AnyNetwork = Network | SpikingNetwork | FixedPointNetwork


@typed
def save(
    path: str | PathLike[str],
    network: Network | SpikingNetwork | FixedPointNetwork,
    *,
    custom: Mapping[str, Any] | None = None,
) -> None:
    """Write a network to a safetensors file, from which `load` makes the same network.

    The file has the weights, thresholds and so on as tensors, and as metadata the structure with
    the names of layers, which name lines of your source, the versions of jaxsnn and JAX, and a
    SHA-256 of all of it. An existing file is replaced, and stays whole if the writing is stopped.

    Args:
        path: the file, such as "network.safetensors".
        network: the network.
        custom: names for what is yours: resets, encodings, and operations that are dataclasses.
            A file has the names alone; `load` must be told again what they stand for.

    Raises:
        OSError: the file cannot be written; the message says what to do.
        ValueError: the network is one that `load` would refuse: of values that JAX traces, or of
            arrays, functions or operations that a file cannot hold.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsnn
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> network = jaxsnn.read_network(lambda x: jax.nn.relu(0.5 * x), jnp.zeros((1, 2)))
        >>> snn = jaxsnn.balance_thresholds(network, 1.0)
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder) / "network.safetensors"
        ...     jaxsnn.save(path, snn)
        ...     print(jaxsnn.load(path))
        SpikingNetwork with inputs (2,)
          layer 1: Multiply → (2,), receives spikes of 1, threshold 1
    """
    if not all_known(network):
        raise ValueError("the network is traced: save it outside of jit, vmap and grad.")
    content = _Writer(_names(custom)).content(network)
    _check(network)
    file = Path(path).expanduser().absolute()
    with explained(file), replacing(file) as stream:
        stream.write(content)


@typed
def load(
    path: str | PathLike[str], *, custom: Mapping[str, Any] | None = None
) -> Network | SpikingNetwork | FixedPointNetwork:
    """Read the network that `save` wrote.

    Nothing of the file is executed, and its digest is verified. A digest is no signature: whoever
    makes a file can make one, and so make any network.

    Args:
        path: the file.
        custom: what the names of your own resets, encodings and operations stand for, as given to
            `save`.

    Returns:
        The network, with arrays of NumPy or JAX as they were.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: the file cannot be read.
        ValueError: the file is damaged, of a newer version of jaxsnn, or no network; or it has
            something of yours that `custom` does not name.

    Example:
        >>> import jaxsnn
        >>> jaxsnn.load("no/such/network.safetensors")
        Traceback (most recent call last):
        ...
        FileNotFoundError: no/such/network.safetensors does not exist; jaxsnn.save writes it.
    """
    names = _names(custom)
    with opened(path, "jaxsnn.save") as stream:
        try:
            structure, tensors = _contents(stream)
            network = _Reader(names, tensors).value(structure)
            if not isinstance(network, AnyNetwork):
                raise ValueError(f"it has {described(network)}, and no network")
            _check(network)
        except Exception as error:  # whatever wrong numbers in a description may lead to
            kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
            reason = kind + str(error).rstrip(".")
            raise ValueError(f"{path} cannot be loaded: {reason}.") from error
    return network


def _check(network: AnyNetwork) -> None:
    """Raise an error unless the parts of a network fit together."""
    if isinstance(network, Network):
        _ = network.shapes
    else:
        network.check()


# -- What a file may name --------------------------------------------------------------------------


@cache
def _library() -> dict[str, Any]:
    """Classes and functions of the library by the names that files have for them."""
    classes = [part for part in vars(parts).values() if is_dataclass(part)]
    classes += [SpikingNetwork, FixedPointNetwork, Places, lax.ConvDimensionNumbers]
    resets = [neurons.reset_to_zero, neurons.reset_by_subtraction]
    encodings = [encoding.poisson, encoding.constant]
    named = {
        thing.__name__: thing for thing in [*classes, parts.relu, parts.linear, *resets, *encodings]
    }
    return named | {
        f"straight_through({encode.__name__})": encoding.straight_through(encode)
        for encode in encodings
    }


def _names(custom: Mapping[str, Any] | None) -> dict[str, Any]:
    """What the names in a file stand for, those of the user included."""
    custom = dict(custom or {})
    for name, thing in custom.items():
        if not isinstance(name, str) or name in _library() or not callable(thing):
            raise ValueError(
                f"custom has {described(thing)} by the name {name!r}; it must have functions or "
                "classes of yours, by names that jaxsnn has none of."
            )
    return _library() | custom


# -- Writing ---------------------------------------------------------------------------------------


class _Writer:
    """The description of a network, and the tensors that it names."""

    def __init__(self, names: Mapping[str, Any]):
        self.names = names
        self.tensors: dict[str, np.ndarray] = {}
        self.written: dict[int, tuple[Any, str]] = {}  # what tensors are of, by its id

    def content(self, network: AnyNetwork) -> bytes:
        """The bytes of a file."""
        about = {
            "format": FORMAT,
            "jaxsnn": version("jaxsnn-conversion"),
            "jax": version("jax"),
            "network": self.description(network, ""),
        }
        about["sha256"] = _digest(about, self.tensors)
        content = safetensors.numpy.save(self.tensors, {"jaxsnn": json.dumps(about)})
        if _header_length(content) > _LONGEST_HEADER:
            raise ValueError(f"the network has too many parts: {len(self.tensors):,} tensors.")
        return content

    def description(self, value: Any, path: str) -> Any:
        """A value as JSON; `path` is where it stands in the network."""
        if value is None or isinstance(value, str | bool) or type(value) is int:
            return value
        if type(value) is float:
            return value if isfinite(value) else {"float": str(value)}
        if isinstance(value, np.generic | np.ndarray | jax.Array):
            return self._array(value, path)
        if type(value) in (tuple, list):
            entries = [self.description(e, f"{path}.{i}") for i, e in enumerate(value)]
            return entries if type(value) is tuple else {"list": entries}
        if name := self._name(value):
            return {"function": name}
        if name := self._name(type(value)):
            fields = {
                field: self.description(getattr(value, field), f"{path}.{field}")
                for field in signature(type(value)).parameters
            }
            return {"class": name, "fields": fields}
        yours = getattr(value, "__name__", type(value).__name__)
        raise ValueError(
            f"{path[1:]} is {described(value)}, for which files have no name: give it one, here "
            f"and when the file is loaded, by custom={{{yours!r}: {yours}}}."
        )

    def _name(self, thing: Any) -> str | None:
        return next((name for name, known in self.names.items() if known is thing), None)

    def _array(self, value: Any, path: str) -> dict[str, str]:
        kind = next(name for name, (accepts, _) in _ARRAYS.items() if isinstance(value, accepts))
        array = np.asarray(value, order="C")
        if array.dtype not in _DTYPES.values() or isinstance(value, np.ma.MaskedArray):
            raise ValueError(
                f"{path[1:]} is {described(value)}; a file holds bools, integers, and floats of up "
                "to 64 bits, and no masks."
            )
        _, name = self.written.setdefault(id(value), (value, path[1:]))
        self.tensors.setdefault(name, array)
        return {"array": name, "of": kind}


# -- Reading ---------------------------------------------------------------------------------------


def _contents(stream: BinaryIO) -> tuple[Any, dict[str, np.ndarray]]:
    """The description and the tensors of a file, whose sizes are looked at before it is read."""
    size = fstat(stream.fileno()).st_size
    start = stream.read(8)
    length = _header_length(start)
    if len(start) < 8 or length > min(size - 8, _LONGEST_HEADER):
        raise ValueError(
            f"it is no safetensors file: {size:,} bytes cannot have a header of {length:,}"
        )
    header = json.loads(stream.read(length))
    about = json.loads(header.pop("__metadata__", {}).get("jaxsnn", "{}"))
    _check_format(about.get("format"))
    ends = [entry["data_offsets"][1] for entry in header.values()]
    if max(ends, default=0) != size - 8 - length:
        raise ValueError(f"it has {size:,} bytes, and its header is of another size")
    stream.seek(0)
    tensors = {
        name: np.frombuffer(found["data"], _DTYPES[found["dtype"]]).reshape(found["shape"])
        for name, found in safetensors.deserialize(stream.read(size))
    }
    if about["sha256"] != _digest(about, tensors):
        raise ValueError("its digest is wrong: it has changed since it was written")
    return about["network"], tensors


def _header_length(content: bytes) -> int:
    return int.from_bytes(content[:8], "little")


def _check_format(number: Any) -> None:
    """Raise ValueError for what is no file of this version or of one before."""
    if type(number) is not int:
        raise ValueError("jaxsnn.save has not written it")
    if not 1 <= number <= FORMAT:
        raise ValueError(
            f"it has format {number}, but jaxsnn {version('jaxsnn-conversion')} reads formats up "
            f"to {FORMAT}: install a newer jaxsnn"
        )


class _Reader:
    """What a description stands for; everything that it names must be known."""

    def __init__(self, names: Mapping[str, Any], tensors: Mapping[str, np.ndarray]):
        self.names = names
        self.tensors = tensors
        self.arrays: dict[tuple[str, str], Any] = {}  # arrays of several places are one again

    def value(self, description: Any) -> Any:
        """The value that a description is of."""
        match description:
            case list():
                return tuple(map(self.value, description))
            case {"list": list(entries)}:
                return list(map(self.value, entries))
            case {"float": "inf" | "-inf" | "nan" as text}:
                return float(text)
            case {"array": str(name), "of": str(kind)}:
                return self._array(name, kind)
            case {"function": str(name)} if not isinstance(function := self._named(name), type):
                return function
            case {"class": str(name), "fields": dict(fields)}:
                return self._object(name, fields)
            case dict():
                raise ValueError(f"it describes {', '.join(map(repr, description))}")
        return description

    def _named(self, name: str) -> Any:
        if name not in self.names:
            raise ValueError(
                f"it has {name!r}, which jaxsnn {version('jaxsnn-conversion')} does not know; if "
                f"that is yours, say what it is: load(path, custom={{{name!r}: ...}})"
            )
        return self.names[name]

    def _array(self, name: str, kind: str) -> Any:
        if (name, kind) not in self.arrays:
            array = self.tensors[name]
            _, made = _ARRAYS[kind]
            found = self.arrays[name, kind] = made(array)
            if found.dtype != array.dtype:
                raise ValueError(
                    f"{name} has {array.dtype}, which JAX has in 64 bits only: call "
                    'jax.config.update("jax_enable_x64", True) before'
                )
        return self.arrays[name, kind]

    def _object(self, name: str, fields: Mapping[str, Any]) -> Any:
        kind = self._named(name)
        if not isinstance(kind, type):
            raise ValueError(f"{name!r} is no class")
        values = {field: self.value(description) for field, description in fields.items()}
        if name in _library():
            for field, hint in get_type_hints(kind).items():
                if field in values and not _fits(values[field], hint):
                    raise ValueError(f"the {field} of a {name} is {described(values[field])}")
        return kind(**values)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of the type that a field is annotated with, in all of its parts.

    `Any` stands for arrays and numbers, and for lists of them.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return all(isinstance(leaf, Values) for leaf in jax.tree.leaves(value))
    if origin in (Union, UnionType):
        return any(_fits(value, argument) for argument in arguments)
    if origin is Callable:
        return callable(value)
    if origin is not None:  # tuples, lists and sequences of one type
        return isinstance(value, origin) and all(_fits(entry, arguments[0]) for entry in value)
    return isinstance(value, {int: Integral, float: Real}.get(hint, hint))  # of NumPy, too


# -- Both ------------------------------------------------------------------------------------------

# For arrays by the names that files have for their types: the class, and what makes one of NumPy's.
_ARRAYS: dict[str, tuple[type, Callable[[np.ndarray], Any]]] = {
    "jax": (jax.Array, as_jax),
    "numpy": (np.ndarray, lambda array: array),
    "scalar": (np.generic, lambda array: array[()]),
}


def _digest(about: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of all that a file has, but for its digest."""
    texts = {name: part for name, part in about.items() if name != "sha256"}
    arrays = [part for name in sorted(tensors) for part in (name, tensors[name])]
    return digest(json.dumps(texts, sort_keys=True), *arrays)
