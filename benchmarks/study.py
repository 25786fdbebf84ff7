"""How threshold and rate trade accuracy, latency and operations, for both networks and recipes.

The paper's analysis as one sweep for each network: scale rule x threshold x rate x reset on the
first test images. The settings that are best within a time are then tried on the other test
images, which had no part in the choice. `notebooks/02_thresholds_and_rates.ipynb` discusses what
comes out.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pandas as pd
import tyro
import xarray as xr

import jaxsnn
from jaxsnn.paper.pretrained import trained_network
from jaxsnn.sweeps import plotting

SCALES = {
    "unnormalised": 1.0,
    "model-based": jaxsnn.model_based_scales,
    "data-based": jaxsnn.data_based_scales,
    "99.9th percentile": partial(jaxsnn.percentile_scales, percentile=99.9),
    "99th percentile": partial(jaxsnn.percentile_scales, percentile=99.0),
}
THRESHOLDS = [0.125, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0]
RATES = [62.5, 125.0, 250.0, 500.0, 1000.0]
RESETS = {"to zero": jaxsnn.reset_to_zero, "by subtraction": jaxsnn.reset_by_subtraction}
# The authors' recipes with the authors' reset alone.
RECIPES = {
    "fc-modern": RESETS,
    "conv-modern": RESETS,
    "fc-authors": {"to zero": jaxsnn.reset_to_zero},
    "conv-authors": {"to zero": jaxsnn.reset_to_zero},
}
BUDGETS = (0.006, 0.010, 0.020, 0.050)
HERE = Path(__file__).parent


def small(data: xr.Dataset, path: Path) -> None:
    """Write a sweep in single precision, compressed."""
    data = data.copy()
    for name in data.data_vars:
        data[name].encoding = {"zlib": True, "complevel": 9, "dtype": "float32"}
    jaxsnn.save_sweep(data, path)


def draw(data: xr.Dataset, name: str, output: Path) -> None:
    """The three figures of a network."""
    usual = data.sel(reset="to zero")
    figures = {
        "map": plotting.plot_map(usual.sel(scales="data-based")),
        "curves": plotting.plot_curves(
            usual.sel(scales="data-based", max_rate=1000.0), along="threshold"
        ),
        "pareto": plotting.plot_pareto(data, along="scales"),
    }
    for kind, figure in figures.items():
        figure.savefig(output / f"{name}-{kind}.png", dpi=110)


def tried(chosen: xr.Dataset, network: jaxsnn.Network, test: jaxsnn.Dataset, images: int) -> float:
    """Accuracy of the chosen settings on the test images after the first ones."""
    grid = jaxsnn.Grid(
        scales=chosen.scale_factor.values.tolist(),
        threshold=float(chosen.threshold),
        max_rate=float(chosen.max_rate),
        reset=RESETS[str(chosen.reset.item())],
        duration=float(chosen.time),
        seed=1,
    )
    others = test.images[images:], test.labels[images:]
    return float(jaxsnn.sweep(network, *others, grid).accuracy[-1])


def choices(
    data: xr.Dataset, name: str, network: jaxsnn.Network, test: jaxsnn.Dataset, images: int
) -> list[dict[str, object]]:
    """The best settings within each budget of time, and those for fewest operations."""
    rows = []
    for budget in BUDGETS:
        if budget > float(data.time[-1]):
            continue
        chosen = jaxsnn.best(data, time=budget)
        rows.append(
            {
                "network": name,
                "within (ms)": 1e3 * budget,
                "scales": chosen.scales.item(),
                "threshold": chosen.threshold.item(),
                "rate (Hz)": chosen.max_rate.item(),
                "reset": chosen.reset.item(),
                "time (ms)": 1e3 * chosen.time.item(),
                "accuracy": chosen.accuracy.item(),
                "on other images": tried(chosen, network, test, images),
                "operations (M)": chosen.synaptic_operations.item() / 1e6,
            }
        )
    return rows


def main(
    recipes: tuple[str, ...] = tuple(RECIPES),
    images: int = 1000,
    duration: float = 0.05,
    work: Path = Path("study"),
    output: Path = HERE / "results" / "study",
    cache: Path | None = None,
    data_dir: Path | None = None,
) -> None:
    """Sweep over scale rules, thresholds, rates and resets, and choose the best settings.

    Args:
        recipes: which networks, by the name of their recipe.
        images: how many of the test images to sweep over; the others try the choice.
        duration: simulated time in seconds.
        work: the folder for the sweeps; stopped at any moment, they resume where they were.
        output: the folder for small copies, the table and the figures.
        cache: the folder for trained networks; by default the user's cache folder.
        data_dir: the data directory of TensorFlow Datasets; by default its own.
    """
    if not 1 <= images < 10_000:
        raise SystemExit(f"images={images}: take 1 to 9999, so that some are left for the trial.")
    train, test = jaxsnn.load_dataset("mnist", data_dir=data_dir)
    for folder in (work, output):
        folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, object]] = []
    for name in recipes:
        network = trained_network(name, train, cache=cache)
        grid = jaxsnn.Grid(
            scales=SCALES,
            threshold=THRESHOLDS,
            max_rate=RATES,
            reset=RECIPES[name],
            duration=duration,
        )
        data = jaxsnn.sweep(
            network,
            test.images[:images],
            test.labels[:images],
            grid,
            calibration=train.images,
            path=work / f"{name}.nc",
            progress=True,
        )
        small(data, output / f"{name}.nc")
        draw(data, name, output)
        rows += choices(data, name, network, test, images)
        pd.DataFrame(rows).to_csv(output / "best.csv", index=False)
    print(pd.DataFrame(rows).to_markdown(index=False))


if __name__ == "__main__":
    tyro.cli(main)
