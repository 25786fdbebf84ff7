"""A finished sweep takes further values of its axes, and simulates what is new alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jaxsnn.support.digests import digest
from jaxsnn.support.files import made_folder
from jaxsnn.sweeps.dataset import no_counts, to_dataset
from jaxsnn.sweeps.grid import Grid
from jaxsnn.sweeps.points import Points, SweepJob, identity, make_points
from jaxsnn.sweeps.results import load_sweep
from jaxsnn.sweeps.store import from_first, identity_of, kept_when_full, save_sweep

if TYPE_CHECKING:
    import xarray as xr

Places = Mapping[str, list[int]]  # of values on each axis of a grid


class Finished(NamedTuple):
    """A sweep in a file that is a part of another.

    Attributes:
        data: its result.
        places: of its values on the axes of the other.
    """

    data: xr.Dataset
    places: Places


def finished_part(
    path: str | PathLike[str] | None, job: SweepJob, points: Points
) -> Finished | None:
    """The sweep in a file, if it differs from this one only by having fewer values on its axes."""
    if path is None:
        return None
    return from_first(lambda: _finished_part(Path(path).expanduser(), job, points))


def grown(
    finished: Finished,
    job: SweepJob,
    points: Points,
    path: Path,
    swept: Callable[[SweepJob, Points, Path], xr.Dataset],
) -> xr.Dataset:
    """The result of a sweep of which a part is finished; it takes the place of that part.

    What is new is simulated as sweeps of their own, whose files lie in a folder `<path>.grown`
    until all is done: stopped, it is resumed.

    Args:
        finished: the part.
        job: the sweep.
        points: its points.
        path: the file of the result.
        swept: (job, points, path) ↦ result, of what is new.
    """
    folder = Path(f"{path}.grown")
    from_first(lambda: made_folder(folder))
    settled = job._replace(grid=_with_factors(job.grid, points))  # rules are not computed again
    parts = [finished.data]
    for places in _new_boxes(job.grid, finished.places):
        box = settled._replace(grid=settled.grid.part(places))
        box_points = make_points(box, None)
        name = digest(json.dumps(identity(box, box_points), sort_keys=True))[:16]
        parts.append(swept(box, box_points, folder / f"{name}.nc"))
    whole = to_dataset(job, points, no_counts(job), float(finished.data.relu_accuracy))
    for part in parts:
        _fill(whole, part, job.grid)
    pieces = sum(int(part.attrs["pieces"]) for part in parts)
    whole = whole.assign_attrs(parts[-1].attrs | {"pieces": pieces})
    found = json.dumps(identity(job, points))
    with kept_when_full(path):
        from_first(lambda: save_sweep(whole.assign_attrs(identity=found), path))
    from_first(lambda: rmtree(folder, ignore_errors=True))
    return whole


def _finished_part(path: Path, job: SweepJob, points: Points) -> Finished | None:
    if not path.is_file():
        return None
    data = load_sweep(path)
    places = _places(job.grid, data)
    if places is None:
        return None
    if any(_steps(job.grid.part(box)) != _steps(job.grid) for box in _new_boxes(job.grid, places)):
        return None  # of one duration, each dt has another number of steps
    single = {name for name in places if data[name].ndim == 0}
    grid = job.grid.part(places, single)
    factors = [points.scale_factors[place] for place in places["scales"]]
    wanted = identity(job._replace(grid=grid), points._replace(scale_factors=factors))
    found = identity_of(path, data)
    same = all(found.get(name) == value for name, value in wanted.items())
    return Finished(data, places) if same and len(grid) < len(job.grid) else None


def _places(grid: Grid, data: xr.Dataset) -> Places | None:
    """Where the values of a result stand on the axes of a grid; None where one does not."""
    places = {}
    for name, axis in grid.axes.items():
        if name not in data.coords or (axis.single and data[name].ndim):
            return None
        labels = np.atleast_1d(data[name].values).tolist()
        if not all(label in axis.labels for label in labels):
            return None
        places[name] = [axis.labels.index(label) for label in labels]
    return places if np.array_equal(data.time, grid.times) else None


def _steps(grid: Grid) -> int:
    return np.shape(grid.times)[-1]


def _with_factors(grid: Grid, points: Points) -> Grid:
    """The grid with scale factors in the place of rules."""
    axis = grid.axes["scales"]
    return grid.with_axes(grid.axes | {"scales": axis._replace(values=points.scale_factors)})


def _new_boxes(grid: Grid, old: Places) -> list[Places]:
    """Parts of a grid that have every point once, but those of an old part.

    For each axis: its new values, with the old ones of the axes before and all of those after.
    """
    boxes = []
    whole = {name: list(range(len(axis.values))) for name, axis in grid.axes.items()}
    before: dict[str, list[int]] = {}
    for name, places in whole.items():
        if new := [place for place in places if place not in old[name]]:
            boxes.append(whole | before | {name: new})
        before[name] = sorted(old[name])
    return boxes


def _fill(whole: xr.Dataset, part: xr.Dataset, grid: Grid) -> None:
    """Write the values of some points to their places, in every variable that has points."""
    for name, values in whole.data_vars.items():
        if name in ("relu_accuracy", "scale_factor"):
            continue
        labels = {dim: part[dim].values[()] for dim in values.dims if dim in grid.axes}
        dims = [dim for dim in values.dims if dim in part[name].dims]
        values.loc[labels] = part[name].transpose(*dims).values
