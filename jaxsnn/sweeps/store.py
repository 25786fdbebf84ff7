"""Files of a sweep that survive being killed, and are read by one of several processes."""

from __future__ import annotations

import glob
import json
import pickle
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast
from zipfile import ZIP_STORED

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxsnn.support.digests import digest
from jaxsnn.support.errors import check_writable, explained
from jaxsnn.support.files import UNFINISHED, replacing
from jaxsnn.support.typed import typed
from jaxsnn.sweeps.files import verify_checksum, write_with_checksum
from jaxsnn.sweeps.plan import Plan
from jaxsnn.sweeps.results import load_sweep

if TYPE_CHECKING:
    import xarray as xr
    from filelock import BaseFileLock

Value = TypeVar("Value")
_ANY = f".????????{UNFINISHED}"
_LOCK = "lock"
_OURS = ("sweep.json", "block-*.npz", f"*{_ANY}", f"{_LOCK}*")
_KEPT = "All finished pieces are kept: call the sweep again to resume it."


@typed
def save_sweep(data: xr.Dataset, path: str | PathLike[str]) -> None:
    """Write a sweep to a netCDF file, with the checksum that `load_sweep` verifies.

    `sweep(..., path=...)` has done so already; this is for a sweep without a path, or for some of
    its points. An existing file is replaced.

    Args:
        data: the result of `sweep`, or a part of it.
        path: the file.

    Raises:
        OSError: the file cannot be written; the message says what to do.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsnn
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from jaxsnn.sweeps.store import save_sweep
        >>> network = jaxsnn.read_network(lambda x: jax.nn.relu(0.5 * x), jnp.zeros((1, 2)))
        >>> grid = jaxsnn.Grid(scales=1.0, threshold=[0.5, 1.0], duration=0.004)
        >>> data = jaxsnn.sweep(network, jnp.eye(2), [0, 1], grid)
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder) / "one.nc"
        ...     save_sweep(data.sel(threshold=[1.0]), path)
        ...     jaxsnn.load_sweep(path).threshold.values.tolist()
        [1.0]
    """
    file = Path(path).expanduser().absolute()
    with explained(file), replacing(file) as stream:
        write_with_checksum(stream, cast(bytes, data.to_netcdf(engine="h5netcdf")))


def kept_when_full(path: Path) -> AbstractContextManager[None]:
    """Errors of a file say that what was simulated is kept."""
    return explained(path, kept=_KEPT)


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
    """Raise ValueError or OSError where a sweep cannot keep its files."""
    if path is None:
        return
    file = Path(path).expanduser().absolute()
    folder = Path(f"{file}.partial")
    with explained(file):
        if not file.parent.is_dir():
            raise ValueError(f"{file.parent} is no folder; make it, or choose another path.")
        if file.is_dir():
            raise ValueError(f"{file} is a folder; choose another path, such as one in it.")
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"{folder} is no folder; move it, or choose another path.")
        for found in folder.glob("*"):
            if not any(found.match(pattern) for pattern in _OURS):
                raise ValueError(f"{found} is of no sweep; move it, or choose another path.")
        exists = file.exists()
    if not exists:
        check_writable(file.parent)


