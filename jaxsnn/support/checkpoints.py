"""Checkpoints of a training: the last finished epoch, written whole and verified before it is read.

A checkpoint is a folder named by its epoch: the state as Orbax writes it, the identity of the run
with its history, and the SHA-256 of each of these files. It is written beside the old one and
renamed, and only then the old one is deleted: a kill at any moment leaves one of the two whole.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax import Array

History = list[dict[str, float]]


class Checkpoints:
    """A folder with the state after the last finished epoch of one run."""

    def __init__(self, folder: str | PathLike[str]):
        if not os.fspath(folder):
            raise ValueError("checkpoint is an empty path; name a folder")
        self.folder = Path(folder).expanduser().resolve()
        with self._naming_the_folder():
            self.folder.mkdir(parents=True, exist_ok=True)

    def check_writable(self) -> None:
        """Raise before a training that could not be kept."""
        with self._naming_the_folder():
            tempfile.TemporaryFile(dir=self.folder).close()

    def load(self, state: Any, identity: dict[str, Any]) -> tuple[Any, History]:
        """Return the stored state and history; the given state and no history if none is stored."""
        with self._naming_the_folder():
            epochs = self._epochs()
            if not epochs:
                return state, []
            path = self.folder / str(max(epochs))
            self._check_digests(path)
            run = json.loads((path / "run.json").read_text())
        self._refuse_other(run["identity"], identity)
        leaves = self._named_leaves(state)
        try:
            with _quiet_orbax(), _checkpointer() as checkpointer:
                stored = checkpointer.restore(path / "state", args=ocp.args.StandardRestore(leaves))
        except Exception as error:
            raise self._damaged(path, f"this version of Orbax cannot read it ({error})") from error
        return jax.tree.unflatten(jax.tree.structure(state), stored.values()), run["history"]

    def save(self, state: Any, history: History, identity: dict[str, Any]) -> None:
        """Store the state after an epoch."""
        epoch, written = len(history), self.folder / ".unfinished-checkpoint"
        lost = (
            f" Epoch {epoch} was not stored: the model has its weights, and another call resumes "
            "after the last epoch that was."
        )
        with self._naming_the_folder(lost), _deleted(written):
            with _quiet_orbax(), _checkpointer() as checkpointer:
                leaves = self._named_leaves(state)
                checkpointer.save(written / "state", args=ocp.args.StandardSave(leaves))
            run = {"identity": identity, "history": history}
            (written / "run.json").write_text(json.dumps(run))
            (written / _DIGESTS).write_text(json.dumps(_digests(written)))
            written.rename(self.folder / str(epoch))
            for other in self._epochs() - {epoch}:
                shutil.rmtree(self.folder / str(other))

    def _epochs(self) -> set[int]:
        return {int(path.name) for path in self.folder.iterdir() if path.name.isdecimal()}

    def _check_digests(self, path: Path) -> None:
        try:
            stored = json.loads((path / _DIGESTS).read_bytes())
        except (FileNotFoundError, ValueError):
            stored = None
        if not isinstance(stored, dict):
            raise self._damaged(
                path, "it has no checksums, as if an earlier version had written it"
            )
        found = _digests(path)
        wrong = sorted(name for name in stored | found if stored.get(name) != found.get(name))
        if wrong:
            raise self._damaged(path, f"its file {wrong[0]} has changed")

    def _damaged(self, path: Path, how: str) -> ValueError:
        return ValueError(
            f"the checkpoint {path} cannot be used: {how}. Choose another folder, or delete "
            f"{self.folder} and train again"
        )

    @contextmanager
    def _naming_the_folder(self, consequence: str = "") -> Iterator[None]:
        """Add to an error of the disk which folder it was, and what to do."""
        try:
            yield
        except Exception as error:
            code = re.search(r"os_error_code='(\d+)'", str(error))  # in what TensorStore raises
            number = int(code[1]) if code else getattr(error, "errno", None)
            if number is None:
                raise
            raise OSError(
                number,
                f"{os.strerror(number)}: the checkpoint folder {self.folder} cannot be read or "
                f"written.{consequence} Make room there and allow writing, or name another folder "
                "in checkpoint=...",
            ) from error

    def _refuse_other(self, stored: dict[str, Any], identity: dict[str, Any]) -> None:
        differing = [name for name, value in identity.items() if stored.get(name) != value]
        if differing:
            name = differing[0]
            raise ValueError(
                f"{self.folder} holds the checkpoint of another run: its {name} is "
                f"{stored.get(name)} and here it is {identity[name]}; choose another folder, "
                f"or delete this one to train anew"
            )

    @staticmethod
    def _named_leaves(state: Any) -> dict[str, Array]:
        # Plain names, so that a file says nothing about the classes of Flax's and Optax's states.
        return {f"{index:03}": leaf for index, leaf in enumerate(jax.tree.leaves(state))}


_DIGESTS = "sha256.json"


@contextmanager
def _deleted(folder: Path) -> Iterator[None]:
    """Delete a folder before, where a kill left it, and after, where an error did."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        yield
    except BaseException:
        # Orbax raises at the first file that fails, while its threads still write the others.
        for _ in range(10):
            shutil.rmtree(folder, ignore_errors=True)
            time.sleep(0.05)
        raise


def _digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a folder but the list of them."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != _DIGESTS:
            with path.open("rb") as file:
                found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _checkpointer() -> ocp.Checkpointer:
    return ocp.Checkpointer(ocp.StandardCheckpointHandler())


@contextmanager
def _quiet_orbax() -> Iterator[None]:
    """Keep Orbax's notes on every save and load out of the log."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
