"""How many time steps do trained networks of many kinds need, beside SpikingJelly's converter?

Both convert the same weights, calibrate on the same training images, and see the pixels of the same
test images as constant currents; the class is that with the largest sum of outputs so far.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tyro
import zoo
from common import DT, RESULTS, new_results, save

import jaxsnn

SHOWN = (1, 2, 4, 8, 16, 32, 64, 128)  # steps
CLOSE = 0.01  # to the accuracy of the ReLU network
PER_CHANNEL = "rate coding, 99.9 % per channel, θ/2"

# (network, calibration images, test images, steps) ↦ the sums of outputs after each step [T, B, 10]
Tool = Callable[[str, np.ndarray, np.ndarray, int], np.ndarray]
# (size ↦ the calibration images in batches of that size) ↦ a recipe of SpikingJelly
Recipe = Callable[[Callable[[int | None], list[Any]]], Any]


def scores(snn: jaxsnn.SpikingNetwork, images: np.ndarray, steps: int, **how: Any) -> np.ndarray:
    """The scores of jaxsnn after each step."""
    run = jaxsnn.simulate(snn, images, key=0, duration=steps * DT, dt=DT, progress=False, **how)
    return np.asarray(run.scores)


def converted(
    name: str,
    calibration: np.ndarray,
    images: np.ndarray,
    steps: int,
    arithmetic: jaxsnn.FixedPoint | None = None,
) -> np.ndarray:
    """The scores with the settings of `convert`, in floating or in fixed point."""
    snn = jaxsnn.convert(zoo.trained(name), calibration, progress=False)
    return scores(snn, images, steps, arithmetic=arithmetic)


def converted_for(
    few: int, name: str, calibration: np.ndarray, images: np.ndarray, steps: int
) -> np.ndarray:
    """The scores of a network that is made for a few steps, without learning."""
    how: dict[str, Any] = {"images": calibration, "steps": few, "progress": False}
    snn = jaxsnn.correct_biases(jaxsnn.convert(zoo.trained(name), **how), **how)
    return scores(snn, images, steps)


def balanced(name: str, calibration: np.ndarray, images: np.ndarray, steps: int) -> np.ndarray:
    """The scores with scale factors by local threshold balancing, else with the same settings."""
    network = jaxsnn.read_network(zoo.trained(name), calibration)
    constant = jaxsnn.constant
    scales = jaxsnn.locally_balanced_scales(
        network, calibration, passes=10, batch_size=100, encode=constant, progress=False
    )
    reset = jaxsnn.reset_by_subtraction
    snn = jaxsnn.balance_thresholds(
        network, scales, initial_potential=0.5, reset=reset, encode=constant
    )
    return scores(snn, images, steps)


def recipes() -> dict[str, Recipe]:
    """SpikingJelly's recipes: as they come, as its examples have them, and at their best.

    Its scale factors are running means of those of batches, its balanced thresholds take a step for
    each batch. Only all images in one batch have the percentile that jaxsnn takes.
    """
    from spikingjelly.activation_based.ann2snn import (
        LocalThresholdBalancingRecipe,
        RateCodingRecipe,
    )

    percentile = partial(RateCodingRecipe, mode="99.9%")
    per_channel = partial(percentile, channel_wise=True, half_threshold=True)
    return {
        "rate coding": lambda batches: RateCodingRecipe(batches(100)),
        "rate coding, 99.9 %": lambda batches: percentile(batches(100)),
        PER_CHANNEL: lambda batches: per_channel(batches(100)),
        f"{PER_CHANNEL}, one batch, pooling first": lambda batches: per_channel(
            batches(None), pre_spike_maxpool=True
        ),
        "local thresholds": lambda batches: LocalThresholdBalancingRecipe(batches(100)),
        "local thresholds, 10 passes": lambda batches: LocalThresholdBalancingRecipe(
            10 * batches(100)
        ),
    }


def converted_by_spikingjelly(
    recipe: Recipe, name: str, calibration: np.ndarray, images: np.ndarray
) -> Any:
    """What SpikingJelly's converter makes of a network of the zoo, with one of its recipes."""
    from twins import as_torch, twin

    module = twin(name, zoo.trained(name), images[:50])
    return by_spikingjelly(recipe, module, as_torch(calibration))


def by_spikingjelly(recipe: Recipe, module: Any, calibration: Any) -> Any:
    """What SpikingJelly's converter makes of a module of PyTorch, with one of its recipes."""
    from spikingjelly.activation_based import ann2snn, functional

    def batches(size: int | None) -> list[Any]:
        return [(batch,) for batch in calibration.split(size or len(calibration))]

    snn = ann2snn.Converter(recipe(batches)).convert(module)
    snn.eval()
    functional.reset_net(snn)
    return snn


def spikingjelly_scores(recipe: Recipe) -> Tool:
    """The sums of outputs of SpikingJelly's converter, with one of its recipes."""
    import torch
    from twins import as_torch

    def run(name: str, calibration: np.ndarray, images: np.ndarray, steps: int) -> np.ndarray:
        snn = converted_by_spikingjelly(recipe, name, calibration, images)
        pixels = as_torch(images)
        with torch.no_grad():
            return np.cumsum([snn(pixels).numpy() for _ in range(steps)], 0)

    return run


