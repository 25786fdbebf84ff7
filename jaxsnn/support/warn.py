"""Warnings that point to the user's line, however deep in this package they arise."""

from __future__ import annotations

import sys
import warnings
from types import FrameType


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn of the innermost line that is neither of this package nor of the type checker.

    Example:
        >>> import warnings
        >>> from jaxsnn.support.warn import warn
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warn("duration=20 is in seconds.")
        >>> str(caught[0].message)
        'duration=20 is in seconds.'
    """
    frame = sys._getframe()
    while frame.f_back and _is_internal(frame):
        frame = frame.f_back
    registry = frame.f_globals.setdefault("__warningregistry__", {})
    path, line = frame.f_code.co_filename, frame.f_lineno
    warnings.warn_explicit(message, category, path, line, registry=registry)


def _is_internal(frame: FrameType) -> bool:
    package = frame.f_globals.get("__name__", "").partition(".")[0]
    return package in ("jaxsnn", "jaxtyping", "beartype") or "beartype" in frame.f_code.co_filename
