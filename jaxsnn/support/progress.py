"""The bar that long work shows."""

from __future__ import annotations

import sys
from typing import Any

from tqdm.auto import tqdm


def progress_bar(progress: bool | None, **options: Any) -> tqdm:
    """A bar of tqdm, gone at its end.

    Args:
        progress: whether to show it; None shows it on a terminal or in a notebook, for work of more
            than a second.
        options: further arguments of `tqdm.tqdm`.

    Example:
        >>> from jaxsnn.support.progress import progress_bar
        >>> list(progress_bar(False, iterable=range(3)))
        [0, 1, 2]
    """
    hidden = not is_shown(progress)
    return tqdm(disable=hidden, delay=0.0 if progress else 1.0, leave=False, **options)


def is_shown(progress: bool | None) -> bool:
    """Whether `progress_bar` shows a bar.

    Example:
        >>> from jaxsnn.support.progress import is_shown
        >>> is_shown(True), is_shown(False)
        (True, False)
    """
    if progress is not None:
        return progress
    return _in_a_notebook() or (hasattr(sys.stderr, "isatty") and sys.stderr.isatty())


def _in_a_notebook() -> bool:
    """Whether output goes to a notebook, which is no terminal; tqdm only knows with ipywidgets."""
    shell = getattr(sys.modules.get("IPython.core.getipython"), "get_ipython", lambda: None)()
    return shell is not None and "IPKernelApp" in shell.config


def skip(bar: tqdm, work: int) -> None:
    """Move a bar on over what an earlier process did, which says nothing of the speed of this one.

    Example:
        >>> from jaxsnn.support.progress import progress_bar, skip
        >>> skip(progress_bar(False, total=3), 2)
    """
    if not bar.disable:
        bar.initial += work
        bar.n += work
