"""How much of what few steps lose do chosen scale factors and calibration win back?

The networks of zoo.py, converted with the settings of `convert`, with scale factors chosen for the
number of steps, then with corrected biases, and calibrated from there by gradients, all without
labels and on the same images of the training set, which the networks were not trained with;
accuracies on the test set of MNIST.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np
import tyro
import zoo
from common import DT, RESULTS, new_results, save

import jaxsnn


def unseen(count: int) -> np.ndarray:
    """The last images of the training set, which `zoo.fit` does not see."""
    train, _ = jaxsnn.load_dataset("mnist")
    return zoo.reduced(jaxsnn.Dataset(train.images[-count:], train.labels[-count:]), count).images


def accuracy(snn: jaxsnn.SpikingNetwork, data: jaxsnn.Dataset, steps: int) -> float:
    """The accuracy of a spiking network after so many steps."""
    run = jaxsnn.simulate(snn, data.images, key=0, duration=steps * DT, dt=DT, progress=False)
    return float(run.accuracy(data.labels)[-1])


def stages(
    images: np.ndarray, steps: int, epochs: int
) -> dict[str, Callable[[jaxsnn.SpikingNetwork], jaxsnn.SpikingNetwork]]:
    """What is done one after the other, each with the network that the one before leaves."""
    how: dict[str, Any] = {"images": images, "steps": steps, "progress": False}
    return {
        "chosen": lambda snn: jaxsnn.convert(snn.network, **how),
        "corrected": lambda snn: jaxsnn.correct_biases(snn, **how),
        "calibrated": lambda snn: jaxsnn.calibrate(snn, epochs=epochs, **how),
    }


def main(
    names: tuple[str, ...] = tuple(zoo.NETWORKS),
    steps: tuple[int, ...] = (4, 8),
    images: int = 2_000,
    epochs: int = 10,
) -> None:
    """Measure, print, and write results/few_steps.json.

    Args:
        names: networks of zoo.py.
        steps: numbers of steps.
        images: calibration images, of which a fifth decides what is kept.
        epochs: how often they are seen.
    """
    _, test = zoo.mnist()
    calibration = unseen(images)
    results = new_results(images=images, epochs=epochs)
    results["rows"] = []
    for name in names:
        snn = jaxsnn.convert(zoo.trained(name), calibration, progress=False)
        relu = np.concatenate([snn.network(part) for part in np.array_split(test.images, 20)])
        for count in steps:
            row = {
                "network": name,
                "steps": count,
                "relu": float(np.mean(relu.argmax(-1) == test.labels)),
                "converted": accuracy(snn, test, count),
            }
            better = snn
            for stage, function in stages(calibration, count, epochs).items():
                start = perf_counter()
                better = function(better)
                row[f"seconds, {stage}"] = round(perf_counter() - start, 1)
                row[stage] = accuracy(better, test, count)
            results["rows"].append(row)
            print(row, flush=True)
            save(results, RESULTS / "few_steps.json")


if __name__ == "__main__":
    tyro.cli(main)
