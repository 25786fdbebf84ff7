"""Accuracy in a few steps: converted, calibrated or trained, beside the paper's setting."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import platformdirs

from jaxsnn.calibration import calibrate
from jaxsnn.conversion.balancing import SpikingNetwork, balance_thresholds
from jaxsnn.conversion.convert import convert
from jaxsnn.conversion.scaling import data_based_scales
from jaxsnn.datasets import Dataset, load_dataset
from jaxsnn.encoding import constant
from jaxsnn.network import Network, merge_poolings
from jaxsnn.neurons import reset_by_subtraction
from jaxsnn.paper import training
from jaxsnn.paper.experiments import EXPERIMENTS
from jaxsnn.paper.figures import draw_costs
from jaxsnn.paper.pretrained import trained_network
from jaxsnn.paper.reproduce import check_numbers, machine
from jaxsnn.readout import Readout, score, spike_count
from jaxsnn.simulation import simulate
from jaxsnn.support.errors import UsageError
from jaxsnn.support.files import made_folder, save_figure, save_text

_HELD_OUT = 2_000  # training images that networks do not see, for what comes after the training
_SHOWN = (1, 2, 4, 8)  # steps
_SHOWN_OF_PAPER = (8, 16, 32, 64, 128)
_DT = 1e-3


class Method(NamedTuple):
    """A way to a spiking network.

    Attributes:
        recipe: how its ReLU network is trained, with {} for the network.
        convert: (network, training set, held-out images, steps) ↦ spiking network.
        shown: after how many steps it is looked at.
        read: how a class is read from the outputs. In a few steps many of them spike equally
            often, and what they have received tells them apart.
    """

    recipe: str
    convert: Callable[[Network, Dataset, np.ndarray, int], SpikingNetwork]
    shown: tuple[int, ...] = _SHOWN
    read: Readout = score


def _as_in_the_paper(
    network: Network, train: Dataset, images: np.ndarray, steps: int
) -> SpikingNetwork:
    return balance_thresholds(network, data_based_scales(network, train.images))


def _converted(network: Network, train: Dataset, images: np.ndarray, steps: int) -> SpikingNetwork:
    return convert(merge_poolings(network), images, steps=steps)


def _calibrated(network: Network, train: Dataset, images: np.ndarray, steps: int) -> SpikingNetwork:
    return calibrate(_converted(network, train, images, steps), images, steps=steps)


def _trained(network: Network, train: Dataset, images: np.ndarray, steps: int) -> SpikingNetwork:
    how = {"initial_potential": 0.5, "reset": reset_by_subtraction, "encode": constant}
    return balance_thresholds(network, **how)


def _fine_tuned(network: Network, train: Dataset, images: np.ndarray, steps: int) -> SpikingNetwork:
    """Trained, and once more through the training set, with spikes."""
    return calibrate(
        _trained(network, train, images, steps),
        train.images,
        train.labels,
        steps=steps,
        parameters=("thresholds", "initial_potentials", "weights", "biases"),
        epochs=1,
        batch_size=100,
        held_out=0.02,
    )


METHODS: Mapping[str, Method] = {
    "the paper's": Method("{}-modern", _as_in_the_paper, _SHOWN_OF_PAPER, spike_count),
    "converted": Method("{}-modern", _converted),
    "calibrated": Method("{}-modern", _calibrated),
    "trained": Method("{}-few-steps", _trained),
    "trained, fine-tuned": Method("{}-few-steps", _fine_tuned),
}


def few_steps(
    networks: tuple[Literal["fc", "conv"], ...] = ("fc", "conv"),
    steps: int = 4,
    seeds: tuple[int, ...] = (0,),
    images: int = 10_000,
    output: Path = Path("few-steps"),
    cache: Path | None = None,
    data_dir: Path | None = None,
    archives: Path | None = None,
) -> pd.DataFrame:
    """Make spiking networks for a few steps, and show their accuracy and costs on MNIST.

    The paper's networks are trained on all training images but the last 2,000, which then choose
    scale factors (converted) and teach thresholds and initial potentials (calibrated); others are
    trained with clip-floors (trained), and then for an epoch with spikes (fine-tuned). Prints a
    table, and writes table.csv, results.json and a figure to a folder. Trained networks are kept.

    Args:
        networks: fc, the fully connected network, and conv, the convolutional one.
        steps: the number of steps to convert, to calibrate and to train for.
        seeds: of the trainings; the table has means over them, and standard deviations.
        images: how many of the 10,000 test images to simulate.
        output: the folder for the results.
        cache: the folder for trained networks; by default the user's cache folder.
        data_dir: the data directory of TensorFlow Datasets; by default its own.
        archives: a folder with the official archives of the data; by default JAXSNN_ARCHIVES.

    Returns:
        A row for each network, method, seed and number of steps.

    Raises:
        DatasetError: the data cannot be had; the message says what was tried.
        UsageError: a number of steps, images or a seed out of range, no network or seed, or a
            folder that cannot be written to.

    Example:
        >>> from jaxsnn.paper.few_steps import few_steps
        >>> few_steps(steps=0)
        Traceback (most recent call last):
        ...
        jaxsnn.support.errors.UsageError: steps=0; there must be at least 1.
    """
    _check(networks, steps, seeds, images)
    started = time.monotonic()
    try:
        made_folder(output)
    except OSError as error:
        raise UsageError(error) from error
    train, test = load_dataset("mnist", data_dir=data_dir, archives=archives)
    test = Dataset(test.images[:images], test.labels[:images])
    results: dict[str, Any] = {
        "settings": {"steps": steps, "seeds": list(seeds), "images": images, "dt": _DT},
        "machine": machine(),
        "rows": [],
    }
    for short in networks:
        for seed in seeds:
            for name, method in METHODS.items():
                print(f"{short}, {name}, seed {seed}", flush=True)
                network, snn = made(method, short, steps, train, seed=seed, cache=cache)
                given = {"network": EXPERIMENTS["mnist"].networks[short], "method": name}
                given |= {"seed": seed, "ReLU": training.accuracy(network, test)}
                results["rows"] += [
                    given | {"steps": shown} | measured(snn, test, shown, method.read)
                    for shown in method.shown
                ]
                results["machine"]["seconds"] = round(time.monotonic() - started, 1)
                _write(output, results)
    rows = pd.DataFrame(results["rows"])
    print(f"\n{as_table(rows)}\n\nResults are in {output.resolve()}", flush=True)
    return rows


def made(
    method: Method,
    short: str,
    steps: int,
    train: Dataset,
    *,
    seed: int = 0,
    cache: Path | None = None,
) -> tuple[Network, SpikingNetwork]:
    """The ReLU network of a method, trained now or earlier, and the spiking one.

    Args:
        method: one of `METHODS`.
        short: what the command line calls the network, such as "fc".
        steps: the number of steps to make it for.
        train: the whole training set.
        seed: of the training.
        cache: the folder for trained networks; by default the user's cache folder.
    """
    folder = Path(cache or platformdirs.user_cache_dir("jaxsnn")).expanduser() / "few-steps"
    seen = Dataset(train.images[:-_HELD_OUT], train.labels[:-_HELD_OUT])
    network = trained_network(method.recipe.format(short), seen, seed=seed, cache=folder)
    return network, method.convert(network, seen, train.images[-_HELD_OUT:], steps)


def measured(
    snn: SpikingNetwork, test: Dataset, steps: int, read: Readout | None = None
) -> dict[str, float]:
    """Accuracy after so many steps, and spikes and operations of an image until then.

    Example:
        >>> import jax, numpy as np, jaxsnn
        >>> from jaxsnn.paper.few_steps import measured
        >>> network = jaxsnn.read_network(lambda x: jax.nn.relu(0.5 * x), np.zeros((1, 2)))
        >>> snn = jaxsnn.balance_thresholds(network, 0.5, encode=jaxsnn.constant)
        >>> test = jaxsnn.Dataset(np.eye(2, dtype="float32"), np.arange(2))
        >>> measured(snn, test, steps=4)
        {'accuracy': 1.0, 'spikes': 4.0, 'operations': 4.0}
    """
    run = simulate(snn, test.images, key=0, steps=steps, read=read)
    spikes = sum(np.asarray(counts).sum(dtype=np.float64) for counts in run.spike_counts)
    return {
        "accuracy": float(run.accuracy(test.labels)[-1]),
        "spikes": float(spikes / len(test)),
        "operations": float(np.asarray(run.synaptic_operations).mean(dtype=np.float64)),
    }


def means(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds, and `deviation`, the standard deviation of the accuracy.

    Example:
        >>> import pandas as pd
        >>> from jaxsnn.paper.few_steps import means
        >>> row = {"network": "ConvNet", "method": "trained", "steps": 4, "spikes": 2.0}
        >>> rows = [row | {"ReLU": 1.0, "operations": 3.0, "accuracy": a} for a in (0.5, 0.7)]
        >>> means(pd.DataFrame(rows))[["steps", "accuracy", "deviation"]].round(3).values.tolist()
        [[4.0, 0.6, 0.1]]
    """
    groups = rows.groupby(["network", "method", "steps"], sort=False)
    found: Any = groups[["ReLU", "accuracy", "spikes", "operations"]].mean()
    return found.assign(deviation=groups["accuracy"].std(ddof=0)).reset_index()


