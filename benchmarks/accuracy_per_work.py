"""How much accuracy for how much work: steps, synaptic operations, bits of a weight?

Both networks in float32 and in fixed point, to the end and with rules that stop a sample as soon as
it is decided, on MNIST's test images: what rounding costs, and what early exit saves.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tyro
from common import (
    DT,
    MODELS,
    RESULTS,
    Name,
    Source,
    Trained,
    interleaved,
    medians,
    new_results,
    save,
    save_figure,
)

import jaxsnn
from jaxsnn import stopping
from jaxsnn.engines import Executable
from jaxsnn.stopping import Stop
from jaxsnn.support.figures import COLORS, DARK, SMALL, new_figure, show_errors_as_accuracies

FLOAT = "float32"
ARITHMETICS = {
    FLOAT: None,
    "16 bits": jaxsnn.FixedPoint(16),
    "8 bits": jaxsnn.FixedPoint(8),  # a grid for each channel
    "8 bits per layer": jaxsnn.FixedPoint(8, per="layer"),
}
FAMILIES: dict[str, dict[str, Stop]] = {
    "first spike": {"first spike": stopping.first_spike},
    "margin": {f"margin({k})": stopping.margin(k) for k in (2, 3, 4, 6, 8, 12, 16)},
    "margin over time": {
        f"margin_over_time({k}, {every})": stopping.margin_over_time(k, every)
        for k, every in ((4, 10), (6, 5), (8, 5), (12, 5), (16, 5))
    },
}
TIMED = (FLOAT, "8 bits")  # the scan and the events
WITHIN = 0.0005  # of the full run's accuracy is what early exit must reach


@dataclass(frozen=True)
class Plan:
    """What is simulated.

    Attributes:
        durations: steps of the full runs, the longest last.
        families: of stop rules, by name.
        curve_images: of which synaptic operations are counted after every step.
        timed_images: of which the wall time of early exits is measured, and exits in float32.
        repeats: interleaved measurements of it.
    """

    durations: tuple[int, ...] = (100, 500)
    families: Mapping[str, Mapping[str, Stop]] = field(default_factory=lambda: FAMILIES)
    curve_images: int = 1000
    timed_images: int = 1000
    repeats: int = 3

    @property
    def rules(self) -> dict[str, Stop]:
        """The rules of all families."""
        return {name: rule for family in self.families.values() for name, rule in family.items()}


FEW = {name: dict(list(family.items())[-1:]) for name, family in FAMILIES.items()}
QUICK = Plan((20, 50), FEW, curve_images=10, timed_images=2, repeats=1)


@dataclass(frozen=True)
class Case:
    """A network in one arithmetic, and the images to try it on.

    Attributes:
        names: of the network and of the arithmetic.
        network: the network.
        images: pixels `[B, ...]`.
        labels: classes `[B]`.
    """

    names: dict[str, str]
    network: Executable
    images: np.ndarray
    labels: np.ndarray

    def run(self, steps: int, stop: Stop | None = None, images: int | None = None) -> Any:
        """A run of so many steps on all images or the first ones."""
        images = self.images[:images]
        duration = steps * DT
        return jaxsnn.simulate(
            self.network, images, key=0, duration=duration, dt=DT, stop=stop, progress=False
        )

    def right(self, run: jaxsnn.Simulation) -> np.ndarray:
        """Which images are classified correctly at the end."""
        return np.asarray(run.predictions)[-1] == self.labels


def mean_operations(run: jaxsnn.Simulation, images: int | None = None) -> float:
    """Synaptic operations of an image, of all or of the first ones."""
    return float(np.asarray(run.synaptic_operations)[:images].mean(dtype=np.float64))


# -- What rounding costs ---------------------------------------------------------------------------


def curves(
    case: Case, run: jaxsnn.Simulation, network: jaxsnn.Network, scales: Any, images: int
) -> dict[str, Any]:
    """Accuracy after every step, and synaptic operations until then of the first images."""
    steps = len(run.predictions)
    grid = jaxsnn.Grid(scales={"data-based": scales}, duration=steps * DT, dt=DT, seed=0)
    arithmetic = ARITHMETICS[case.names["arithmetic"]]
    some = case.images[:images], case.labels[:images]
    data = jaxsnn.sweep(network, *some, grid, arithmetic=arithmetic, progress=False)
    return {
        **case.names,
        "accuracy": np.asarray(run.accuracy(case.labels)).tolist(),
        "operations": data.synaptic_operations.values.reshape(-1).tolist(),
    }


def rounding_row(
    case: Case, runs: dict[int, jaxsnn.Simulation], floats: dict[int, np.ndarray]
) -> dict[str, Any]:
    """Accuracies of a network, and how they differ from those of float32 on the same images.

    The inputs spike alike in all arithmetics, so that the images that are right in one and wrong in
    the other are all that differs; from them comes the standard error.
    """
    row: dict[str, Any] = {**case.names, "images": len(case.images)}
    for steps, run in runs.items():
        right = case.right(run)
        row |= {f"accuracy, {steps} ms": float(right.mean())}
        if case.names["arithmetic"] != FLOAT:
            count = min(len(right), len(floats[steps]))
            gain = right[:count] * 1.0 - floats[steps][:count]
            row |= {f"change, {steps} ms": float(gain.mean())}
            row |= {f"its error, {steps} ms": float(gain.std() / count**0.5)}
        row |= {f"operations (M), {steps} ms": mean_operations(run) / 1e6}
    if isinstance(case.network, jaxsnn.FixedPointNetwork):
        row["largest weight error"] = max(case.network.weight_errors)
        row["largest threshold error"] = max(case.network.threshold_errors)
    return row


# -- What early exit saves -------------------------------------------------------------------------


def exit_rows(
    case: Case, steps: int, full: jaxsnn.Simulation, rules: Mapping[str, Stop]
) -> Iterator[dict[str, Any]]:
    """For each rule: accuracy, and steps and operations in parts of the full run's."""
    count, half = len(case.images), len(case.images) // 2
    whole = np.asarray(full.predictions)[-1, :count] == case.labels
    whole_operations = mean_operations(full, count)
    for name, rule in rules.items():
        run = case.run(steps, rule)
        right = case.right(run)
        exits = np.asarray(run.exit_time, np.float64)
        yield {
            **case.names,
            "steps": steps,
            "rule": name,
            "images": len(case.images),
            "accuracy": float(right.mean()),
            "change": float(right.mean() - whole.mean()),
            "its error": float((right * 1.0 - whole).std() / len(right) ** 0.5),
            "change, first half": float(right[:half].mean() - whole[:half].mean()),
            "change, second half": float(right[half:].mean() - whole[half:].mean()),
            "mean latency (ms)": float(exits.mean() * 1e3),
            "90 % within (ms)": float(np.quantile(exits, 0.9) * 1e3),
            "undecided": float((exits > (steps - 0.5) * DT).mean()),
            "operations (M)": mean_operations(run) / 1e6,
            "of the steps": float(exits.mean() / (steps * DT)),
            "of the operations": mean_operations(run) / whole_operations,
        }


