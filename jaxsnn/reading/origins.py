"""Where an operation of a jaxpr comes from: the user's source line, and the module on it."""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from jax.extend import source_info_util
from jax.extend.core import Jaxpr, JaxprEqn

from jaxsnn import neurons
from jaxsnn.support import typed

_PACKAGES = ("jax", "jaxlib", "flax", "torch", "torchax", "torchvision")
_PACKAGES += ("numpy", "jaxtyping", "beartype")
# Folders and files that the user did not write. The packages are found, not imported.
_LIBRARIES = (
    *(
        str(Path(spec.origin).parent) + os.sep
        for package in _PACKAGES
        if (spec := find_spec(package)) and spec.origin
    ),
    str(Path(__file__).parent) + os.sep,
    str(neurons.__file__),
    str(typed.__file__),
)
# A frame of the call of a module of Flax or PyTorch. Containers are left out: their parts matter.
_MODULE = re.compile(
    r"[/\\](?:flax|torch)[/\\].*\((?!Sequential|Module)_?(\w+)\.(?:__call__|forward)\)$"
)


class Origin(NamedTuple):
    """Where an operation comes from.

    Attributes:
        line: file, line and function of the user's code.
        module: the module of Flax or PyTorch that contains it, or "".
        function: the function of a library that contains it, or "".
        path: where in the model the weights are that it reads, such as "blocks.0.conv", or "".
    """

    line: str
    module: str
    function: str = ""
    path: str = ""

    def __str__(self) -> str:
        names = [self.path, f"({self.module})" if self.path and self.module else self.module]
        named = " ".join(filter(None, names))
        return f"{named} at {self.line}" if named else self.line


class Names:
    """Where in the model weights are, and what is computed of them alone."""

    def __init__(self, paths: Iterable[tuple[str, Any]] = ()):
        # Weights are told apart by their identity, for which they are kept alive here.
        self._paths = {id(weights): (path, weights) for path, weights in paths}

    def of(self, values: Sequence[Any]) -> str:
        """The place of the weights among some values, if they are of one place only; else ""."""
        found = {self._paths[id(value)][0] for value in values if id(value) in self._paths}
        return found.pop() if len(found) == 1 else ""

    def inherit(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        """Remember that constants were computed of others."""
        if path := self.of(inputs):
            self._paths.update({id(value): (path, value) for value in outputs})


def origin_of(equation: JaxprEqn) -> Origin:
    """The innermost line of the user's code that an equation comes from, and what it calls."""
    frames = source_info_util.summarize(equation.source_info, num_frames=50).splitlines()
    frames = ["an unknown line", *(frame.strip() for frame in frames)]  # the innermost is the last
    own = [n for n, frame in enumerate(frames) if n and not frame.startswith(_LIBRARIES)]
    calls = frames[own[-1] + 1 if own else 1 :]
    modules = [found[1] for frame in calls if (found := _MODULE.search(frame))]
    line, module = frames[own[-1]] if own else frames[-1], modules[0] if modules else ""
    return Origin(line, module, _called(equation))


def _called(equation: JaxprEqn) -> str:
    """The public function of a library, such as softmax, that the user's line called, or ""."""
    called = ""
    for frame in getattr(equation.source_info.traceback, "frames", ()):  # the innermost is first
        if not frame.file_name.startswith(_LIBRARIES):
            break
        if frame.file_name != typed.__file__:  # which calls what it checks
            called = frame.function_name
    return called if called.isidentifier() and not called.startswith("_") else ""


def line_of_error(error: Exception) -> str | None:
    """The innermost line of the user's code that an exception passed, if it passed one."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith(_LIBRARIES):
            return f"{frame.filename}:{frame.lineno} ({frame.name})"
    return None


def is_library(body: Jaxpr) -> bool:
    """Whether JAX or Flax wrote the function: its trace is cached, with the lines of others."""
    return str(body.debug_info.func_filename).startswith(_LIBRARIES)
