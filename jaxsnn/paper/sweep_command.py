"""The command line's sweeps and their figures, for the paper's two networks."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from jaxsnn import neurons
from jaxsnn.conversion import scaling
from jaxsnn.conversion.fixed_point import FixedPoint
from jaxsnn.datasets import load_dataset
from jaxsnn.paper import EngineName
from jaxsnn.paper.pretrained import kept_in, trained_network
from jaxsnn.support.errors import UsageError
from jaxsnn.support.files import made_folder, save_figure
from jaxsnn.sweeps import Grid, best, load_sweep, plotting, sweep
from jaxsnn.sweeps.store import check_path

if TYPE_CHECKING:
    import xarray as xr

_RULES = {
    "unnormalised": 1.0,
    "model-based": scaling.model_based_scales,
    "data-based": scaling.data_based_scales,
}
_RESETS = {"zero": neurons.reset_to_zero, "subtraction": neurons.reset_by_subtraction}
_MILLISECONDS = (6, 10, 20, 50, 100)
_MOST_STEPS = 1 << 20  # of FixedPoint


def sweep_network(
    network: Literal["fc", "conv"] = "fc",
    recipe: Literal["modern", "authors"] = "modern",
    scales: tuple[Literal["unnormalised", "model-based", "data-based"], ...] = ("data-based",),
    percentile: tuple[float, ...] = (),
    threshold: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0),
    max_rate: tuple[float, ...] = (1000.0, 500.0, 250.0, 125.0),
    dt: tuple[float, ...] = (1e-3,),
    refractory_period: tuple[float, ...] = (0.0,),
    reset: tuple[Literal["zero", "subtraction"], ...] = ("zero",),
    seed: tuple[int, ...] = (0,),
    duration: float = 0.05,
    images: int = 1000,
    bits: Literal[8, 16] | None = None,
    engine: EngineName = "auto",
    output: Path = Path("sweep.nc"),
    memory: int | None = None,
    cache: Path | None = None,
    data_dir: Path | None = None,
    archives: Path | None = None,
) -> None:
    """Simulate one of the paper's networks at every combination of settings.

    Trains the network when it is first asked for. Finished pieces are kept: called again, a sweep
    that was stopped is resumed. Writes one netCDF file, for `python -m jaxsnn plot` and
    `jaxsnn.load_sweep`, and prints the best settings within some times.

    Args:
        network: the fully connected network or the convolutional one.
        recipe: how it is trained.
        scales: rules for the scale factors.
        percentile: further rules, each a percentile of the activations.
        threshold: thresholds in units of the scale factors.
        max_rate: rates in hertz of a pixel of value 1.
        dt: durations of a step in seconds.
        refractory_period: in seconds.
        reset: resets after a spike.
        seed: seeds of the input spikes, each at least 0 and below 2**32.
        duration: simulated time in seconds.
        images: how many of the 10,000 test images.
        bits: simulate in fixed point, with weights of 8 or 16 bits; by default in float32.
        engine: what simulates: the scan or the event-driven engine.
        output: the file for the result.
        memory: bytes that a piece may take on each device.
        cache: the folder for trained networks; by default the user's cache folder.
        data_dir: the data directory of TensorFlow Datasets; by default its own.
        archives: a folder with the four official archives of MNIST; by default JAXSNN_ARCHIVES.

    Raises:
        DatasetError: the data cannot be had; the message says what was tried.
        UsageError: settings that cannot be simulated, a file of another sweep, or a file that
            cannot be written; finished pieces are kept.

    Example:
        >>> from jaxsnn.paper.sweep_command import sweep_network
        >>> sweep_network(max_rate=(2000.0,))
        Traceback (most recent call last):
        ...
        jaxsnn.support.errors.UsageError: max_rate=2000 Hz times dt=0.001 s is 2, but a pixel \
