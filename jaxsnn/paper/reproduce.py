"""The paper's experiment, end to end: train, convert, simulate, and show what came out."""

from __future__ import annotations

import datetime
import json
import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import pandas as pd
from jax.typing import ArrayLike

from jaxsnn import plotting
from jaxsnn.conversion import scaling
from jaxsnn.conversion.balancing import SpikingNetwork, balance_thresholds
from jaxsnn.conversion.fixed_point import FixedPoint
from jaxsnn.network import Network
from jaxsnn.paper import EngineName, training
from jaxsnn.paper.datasets import Dataset, load_dataset
from jaxsnn.paper.pretrained import kept_in, trained_network
from jaxsnn.simulation import Simulation, simulate
from jaxsnn.support.errors import UsageError, explained
from jaxsnn.sweeps.store import made_folder, replacing, save_figure

_NAMES = {"fc": "FullyConnected", "conv": "ConvNet"}
_MILLISECONDS = (6, 10, 20, 40, 100, 500)
_DT = 1e-3
_RATE_IMAGES = 500  # enough points for the figure of rates


# The conversions of the paper, and what `--full` adds: a later rule.
_Rule = Callable[[Network, ArrayLike], Any]
_PAPER: dict[str, _Rule] = {
    "unnormalised": lambda network, images: 1.0,
    "model-based": lambda network, images: scaling.model_based_scales(network),
    "data-based": scaling.data_based_scales,
}
_LATER: dict[str, _Rule] = {"99.9th percentile": scaling.percentile_scales}


def reproduce(
    networks: tuple[Literal["fc", "conv"], ...] = ("fc", "conv"),
    recipe: Literal["modern", "authors"] = "modern",
    full: bool = False,
    images: int = 10_000,
    seed: int = 0,
    bits: Literal[8, 16] | None = None,
    engine: EngineName = "auto",
    output: Path = Path("reproduction"),
    cache: Path | None = None,
    data_dir: Path | None = None,
    archives: Path | None = None,
) -> pd.DataFrame:
    """Train the paper's two networks, convert them, simulate the test set, and show the outcome.

    Prints a table, and writes table.csv, results.json and figures to a folder, anew after every
    conversion. Trained networks are kept, so that a second run starts with the simulation; an
    interrupted training is resumed in the epoch that it was in.

    Args:
        networks: which networks: the fully connected one, the convolutional one, or both.
        recipe: how they are trained: as the authors did, or with a recipe that reaches more.
        full: simulate 500 ms in place of 100, and one conversion beyond the paper's.
        images: how many of the 10,000 test images to simulate.
        seed: of the training and of the input spikes, at least 0 and below 2**32.
        bits: simulate in fixed point, with weights of 8 or 16 bits; by default in float32.
        engine: what simulates fixed point: the compiled scan or the event-driven engine, which
            needs Numba; by default the latter where it can simulate the network.
        output: the folder for the results.
        cache: the folder for trained networks; by default the user's cache folder.
        data_dir: the data directory of TensorFlow Datasets; by default its own.
        archives: a folder with the four official archives of MNIST; by default JAXSNN_ARCHIVES.

    Returns:
        The table: one row for each network and conversion.

    Raises:
        DatasetError: the data cannot be had; the message says what was tried.
        UsageError: a number of images or a seed out of range, no network, or a folder that cannot
            be written to; the table of what was simulated is printed then.

    Example:
        >>> from jaxsnn.paper.reproduce import reproduce
        >>> reproduce(images=0)
        Traceback (most recent call last):
        ...
        jaxsnn.support.errors.UsageError: images=0; there are 10,000 test images: take 1 to 10000.
    """
    if not 1 <= images <= 10_000:
        raise UsageError(f"images={images}; there are 10,000 test images: take 1 to 10000.")
    if not 0 <= seed < 1 << 32:
        raise UsageError(f"seed={seed}; a seed is at least 0 and below 2**32.")
    if not networks:
        raise UsageError("no network chosen; take fc, conv or both.")
    if engine == "events" and bits is None:
        raise UsageError('engine="events" simulates fixed point only: take bits=8 or bits=16.')
    arithmetic = None if bits is None else FixedPoint(bits)
    started = time.monotonic()
    try:
        made_folder(output)
    except OSError as error:
        raise UsageError(error) from error
    _say("Loading MNIST")
    train, test = load_dataset("mnist", data_dir=data_dir, archives=archives)
    test = Dataset(test.images[:images], test.labels[:images])
    settings = {"recipe": recipe, "full": full, "images": images, "seed": seed, "dt": _DT}
    settings |= {"arithmetic": "float32" if arithmetic is None else str(arithmetic)}
    settings |= {"max_rate": 1000.0, "encoding": "poisson", "reset": "to zero"}
    results = {"settings": settings, "machine": machine(), "table": [], "times": [], "accuracy": {}}
    for short in networks:
        name = _NAMES[short]
        kept = kept_in(f"{short}-{recipe}", seed, cache)
        _say(f"Training {kept.name}, or taking it from {kept}")
        network = trained_network(f"{short}-{recipe}", train, seed=seed, cache=cache)
        relu_accuracy = training.accuracy(network, test)
        _say(f"ReLU accuracy {relu_accuracy:.2%}")
        for conversion, rule in (_PAPER | (_LATER if full else {})).items():
            _say(f"Simulating {name}, {conversion}")
            scales = rule(network, train.images)
            snn = balance_thresholds(network, scales)
            duration = 0.5 if full else 0.1
            run = simulate(
                snn,
                test.images,
                key=seed,
                duration=duration,
                dt=_DT,
                arithmetic=arithmetic,
                engine=engine,
                progress=True,
            )
            curve = np.asarray(run.accuracy(test.labels))
            row = {"network": name, "conversion": conversion, "ReLU": relu_accuracy}
            results["table"].append(row | _measured(run, curve, test.labels))
            results["times"] = np.asarray(run.times).tolist()
            results["accuracy"].setdefault(name, {})[conversion] = curve.tolist()
            results["machine"]["seconds"] = round(time.monotonic() - started, 1)
            try:
                _write(output, results)
                if conversion == "data-based":
                    _draw_network(output, name, snn, scales, run, test, seed)
            except OSError as error:
                _say(f"Simulated so far:\n{as_markdown(pd.DataFrame(results['table']))}")
                raise UsageError(error) from error
    _say(f"Results are in {output.resolve()}\n")
    table = pd.DataFrame(results["table"])
    print(as_markdown(table), flush=True)
    return table


