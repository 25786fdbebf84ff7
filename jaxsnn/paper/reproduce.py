"""The experiments, end to end: train, convert, simulate, and show what came out."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from jaxsnn import plotting
from jaxsnn.conversion.balancing import SpikingNetwork
from jaxsnn.conversion.fixed_point import FixedPoint
from jaxsnn.datasets import Dataset, load_dataset
from jaxsnn.paper import EngineName, training
from jaxsnn.paper.experiments import EXPERIMENTS, Experiment
from jaxsnn.paper.pretrained import kept_in, trained_model
from jaxsnn.reading import read_network
from jaxsnn.simulation import Simulation, simulate
from jaxsnn.support.errors import UsageError
from jaxsnn.support.files import made_folder, save_figure, save_text
from jaxsnn.support.machine import versions

_DT = 1e-3


def reproduce(
    dataset: Literal["mnist", "cifar10"] = "mnist",
    networks: tuple[Literal["fc", "conv", "resnet20", "vgg11"], ...] | None = None,
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
    """Train networks, convert them, simulate the test set, and show the outcome.

    On MNIST these are the paper's two networks and conversions; on CIFAR-10 a ResNet-20 and a
    VGG-11, converted as `jaxsnn.convert` does. Prints a table, and writes table.csv, results.json
    and figures to a folder, anew after every conversion. Trained networks are kept, so that a
    second run starts with the simulation; an interrupted training is resumed in the epoch that it
    was in.

    Args:
        dataset: MNIST or CIFAR-10, whose networks are larger: they need a GPU, or many hours.
        networks: which networks: of MNIST fc, the fully connected one, and conv, the convolutional
            one; of CIFAR-10 resnet20 and vgg11. By default both.
        recipe: how they are trained: as the authors did, for MNIST only, or with a recipe that
            reaches more.
        full: simulate 500 ms in place of 100 (CIFAR-10: 512 in place of 256), and one conversion
            more.
        images: how many of the 10,000 test images to simulate.
        seed: of the training and of the input spikes, at least 0 and below 2**32.
        bits: simulate in fixed point, with weights of 8 or 16 bits; by default in float32.
        engine: what simulates: the compiled scan or the event-driven engine; by default the latter
            where it can simulate the network.
        output: the folder for the results.
        cache: the folder for trained networks; by default the user's cache folder.
        data_dir: the data directory of TensorFlow Datasets; by default its own.
        archives: a folder with the official archives of the data; by default JAXSNN_ARCHIVES.

    Returns:
        The table: one row for each network and conversion.

    Raises:
        DatasetError: the data cannot be had; the message says what was tried.
        UsageError: a number of images or a seed out of range, no network, one of another data set,
            or a folder that cannot be written to; the table of what was simulated is printed then.

    Example:
        >>> from jaxsnn.paper.reproduce import reproduce
        >>> reproduce(images=0)
        Traceback (most recent call last):
        ...
        jaxsnn.support.errors.UsageError: images=0; there are 10,000 test images: take 1 to 10000.
    """
    experiment = EXPERIMENTS[dataset]
    chosen = tuple(experiment.networks) if networks is None else networks
    check_numbers(images, seed)
    _check_choices(experiment, chosen, recipe, bits, engine)
    arithmetic = None if bits is None else FixedPoint(bits)
    started = time.monotonic()
    try:
        made_folder(output)
    except OSError as error:
        raise UsageError(error) from error
    _say(f"Loading {experiment.title}")
    train, test = load_dataset(dataset, data_dir=data_dir, archives=archives)
    test = Dataset(test.images[:images], test.labels[:images])
    settings = {"recipe": recipe, "full": full, "images": images, "seed": seed, "dt": _DT}
    settings |= {"arithmetic": "float32" if arithmetic is None else str(arithmetic)}
    settings |= experiment.settings
    if experiment.calibration is not None:
        settings["calibration_images"] = experiment.calibration
    results = {"settings": settings, "machine": machine(), "table": [], "times": [], "accuracy": {}}
    options = {"arithmetic": arithmetic, "engine": engine}
    for short in chosen:
        name, trained = experiment.networks[short], experiment.recipes[recipe].format(short)
        kept = kept_in(trained, seed, cache)
        _say(f"Training {kept.name}, or taking it from {kept}")
        model = trained_model(trained, train, seed=seed, cache=cache)
        relu_accuracy = training.accuracy(read_network(model, train.images[:1]), test)
        _say(f"ReLU accuracy {relu_accuracy:.2%}")
        for conversion, convert in experiment.conversions_of(full).items():
            _say(f"Simulating {name}, {conversion}")
            snn = convert(model, train.images[: experiment.calibration])
            run, summary = _simulated(experiment, snn, test, seed, full, **options)
            row = {"network": name, "conversion": conversion, "ReLU": relu_accuracy}
            results["table"].append(row | _measured(summary, experiment.milliseconds))
            results["times"] = np.asarray(run.times).tolist()
            results["accuracy"].setdefault(name, {})[conversion] = summary.curve.tolist()
            results["machine"]["seconds"] = round(time.monotonic() - started, 1)
            try:
                _write(output, results)
                if conversion == experiment.drawn:
                    for figure, draw in experiment.figures.items():
                        drawn = draw(snn, run, test.images, seed, _DT)
                        save_figure(output / f"{figure}-{name}.png", drawn)
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
    """What figures were measured on: the date, and what `jaxsnn.versions` says.

    Example:
        >>> from jaxsnn.paper.reproduce import machine
        >>> {"date", "processor", "jaxsnn"} <= set(machine())
        True
    """
    return {"date": datetime.date.today().isoformat(), **versions()}


def check_numbers(images: int, seed: int) -> None:
    """Raise UsageError where a number of test images, or a seed, is out of range.

    Example:
        >>> from jaxsnn.paper.reproduce import check_numbers
        >>> check_numbers(images=100, seed=0)
    """
    if not 1 <= images <= 10_000:
        raise UsageError(f"images={images}; there are 10,000 test images: take 1 to 10000.")
    if not 0 <= seed < 1 << 32:
        raise UsageError(f"seed={seed}; a seed is at least 0 and below 2**32.")


def _check_choices(
    experiment: Experiment,
    networks: Sequence[str],
    recipe: str,
    bits: int | None,
    engine: EngineName,
) -> None:
    """Raise UsageError for what the data set does not have, or its networks do not support."""
    title, choices = experiment.title, " or ".join(experiment.networks)
    if not networks:
        raise UsageError(f"no network chosen; for {title} take {choices}, or both.")
    for network in networks:
        if network not in experiment.networks:
            raise UsageError(f"networks={network}; for {title} take {choices}, or both.")
    if recipe not in experiment.recipes:
        raise UsageError(
            f"recipe={recipe}; for {title} there is {' or '.join(experiment.recipes)} only."
        )


class _Summary(NamedTuple):
    """What is kept of the simulation of some images."""

    curve: np.ndarray  # accuracy after every step
    spikes: float  # of all images
    operations: np.ndarray  # of each image
    first_spike: tuple[float, np.ndarray] | None  # accuracy; time in seconds, inf if there is none


def _simulated(
    experiment: Experiment,
    snn: SpikingNetwork,
    test: Dataset,
    seed: int,
    full: bool,
    **options: Any,
) -> tuple[Simulation, _Summary]:
    """The run of the first images, for figures, and the summary of all.

    No more runs are held at a time, since each has the spike counts of all neurons.
    """
    first, summaries, sizes = None, [], []
    for start in range(0, len(test), experiment.images_at_once):
        samples = np.arange(len(test))[start : start + experiment.images_at_once]
        run = simulate(
            snn,
            test.images[samples],
            samples=samples,
            key=seed,
            duration=experiment.full_duration if full else experiment.duration,
            dt=_DT,
            progress=True,
            **options,
        )
        first = first or run
        summaries.append(_summary(run, test.labels[samples]))
        sizes.append(len(samples))
    assert first is not None
    return first, _joined(summaries, sizes)


def _summary(run: Simulation, labels: np.ndarray) -> _Summary:
    spikes = sum(np.asarray(counts).sum(dtype=np.float64) for counts in run.spike_counts)
    operations = np.asarray(run.synaptic_operations)
    first = None
    if run.spiking:  # silent samples count as later than all others
        times = np.nan_to_num(np.asarray(run.first_spike_time), nan=np.inf)
        first = float(run.first_spike_accuracy(labels)), times
    return _Summary(np.asarray(run.accuracy(labels)), float(spikes), operations, first)


def _joined(parts: Sequence[_Summary], sizes: Sequence[int]) -> _Summary:
    """The summary of all images, from those of parts of so many."""
    firsts = [part.first_spike for part in parts if part.first_spike is not None]
    first = None
    if firsts:
        right, times = zip(*firsts, strict=True)
        first = float(np.average(right, weights=sizes)), np.concatenate(times)
    return _Summary(
        curve=np.average([part.curve for part in parts], axis=0, weights=sizes),
        spikes=sum(part.spikes for part in parts),
        operations=np.concatenate([part.operations for part in parts]),
        first_spike=first,
    )


def _measured(summary: _Summary, milliseconds: Sequence[int]) -> dict[str, float | None]:
    """Accuracies and costs of one conversion."""
    curve, images = summary.curve, len(summary.operations)
    found: dict[str, float | None] = {
        f"{ms} ms": float(curve[ms - 1]) for ms in milliseconds if ms <= len(curve)
    }
    if summary.first_spike is not None:
        right, times = summary.first_spike
        latency = float(np.median(times) * 1e3)
        found |= {
            "first spike": right,
            "median latency (ms)": latency if np.isfinite(latency) else None,
        }
    return found | {
        "spikes": float(summary.spikes / images),
        "operations (M)": float(summary.operations.mean(dtype=np.float64) / 1e6),
    }


def _write(output: Path, results: dict[str, Any]) -> None:
    """The table, everything as JSON, and the figure of accuracy against time, so far."""
    save_text(output / "table.csv", pd.DataFrame(results["table"]).to_csv(index=False))
    save_text(output / "results.json", json.dumps(results, indent=1, allow_nan=False) + "\n")
    reference = {row["network"]: row["ReLU"] for row in results["table"]}
    save_figure(
        output / "accuracy.png",
        plotting.plot_accuracy(results["accuracy"], results["times"], relu_accuracy=reference),
    )


def _say(text: str) -> None:
    print(text, flush=True)