spikes at most once in a step: take max_rate <= 1000 or dt <= 0.0005.
    """
    if not 1 <= images <= 10_000:
        raise UsageError(f"images={images}; there are 10,000 test images: take 1 to 10000.")
    for name, values in (("scales", scales), ("percentile", percentile), ("reset", reset)):
        if len(set(values)) < len(values):
            raise UsageError(f"{name}={values} has a value twice; give each once.")
    rules = {name: _RULES[name] for name in scales}
    for rank in percentile:
        if not 0 < rank <= 100:
            raise UsageError(f"percentile={rank}; it must be above 0 and at most 100.")
        rules[f"percentile {rank}"] = partial(scaling.percentile_scales, percentile=rank)
    try:
        check_path(output)
        grid = Grid(
            scales=rules,
            threshold=threshold,
            max_rate=max_rate,
            dt=dt,
            refractory_period=refractory_period,
            reset={name: _RESETS[name] for name in reset},
            seed=seed,
            duration=duration,
        )
        arithmetic = _arithmetic(bits, grid)
    except (ValueError, OSError) as error:
        raise UsageError(error) from error
    train, test = load_dataset("mnist", data_dir=data_dir, archives=archives)
    name = f"{network}-{recipe}"
    _say(f"Training {name}, or taking it from {kept_in(name, cache=cache)}")
    trained = trained_network(name, train, cache=cache)
    _say(f"Sweeping over {len(grid)} points and {images} images")
    try:
        data = sweep(
            trained,
            test.images[:images],
            test.labels[:images],
            grid,
            calibration=train.images,
            arithmetic=arithmetic,
            engine=engine,
            path=output,
            memory=memory,
        )
    except (ValueError, OSError) as error:
        raise UsageError(error) from error
    _say(f"The result is in {output.resolve()}\n")
    _say(best_table(data))


def _arithmetic(bits: Literal[8, 16] | None, grid: Grid) -> FixedPoint | None:
    """Fixed point for as many steps as the grid has: more make weights of 16 bits coarser."""
    if bits is None:
        return None
    steps = max(map(grid.steps, grid.values("dt")))
    if steps > _MOST_STEPS:
        raise UsageError(
            f"duration={max(grid.durations):g} s is {steps:,} steps of the smallest dt, but fixed "
            f"point has at most {_MOST_STEPS:,}: take a shorter duration, a larger dt, or no bits."
        )
    return FixedPoint(bits, steps=max(steps, FixedPoint.steps))


def best_table(data: xr.Dataset) -> str:
    """The best settings within some times, as a table."""
    import pandas as pd

    rows = []
    first, last = (1e3 * data.time.values[[0, -1]]).tolist()
    for milliseconds in [ms for ms in _MILLISECONDS if first <= ms < last - 1e-6] + [last]:
        found = best(data, time=milliseconds * 1e-3)
        row: dict[str, Any] = {"within (ms)": milliseconds}
        row |= {dim: found[dim].item() for dim in _several(data)}
        row["time (ms)"] = 1e3 * found.time.item()
        row["accuracy (%)"] = 100 * found.accuracy.item()
        row["operations (M)"] = found.synaptic_operations.item() / 1e6
        rows.append(row)
    return str(pd.DataFrame(rows).to_markdown(index=False, floatfmt=".5g"))


def plot_sweep(
    file: Annotated[Path, tyro.conf.Positional],
    x: str = "max_rate",
    y: str = "threshold",
    along: str = "threshold",
    select: tuple[str, ...] = (),
    output: Path | None = None,
    verify: bool = True,
) -> None:
    """Draw the figures of a sweep: a map, curves against time, and the Pareto front.

    Where a figure has no place for a parameter, its best value is drawn, or some of its values in
    panels, and a line says so; select others. A figure whose parameters the sweep lacks is left
    out.

    Args:
        file: the netCDF file of a sweep.
        x: the parameter from left to right of the map.
        y: the parameter from bottom to top of the map.
        along: the parameter that has colours in the curves and the front.
        select: values of parameters, such as reset=zero or max_rate=250 max_rate=1000.
        output: the folder for the figures; by default that of the file.
        verify: whether the file must have a right checksum; `--no-verify` is for files that were
            written by hand or by jaxsnn before 0.4, if you trust them.

    Raises:
        UsageError: the file is no sweep, has the parameters of no figure, or a figure cannot be
            written.

    Example:
        >>> from pathlib import Path
        >>> from jaxsnn.paper.sweep_command import plot_sweep
        >>> plot_sweep(Path("no/such/file.nc"))
        Traceback (most recent call last):
        ...
        jaxsnn.support.errors.UsageError: no/such/file.nc does not exist; `sweep(..., path=...)` \
writes it.
    """
    try:
        data = _selected(load_sweep(file, verify=verify), select)
        folder = made_folder(output or file.parent)
    except (OSError, ValueError) as error:
        raise UsageError(error) from error
    figures = {
        "map": lambda: plotting.plot_map(_shown(data, x, y), x=x, y=y),
        "curves": lambda: plotting.plot_curves(_shown(data, along), along=along),
        "front": lambda: plotting.plot_pareto(data, along=along),
    }
    drawn = 0
    for name, draw in figures.items():
        path = folder / f"{file.stem}-{name}.png"
        try:
            figure = draw()
        except ValueError as error:
            _say(f"No {name}: {error}")
            continue
        try:
            save_figure(path, figure)
        except OSError as error:
            raise UsageError(error) from error
        drawn += 1
        _say(str(path))
    if not drawn:
        raise UsageError(f"{file}: no figure can be drawn; name its parameters: {_sizes(data)}.")


def _sizes(data: xr.Dataset) -> str:
    return ", ".join(f"{dim} ({data.sizes[dim]})" for dim in data.accuracy.dims[:-1])


def _selected(data: xr.Dataset, choices: tuple[str, ...]) -> xr.Dataset:
    """The dataset with the values chosen, such as reset=zero; choices of one name add up."""
    wanted: dict[str, list[Any]] = {}
    for choice in choices:
        name, _, value = choice.partition("=")
        if name not in data.accuracy.dims[:-1]:
            raise UsageError(f"{choice!r}: the parameters are {_sizes(data)}.")
        labels = data[name].values.tolist()
        found = [label for label in labels if str(label) == value or label == _number(value)]
        if not found:
            raise UsageError(f"{choice!r}: {name} has the values {labels}.")
        wanted[name] = wanted.get(name, []) + found
    return data.sel(wanted)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _several(data: xr.Dataset) -> list[str]:
    """The parameters with several values; seeds are averaged."""
    dims = map(str, data.accuracy.dims[:-1])
    return [dim for dim in dims if data.sizes[dim] > 1 and dim != "seed"]


def _shown(data: xr.Dataset, *axes: str) -> xr.Dataset:
    """The dataset with some values of one parameter, for panels, and the best value of others."""
    dims, top = [dim for dim in _several(data) if dim not in axes], best(data)
    chosen = {dim: [top[dim].item()] for dim in dims[1:]}
    for dim in dims[:1]:
        labels, most = data[dim].values.tolist(), plotting.MAX_PANELS
        if len(labels) > most:
            chosen[dim] = [labels[place * len(labels) // most] for place in range(most)]
    for dim, kept in chosen.items():
        _say(f"{dim}: only {', '.join(map(str, kept))} drawn; choose with --select {dim}=...")
    return data.sel(chosen)


def _say(text: str) -> None:
    print(text, flush=True)
