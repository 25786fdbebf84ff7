"""Files that are written whole, or not at all, and that are read if they are files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from uuid import uuid4

from jaxsnn.support.errors import check_writable, explained

if TYPE_CHECKING:
    from matplotlib.figure import Figure

UNFINISHED = ".unfinished"  # the ending of a file that is still being written


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` when it is complete, and never before.

    Killed at any moment, it leaves the old file or the new one, whole.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from jaxsnn.support.files import replacing
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder) / "a"
        ...     with replacing(path) as file:
        ...         _ = file.write(b"all of it")
        ...     path.read_bytes()
        b'all of it'
    """
    unfinished = path.with_name(f"{path.name}.{uuid4().hex[:8]}{UNFINISHED}")
    try:
        with open(unfinished, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def made_folder(folder: Path) -> Path:
    """The folder, made where there was none; an OSError says what to do where none can be."""
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    check_writable(folder)
    return folder


def save_text(path: Path, text: str) -> None:
    """Write a text file; an OSError says what to do, and leaves an earlier file."""
    with explained(path), replacing(path) as file:
        file.write(text.encode())


def save_figure(path: Path, figure: Figure) -> None:
    """Write a figure as a PNG file; an OSError says what to do, and leaves an earlier file."""
    with explained(path), replacing(path) as file:
        figure.savefig(file, format="png", dpi=150)


def opened(path: str | PathLike[str], written_by: str) -> BinaryIO:
    """A file to be read; an error says what to do where there is none.

    Args:
        path: the file.
        written_by: what writes such files, for the message.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: the file cannot be read.
        ValueError: it is a folder, or a pipe, which never ends.

    Example:
        >>> from jaxsnn.support.files import opened
        >>> opened("no/such/file", "jaxsnn.save")
        Traceback (most recent call last):
        ...
        FileNotFoundError: no/such/file does not exist; jaxsnn.save writes it.
    """
    file = Path(path).expanduser()
    with explained(path, "read"):
        exists = file.exists()
        stream = file.open("rb") if file.is_file() else None
    if stream is None and exists:
        raise ValueError(f"{path} is no file; choose another path.")
    if stream is None:
        raise FileNotFoundError(f"{path} does not exist; {written_by} writes it.")
    return stream