def tools() -> dict[str, Tool]:
    """All converters that are installed."""
    found: dict[str, Tool] = {
        "jaxsnn": converted,
        "jaxsnn, for 4 steps": partial(converted_for, 4),
        "jaxsnn, for 8 steps": partial(converted_for, 8),
        "jaxsnn, 16 bits": partial(converted, arithmetic=jaxsnn.FixedPoint(16)),
        "jaxsnn, 8 bits": partial(converted, arithmetic=jaxsnn.FixedPoint(8)),
        "jaxsnn, local thresholds, 10 passes": balanced,
    }
    if find_spec("spikingjelly") is None:
        print("SpikingJelly is left out: it is not installed.", file=sys.stderr)
        return found
    others = {f"SpikingJelly, {n}": spikingjelly_scores(r) for n, r in recipes().items()}
    return found | others


def compared(logits: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Accuracy after every step, the steps until it is close, and the error of the outputs."""
    relu, steps = (logits.argmax(1) == labels).mean(), len(scores)
    accuracy = (scores.argmax(2) == labels).mean(1)
    close = np.flatnonzero(accuracy >= relu - CLOSE)
    return {
        "ReLU": float(relu),
        "accuracy": accuracy.tolist(),
        "steps": int(close[0]) + 1 if len(close) else None,
        "error": float(np.linalg.norm(scores[-1] / steps - logits) / np.linalg.norm(logits)),
    }


def measured(
    name: str, tool: Tool, data: tuple[jaxsnn.Dataset, jaxsnn.Dataset], counts: Any, steps: int
) -> dict[str, Any]:
    """The row of a network and a tool; what the tool says where it cannot convert the network."""
    (train, test), (calibration, images) = data, counts
    seen, labels = test.images[:images], test.labels[:images]
    logits = np.asarray(zoo.trained(name)(seen))
    try:
        scores = tool(name, train.images[:calibration], seen, steps)
    except (TypeError, ValueError, NotImplementedError) as error:
        return {"refused": f"{type(error).__name__}: {error}"}
    return compared(logits, scores, labels)


def _place(row: dict[str, Any]) -> tuple[int, int, str]:
    """The order of the rows: by network, jaxsnn first."""
    ours = ("jaxsnn", "jaxsnn, for 4 steps", "jaxsnn, for 8 steps", "jaxsnn, 16 bits")
    ours += ("jaxsnn, 8 bits", "jaxsnn, local thresholds, 10 passes")
    converter = row["converter"]
    place = ours.index(converter) if converter in ours else len(ours)
    return list(zoo.NETWORKS).index(row["network"]), place, "" if place == len(ours) else converter


def table(rows: list[dict[str, Any]]) -> str:
    """Accuracies in percent after some steps."""
    shown = []
    for found in rows:
        cells = {"network": found["network"], "converter": found["converter"]}
        for steps in SHOWN:
            known = found.get("accuracy", ())[steps - 1 : steps]
            cells[str(steps)] = f"{100 * known[0]:.1f}" if known else ""
        if "refused" in found:
            cells["within 1 point from"] = "refused"
        else:
            cells["ReLU"] = f"{100 * found['ReLU']:.1f}"
            cells["within 1 point from"] = found["steps"] or "never"
            cells["error"] = f"{found['error']:.3f}"
        shown.append(cells)
    return pd.DataFrame(shown).fillna("").to_markdown(index=False, disable_numparse=True)


def main(
    networks: tuple[str, ...] = tuple(zoo.NETWORKS),
    converters: str = "",
    calibration: int = 1000,
    images: int = 1000,
    quick: bool = False,
    output: Path = RESULTS / "architectures.json",
) -> None:
    """Accuracy against steps of trained networks, for each converter.

    Args:
        networks: which of the zoo.
        converters: only those whose names begin so, such as "jaxsnn, 8".
        calibration: training images that scale factors are taken from.
        images: of MNIST's test set.
        quick: a short run that only shows that everything works.
        output: the file for the results, written after each row; what it has of other networks
            and converters stays.
    """
    steps = SHOWN[-1]
    if quick:
        calibration, images, steps = 100, 50, SHOWN[3]
    results = new_results(calibration=calibration, images=images, steps=steps)
    earlier = json.loads(output.read_text()) if output.exists() else {}
    if earlier.get("settings") != results["settings"]:
        earlier = {"rows": []}
    chosen = {name: tool for name, tool in tools().items() if name.startswith(converters)}
    again = {(network, converter) for network in networks for converter in chosen}
    rows = {(row["network"], row["converter"]): row for row in earlier["rows"]}
    results["rows"] = [row for key, row in rows.items() if key not in again]
    peers = ("torch", "spikingjelly") if find_spec("spikingjelly") else ()
    results["machine"] |= {name: version(name) for name in peers}
    data = zoo.mnist()
    for name in networks:
        for converter, tool in chosen.items():
            found = measured(name, tool, data, (calibration, images), steps)
            results["rows"].append({"network": name, "converter": converter} | found)
            results["rows"].sort(key=_place)
            save(results, output)
            print(name, converter, found.get("refused", "done"), file=sys.stderr, flush=True)
    print(table(results["rows"]))
    for found in results["rows"]:
        if "refused" in found:
            print(f"{found['network']}, {found['converter']}: {found['refused']}")


if __name__ == "__main__":
    tyro.cli(main)
