"""The bar that long work shows."""

from __future__ import annotations

from typing import Any

from tqdm.auto import tqdm


def progress_bar(progress: bool | None, **options: Any) -> tqdm:
    """A bar of tqdm, gone at its end.

    Args:
        progress: whether to show it; None shows it on a terminal or in a notebook, for work of more
            than a second.
        options: further arguments of `tqdm.tqdm`.

    Example:
        >>> from jaxsnn.progress import progress_bar
        >>> list(progress_bar(False, iterable=range(3)))
        [0, 1, 2]
    """
    hidden = None if progress is None else not progress
    return tqdm(disable=hidden, delay=0.0 if progress else 1.0, leave=False, **options)
