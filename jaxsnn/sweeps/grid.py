"""A grid of settings to simulate: axes with labels, checked when it is made."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from math import prod
from reprlib import repr as short  # no array at full length in an error
from typing import Any, NamedTuple

import numpy as np
from jax.typing import ArrayLike

from jaxsnn import neurons
from jaxsnn.engines.checks import checked_times, in_steps
from jaxsnn.neurons import Reset
from jaxsnn.support.typed import readable

# The axes of a grid in the order in which they are simulated: what varies outside comes first, and
# those after the rate make up the points of one seed and rate.
SIMULATED = (
    *("reset", "dt", "seed", "max_rate"),
    *("scales", "threshold", "refractory_period", "initial_potential"),
)


class Axis(NamedTuple):
    """One axis of a grid.

    Attributes:
        name: what the result calls it.
        labels: what its coordinate says, one for each value.
        values: what is simulated.
        single: whether it was given as one value, which is no dimension of the result.
    """

    name: str
    labels: list[Any]
    values: list[Any]
    single: bool


@readable
@dataclass(frozen=True, eq=False, kw_only=True)
class Grid:
    """All combinations of these settings; what is given as one value is the same in all.

    A sequence makes a dimension of the result, one value does not. Scale factors, thresholds and
    resets may also come as a mapping, whose keys are the labels of its values.

    Attributes:
        scales: scale factors: one λ for each layer or one for all, or a rule, a function of the
            network or of the network and calibration images, such as
            `jaxsnn.data_based_scales`. Several have names: `{"data-based": ..., "mine": ...}`.
        threshold: multipliers m of the thresholds of `balance_thresholds(network, λ)`, so that m is
            the threshold of the network with normalised weights: a spike still weighs λ, where
            `balance_thresholds(network, m * λ)` makes it weigh m·λ. An entry of a sequence or
            mapping may be a row with one number for each layer.
        max_rate: rates in hertz of a pixel of value 1; at most 1/dt.
        dt: durations of a step in seconds.
        refractory_period: in seconds.
        initial_potential: membrane potentials at the start, as fractions of the thresholds m·λ.
        reset: `reset_to_zero`, `reset_by_subtraction` or functions of yours.
        seed: integers below 2**32; the same seed and rate give the same input spikes at all points.
        duration: simulated time in seconds, a multiple of every dt. A sequence of durations is
            read off one run to the longest, and the result has these times only.

    Raises:
        ValueError: an axis is empty or has a value twice, or a value is out of range, such as a
            rate over 1/dt.

    Example:
        >>> import jaxsnn
        >>> grid = jaxsnn.Grid(scales=1.0, threshold=[0.5, 1.0], max_rate=[1000, 500], seed=[0, 1])
        >>> len(grid), grid.sizes
        (8, {'threshold': 2, 'max_rate': 2, 'seed': 2})
        >>> jaxsnn.Grid(scales=1.0, max_rate=[1000, 2000])
        Traceback (most recent call last):
        ...
        ValueError: max_rate=2000 Hz times dt=0.001 s is 2, but a pixel spikes at most once in a \