def as_table(rows: pd.DataFrame) -> str:
    """The means as they are printed: a line for each network, method and number of steps."""
    found = means(rows)
    shown = pd.DataFrame(
        {
            **{name: found[name] for name in ("network", "method", "steps")},
            "accuracy (%)": 100 * found["accuracy"],
            "± (points)": 100 * found["deviation"],
            "ReLU (%)": 100 * found["ReLU"],
            "spikes": found["spikes"],
            "operations (M)": found["operations"] / 1e6,
        }
    )
    formats = ("", "", ".0f", ".2f", ".2f", ".2f", ".0f", ".2f")
    return str(shown.to_markdown(index=False, floatfmt=formats))


def _check(networks: tuple[str, ...], steps: int, seeds: tuple[int, ...], images: int) -> None:
    for name, values in (("network", networks), ("seed", seeds)):
        if not values:
            raise UsageError(f"no {name} chosen; give at least one.")
    if steps < 1:
        raise UsageError(f"steps={steps}; there must be at least 1.")
    for seed in seeds:
        check_numbers(images, seed)


def _write(output: Path, results: dict[str, Any]) -> None:
    rows = pd.DataFrame(results["rows"])
    save_text(output / "table.csv", means(rows).to_csv(index=False))
    save_text(output / "results.json", json.dumps(results, indent=1, allow_nan=False) + "\n")
    save_figure(output / "accuracy-per-operation.png", draw_costs(means(rows)))
