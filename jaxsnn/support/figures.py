"""What all figures share: colours, figures, and the axis of accuracies."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from jax.typing import ArrayLike

from jaxsnn.metrics import real_numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind people can tell apart; yellow is too pale for lines.
COLORS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DARK = "#333333"
SMALL = 8

Values = ArrayLike | Sequence[Any]  # lists too, as JSON gives them


def new_figure(width: float, height: float) -> Figure:
    """A figure that a notebook shows, and that pyplot knows nothing of."""
    from matplotlib.figure import Figure

    figure = Figure((width, height), layout="constrained", facecolor="white")
    # What a notebook calls to show an object, if pyplot has not told it how to show figures.
    figure._repr_png_ = partial(_png, figure)  # type: ignore[attr-defined]
    return figure


def _png(figure: Figure) -> bytes:
    file = BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def checked_fraction(name: str, values: Any) -> np.ndarray:
    """Accuracies as an array, or ValueError where one is outside [0, 1]."""
    found = real_numbers(f"{name}: accuracies", values).astype(float)
    found = np.where(np.abs(found - 1) < 1e-6, 1.0, found)  # a mean of ones, rounded in float32
    wrong = found[~((found >= 0) & (found <= 1))]
    if wrong.size:
        raise ValueError(
            f"{name}: an accuracy of {wrong[0]:g}; it must lie in [0, 1]. Divide percentages by "
            "100."
        )
    return found


def show_errors_as_accuracies(ax: Axes, errors: np.ndarray, floor: float) -> None:
    """Turn a logarithmic axis of errors upside down and label it with accuracies in percent."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator, StrMethodFormatter

    top = max(float(errors.min()), floor) / 1.25
    ax.set_ylim(min(1.0, max(float(errors.max()), 10 * top)), top)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.yaxis.set_major_formatter(FuncFormatter(percent))


def percent(error: float, _position: int | None) -> str:
    """The accuracy of an error, in percent: the formatter of an axis."""
    return f"{100 * (1 - error):.6g}"
