"""How long do a few steps take, beside the forward pass of the ReLU network on the same cores?

The networks of `python -m jaxsnn few-steps`, converted and trained for it, in float32 and 8 bits,
by the event-driven engine and the scan; all take turns with the forward pass of the ReLU network,
compiled by XLA. Accuracies are those of all images: rounding to 8 bits must keep them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
import pandas as pd
import tyro
from common import DT, RESULTS, interleaved, medians, new_results, save

import jaxsnn
from jaxsnn.paper import few_steps

FORWARD = "ReLU network, XLA"
SHORT = {"fc": "FullyConnected", "conv": "ConvNet"}
METHODS = ("converted", "trained, fine-tuned")


def runs(snn: Any, images: np.ndarray, steps: int, engine: str) -> np.ndarray:
    """The classes after the last step."""
    options = {"duration": steps * DT, "dt": DT, "progress": False}
    run = jaxsnn.simulate(snn, images, key=0, engine=engine, **options)
    return np.asarray(run.scores)[-1].argmax(-1)


def jobs_of(
    network: jaxsnn.Network, arithmetics: dict[str, Any], images: np.ndarray, steps: int
) -> dict[str, Callable[[], Any]]:
    """The forward pass, and both engines in both arithmetics, on one batch."""
    forward = jax.jit(lambda network, x: network(x))
    jobs: dict[str, Callable[[], Any]] = {FORWARD: partial(forward, network, images)}
    for name, snn in arithmetics.items():
        for engine in ("events", "scan"):
            jobs[f"{engine}, {name}"] = partial(runs, snn, images, steps, engine)
    return jobs


def table(rows: list[dict[str, Any]]) -> str:
    """Microseconds of an image, and how many times those of the forward pass."""
    shown = []
    for row in rows:
        times = {name: 1e6 * t / row["batch"] for name, t in medians(row["seconds"]).items()}
        cells = {
            name: f"{time:.1f}" + ("" if name == FORWARD else f" ({time / times[FORWARD]:.1f})")
            for name, time in times.items()
        }
        accuracies = {f"accuracy, {name}": f"{100 * a:.2f}" for name, a in row["accuracy"].items()}
        shown.append({"network": row["network"], "method": row["method"], **cells, **accuracies})
    return pd.DataFrame(shown).to_markdown(index=False, disable_numparse=True)


def main(
    networks: tuple[str, ...] = ("fc", "conv"),
    steps: int = 4,
    batch: int = 500,
    repeats: int = 5,
    images: int = 10_000,
) -> None:
    """Measure, print, and write results/few_steps_speed.json.

    Args:
        networks: fc and conv.
        steps: for which they are made, and which they run.
        batch: images at a time.
        repeats: rounds of measurements.
        images: test images for the accuracies.
    """
    train, test = jaxsnn.load_dataset("mnist")
    results = new_results(steps=steps, batch=batch, repeats=repeats, images=images)
    results["rows"] = []
    for short in networks:
        for name in METHODS:
            network, snn = few_steps.made(few_steps.METHODS[name], short, steps, train)
            arithmetics = {"float32": snn, "8 bits": jaxsnn.quantize(snn, bits=8)}
            found = {
                arithmetic: runs(made, test.images[:images], steps, "auto")
                for arithmetic, made in arithmetics.items()
            }
            row: dict[str, Any] = {"network": SHORT[short], "method": name, "batch": batch}
            row["accuracy"] = {
                arithmetic: float(np.mean(classes == test.labels[:images]))
                for arithmetic, classes in found.items()
            }
            jobs = jobs_of(network, arithmetics, test.images[:batch], steps)
            row["seconds"] = interleaved(jobs, repeats)
            results["rows"].append(row)
            save(results, RESULTS / "few_steps_speed.json")
            print(SHORT[short], name, "done", file=sys.stderr, flush=True)
    print(table(results["rows"]))


if __name__ == "__main__":
    tyro.cli(main)
