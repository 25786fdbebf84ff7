"""The result of a sweep: reading it, and choosing from it."""

from __future__ import annotations

from os import SEEK_END, PathLike
from typing import TYPE_CHECKING, BinaryIO, Literal, get_args

import numpy as np

from jaxsnn.support.files import opened
from jaxsnn.support.typed import Numbers, Real, typed
from jaxsnn.sweeps.files import check_contents, verify_checksum

if TYPE_CHECKING:
    import xarray as xr


@typed
def load_sweep(path: str | PathLike[str], *, verify: bool = True) -> xr.Dataset:
    """Read the file that `sweep` wrote.

    Its last line is a checksum, which is verified before anything else is read: a damaged netCDF
    file may have wrong numbers, or keep its reader busy for ever. A checksum is no signature:
    whoever makes a file can make one. Therefore files that ask for far more memory than their size,
    or that name other files, are not read either.

    Args:
        path: the file.
        verify: whether the file must have a right checksum. False is for files that were written by
            hand, with `data.to_netcdf(path)`, or by jaxsnn before 0.4, if you trust them.

    Returns:
        The dataset that `sweep` returned.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: the file cannot be read.
        ValueError: the file is damaged, has no checksum, asks for too much, or is no sweep.

    Example:
        >>> import jaxsnn
        >>> jaxsnn.load_sweep("no/such/file.nc")
        Traceback (most recent call last):
        ...
        FileNotFoundError: no/such/file.nc does not exist; `sweep(..., path=...)` writes it.
    """
    with opened(path, "`sweep(..., path=...)`") as stream:
        try:
            if verify:
                verify_checksum(stream)
            data = _read(stream)
        except Exception as error:  # whatever an HDF5 file with wrong bytes may lead to
            remedy = "; or, if you trust it, choose verify=False (--no-verify)" * verify
            raise ValueError(
                f"{path} cannot be read: {error}; choose another file, or delete it and sweep "
                f"again{remedy}."
            ) from error
    _check_sweep(data, path)
    return data


def _read(stream: BinaryIO) -> xr.Dataset:
    """All of a netCDF file, after a look at what it asks for."""
    import h5py
    import xarray as xr

    size = stream.seek(0, SEEK_END)
    stream.seek(0)
    with h5py.File(stream, "r") as file:
        check_contents(file, size)
    stream.seek(0)
    return xr.load_dataset(stream, engine="h5netcdf")


def _check_sweep(data: xr.Dataset, name: str | PathLike[str]) -> None:
    """Raise ValueError unless a dataset has what the functions for sweeps need."""
    missing = [variable for variable in _VARIABLES if variable not in data]
    if missing or "time" not in data["accuracy"].dims:
        raise ValueError(
            f"{name} is no sweep: it has {', '.join(map(str, data.variables)) or 'no variables'}, "
            f"but not {', '.join(missing) or 'the accuracy at each time'}; choose another."
        )


Goal = Literal["accuracy", "time", "synaptic_operations"]
_VARIABLES: tuple[Goal, ...] = get_args(Goal)