def times_of_exits(case: Case, plan: Plan) -> Iterator[dict[str, Any]]:
    """Seconds of full runs and of those with rules, interleaved."""
    images = min(plan.timed_images, len(case.images))
    for steps in plan.durations:
        jobs = {
            name: partial(case.run, steps, rule, images=images)
            for name, rule in {"full": None, **plan.rules}.items()
        }
        seconds = interleaved(jobs, plan.repeats)
        yield {**case.names, "steps": steps, "images": images, "seconds": seconds}


def with_times(results: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of early exits, with the part of the full run's time."""
    keys = ("network", "arithmetic", "steps")
    known = {tuple(t[key] for key in keys): medians(t["seconds"]) for t in results["times"]}
    rows = []
    for row in results["exits"]:
        times = known.get(tuple(row[key] for key in keys))
        rows.append(row | ({"of the time": times[row["rule"]] / times["full"]} if times else {}))
    return rows


def chosen(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each network, arithmetic and duration the fastest rule that is good enough.

    It is chosen on the first half of the images; what it says of the others is the measurement.
    """
    found = []
    for _, group in pd.DataFrame(rows).groupby(["network", "arithmetic", "steps"], sort=False):
        enough = group[group["change, first half"] >= -WITHIN - 1e-9]
        if len(enough):
            found.append(enough.loc[enough["mean latency (ms)"].idxmin()].to_dict())
    return found


# -- Tables and the figure -------------------------------------------------------------------------


def points(change: float, error: float) -> str:
    """A change in points of a percent, with its standard error."""
    return f"{100 * change:+.2f} ± {100 * error:.2f}"


def rounding_table(rows: list[dict[str, Any]], durations: Sequence[int]) -> str:
    """Accuracies and their changes for each network and arithmetic."""
    shown = []
    for row in rows:
        cells = {"network": row["network"], "arithmetic": row["arithmetic"]}
        cells |= {f"{steps} ms": f"{100 * row[f'accuracy, {steps} ms']:.2f}" for steps in durations}
        for steps in durations:
            both = [row.get(f"{name}, {steps} ms") for name in ("change", "its error")]
            cells |= {f"change, {steps} ms": points(*both) if both[0] is not None else ""}
        error = row.get("largest weight error")
        cells |= {"largest weight error": "" if error is None else f"{error:.1e} θ"}
        name = f"operations (M), {durations[-1]} ms"
        shown.append(cells | {name: f"{row[name]:.1f}"})
    return pd.DataFrame(shown).to_markdown(index=False, disable_numparse=True)


def exits_table(rows: list[dict[str, Any]], change: str = "change") -> str:
    """What rules reach and save; parts are in percent of the full run's."""
    shown = []
    for row in rows:
        parts = {f"{of} (%)": row.get(f"of the {of}") for of in ("steps", "operations", "time")}
        shown.append(
            {key: row[key] for key in ("network", "arithmetic")}
            | {"full run (ms)": row["steps"], "rule": row["rule"]}
            | {"accuracy": f"{100 * row['accuracy']:.2f}"}
            | {f"{change} (points)": f"{100 * row[change]:+.2f}"}
            | {"mean latency (ms)": f"{row['mean latency (ms)']:.1f}"}
            | {name: "" if pd.isna(part) else f"{100 * part:.1f}" for name, part in parts.items()}
        )
    return pd.DataFrame(shown).to_markdown(index=False, disable_numparse=True)


def draw(results: dict[str, Any]) -> Any:
    """Accuracy against time and operations: curves of full runs, and a mark for each exit."""
    names = list(dict.fromkeys(curve["network"] for curve in results["curves"]))
    figure = new_figure(5.2 * len(names), 6.6)
    grid = figure.subplots(2, len(names), squeeze=False, sharey=True)
    rows = pd.DataFrame(results["exits"])
    known = [1 - np.asarray(curve["accuracy"]) for curve in results["curves"]]
    errors = np.concatenate([*known, 1 - rows["accuracy"].to_numpy(float)])
    floor = min(errors[errors > 0], default=0.01) / 2
    for column, name in zip(grid.T, names, strict=True):
        for ax, of in zip(column, ("time", "operations"), strict=True):
            _draw_curves(ax, [c for c in results["curves"] if c["network"] == name], of, floor)
            _draw_exits(ax, rows[rows["network"] == name], of, floor)
            relu = 1 - results["ReLU accuracy"][name]
            ax.axhline(max(relu, floor), color=DARK, ls=(0, (4, 2)), lw=1.2, label="ReLU network")
            ax.set(xscale="log", yscale="log")
            ax.grid(axis="y", color="#dddddd", lw=0.6)
            ax.spines[["top", "right"]].set_visible(False)
            show_errors_as_accuracies(ax, errors, floor)
        column[0].set(title=name, xlabel="simulated time (ms)")
        column[1].set(xlabel="synaptic operations of an image (millions)")
    for ax in grid[:, 0]:
        ax.set_ylabel("accuracy (%)")
    lines, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside lower center", ncols=4, frameon=False)
    return figure


def _draw_curves(ax: Any, found: list[dict[str, Any]], of: str, floor: float) -> None:
    """The full runs, a curve for each arithmetic."""
    for curve, color in zip(found, COLORS):
        error = np.maximum(1 - np.asarray(curve["accuracy"]), floor)
        time = np.arange(1, len(error) + 1) * DT * 1e3
        x = time if of == "time" else np.asarray(curve["operations"]) / 1e6
        ax.plot(x, error, color=color, lw=1.4, label=curve["arithmetic"])


def _draw_exits(ax: Any, rows: pd.DataFrame, of: str, floor: float) -> None:
    """The exits of one network with 8 bits, a mark for each rule and a line for each family."""
    rows = rows[(rows["arithmetic"] == "8 bits") & (rows["steps"] == rows["steps"].max())]
    if rows.empty:
        return
    rows = rows.set_index("rule")
    column = "mean latency (ms)" if of == "time" else "operations (M)"
    for (family, rules), marker in zip(FAMILIES.items(), "*os", strict=True):
        found = rows.loc[[rule for rule in rules if rule in rows.index]]
        error = np.maximum(1 - found["accuracy"], floor)
        style = {"marker": marker, "ms": 9 if marker == "*" else 5, "lw": 0.6, "color": DARK}
        ax.plot(found[column], error, mfc="white", label=f"8 bits, exit by {family}", **style)
        if family == "margin" and of == "time":
            for (rule, x), y in zip(found[column].items(), error):
                lead = str(rule).removeprefix("margin(").removesuffix(")")
                place = {"xytext": (0, 5), "textcoords": "offset points", "ha": "center"}
                ax.annotate(lead, (x, y), fontsize=SMALL, **place)


# -- The command line ------------------------------------------------------------------------------


def cases(
    name: Name, trained: Trained, counts: Mapping[str, int], plan: Plan, results: dict[str, Any]
) -> Iterator[Case]:
    """The network in each arithmetic, after all was measured of it."""
    network, scales = trained.scaled(name)
    snn, test = jaxsnn.balance_thresholds(network, scales), trained.data[1]
    floats: dict[int, np.ndarray] = {}
    for arithmetic, rounding in ARITHMETICS.items():
        some = slice(counts[arithmetic])
        case = Case(
            {"network": name, "arithmetic": arithmetic},
            rounding(snn) if rounding else snn,
            test.images[some],
            np.asarray(test.labels[some]),
        )
        runs = {steps: case.run(steps) for steps in plan.durations}
        floats = floats or {steps: case.right(run) for steps, run in runs.items()}
        results["rounding"].append(rounding_row(case, runs, floats))
        longest = runs[plan.durations[-1]]
        results["curves"].append(curves(case, longest, network, scales, plan.curve_images))
        # In float32 the exits are nearly those of the other arithmetics, and take far longer.
        few = plan.timed_images if arithmetic == FLOAT else None
        exiting = replace(case, images=case.images[:few], labels=case.labels[:few])
        for steps, run in runs.items():
            results["exits"] += exit_rows(exiting, steps, run, plan.rules)
        if arithmetic in TIMED:
            results["times"] += times_of_exits(case, plan)
        yield case


def main(
    source: Source = Trained(),  # noqa: B008 - it is frozen
    networks: tuple[Name, ...] = tuple(MODELS),
    images: int = 10_000,
    float_images: int = 10_000,
    curve_images: int = 1000,
    timed_images: int = 1000,
    repeats: int = 3,
    quick: bool = False,
    output: Path = RESULTS / "accuracy_per_work.json",
) -> None:
    """Measure what rounding costs and what early exit saves.

    Args:
        source: where networks and data come from.
        networks: which of the paper's networks.
        images: of MNIST's test set, for fixed point in the event-driven engine.
        float_images: for float32, whose scan is slower.
        curve_images: of which synaptic operations are counted after every step.
        timed_images: of which the wall time of early exits is measured, and exits in float32.
        repeats: interleaved measurements of it; the table has their medians.
        quick: a short run that only shows that everything works.
        output: the file for the results, written after each part; what it has of other networks
            stays.
    """
    plan = Plan(curve_images=curve_images, timed_images=timed_images, repeats=repeats)
    if quick:
        plan, images, float_images = QUICK, 50, 2
    counts = {name: float_images if name == FLOAT else images for name in ARITHMETICS}
    settings = {name: value for name, value in vars(plan).items() if name != "families"}
    results = new_results(images=counts, **settings)
    results |= {"ReLU accuracy": {}, "rounding": [], "exits": [], "times": [], "curves": []}
    earlier = json.loads(output.read_text()) if output.exists() else {}
    if earlier.get("settings", {}).get("durations") != list(plan.durations):
        earlier = {}
    results["ReLU accuracy"] |= earlier.get("ReLU accuracy", {})
    for part in ("rounding", "exits", "times", "curves"):
        results[part] += [r for r in earlier.get(part, []) if r["network"] not in networks]
    for name in networks:
        relu = jaxsnn.training.accuracy(source.scaled(name)[0], source.data[1])
        results["ReLU accuracy"][name] = float(relu)
        for case in cases(name, source, counts, plan, results):
            save(results, output)
            print(*case.names.values(), "done", file=sys.stderr, flush=True)
    rows = with_times(results)
    results["chosen"] = chosen(rows)
    save(results, output)
    save_figure(draw(results), output)
    print(rounding_table(results["rounding"], plan.durations), end="\n\n")
    shown = [r for r in rows if (r["arithmetic"], r["steps"]) == ("8 bits", plan.durations[-1])]
    print(exits_table(shown), end="\n\n")
    print(exits_table(results["chosen"], "change, second half"))


if __name__ == "__main__":
    tyro.cli(main)
