"""What a conversion does to each layer: a table, a figure, and advice where something is off."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
import pandas as pd
from jaxtyping import Array

from jaxsnn import metrics, neurons
from jaxsnn.conversion.balancing import SpikingNetwork
from jaxsnn.conversion.fixed_point import FixedPoint
from jaxsnn.network import INPUT, Layer, Network, merge_poolings
from jaxsnn.network.poolings import mergeable_poolings
from jaxsnn.simulation import Simulation, simulate, split
from jaxsnn.support.progress import progress_bar
from jaxsnn.support.typed import Count, Images, Key, Numbers, Real, Scalar, typed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STEPS = 32  # of a report, by default


class Merging(NamedTuple):
    """Layers that merging average poolings would save, and the operations for each image then."""

    layers: int
    operations: float


@dataclass(frozen=True, eq=False, repr=False)
class Report:
    """What `report` found, for N images simulated for T steps: print it, or look at its fields.

    ==================  ============================================================================
    column of `table`   meaning, for each layer
    ==================  ============================================================================
    layer               the operations that lead into it
    source              where it stands in the model
    neurons             how many there are; 0 for a sum, of which only operations are known
    scale               the activation that a spike in every step stands for: λ, or the largest of
                        its channels
    largest_activation  in the ReLU network
    correlation         of activations with rates · λ, over all neurons and images
    error               `|rates · λ - activations| / |activations|`, of the Euclidean norms
    above_scale         share of the activations that exceed λ, and are clipped
    saturated           share of neurons and images with a spike in every step
    silent              share of the neurons that never spike, of those that some image activates
    spikes              for each image
    operations          synaptic operations that lead into the layer, for each image
    ==================  ============================================================================

    Attributes:
        table: a row for each layer, counted from 1.
        images: how many there were, N.
        steps: how many were simulated, T.
        agreement: share of the images with the same class in both networks.
        relu_accuracy: accuracy of the ReLU network; None without labels.
        accuracy: accuracy of the spiking network after T steps; None without labels.
        additions: additions of biases and of sums in each step, as `metrics.additions`.
        merging: what `merge_poolings` would change; None where there is nothing to merge.
        advice: a line for everything that is off.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsnn
        >>> network = jaxsnn.read_network(lambda x: jax.nn.relu(0.5 * x), jnp.zeros((1, 2)))
        >>> snn = jaxsnn.balance_thresholds(network, 0.5)
        >>> found = jaxsnn.report(snn, jnp.array([[0.25, 1.0]]), labels=[1])
        >>> found.accuracy, found.agreement, found.table["saturated"].tolist()
        (1.0, 1.0, [0.5])
    """

    table: pd.DataFrame
    images: int
    steps: int
    agreement: float
    relu_accuracy: float | None
    accuracy: float | None
    additions: metrics.Additions
    merging: Merging | None
    advice: tuple[str, ...]

    def plot(self, *, figure: Figure | None = None) -> Figure:
        """Draw error, saturated and silent neurons, spikes and operations, layer by layer.

        Args:
            figure: where to draw; by default a new figure.

        Returns:
            The figure.
        """
        from jaxsnn.plotting import plot_layers

        return plot_layers(self.table, figure=figure)

    def __str__(self) -> str:
        formats = {
            **dict.fromkeys(("scale", "largest_activation", "correlation"), "{:.3g}"),
            "error": "{:.2g}",
            **dict.fromkeys(("above_scale", "saturated", "silent"), "{:.1%}"),
            **dict.fromkeys(("spikes", "operations"), "{:,.0f}"),
        }
        shown = self.table.assign(source=self.table["source"].map(_shortened))
        for name, form in formats.items():
            shown[name] = ["–" if np.isnan(v) else form.format(v) for v in shown[name]]
        advice = [f"! {line}" for line in self.advice] or ["Nothing is off."]
        return "\n".join([*self._summary(), "", shown.to_string(), "", *advice])

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        above = "<br>".join(map(escape, self._summary()))
        below = "<br>".join(map(escape, self.advice or ["Nothing is off."]))
        return above + self.table.to_html(float_format="{:.3g}".format, na_rep="–") + below

    def _summary(self) -> Iterator[str]:
        yield f"{self.images} images, {self.steps} steps"
        if self.accuracy is not None:
            yield f"accuracy {self.accuracy:.2%} (ReLU network {self.relu_accuracy:.2%})"
        yield f"{self.agreement:.2%} of the images get the class that the ReLU network gives them"
        spikes, operations = self.table["spikes"].sum(), self.table["operations"].sum()
        yield f"for each image {spikes:,.0f} spikes and {operations:,.0f} synaptic operations"
        if any(self.additions):
            biases, sums = (self.steps * count for count in self.additions)
            yield f"besides {biases:,} additions of biases and {sums:,} operations of sums"
        if self.merging is not None:
            saved, new = self.merging
            yield (
                f"merge_poolings would save {saved} {'layer' if saved == 1 else 'layers'} of "
                f"neurons, for {new:,.0f} operations with as many spikes elsewhere"
            )


@typed
def report(
    snn: SpikingNetwork,
    images: Images,
    *,
    labels: Numbers | None = None,
    key: Key = 0,
    duration: Real | None = None,
    steps: Count | None = None,
    dt: Real = 1e-3,
    max_rate: Scalar = 1000.0,
    arithmetic: FixedPoint | None = None,
    batch_size: Count = 100,
    progress: bool | None = None,
) -> Report:
    """Compare a spiking network with the ReLU network that it was made of, layer by layer.

    It answers what to check where the accuracy is low: the rates of each layer beside the
    activations that they stand for, which neurons are saturated or silent, and what to change.

    Args:
        snn: the spiking network.
        images: images `[N, ...]`; a hundred will do.
        labels: their classes `[N]`, for the accuracies.
        key: as for `simulate`, and so are duration, steps, dt, max_rate and arithmetic.
        duration: simulated time in seconds.
        steps: the number of steps, in place of a duration; by default 32.
        dt: duration of a step in seconds.
        max_rate: rate in hertz of a pixel of value 1.
        arithmetic: `FixedPoint(bits)` for a report on the network in integers.
        batch_size: how many images are simulated at a time; memory grows with it alone.
        progress: whether to show a bar; by default where there is more than a second of work.

    Returns:
        The report.

    Raises:
        ValueError: as `simulate`, or there is not one label for each image.

    Example:
        >>> import jax, jax.numpy as jnp, jaxsnn
        >>> network = jaxsnn.read_network(lambda x: jax.nn.relu(0.5 * x), jnp.zeros((1, 2)))
        >>> snn = jaxsnn.balance_thresholds(network, 40.0)
        >>> print(*jaxsnn.report(snn, jnp.array([[0.5, 1.0]])).advice)
        Layer 1 never spikes, since λ is 80 times the largest activation: use percentile_scales, \
