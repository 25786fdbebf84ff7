"""Warnings that point to the user's line, however deep in this package they arise."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

_PACKAGE = str(Path(__file__).parent)


def warn(message: str) -> None:
    """Warn of the innermost line that is outside of this package.

    Example:
        >>> import warnings
        >>> from jaxsnn.warn import warn
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warn("duration=20 is in seconds.")
        >>> str(caught[0].message)
        'duration=20 is in seconds.'
    """
    frame, level = sys._getframe(1), 2
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)
