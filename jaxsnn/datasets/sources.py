"""Where data come from that are not prepared yet."""

from __future__ import annotations

import contextlib
import os
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

from jaxsnn.datasets.dataset import DatasetError
from jaxsnn.datasets.official import Official, Parts

ARCHIVES_VARIABLE = "JAXSNN_ARCHIVES"


def fetch(official: Official, archives: str | os.PathLike[str] | None) -> Parts:
    """The data from the user's folder if there is one, or from the first way that works."""
    if archives:
        folder = existing_folder(archives)
        folder = folder / official.name if (folder / official.name).is_dir() else folder
        return official.read_archives(official, {file: folder / file for file in official.files})
    ways: dict[str, Callable[[Official], Parts]] = {
        "TensorFlow Datasets' download": download,
        **official.other_ways,
    }
    failures = []
    for way, read in ways.items():
        try:
            return read(official)
        except Exception as error:  # whatever is wrong with one way, the next one may work
            failures.append(f"\n- {way}: {error}")
    raise DatasetError(
        f"There is no way to get {official.name}:{''.join(failures)}\nDownload its official "
        f"{_noun(official.files)} ({', '.join(official.files)}) elsewhere, and name the folder "
        f"with the argument `archives` or the environment variable {ARCHIVES_VARIABLE}."
    )


def _noun(files: Sequence[str]) -> str:
    return "archives" if len(files) > 1 else "archive"


def existing_folder(archives: str | os.PathLike[str]) -> Path:
    """The user's folder, or `DatasetError` if there is none."""
    folder = Path(archives).expanduser()
    if not folder.is_dir():
        raise DatasetError(
            f"There is no folder {folder}, which should hold the official archives. Correct the "
            f"argument `archives` or the environment variable {ARCHIVES_VARIABLE}, or leave both "
            "out to download the data."
        )
    return folder


def download(official: Official) -> Parts:
    """The official archives, downloaded as TFDS would, into a temporary folder."""
    import tensorflow_datasets as tfds

    # TFDS's downloader keeps trying for minutes where there is no network, so ask first.
    with contextlib.suppress(urllib.error.HTTPError):  # an answer, if only of the bare address
        request = urllib.request.Request(official.url, method="HEAD")
        urllib.request.urlopen(request, timeout=20).close()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        manager = tfds.download.DownloadManager(
            download_dir=folder, dataset_name=official.name, force_checksums_validation=True
        )
        paths = manager.download({file: official.url + file for file in official.files})
        return official.read_archives(official, {file: Path(path) for file, path in paths.items()})
