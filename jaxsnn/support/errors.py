"""Errors of the command line, and of files that cannot be read or written."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from tempfile import TemporaryFile
from typing import Literal

_REMEDIES = {
    errno.ENOSPC: "free some space on the disk",
    errno.EDQUOT: "free some space on the disk",
    errno.EACCES: "change its permissions, or choose another path",
    errno.EPERM: "change its permissions, or choose another path",
    errno.ENAMETOOLONG: "choose a shorter path",
}


class UsageError(ValueError):
    """An argument that does not work; the message names the remedy.

    The command line shows it without a traceback.
    """


@contextmanager
def explained(
    path: str | PathLike[str], action: Literal["read", "written"] = "written", *, kept: str = ""
) -> Iterator[None]:
    """Raise an OSError of a file again, with its path and what to do.

    Args:
        path: the file or folder.
        action: what is done with it.
        kept: what is not lost, for the message.

    Raises:
        OSError: of the same errno, and so of the same class.

    Example:
        >>> import errno
        >>> from jaxsnn.support.errors import explained
        >>> with explained("sweep.nc"):
        ...     raise OSError(errno.ENOSPC, "No space left on device")
        Traceback (most recent call last):
        ...
        OSError: [Errno 28] sweep.nc cannot be written: No space left on device; free some space \
on the disk.
    """
    try:
        yield
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, "choose another path")
        reason = error.strerror or str(error) or type(error).__name__
        text = f"{path} cannot be {action}: {reason}; {remedy}.{kept and f' {kept}'}"
        raise (OSError(text) if error.errno is None else OSError(error.errno, text)) from error


def check_writable(folder: Path) -> None:
    """Raise OSError unless a file can be made in a folder; none is left there.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from jaxsnn.support.errors import check_writable
        >>> with TemporaryDirectory() as folder:
        ...     check_writable(Path(folder))
    """
    with explained(folder), TemporaryFile(dir=folder):
        pass
