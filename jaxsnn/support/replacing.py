"""Files that are written whole, or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

UNFINISHED = ".unfinished"  # the ending of a file that is still being written


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` when it is complete, and never before.

    Killed at any moment, it leaves the old file or the new one, whole.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from jaxsnn.support.replacing import replacing
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