and check that images are scaled as those of the calibration.
    """
    pixels, expected = _checked(snn, images, labels, batch_size)
    if duration is None and steps is None:
        steps = _STEPS
    settings = {
        "duration": duration,
        "steps": steps,
        "dt": dt,
        "max_rate": max_rate,
        "arithmetic": arithmetic,
    }
    synapses = _synapses(snn.network)
    tallies, classes, run = [], [], None
    with progress_bar(progress, total=len(pixels), desc="report", unit="image") as bar:
        for numbers in split(len(pixels), batch_size):
            some = pixels[numbers]
            run = simulate(snn, some, key=key, samples=numbers, progress=False, **settings)
            activations = snn.network.activations(some)
            new = slice(len(pixels) - len(classes))  # the rest is padding
            found = _tallies(snn.network, run, activations, synapses, new)
            tallies = list(map(_Tally.plus, tallies, found)) if tallies else found
            said = activations[-1].argmax(-1), run.predictions[-1], _ties(snn.network, run)
            classes.extend(np.stack(said, -1)[new])
            bar.update(len(numbers[new]))
    assert run is not None  # there is at least one image
    *inner, last = zip(snn.network.layers, tallies, run.scale_factors, strict=True)
    rows = [
        _row(layer, tally, scale, len(pixels))
        if layer.spiking
        else _row_of_sum(layer, tally, len(pixels))
        for layer, tally, scale in inner
    ]
    rows.append(_row(*last, len(pixels)))
    by_relus, by_spikes, ties = np.transpose(classes)
    agreement = float(np.mean(by_relus == by_spikes))
    return Report(
        table=pd.DataFrame(rows, index=pd.RangeIndex(1, len(rows) + 1)),
        images=len(pixels),
        steps=len(run.times),
        agreement=agreement,
        relu_accuracy=None if expected is None else float(np.mean(by_relus == expected)),
        accuracy=None if expected is None else float(np.mean(by_spikes == expected)),
        additions=metrics.additions(snn.network),
        merging=_merging(snn.network, tallies, synapses, len(pixels)),
        advice=(*_advice(snn, rows, agreement), *_advice_on_ties(float(np.mean(ties)))),
    )


def _ties(network: Network, run: Simulation) -> np.ndarray:
    """Of which images several outputs have spiked equally often, and no other more often [B]."""
    counts = np.asarray(run.spike_counts[-1])
    largest = counts.max(-1, keepdims=True)
    tied = ((counts == largest).sum(-1) > 1) & (largest[..., 0] > 0)
    return tied & network.layers[-1].spiking


def _checked(
    snn: SpikingNetwork, images: Images, labels: Numbers | None, batch_size: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """Images and labels on the host, or ValueError."""
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}; it must be at least 1.")
    pixels = snn.network.images_on_host(images)
    if labels is None:
        return pixels, None
    expected = np.asarray(metrics.checked_labels(labels, classes=snn.network.shapes[-1][-1]))
    if expected.shape != pixels.shape[:1]:
        raise ValueError(
            f"labels have shape {expected.shape}; there must be one for each of {len(pixels)} "
            "images."
        )
    return pixels, expected


def _shortened(source: str) -> str:
    """A place in the source code without the folder, the column and the function."""
    name, at, place = source.partition(" at ")
    line = re.split(r"[/\\]", place if at else name)[-1]
    line = re.sub(r":\d+ \(.*\)$", "", line)
    return f"{name}, {line}" if at else line


# -- What is counted -------------------------------------------------------------------------------


class _Tally(NamedTuple):
    """What was seen of a layer, in all images so far.

    Attributes:
        moments: sums of 1, a, s, a², s² and a·s over neurons and images, with the activation a and
            its estimate s from the spikes `[6]`.
        largest: the largest activation.
        above: how many activations exceed λ.
        saturated: how often a neuron spiked in every step.
        activated: how many images activate each neuron.
        spikes: of each neuron.
        operations: synaptic operations that lead into the layer.
    """

    moments: np.ndarray
    largest: float
    above: int
    saturated: int
    activated: np.ndarray
    spikes: np.ndarray
    operations: float

    def plus(self, other: _Tally) -> _Tally:
        """What was seen in the images of both."""
        added: Any = [mine + its for mine, its in zip(self, other)]
        return _Tally(*added)._replace(largest=max(self.largest, other.largest))


def _tallies(
    network: Network,
    run: Simulation,
    activations: Sequence[Array],
    synapses: Sequence[Sequence[Array]],
    new: slice,
) -> list[_Tally]:
    """What was seen of each layer in the new images of a batch."""
    counts = {INPUT: run.input_spike_counts, **dict(enumerate(run.spike_counts))}
    counts = {source: np.asarray(values, np.float64)[new] for source, values in counts.items()}
    estimates, steps, found = run.activations(), len(run.times), []
    for index, layer in enumerate(network.layers):
        a, s = (
            np.asarray(values, np.float64)[new] for values in (activations[index], estimates[index])
        )
        scale = np.asarray(run.scale_factors[index], np.float64)
        pairs = zip(layer.all_connections, synapses[index])
        found.append(
            _Tally(
                moments=np.array([a.size, *(x.sum() for x in (a, s, a * a, s * s, a * s))]),
                largest=float(a.max()),
                above=int((a > scale * (1 + 1e-6)).sum()) if layer.spiking else 0,
                saturated=int((counts[index] == steps).sum()),
                activated=(a > 0).sum(0),
                spikes=counts[index].sum(0),
                operations=sum(float((counts[p.source] * np.asarray(n)).sum()) for p, n in pairs),
            )
        )
    return found


@jax.jit
def _synapses(network: Network) -> list[list[Array]]:
    """For each connection of each layer the synapses that each neuron of its source has."""
    return [
        [metrics.synapses_of(part, network.shape_of(part.source)) for part in layer.all_connections]
        for layer in network.layers
    ]


def _merging(
    network: Network,
    tallies: Sequence[_Tally],
    synapses: Sequence[Sequence[Array]],
    images: int,
) -> Merging | None:
    """What merging average poolings would change, were all other spikes the same."""
    gone = mergeable_poolings(network)
    if not gone:
        return None
    merged = merge_poolings(network)
    kept = [tally for index, tally in enumerate(tallies) if index not in gone]
    more = _operations_between(merged, kept, _synapses(merged))
    less = _operations_between(network, tallies, synapses)
    now = sum(tally.operations for tally in tallies)
    return Merging(len(gone), (now + more - less) / images)


def _operations_between(
    network: Network, tallies: Sequence[_Tally], synapses: Sequence[Sequence[Array]]
) -> float:
    """Synaptic operations of all spikes but those of the input."""
    return sum(
        float((tallies[part.source].spikes * np.asarray(number)).sum())
        for layer, row in zip(network.layers, synapses, strict=True)
        for part, number in zip(layer.all_connections, row, strict=True)
        if part.source != INPUT
    )


def _row(layer: Layer, tally: _Tally, scale: Any, images: int) -> dict[str, Any]:
    """The row of a layer in the table of the report."""
    size, a, s, aa, ss, a_s = tally.moments
    spread = (size * aa - a * a) * (size * ss - s * s)
    compared = {
        "correlation": (size * a_s - a * s) / np.sqrt(spread) if spread > 0 else np.nan,
        "error": np.sqrt(max(aa + ss - 2 * a_s, 0) / aa) if aa > 0 else np.nan,
    }
    activated = tally.activated > 0
    of_neurons = {
        "above_scale": tally.above / size,
        "saturated": tally.saturated / size,
        "silent": np.mean(tally.spikes[activated] == 0) if activated.any() else 0.0,
    }
    return {
        "layer": layer.kind,
        "source": str(layer.name),
        "neurons": tally.spikes.size,
        "scale": float(np.max(scale)) if layer.spiking else np.nan,
        "largest_activation": tally.largest,
        **compared,
        **(of_neurons if layer.spiking else dict.fromkeys(of_neurons, np.nan)),
        "spikes": tally.spikes.sum() / images,
        "operations": tally.operations / images,
    }


def _row_of_sum(layer: Layer, tally: _Tally, images: int) -> dict[str, Any]:
    """The row of a sum without neurons, whose value lives for one step."""
    row = _row(layer, tally, np.nan, images)
    unknown = ("largest_activation", "correlation", "error")
    return {**row, **dict.fromkeys(unknown, np.nan), "neurons": 0}


# -- Advice ----------------------------------------------------------------------------------------

_FAR_ABOVE = 2.0  # of λ over the largest activation
_CLIPPED = 0.005  # share of activations; a pooling of maxima has more of them than its source
_OTHER_IMAGES = 0.05  # share of activations above λ
_ERROR = 0.15
_DEEP = 3  # layers that spike
_ALIKE = 0.99  # agreement from which on an error does no harm
_TIED = 0.02  # share of images
_LONGER = "simulate longer, since errors fall with time"

# Problem and remedy, for the row of a layer with neurons or outputs; None where it is not the case.
_Rule = Callable[[dict[str, Any], SpikingNetwork], tuple[str, str] | None]


def _never_spikes(row: dict[str, Any], snn: SpikingNetwork) -> tuple[str, str] | None:
    if row["spikes"] or np.isnan(row["scale"]) or row["largest_activation"] <= 0:
        return None
    ratio = row["scale"] / row["largest_activation"]
    if ratio > _FAR_ABOVE:
        return (
            f"never spikes, since λ is {ratio:,.0f} times the largest activation",
            "use percentile_scales, and check that images are scaled as those of the calibration",
        )
    return "never spikes", (
        "simulate longer, or start at half the thresholds (initial_potential=0.5) with "
        "reset_by_subtraction"
    )


def _other_images(row: dict[str, Any], snn: SpikingNetwork) -> tuple[str, str] | None:
    far = row["largest_activation"] > _FAR_ABOVE * row["scale"]
    if not (far and row["above_scale"] > _OTHER_IMAGES):
        return None
    return _clips(row), "check that these images are scaled as those of the calibration"


def _rare_spikes(row: dict[str, Any], snn: SpikingNetwork) -> tuple[str, str] | None:
    ratio = row["scale"] / row["largest_activation"] if row["largest_activation"] > 0 else 0
    if not ratio > _FAR_ABOVE:
        return None
    return (
        f"spikes rarely, since λ is {ratio:.2g} times the largest activation",
        "use percentile_scales, or a larger max_rate",
    )


def _clipped(row: dict[str, Any], snn: SpikingNetwork) -> tuple[str, str] | None:
    return (_clips(row), "raise the percentile") if row["above_scale"] > _CLIPPED else None


def _clips(row: dict[str, Any]) -> str:
    return f"clips {100 * row['above_scale']:.2g} % of its activations, which exceed λ"


def _reset_in_depth(row: dict[str, Any], snn: SpikingNetwork) -> tuple[str, str] | None:
    deep = sum(layer.spiking for layer in snn.network.layers) >= _DEEP
    if not (deep and snn.reset is neurons.reset_to_zero):
        return None
    return f"has an error of {row['error']:.2g}", (
        "in a deep network the reset to zero loses what exceeds the threshold in each layer: use "
        "reset_by_subtraction"
    )


def _late(row: dict[str, Any], snn: SpikingNetwork) -> tuple[str, str] | None:
    if snn.initial_potentials is not None:
        return None
    return f"has an error of {row['error']:.2g}", (
        "start at half the thresholds (initial_potential=0.5), or simulate longer"
    )


def _short(row: dict[str, Any], snn: SpikingNetwork) -> tuple[str, str] | None:
    return f"has an error of {row['error']:.2g}", _LONGER


def _advice_on_ties(share: float) -> Iterator[str]:
    if share > _TIED:
        yield (
            f"Several outputs have spiked equally often for {100 * share:.2g} % of the images: "
            "simulate(..., read=jaxsnn.readout.score) looks at what they have received."
        )


_ALWAYS: tuple[_Rule, ...] = (_never_spikes, _other_images)
_OF_ERRORS: tuple[_Rule, ...] = (_rare_spikes, _clipped, _reset_in_depth, _late, _short)


def _advice(
    snn: SpikingNetwork, rows: Sequence[dict[str, Any]], agreement: float
) -> tuple[str, ...]:
    """A line for each remedy: the first layer that needs it, why, and which others do."""
    found: dict[str, list[tuple[int, str]]] = {}
    for number, row in enumerate(rows, 1):
        wrong = agreement < _ALIKE and row["error"] > _ERROR
        rules = (*_ALWAYS, *_OF_ERRORS) if wrong else _ALWAYS
        first = next(filter(None, (rule(row, snn) for rule in rules)), None)
        if first is not None and row["neurons"]:
            problem, remedy = first
            found.setdefault(remedy, []).append((number, problem))
    if len(found) > 1:  # errors of later layers may follow from what is wrong elsewhere
        found.pop(_LONGER, None)
    lines = []
    for remedy, layers in found.items():
        (number, problem), others = layers[0], len(layers) - 1
        more = f" ({others} more {'layer' if others == 1 else 'layers'} likewise)" if others else ""
        lines.append(f"Layer {number} {problem}{more}: {remedy}.")
    return tuple(lines)