def as_markdown(table: pd.DataFrame) -> str:
    """The table as it is printed, with accuracies in percent and – for what never happened.

    Example:
        >>> import pandas as pd
        >>> from jaxsnn.paper.reproduce import as_markdown
        >>> print(as_markdown(pd.DataFrame([{"network": "ConvNet", "6 ms": 0.5}])))
        | network   |   6 ms |
        |:----------|-------:|
        | ConvNet   |  50.00 |
    """
    shown = table.copy()
    for column in shown.columns:
        if column.endswith(" ms") or column in ("ReLU", "first spike"):
            shown[column] *= 100
    formats = {"median latency (ms)": ".0f", "spikes": ".0f", "operations (M)": ".1f"}
    shown = shown.astype(object).where(shown.notna(), None)
    numbers = [formats.get(column, ".2f") for column in shown.columns]
    return str(shown.to_markdown(index=False, floatfmt=numbers, missingval="–"))


def machine() -> dict[str, Any]:
    """What the figures were measured on: date, processor, devices, versions.

    Example:
        >>> from jaxsnn.paper.reproduce import machine
        >>> sorted(machine())
        ['cores', 'date', 'devices', 'flax', 'jax', 'jaxsnn', 'processor', 'python']
    """
    packages = {"jaxsnn": "jaxsnn-conversion", "jax": "jax", "flax": "flax"}
    return {
        "date": datetime.date.today().isoformat(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "devices": [str(device.device_kind) for device in jax.devices()],
        "python": platform.python_version(),
        **{name: version(package) for name, package in packages.items()},
    }


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _measured(run: Simulation, curve: np.ndarray, labels: np.ndarray) -> dict[str, float | None]:
    """Accuracies and costs of one conversion."""
    spikes = sum(np.asarray(counts).sum(dtype=np.float64) for counts in run.spike_counts)
    operations = np.asarray(run.synaptic_operations).mean(dtype=np.float64)
    # Silent samples count as later than all others.
    first = np.nan_to_num(np.asarray(run.first_spike_time), nan=np.inf)
    latency = float(np.median(first) * 1e3)
    return {
        **{f"{ms} ms": float(curve[ms - 1]) for ms in _MILLISECONDS if ms <= len(curve)},
        "first spike": float(run.first_spike_accuracy(labels)),
        "median latency (ms)": latency if np.isfinite(latency) else None,
        "spikes": float(spikes / len(labels)),
        "operations (M)": float(operations / 1e6),
    }


def _write(output: Path, results: dict[str, Any]) -> None:
    """The table, everything as JSON, and the figure of accuracy against time, so far."""
    texts = {
        "table.csv": pd.DataFrame(results["table"]).to_csv(index=False),
        "results.json": json.dumps(results, indent=1, allow_nan=False) + "\n",
    }
    for name, text in texts.items():
        with explained(output / name), replacing(output / name) as file:
            file.write(text.encode())
    reference = {row["network"]: row["ReLU"] for row in results["table"]}
    save_figure(
        output / "accuracy.png",
        plotting.plot_accuracy(results["accuracy"], results["times"], relu_accuracy=reference),
    )


def _draw_network(
    output: Path,
    name: str,
    snn: SpikingNetwork,
    scales: Any,
    run: Simulation,
    test: Dataset,
    seed: int,
) -> None:
    """One digit going through the layers, and firing rates against activations."""
    digit = simulate(
        snn,
        test.images[:1],
        key=seed,
        duration=0.05,
        dt=_DT,
        record=lambda step: [step.inputs, *step.spikes],
    )
    spikes = [layer[:, 0] for layer in digit.records]
    layers = ["input", *(layer.kind for layer in snn.network.layers)]
    raster = plotting.plot_raster(spikes, dt=_DT, image=test.images[0], names=layers)
    save_figure(output / f"raster-{name}.png", raster)
    rates = plotting.plot_rates(
        snn.network.activations(test.images[:_RATE_IMAGES]),
        [counts[:_RATE_IMAGES] for counts in run.spike_counts],
        scales,
        steps=len(run.predictions),
        names=layers[1:],
    )
    save_figure(output / f"rates-{name}.png", rates)


def _say(text: str) -> None:
    print(text, flush=True)