@typed
def best(
    data: xr.Dataset,
    *,
    time: Real | None = None,
    operations: Real | None = None,
    accuracy: Real | None = None,
    goal: Goal | None = None,
) -> xr.Dataset:
    """The best point and time of a sweep within a budget, with seeds averaged.

    Every point is looked at after every time step, since a run may be stopped at any.

    Args:
        data: the result of `sweep`.
        time: at most so many seconds of simulated time; not beyond the end of the sweep.
        operations: at most so many synaptic operations for an image.
        accuracy: at least this accuracy.
        goal: what to make best: the highest "accuracy", or the least "time" or
            "synaptic_operations"; by default the accuracy, or the time where an accuracy is asked
            for. Ties go to the better in the others, in this order.

    Returns:
        The dataset at that point and time.

    Raises:
        ValueError: a bound is no positive number, the time is beyond the end of the sweep, or
            nothing is within the budget; the message says how near it comes.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsnn
        >>> network = jaxsnn.read_network(lambda x: jax.nn.relu(0.5 * x), jnp.zeros((1, 2)))
        >>> images, labels = jnp.array([[1.0, 0.0], [0.0, 1.0]]), [0, 1]
        >>> grid = jaxsnn.Grid(scales=1.0, threshold=[0.5, 1.0, 8.0], duration=0.004)
        >>> data = jaxsnn.sweep(network, images, labels, grid)
        >>> chosen = jaxsnn.best(data, accuracy=0.9)
        >>> chosen.threshold.item(), chosen.time.item()
        (0.5, 0.001)
    """
    _check_sweep(data, "data")
    bounds = {"time": time, "synaptic_operations": operations, "accuracy": accuracy}
    for name, bound in bounds.items():
        if bound is not None and not (np.isfinite(bound) and bound > 0):
            raise ValueError(f"{name}={bound}; a bound must be positive.")
    names = _VARIABLES
    if goal is not None and goal not in names:
        raise ValueError(f"goal={goal!r}; it must be one of {', '.join(map(repr, names))}.")
    last, slack = float(data["time"].max()), 1 + 1e-9  # 0.02 and 20 · 0.001 are one time
    if time is not None and time > last * slack:
        raise ValueError(
            f"time={time:g} s, but the sweep ends after {last:g} s: times are in seconds. Give "
            f"{last:g} or less, or none for no limit."
        )
    if accuracy is not None and accuracy > 1:
        raise ValueError(f"accuracy={accuracy:g}; it is a fraction: divide percentages by 100.")
    if "seed" in data.dims:
        data = data.mean("seed", skipna=False, keep_attrs=True)
    like = data["accuracy"]
    columns = {name: data[name].broadcast_like(like).transpose(*like.dims).values for name in names}
    costs = {name: -column if name == "accuracy" else column for name, column in columns.items()}
    within = np.ones(costs["accuracy"].shape, bool)
    for name, bound in bounds.items():
        if bound is None:
            continue
        limit = -bound / slack if name == "accuracy" else bound * slack
        nearest = costs[name][within].min(initial=np.inf)
        within &= costs[name] <= limit
        if not within.any():
            raise ValueError(
                f"no point has {name} {'>=' if name == 'accuracy' else '<='} {bound:g} within the "
                f"budget; the nearest has {abs(nearest):.6g}. Loosen it, or widen the grid."
            )
    goal = goal or ("time" if accuracy is not None else "accuracy")
    keys = [goal, *(name for name in names if name != goal)]
    order = np.lexsort([costs[name][within] for name in reversed(keys)])
    place = np.unravel_index(np.flatnonzero(within)[order[0]], within.shape)
    return data.isel(dict(zip(data["accuracy"].dims, map(int, place), strict=True)))


@typed
def pareto_front(cost: Numbers, accuracy: Numbers) -> np.ndarray:
    """Indices of the candidates that are worth their cost, the cheapest first.

    These are the candidates than which no other has at least the accuracy at a lower cost, or a
    higher accuracy at the same cost. Of several that are equal in both it is the first.

    Args:
        cost: cost of each candidate `[N]`.
        accuracy: accuracy of each candidate `[N]`.

    Returns:
        Indices of the front; cost and accuracy rise strictly along them.

    Raises:
        ValueError: the shapes do not match, or there is a nan.

    Example:
        >>> from jaxsnn.sweeps import pareto_front
        >>> pareto_front([3.0, 1.0, 2.0, 4.0], [0.9, 0.5, 0.4, 0.95])
        array([1, 0, 3])
    """
    costs, accuracies = _reals("cost", cost), _reals("accuracy", accuracy)
    if costs.ndim != 1 or costs.shape != accuracies.shape:
        raise ValueError(
            f"costs of shape {costs.shape} and accuracies of shape {accuracies.shape}; there must "
            "be one of each for every candidate. Flatten them: values.ravel()."
        )
    if np.isnan(costs).any() or np.isnan(accuracies).any():
        raise ValueError(
            f"candidate {np.flatnonzero(np.isnan(costs) | np.isnan(accuracies))[0]} has a cost or "
            "an accuracy of nan, which cannot be compared; leave such candidates out."
        )
    order = np.lexsort((-accuracies, costs))  # by cost, the most accurate first among equal ones
    best_before = np.maximum.accumulate(np.append(-np.inf, accuracies[order]))[:-1]
    return order[accuracies[order] > best_before]


def _reals(name: str, values: Numbers) -> np.ndarray:
    """Values as an array of floats; nan and inf are among them."""
    found = np.asarray(values)
    if found.dtype.kind not in "biufV":
        raise ValueError(f"{name} must be real numbers, not {found.dtype}.")
    return found.astype(float)
