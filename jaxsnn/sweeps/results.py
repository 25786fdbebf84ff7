"""The result of a sweep: reading it, and choosing from it."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from jaxsnn.drawing import Values

if TYPE_CHECKING:
    import xarray as xr


def load_sweep(path: str | PathLike[str]) -> xr.Dataset:
    """Read the file that `sweep` wrote; `data.to_netcdf(path)` writes one by hand.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or no sweep.

    Example:
        >>> import jaxsnn
        >>> jaxsnn.load_sweep("no/such/file.nc")
        Traceback (most recent call last):
        ...
        FileNotFoundError: no/such/file.nc does not exist; `sweep(..., path=...)` writes it.
    """
    import xarray as xr

    file = Path(path).expanduser()
    if not file.exists():
        raise FileNotFoundError(f"{path} does not exist; `sweep(..., path=...)` writes it.")
    try:
        data = xr.load_dataset(file, engine="h5netcdf")
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{path} cannot be read: {error}; choose another file, or delete it and sweep again if "
            "it was one of a sweep."
        ) from error
    if "accuracy" not in data or "time" not in data.dims:
        raise ValueError(f"{path} is no sweep: it has {list(data.variables)}; choose another file.")
    return data


Goal = Literal["accuracy", "time", "synaptic_operations"]


def best(
    data: xr.Dataset,
    *,
    time: float | None = None,
    operations: float | None = None,
    accuracy: float | None = None,
    goal: Goal | None = None,
) -> xr.Dataset:
    """The best point and time of a sweep within a budget, with seeds averaged.

    Every point is looked at after every time step, since a run may be stopped at any.

    Args:
        data: the result of `sweep`.
        time: at most so many seconds of simulated time.
        operations: at most so many synaptic operations for an image.
        accuracy: at least this accuracy.
        goal: what to make best: the highest "accuracy", or the least "time" or
            "synaptic_operations"; by default the accuracy, or the time where an accuracy is asked
            for. Ties go to the better in the others, in this order.

    Returns:
        The dataset at that point and time.

    Raises:
        ValueError: a bound is no positive number, or nothing is within the budget; the message
            says how near it comes.

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
    bounds = {"time": time, "synaptic_operations": operations, "accuracy": accuracy}
    for name, bound in bounds.items():
        if bound is not None and not (np.isfinite(bound) and bound > 0):
            raise ValueError(f"{name}={bound}; a bound must be positive.")
    names = ("accuracy", "time", "synaptic_operations")
    if goal is not None and goal not in names:
        raise ValueError(f"goal={goal!r}; it must be one of {', '.join(map(repr, names))}.")
    if accuracy is not None and accuracy > 1:
        raise ValueError(f"accuracy={accuracy:g}; it is a fraction: divide percentages by 100.")
    if "seed" in data.dims:
        data = data.mean("seed", skipna=False, keep_attrs=True)
    like = data["accuracy"]
    columns = {name: data[name].broadcast_like(like).transpose(*like.dims).values for name in names}
    costs = {name: -column if name == "accuracy" else column for name, column in columns.items()}
    within = np.ones(costs["accuracy"].shape, bool)
    slack = 1 + 1e-9  # 0.02 and 20 · 0.001 are one time
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


def pareto_front(cost: Values, accuracy: Values) -> np.ndarray:
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
    costs, accuracies = np.asarray(cost, float), np.asarray(accuracy, float)
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
