"""The message shown while Numba compiles the kernels, once for an installation."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from numba.core import event

from jaxsnn.support.progress import progress_bar

_TEXT = "compiling the event-driven engine, once for an installation: about 10 s"


class _Announcement(event.Listener):
    """A line, from the first function that is compiled on."""

    def __init__(self, shown: bool | None) -> None:
        self.shown = shown
        self.bar: Any = None
        self.collects = gc.isenabled()

    def on_start(self, event: Any) -> None:
        del event
        if self.bar is None:
            self.bar = progress_bar(self.shown, desc=_TEXT, bar_format="{desc}")
            self.bar.refresh()
            gc.disable()  # a sixth of the time would go to looking for what can be freed

    def on_end(self, event: Any) -> None:
        del event


@contextmanager
def announced(shown: bool | None = None) -> Iterator[None]:
    """Say that kernels are compiled, if they are; by default on a terminal or in a notebook.

    Below a bar whose estimate would else be that of the compilation.
    """
    announcement = _Announcement(shown)
    try:
        with event.install_listener("numba:compile", announcement):
            yield
    finally:
        if announcement.bar is not None:
            announcement.bar.close()
            if announcement.collects:
                gc.enable()