step: take max_rate <= 1000 or dt <= 0.0005.
    """

    scales: Any
    threshold: Any = 1.0
    max_rate: ArrayLike | Sequence[float] = 1000.0
    dt: ArrayLike | Sequence[float] = 1e-3
    refractory_period: ArrayLike | Sequence[float] = 0.0
    initial_potential: ArrayLike | Sequence[float] = 0.0
    reset: Reset | Sequence[Reset] | Mapping[str, Reset] = neurons.reset_to_zero
    seed: ArrayLike | Sequence[int] = 0
    duration: ArrayLike | Sequence[float] = 0.5
    axes: dict[str, Axis] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        several = _is_list(self.threshold) or np.ndim(self.threshold) > 0
        axes = [
            _named_axis("scales", self.scales, several=_are_rules(self.scales)),
            _named_axis("threshold", self.threshold, several=several),
            _numeric_axis("max_rate", self.max_rate),
            _numeric_axis("dt", self.dt),
            _numeric_axis("refractory_period", self.refractory_period),
            _numeric_axis("initial_potential", self.initial_potential),
            _named_axis("reset", self.reset, several=_is_list(self.reset)),
            _numeric_axis("seed", self.seed, kinds="iu"),
        ]
        object.__setattr__(self, "axes", {axis.name: axis for axis in axes})
        self._check_rows()
        for axis in axes:
            _check_distinct(axis)
        self._check_values()

    @property
    def sizes(self) -> dict[str, int]:
        """The number of values of each axis that is a dimension of the result."""
        return {axis.name: len(axis.values) for axis in self.axes.values() if not axis.single}

    def __len__(self) -> int:
        return prod(len(axis.values) for axis in self.axes.values())

    def values(self, name: str) -> list[Any]:
        """The values of an axis."""
        return self.axes[name].values

    def part(self, places: Mapping[str, Sequence[int]], single: Collection[str] = ()) -> Grid:
        """Some of the points: those with the values at these places of each axis.

        Args:
            places: of the values, for each axis.
            single: axes that are no dimension of its result, beside those that are none now.
        """
        axes = {}
        for name, axis in self.axes.items():
            labels, values = (
                [them[n] for n in places[name]] for them in (axis.labels, axis.values)
            )
            axes[name] = Axis(name, labels, values, single=axis.single or name in single)
        return self.with_axes(axes)

    def with_axes(self, axes: Mapping[str, Axis]) -> Grid:
        """The grid with other axes, of values that were checked."""
        changed = copy(self)
        object.__setattr__(changed, "axes", dict(axes))
        return changed

    @property
    def durations(self) -> list[float]:
        """The durations in seconds."""
        return _numeric_axis("duration", self.duration).values

    def steps(self, dt: float) -> int:
        """The number of steps of the longest duration."""
        return round(max(self.durations) / dt)

    @property
    def times(self) -> np.ndarray:
        """The times of the result in seconds: the durations asked for, or the end of each step."""
        if np.ndim(self.duration):
            return np.unique(self.durations)
        ends = [np.arange(1, self.steps(dt) + 1) * dt for dt in self.values("dt")]
        return np.unique(np.round(np.concatenate(ends), 12))  # 0.003, not 0.0030000000000000001

    def _check_rows(self) -> None:
        """Raise ValueError where thresholds or scale factors are no positive numbers."""
        for label, value in zip(self.axes["threshold"].labels, self.values("threshold")):
            row = _numbers(value)
            if row is None or row.ndim > 1 or not _positive(row):
                raise ValueError(
                    f"threshold {short(label)} is {short(value)}; a multiplier must be positive "
                    "and finite, one number or one for each layer."
                )
        for scales in self.values("scales"):
            _check_scales(scales)

    def _check_values(self) -> None:
        durations = _numeric_axis("duration", self.duration)
        _check_distinct(durations)
        times = [durations.values, *map(self.values, ("dt", "max_rate", "refractory_period"))]
        for combination in product(*times):
            checked_times(*combination)
        for period, dt in product(self.values("refractory_period"), self.values("dt")):
            if in_steps(period, dt) >= 1 << 31:
                raise ValueError(f"refractory_period={period:g} s is too many steps of {dt:g} s.")
        for fraction in self.values("initial_potential"):
            if not np.isfinite(fraction):
                raise ValueError(
                    f"initial_potential={fraction}; it must be a fraction of the thresholds, such "
                    "as 0.5."
                )
        for seed in self.values("seed"):
            if not 0 <= seed < 1 << 32:
                raise ValueError(f"seed={seed}; a seed is at least 0 and below 2**32.")
        for reset in self.values("reset"):
            if not callable(reset) or isinstance(reset, type):
                raise ValueError(
                    f"reset={short(reset)}; it must be a function, such as jaxsnn.reset_to_zero or "
                    "jaxsnn.reset_by_subtraction."
                )


def _numeric_axis(name: str, given: ArrayLike | Sequence[float], kinds: str = "fiu") -> Axis:
    array = _numbers(given, kinds)
    if array is None or array.ndim > 1:
        kind = "numbers" if "f" in kinds else "integers"
        raise ValueError(f"{name}={short(given)}; give one number or a sequence of {kind}.")
    values = np.atleast_1d(array).tolist()
    if "f" in kinds:  # 0.1 in single precision is 0.1, and not 0.10000000149
        values = [float(str(value)) for value in np.atleast_1d(array)]
    return Axis(name, values, values, single=array.ndim == 0)


def _numbers(given: Any, kinds: str = "fiuV") -> np.ndarray | None:
    """An array of numbers of these kinds, V being those of ml_dtypes; None of anything else."""
    try:
        array = np.asarray(given)
    except (TypeError, ValueError):  # keys of JAX, or rows of several lengths
        return None
    if np.ma.isMaskedArray(given) or given is np.ma.masked:  # its mask would be lost
        return None
    return array if array.dtype.kind in kinds or not array.size else None


def _positive(array: np.ndarray) -> bool:
    """Whether there is at least one number, and all are positive and finite."""
    values = array.astype(float)
    return values.size > 0 and bool(np.all(np.isfinite(values) & (values > 0)))


def _named_axis(name: str, given: Any, *, several: bool) -> Axis:
    if isinstance(given, Mapping):
        return Axis(name, list(map(str, given)), list(given.values()), single=False)
    values = list(given) if several else [given]
    labels = [_label(value, place) for place, value in enumerate(values)]
    if name == "scales":
        labels = [_scales_label(label) for label in labels]
    if len({isinstance(label, int) for label in labels}) > 1:  # numbers, and rows that have none
        labels = ["/".join(f"{m:g}" for m in np.atleast_1d(value)) for value in values]
    return Axis(name, labels, values, single=not several)


def _scales_label(label: Any) -> str:
    """Names as they are; a number is one λ for all layers, and an unnamed list has no label."""
    if isinstance(label, float):
        return f"λ = {label:g}"
    return label if isinstance(label, str) else "given"


def _label(value: Any, place: int) -> Any:
    if isinstance(value, partial):
        options = ", ".join(f"{key}={option}" for key, option in value.keywords.items())
        return f"{_label(value.func, place)}({options})"
    if callable(value):
        return getattr(value, "__name__", str(value))
    if _is_list(value) or np.ndim(value):
        return place
    try:
        return float(str(value))
    except ValueError:
        return str(value)


def _are_rules(scales: Any) -> bool:
    """Whether a sequence holds rules, and not one scale factor for each layer."""
    return _is_list(scales) and all(map(callable, scales))


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _check_scales(scales: Any) -> None:
    """Raise ValueError unless it is a rule, a number, or one number or array for each layer."""
    if callable(scales):
        return
    entries = scales if _is_list(scales) else [scales]
    arrays = [None if _is_list(entry) else _numbers(entry) for entry in entries]
    if any(array is None for array in arrays):
        raise ValueError(
            f"scales={short(scales)}; give a rule, or one λ for each layer or for all, and several "
            "of them with names: {name: rule, name: [λ, ...]}."
        )
    wrong = [entry for entry, array in zip(entries, arrays) if not _positive(np.asarray(array))]
    if wrong or not entries:
        found = f"has the scale factor {short(wrong[0])}" if wrong else "is empty"
        raise ValueError(f"scales={short(scales)} {found}; all must be positive and finite.")


def _check_distinct(axis: Axis) -> None:
    if not axis.values:
        raise ValueError(f"{axis.name} is empty; give at least one value.")
    # Two rules may well come to the same scale factors, but one setting must not stand twice.
    for values in [axis.labels] if axis.name == "scales" else [axis.labels, axis.values]:
        keys = [_key(value) for value in values]
        for place, key in enumerate(keys):
            if len(keys) > len(set(keys)) and key in keys[:place]:
                raise ValueError(
                    f"{axis.name} has {short(values[place])} twice; give each value once, and "
                    "functions of the same name as {name: function}."
                )


def _key(value: Any) -> Any:
    """What equal values have in common: a number, a name, a row of numbers or a function."""
    return value if callable(value) or isinstance(value, str) else tuple(np.ravel(value).tolist())
