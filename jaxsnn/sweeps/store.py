"""Files of a sweep that survive being killed, and are read by one of several processes."""

from __future__ import annotations

import glob
import json
import os
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar, cast
from uuid import uuid4

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxsnn.digests import digest
from jaxsnn.sweeps.plan import Plan
from jaxsnn.sweeps.results import load_sweep

if TYPE_CHECKING:
    import xarray as xr

Value = TypeVar("Value")
_UNFINISHED = ".unfinished"
_ANY = f".????????{_UNFINISHED}"
_OURS = ("sweep.json", "block-*.npz", f"*{_ANY}")


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` when it is complete, and never before.

    Killed at any moment, it leaves the old file or the new one, whole.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from jaxsnn.sweeps.store import replacing
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder) / "a"
        ...     with replacing(path) as file:
        ...         _ = file.write(b"all of it")
        ...     path.read_bytes()
        b'all of it'
    """
    unfinished = path.with_name(f"{path.name}.{uuid4().hex[:8]}{_UNFINISHED}")
    try:
        with open(unfinished, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def from_first(function: Callable[[], Value]) -> Value:
    """The value of a function that only the first of several processes calls, for all of them.

    Only the first process needs to see the files then, and all go the same way. An error is raised
    in all of them too.

    Example:
        >>> from jaxsnn.sweeps.store import from_first
        >>> from_first(lambda: 3)
        3
    """
    if jax.process_count() == 1:
        return function()
    outcome: tuple[Any, Exception | None] = None, None
    if jax.process_index() == 0:
        try:
            outcome = function(), None
        except Exception as error:
            outcome = None, error
    data = np.frombuffer(pickle.dumps(outcome), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(data))))
    if jax.process_index() != 0:
        data = np.zeros(size, np.uint8)
    value, error = pickle.loads(np.asarray(multihost_utils.broadcast_one_to_all(data)).tobytes())
    if error is not None:
        raise error
    return value


def check_path(path: str | PathLike[str] | None) -> None:
    """Raise ValueError where a sweep cannot keep its files."""
    if path is None:
        return
    file = Path(path).expanduser().absolute()
    folder = Path(f"{file}.partial")
    if not file.parent.is_dir():
        raise ValueError(f"{file.parent} is no folder; make it, or choose another path.")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is no folder; move it, or choose another path.")
    for found in folder.glob("*"):
        if not any(found.match(pattern) for pattern in _OURS):
            raise ValueError(f"{found} is of no sweep; move it, or choose another path.")


class Store:
    """What a sweep keeps: its result in one file and, until that is whole, blocks in a folder.

    A block is a list of arrays, a sum over so many pieces. Only the first of several processes
    touches files.

    Args:
        path: the file of the result; None keeps nothing.
        identity: names and digests of all that decides the result.

    Attributes:
        finished: whether the result is there.
        plan: how the sweep was cut into blocks when it was begun, or None.

    Raises:
        ValueError: the file or the folder beside it belongs to another sweep, or is damaged.
    """

    def __init__(self, path: str | PathLike[str] | None, identity: Mapping[str, str]):
        self.path = None if path is None else Path(path).expanduser().absolute()
        self.identity = dict(identity)
        self.finished, self.plan = (False, None) if path is None else from_first(self._open)

    @property
    def folder(self) -> Path:
        """The folder for blocks."""
        return Path(f"{self.path}.partial")

    def begin(self, plan: Mapping[str, int]) -> None:
        """Keep how the sweep is cut into blocks."""
        self.plan = dict(plan)
        self._on_first(self._begin)

    def load(self, block: int) -> tuple[int, list[np.ndarray]]:
        """How many pieces of a block are done, and their sum: 0 and nothing without a file."""
        if self.path is None:
            return 0, []
        return from_first(lambda: self._load(block))

    def save(self, block: int, done: int, arrays: Sequence[np.ndarray]) -> None:
        """Keep the sum over so many pieces of a block, in place of what there was."""
        self._on_first(lambda: self._save(block, done, arrays))

    def finish(self, result: xr.Dataset) -> None:
        """Write the result, and remove the blocks."""
        self._on_first(lambda: self._finish(result))

    def _on_first(self, function: Callable[[], None]) -> None:
        if self.path is not None:
            from_first(function)

    # -- On the first process

    def _open(self) -> tuple[bool, dict[str, int] | None]:
        path = cast(Path, self.path)
        begun, plan = self.folder / "sweep.json", None
        if path.exists():
            self._refuse_another(path, _identity_of(path))
            self._clear()
        elif begun.exists():
            try:
                kept = json.loads(begun.read_text())
                identity = dict(kept["identity"])
                plan = {name: int(kept["plan"][name]) for name in Plan._fields}
            except (ValueError, KeyError, TypeError) as error:
                raise _damaged(begun, error) from error
            self._refuse_another(self.folder, identity)
        inside, beside = glob.escape(self.folder.name), glob.escape(path.name)
        for pattern in (f"{inside}/*{_ANY}", f"{beside}{_ANY}"):
            for left in path.parent.glob(pattern):  # of a process that was killed while it wrote
                left.unlink(missing_ok=True)
        return path.exists(), plan

    def _begin(self) -> None:
        self._clear()  # blocks without a plan belong to nothing
        self.folder.mkdir()
        with replacing(self.folder / "sweep.json") as file:
            content = {"identity": self.identity, "plan": self.plan}
            file.write(json.dumps(content, indent=1).encode())

    def _load(self, block: int) -> tuple[int, list[np.ndarray]]:
        path = self._block(block)
        if not path.exists():
            return 0, []
        try:
            with np.load(path) as file:
                done = int(file["done"])
                arrays = [file[f"arr_{number}"] for number in range(len(file.files) - 2)]
                if str(file["digest"]) != digest(str(done), *arrays):
                    raise ValueError("its digest is another")
        except Exception as error:  # whatever a zip file with wrong bytes may lead to
            raise _damaged(path, error) from error
        return done, arrays

    def _save(self, block: int, done: int, arrays: Sequence[np.ndarray]) -> None:
        with replacing(self._block(block)) as file:
            np.savez(file, *arrays, done=np.int64(done), digest=digest(str(done), *arrays))

    def _finish(self, result: xr.Dataset) -> None:
        content = result.assign_attrs(identity=json.dumps(self.identity))
        with replacing(cast(Path, self.path)) as file:
            file.write(content.to_netcdf(engine="h5netcdf"))
        self._clear()

    def _clear(self) -> None:
        """Remove the folder, the plan first: blocks without one are never taken for another's."""
        for pattern in _OURS:
            for file in self.folder.glob(pattern):
                file.unlink(missing_ok=True)
        if self.folder.exists():
            self.folder.rmdir()

    def _block(self, number: int) -> Path:
        return self.folder / f"block-{number:05}.npz"

    def _refuse_another(self, path: Path, identity: Mapping[str, str]) -> None:
        differing = [name for name, value in self.identity.items() if identity.get(name) != value]
        if differing:
            raise ValueError(
                f"{path} belongs to a sweep with other {', '.join(differing)}; choose another "
                "path, or delete it to sweep anew."
            )


def _identity_of(path: Path) -> dict[str, str]:
    """The identity in the file of a result; empty if a sweep without a path made it."""
    text = load_sweep(path).attrs.get("identity", "{}")
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path} is damaged ({error}); delete it, and what it held is done again.")