class Store:
    """What a sweep keeps: its result in one file and, until that is whole, blocks in a folder.

    A block is a list of arrays, a sum over so many pieces. Only the first of several processes
    touches files. Whoever writes holds a lock, from `with` until its end; meanwhile another sweep
    gets an error. A killed process leaves no lock: it is the operating system's. Its file lies in
    the folder of the blocks, and only a sweep that has written its result removes it: whoever gets
    a lock on the removed file finds the result, and writes nothing.

    Args:
        path: the file of the result; None keeps nothing.
        identity: names and digests of all that decides the result.

    Attributes:
        result: the result if it is there, or None.
        plan: how the sweep was cut into blocks when it was begun, or None.

    Raises:
        ValueError: the file or the folder beside it belongs to another sweep or is damaged, or
            another sweep is writing there.
        OSError: the files cannot be read or written.
    """

    result: xr.Dataset | None
    plan: dict[str, int] | None

    def __init__(self, path: str | PathLike[str] | None, identity: Mapping[str, str]):
        self.path = None if path is None else Path(path).expanduser().absolute()
        self.identity = dict(identity)
        self._lock: BaseFileLock | None = None
        self.result, self.plan = None, None
        self._open(self._found)

    def __enter__(self) -> Store:
        if self.result is None:
            self._open(self._locked)  # what there is may have changed since the first look
        return self

    def __exit__(self, *error: object) -> None:
        self._release()

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

    def _open(self, look: Callable[[], tuple[xr.Dataset | None, dict[str, int] | None]]) -> None:
        if self.path is not None:
            self.result, self.plan = from_first(look)

    def _on_first(self, function: Callable[[], None]) -> None:
        def explaining() -> None:
            with kept_when_full(cast(Path, self.path)):
                function()

        if self.path is not None:
            from_first(explaining)

    # -- On the first process

    def _found(self) -> tuple[xr.Dataset | None, dict[str, int] | None]:
        """The result and the plan, of which there is one or neither."""
        path = cast(Path, self.path)
        if path.exists():
            data = load_sweep(path)
            self._refuse_another(path, identity_of(path, data))
            with suppress(OSError):  # another may be removing the blocks, or nobody may
                self._clear()
            return data, None
        begun = self.folder / "sweep.json"
        if not begun.exists():
            return None, None
        with explained(begun, "read"):
            content = begun.read_bytes()
        try:
            kept = json.loads(content)
            identity, plan = dict(kept["identity"]), dict(kept["plan"])
            if kept["digest"] != _digest_of(identity, plan):
                raise ValueError("its digest is wrong")
            if not all(type(plan[name]) is int and plan[name] >= 1 for name in Plan._fields):
                raise ValueError(f"its plan is {plan}")
        except Exception as error:  # whatever JSON may lead to that holds anything
            raise _damaged(begun, error) from error
        self._refuse_another(self.folder, identity)
        return None, {name: plan[name] for name in Plan._fields}

    def _locked(self) -> tuple[xr.Dataset | None, dict[str, int] | None]:
        """What is found once nobody else writes; where there is no result yet, with the lock."""
        from filelock import FileLock, Timeout

        path = cast(Path, self.path)
        with explained(path):
            self.folder.mkdir(exist_ok=True)
            lock = self._lock = FileLock(self.folder / _LOCK)
            try:
                lock.acquire(blocking=False)
            except (Timeout, FileNotFoundError) as error:
                if not path.exists():  # or else the other has just removed its folder
                    raise ValueError(
                        f"another sweep is writing to {path}: wait for its end, and call this one "
                        "again to read the result, or choose another path."
                    ) from error
            inside, beside = glob.escape(self.folder.name), glob.escape(path.name)
            for pattern in (f"{inside}/*{_ANY}", f"{beside}{_ANY}"):
                for left in path.parent.glob(pattern):  # of a process killed while it wrote
                    left.unlink(missing_ok=True)
        found = self._found()
        if found[0] is not None:
            self._release()
        return found

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()

    def _begin(self) -> None:
        self._clear(keep=_LOCK)  # blocks without a plan belong to nothing
        with replacing(self.folder / "sweep.json") as file:
            digest_of_both = _digest_of(self.identity, self.plan)
            content = {"identity": self.identity, "plan": self.plan, "digest": digest_of_both}
            file.write(json.dumps(content, indent=1).encode())

    def _load(self, block: int) -> tuple[int, list[np.ndarray]]:
        path = self._block(block)
        if not path.exists():
            return 0, []
        with explained(path, "read"), path.open("rb") as file:
            try:
                verify_checksum(file, self._place(block))
                with np.load(file) as arrays:
                    if any(part.compress_type != ZIP_STORED for part in arrays.zip.infolist()):
                        raise ValueError("it is compressed")
                    done = int(arrays["done"])
                    return done, [arrays[f"arr_{n}"] for n in range(len(arrays.files) - 1)]
            except Exception as error:  # whatever a zip file with wrong bytes may lead to
                raise _damaged(path, error) from error

    def _save(self, block: int, done: int, arrays: Sequence[np.ndarray]) -> None:
        content = BytesIO()
        np.savez(content, *arrays, done=np.int64(done))
        with replacing(self._block(block)) as file:
            write_with_checksum(file, content.getbuffer(), self._place(block))

    def _finish(self, result: xr.Dataset) -> None:
        save_sweep(result.assign_attrs(identity=json.dumps(self.identity)), cast(Path, self.path))
        self._release()
        with suppress(OSError):  # the result is safe; what is left is removed when it is read
            self._clear()

    def _clear(self, keep: str | None = None) -> None:
        """Remove the folder, the plan first: blocks without one are never taken for another's."""
        for pattern in _OURS:
            for file in self.folder.glob(pattern):
                if file.name != keep:
                    file.unlink(missing_ok=True)
        if keep is None and self.folder.exists():
            self.folder.rmdir()

    def _place(self, block: int) -> str:
        """What a block belongs to: with its checksum it counts nowhere else."""
        return json.dumps([_digest_of(self.identity, self.plan), block])

    def _block(self, number: int) -> Path:
        return self.folder / f"block-{number:05}.npz"

    def _refuse_another(self, path: Path, identity: Mapping[str, str]) -> None:
        differing = [name for name, value in self.identity.items() if identity.get(name) != value]
        if differing:
            raise ValueError(
                f"{path} belongs to a sweep with other {', '.join(differing)}; choose another "
                "path, or delete it to sweep anew."
            )


def identity_of(path: Path, data: xr.Dataset) -> dict[str, str]:
    """The identity that a result has in its attributes; empty if a sweep without a path made it."""
    try:
        return dict(json.loads(data.attrs.pop("identity", "{}")))
    except Exception as error:  # it may be anything
        raise _damaged(path, error) from error


def _digest_of(identity: Mapping[str, str], plan: Mapping[str, int] | None) -> str:
    return digest(json.dumps([identity, plan], sort_keys=True))


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(
        f"{path} is damaged ({error}); delete it, and what it held is simulated again."
    )
