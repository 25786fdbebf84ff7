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


def skip(bar: tqdm, work: int) -> None:
    """Move a bar on over what an earlier process did, which says nothing of the speed of this one.

    Example:
        >>> from jaxsnn.progress import progress_bar, skip
        >>> skip(progress_bar(False, total=3), 2)
    """
    if not bar.disable:
        bar.initial += work
        bar.n += work
