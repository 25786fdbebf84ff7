import pickle
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import LogNorm, Normalize, to_hex
from matplotlib.figure import Figure

from jaxsnn.sweeps import pareto_front, plotting
from jaxsnn.sweeps.plotting import plot_curves, plot_map, plot_pareto

OKABE_ITO = ["#D55E00", "#0072B2", "#009E73", "#CC79A7"]
TIMES = np.arange(1, 31) / 1e3


def sweep(*, time=TIMES, **axes):
    """What a sweep might return: slower for high thresholds and low rates, silent at the extreme.

    Axes with several values are dimensions, others are scalar coordinates, as in a real one.
    """
    axes = {"scales": ["data-based"], "threshold": [1.0], "max_rate": [1000.0]} | axes
    grid = {name: np.atleast_1d(values) for name, values in axes.items()}
    coords = {n: (n, v) if np.ndim(axes[n]) else v[0] for n, v in grid.items()}
    seconds = np.array(time)
    index = dict(zip(grid, np.meshgrid(*map(np.arange, map(len, grid.values())), indexing="ij")))
    drive = (1 + index["threshold"]) * (1 + 2 * index["scales"])
    drive = drive * 1000 / grid["max_rate"].astype(float)[index["max_rate"]]
    delay, time_constant = 0.001 * drive[..., None], 0.002 * drive[..., None]
    accuracy = 0.99 * (1 - np.exp(-np.maximum(seconds - delay, 0) / time_constant))
    if "seed" in grid:
        accuracy = accuracy * (1 - 0.02 * index["seed"][..., None])
    operations = 2e8 * seconds / np.sqrt(drive[..., None])
    spikes = operations[..., None] / 1e3 * np.array([0.6, 0.3, 0.1])
    dims = [name for name in grid if np.ndim(axes[name])]
    scalars = tuple(i for i, name in enumerate(grid) if not np.ndim(axes[name]))
    return xr.Dataset(
        {
            "accuracy": ([*dims, "time"], np.round(accuracy, 4).squeeze(scalars)),
            "synaptic_operations": ([*dims, "time"], operations.squeeze(scalars)),
            "spikes": ([*dims, "time", "layer"], spikes.squeeze(scalars)),
            "relu_accuracy": 0.992,
        },
        coords | {"time": seconds, "layer": [1, 2, 3]},
    )


def cells(ax):
    return ax.collections[0].get_array()


def color_of(ax):
    (color,) = {to_hex(rgba) for rgba in ax.collections[0].to_rgba(cells(ax)).reshape(-1, 4)}
    return color


def lines(ax):
    return {line.get_label(): line for line in ax.lines}


def texts(ax):
    return [text.get_text() for text in ax.texts]


def ticks(axis):
    return [text.get_text() for text in axis.get_ticklabels()]


def legend(figure):
    (found,) = figure.legends
    return found.get_title().get_text(), [text.get_text() for text in found.texts]


def settling_time(curve, times):
    """Written anew: go back from the end for as long as the accuracy is high enough."""
    settled = times[-1]
    for time, value in sorted(zip(times, curve, strict=True), reverse=True):
        if value < 0.99 * curve[-1] - 1e-9:
            break
        settled = time
    return settled


# -- Maps ------------------------------------------------------------------------------------------


def test_map_has_the_accuracies_and_the_times_of_all_cells():
    data = sweep(threshold=[0.5, 1.0, 2.0], max_rate=[250.0, 500.0, 1000.0])
    left, right, *bars = plot_map(data, time=0.01).axes
    accuracy = data.accuracy.squeeze("scales").values
    np.testing.assert_allclose(1 - cells(left), accuracy[..., 9])
    expected = [[1e3 * settling_time(c, data.time.values) for c in row] for row in accuracy]
    assert len(set(np.ravel(expected))) > 4
    np.testing.assert_allclose(cells(right), expected)
    assert texts(left) == [f"{100 * value:.2f}" for value in accuracy[..., 9].flat]
    assert texts(right) == [f"{value:.4g}" for value in np.ravel(expected)]
    assert [(t.get_position()) for t in left.texts[:4]] == [(0, 0), (1, 0), (2, 0), (0, 1)]
    labels = ["accuracy after 10 ms (%)", "time to 99 % of the last accuracy (ms)"]
    assert [bar.get_ylabel().replace("\n", " ") for bar in bars] == labels


def test_map_axes_have_names_units_and_evenly_spaced_cells():
    data = sweep(threshold=[0.5, 1.0, 4.0], max_rate=[1000.0, 62.5, 329.034], dt=0.001)
    left, right, *_ = plot_map(data).axes
    for ax in (left, right):
        assert (ax.get_xlabel(), ax.get_ylabel()) == ("maximum rate (Hz)", "threshold (λ)")
        assert ticks(ax.xaxis) == ["62.5", "329", "1000"]
        assert ticks(ax.yaxis) == ["0.5", "1", "4"]
        assert [*ax.get_xticks()] == [0, 1, 2]
        assert (ax.get_xlim(), ax.get_ylim()) == ((-0.5, 2.5), (-0.5, 2.5))
    ordered = data.accuracy.isel(time=-1).sel(max_rate=[62.5, 329.034, 1000.0]).values.squeeze()
    np.testing.assert_allclose(1 - cells(left), ordered)  # the data are in another order


@pytest.mark.parametrize(
    ("axis", "values", "label", "expected"),
    [
        ("dt", [0.0005, 0.001], "time step (ms)", ["0.5", "1"]),
        ("refractory_period", [0.0, 0.002], "refractory period (ms)", ["0", "2"]),
        ("reset", ["to_zero", "subtract"], "reset", ["to_zero", "subtract"]),
        ("scales", ["model", "data"], "scale factors", ["model", "data"]),
        ("seed", [3, 4], "seed", ["3", "4"]),
        ("threshold", [1.0001, 1.0002], "threshold (λ)", ["1.0001", "1.0002"]),
        ("threshold", ["flat", "steep"], "threshold", ["flat", "steep"]),
        ("temperature", [280.0, 300.0], "temperature", ["280", "300"]),
    ],
)
def test_map_over_every_kind_of_axis(axis, values, label, expected):
    y = "max_rate"
    left, *_ = plot_map(sweep(max_rate=[250.0, 1000.0], **{axis: values}), x=axis, y=y).axes
    assert (left.get_xlabel(), ticks(left.xaxis)) == (label, expected)


def test_map_names_thresholds_that_differ_between_layers():
    data = sweep(threshold=[0, 1], max_rate=[250.0, 1000.0])
    table = (("threshold", "layer"), [[0.5, 1, 1], [1, 0.25, 2]])
    left, *_ = plot_map(data.assign_coords(multipliers=table)).axes
    assert left.get_ylabel() == "threshold of each layer (λ)"
    assert ticks(left.yaxis) == ["0.5/1/1", "1/0.25/2"]


def test_map_one_row_of_panels_for_each_value_of_a_further_axis():
    scales = ["data-based", "model-based", "percentile"]
    data = sweep(scales=scales, threshold=[0.5, 1.0], max_rate=[250.0, 1000.0])
    axes = np.reshape(plot_map(data).axes[:6], (3, 2))
    for number, pair in enumerate(axes):
        assert {ax.get_title() for ax in pair} == {f"scale factors: {scales[number]}"}
        np.testing.assert_allclose(1 - cells(pair[0]), data.accuracy[number, ..., -1])
        shown = number == 2
        assert (pair[0].get_xlabel() != "") == shown
        assert pair[0].xaxis.get_tick_params()["labelbottom"] == shown
    for column in axes.T:
        assert len({ax.collections[0].norm for ax in column}) == 1
    titles = [ax.get_title() for ax in plot_map(data, x="scales", y="threshold").axes[:4]]
    assert titles[::2] == ["maximum rate: 250 Hz", "maximum rate: 1000 Hz"]


def test_map_averages_seeds_and_forgets_single_values():
    data = sweep(threshold=[0.5, 1.0], max_rate=[250.0, 1000.0], seed=[0, 1, 2], dt=[0.001])
    left, *_ = plot_map(data).axes
    expected = data.accuracy.isel(scales=0, dt=0, time=-1).values.mean(-1)
    np.testing.assert_allclose(1 - cells(left), expected)


def test_map_hatches_what_is_useless():
    data = sweep(threshold=[1.0, 2.0, 3.0, 4.0], max_rate=[1000.0])
    data.accuracy[0, :, 0, :] *= np.array([1, 0.51, 0.49, 0])[:, None]
    figure = plot_map(data)
    left, right, *_ = figure.axes
    assert cells(right).mask.ravel().tolist() == [False, False, True, True]
    assert texts(right)[2:] == ["–", "–"]
    assert right.patch.get_hatch()
    assert "–" not in texts(left)
    assert legend(figure)[1] == ["last accuracy zero, or below half of the best"]
    assert not plot_map(data.isel(threshold=[0, 1])).legends


def test_map_of_a_silent_network():
    data = sweep(threshold=[1.0, 2.0], max_rate=[250.0, 1000.0])
    figure = plot_map(data.assign(accuracy=0 * data.accuracy))
    figure.draw_without_rendering()
    left, right, *_ = figure.axes
    assert texts(left) == ["0.00"] * 4
    assert color_of(left) == "#440154"  # darkest
    assert texts(right) == ["–"] * 4
    assert cells(right).mask.all()


def test_map_of_a_single_perfect_point():
    data = sweep(time=[0.01])
    figure = plot_map(data.assign(accuracy=0 * data.accuracy + 1))
    figure.draw_without_rendering()
    left, right, *_ = figure.axes
    assert (texts(left), texts(right)) == (["100.00"], ["10"])
    assert color_of(left) == "#fde725"  # lightest


def test_map_colours_resolve_the_best_and_text_can_be_read():
    data = sweep(time=[0.01], threshold=[1.0, 2.0, 3.0, 4.0], max_rate=[1000.0])
    accuracy = np.array([0.5, 0.85, 0.98, 0.991]).reshape(1, 4, 1, 1)
    figure = plot_map(data.assign(accuracy=(data.accuracy.dims, accuracy)))
    figure.draw_without_rendering()
    mesh, bar = figure.axes[0].collections[0], figure.axes[2]
    assert isinstance(mesh.norm, LogNorm)
    assert (mesh.norm.vmin, mesh.norm.vmax) == pytest.approx((0.009, 0.225))
    step = mesh.norm(0.02) - mesh.norm(0.01)
    assert step > 0.2  # of all colours, between 99 % and 98 %
    low, high = bar.get_ylim()
    assert low > high  # upside down
    shown = {label for y, label in zip(bar.get_yticks(), ticks(bar.yaxis)) if high <= y <= low}
    assert {"80", "90", "95", "98", "99"} <= shown
    assert [t.get_color() for t in figure.axes[0].texts] == ["white", "white", "black", "black"]


def test_map_times_have_a_logarithmic_scale_only_where_they_are_far_apart():
    far = sweep(threshold=[1.0, 2.0], max_rate=[100.0, 1000.0])
    near = sweep(threshold=[1.0, 2.0], max_rate=[900.0, 1000.0], time=np.arange(1, 200) / 1e3)
    far.accuracy[0, 0, 1, :] = 0.9
    norms = [plot_map(data).axes[1].collections[0].norm for data in (far, near)]
    assert [type(norm) for norm in norms] == [LogNorm, Normalize]


def test_map_of_many_cells_has_no_numbers_and_few_tick_labels():
    data = sweep(threshold=np.linspace(0.1, 4, 40), max_rate=np.linspace(100, 1000, 30))
    left, right, *_ = plot_map(data).axes
    assert texts(left) == texts(right) == []
    assert cells(left).shape == (40, 30)
    assert len(ticks(left.xaxis)) == 15
    assert ticks(left.xaxis)[1] == f"{data.max_rate.values[2]:.0f}"


@pytest.mark.parametrize(
    ("axes", "options", "message"),
    [
        ({"threshold": 1.0}, {}, r"'threshold' is not a dimension .* scales \(1\), max_rate \(1\)"),
        ({}, {"x": "dt"}, "'dt' is not a dimension"),
        ({}, {"x": "time"}, "'time' is not a dimension"),
        ({}, {"x": "threshold"}, "x and y are both 'threshold'"),
        ({}, {"time": 0.0105}, "time=0.0105 s is not among the 30 times .* nearest is 0.01"),
        ({}, {"time": np.nan}, "time=nan s is not among the 30 times"),
        (
            {"scales": ["a", "b"], "reset": ["zero", "subtract"]},
            {},
            r"scales \(2\), reset \(2\).*data.sel\(reset='zero'\)",
        ),
        (
            {"dt": np.arange(1, 8) / 1e3},
            {},
            r"dt has 7 values.*panels of 6.*data.sel\(dt=\[0.001, 0.002\]\)",
        ),
    ],
)
def test_map_refuses(axes, options, message):
    with pytest.raises(ValueError, match=message):
        plot_map(sweep(**axes), **options)


def test_accuracies_that_are_missing_or_wrong_are_refused():
    data = sweep()
    data.accuracy[..., 3] = np.nan
    for plot in (plot_map, plot_curves, plot_pareto):
        with pytest.raises(ValueError, match="1 of 30 accuracies are nan"):
            plot(data)
        with pytest.raises(ValueError, match="an accuracy of 99"):
            plot(data.assign(accuracy=data.accuracy * 0 + 99).dropna("time"))


# -- Curves ----------------------------------------------------------------------------------------


def test_curves_are_errors_against_time_with_ordered_colours():
    data = sweep(threshold=[2.0, 0.5, 1.0])
    figure = plot_curves(data)
    (ax,) = figure.axes
    drawn = lines(ax)
    assert list(drawn) == ["0.5", "1", "2", "ReLU network"]
    for threshold in (0.5, 1.0, 2.0):
        x, y = drawn[f"{threshold:g}"].get_data()
        np.testing.assert_allclose(x, data.time * 1e3)
        np.testing.assert_allclose(1 - y, data.accuracy.sel(threshold=threshold).squeeze())
    np.testing.assert_allclose(drawn["ReLU network"].get_ydata(), 0.008)
    lightness = [sum(int(drawn[v].get_color()[i : i + 2], 16) for i in (1, 3, 5)) for v in drawn]
    assert lightness[:3] == sorted(lightness[:3])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("simulated time (ms)", "accuracy (%)")
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert ax.get_ylim()[0] == 1 > ax.get_ylim()[1]
    assert legend(figure) == ("threshold (λ)", ["0.5", "1", "2", "ReLU network"])


def test_curves_of_names_have_the_colours_that_all_can_tell_apart():
    figure = plot_curves(sweep(scales=["b", "a"]), along="scales")
    drawn = lines(figure.axes[0])
    assert [line.get_color() for line in drawn.values()][:2] == OKABE_ITO[:2]
    assert legend(figure) == ("scale factors", ["b", "a", "ReLU network"])
    many = plot_curves(sweep(scales=list("abcdefgh")), along="scales").axes[0].lines
    assert len({line.get_color() for line in many}) == 9


def test_curves_of_several_seeds_have_a_band():
    data = sweep(threshold=[0.5, 1.0], seed=[0, 1, 2])
    (ax,) = plot_curves(data).axes
    accuracy = data.accuracy.squeeze(["scales", "max_rate"])
    mean = 1 - accuracy.sel(threshold=1.0).mean("seed")
    np.testing.assert_allclose(lines(ax)["1"].get_ydata(), mean)
    assert len(ax.collections) == 2
    corners = ax.collections[1].get_paths()[0].vertices
    for seed in (0, 2):
        last = 1 - float(accuracy.sel(threshold=1.0, seed=seed)[-1])
        assert np.isclose(corners, [30.0, last]).all(1).any()
    (ax,) = plot_curves(data.sel(seed=[1])).axes
    assert len(ax.collections) == 0
    (ax,) = plot_curves(data.sel(threshold=1.0), along="seed").axes
    assert list(lines(ax)) == ["0", "1", "2", "ReLU network"]


@pytest.mark.parametrize(("panels", "labelled"), [(2, [0, 1]), (4, [2, 3]), (5, [2, 3, 4])])
def test_curves_have_one_panel_for_each_value_of_a_further_axis(panels, labelled):
    rates = np.linspace(200, 1000, panels)
    figure = plot_curves(sweep(threshold=[0.5, 1.0], max_rate=rates))
    assert [ax.get_title() for ax in figure.axes] == [f"maximum rate: {r:.0f} Hz" for r in rates]
    assert [i for i, ax in enumerate(figure.axes) if ax.get_xlabel()] == labelled
    assert len({ax.get_ylim() for ax in figure.axes}) == 1
    ends = [lines(ax)["1"].get_ydata()[-1] for ax in figure.axes]
    assert ends == sorted(ends, reverse=True)  # high rates are faster


def test_curves_of_many_numbers_have_a_short_legend():
    figure = plot_curves(sweep(threshold=np.linspace(0.1, 4, 40)))
    _, labels = legend(figure)
    assert len(labels) == 13
    assert (labels[0], labels[-2:]) == ("0.1", ["4", "ReLU network"])
    assert len(figure.axes[0].lines) == 41


def test_curves_of_a_silent_and_of_a_perfect_network():
    data = sweep()
    (ax,) = plot_curves(data.assign(accuracy=data.accuracy * 0)).axes
    assert set(lines(ax)["1"].get_ydata()) == {1.0}
    figure = plot_curves(data.assign(accuracy=data.accuracy * 0 + 1, relu_accuracy=1.0))
    assert set(lines(figure.axes[0])["1"].get_ydata()) == {0.005}
    figure.draw_without_rendering()


@pytest.mark.parametrize(
    ("axes", "along", "message"),
    [
        ({"threshold": 1.0}, "threshold", r"'threshold' is not a dimension .*scales \(1\)"),
        ({"scales": ["a", "b"], "max_rate": [1.0, 2.0]}, "threshold", r"data.sel\(max_rate=1.0\)"),
        ({"max_rate": np.arange(1.0, 8.0)}, "threshold", "max_rate has 7 values"),
    ],
)
def test_curves_refuse(axes, along, message):
    with pytest.raises(ValueError, match=message):
        plot_curves(sweep(**axes), along=along)


# -- The Pareto front ------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=20))
def test_front_is_what_no_other_candidate_beats(candidates):
    cost, accuracy = np.array(candidates, float).reshape(-1, 2).T
    front = pareto_front(cost, accuracy)
    best = [
        i
        for i, (c, a) in enumerate(candidates)
        if not any(
            (d <= c and b >= a and (d, b) != (c, a)) or ((d, b) == (c, a) and j < i)
            for j, (d, b) in enumerate(candidates)
        )
    ]
    assert sorted(front) == best
    assert np.all(np.diff(cost[front]) > 0)
    assert np.all(np.diff(accuracy[front]) > 0)


@pytest.mark.parametrize(
    ("cost", "accuracy", "message"),
    [
        ([1.0], [0.5, 0.6], r"shape \(1,\) and accuracies of shape \(2,\)"),
        ([[1.0]], [[0.5]], "Flatten them"),
        ([1.0, np.nan], [0.5, 0.6], "candidate 1 has a cost or an accuracy of nan"),
    ],
)
def test_front_refuses(cost, accuracy, message):
    with pytest.raises(ValueError, match=message):
        pareto_front(cost, accuracy)


@pytest.mark.parametrize(
    ("cost", "label", "values"),
    [
        (
            "synaptic_operations",
            "synaptic operations per image (millions)",
            lambda data: data.synaptic_operations / 1e6,
        ),
        ("spikes", "spikes per image", lambda data: data.spikes.sum("layer")),
        ("time", "simulated time (ms)", lambda data: 1e3 * data.time + 0 * data.accuracy),
    ],
)
def test_pareto_draws_all_candidates_and_the_front(cost, label, values):
    data = sweep(scales=["a", "b"], threshold=[0.5, 1.0, 2.0], max_rate=[250.0, 1000.0])
    figure = plot_pareto(data, cost=cost)
    (ax,) = figure.axes
    costs = values(data).transpose(*data.accuracy.dims).values
    for number, name in enumerate(["a", "b"]):
        drawn = lines(ax)[name].get_xydata()
        expected = np.stack([costs[number].ravel(), 1 - data.accuracy[number].values.ravel()], -1)
        np.testing.assert_allclose(drawn[~np.isnan(drawn).any(1)], expected)
        assert np.isnan(drawn).any(1).sum() == 6  # a gap after each curve
        assert lines(ax)[name].get_color() == OKABE_ITO[number]
    accuracy = data.accuracy.values.ravel()
    expected = [
        (c, a)
        for c, a in zip(costs.ravel(), accuracy, strict=True)
        if a > 0
        and a >= accuracy[costs.ravel() <= c].max()
        and a > max(accuracy[costs.ravel() < c], default=0)
    ]
    x, y = lines(ax)["Pareto front"].get_data()
    np.testing.assert_allclose(np.stack([x, 1 - y], -1), sorted(set(expected)))
    assert lines(ax)["Pareto front"].get_drawstyle() == "steps-post"
    np.testing.assert_allclose(ax.collections[0].get_offsets(), np.stack([x, y], -1))
    assert (ax.get_xlabel(), ax.get_ylabel()) == (label, "accuracy (%)")
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert legend(figure) == ("scale factors", ["a", "b", "Pareto front", "ReLU network"])


def test_pareto_notes_name_the_point_and_do_not_overlap():
    data = sweep(scales=["a", "b"], threshold=[0.5, 1.0, 2.0, 4.0], max_rate=[250.0, 1000.0])
    figure = plot_pareto(data)
    figure.draw_without_rendering()
    (ax,) = figure.axes
    assert 2 <= len(ax.texts) <= 5
    boxes = [text.get_window_extent() for text in ax.texts]
    for number, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[number + 1 :])
        assert box.x0 >= ax.bbox.x0  # not over the labels of the axis
    for note in ax.texts:
        scales, threshold, rate, after = note.get_text().split(", ")
        point = data.sel(
            scales=scales,
            threshold=float(threshold.removesuffix(" λ")),
            max_rate=float(rate.removesuffix(" Hz")),
            time=float(after.removeprefix("after ").removesuffix(" ms")) / 1e3,
            method=None,
        )
        expected = float(point.synaptic_operations) / 1e6, 1 - float(point.accuracy)
        np.testing.assert_allclose(note.xy, expected)


def test_pareto_notes_say_only_what_differs():
    data = sweep(threshold=[0.5, 1.0], seed=[0, 1], dt=[0.001], reset=["zero"])
    notes = texts(plot_pareto(data, along="threshold", cost="time").axes[0])
    assert set(notes) <= {"0.5 λ", "1 λ"}
    notes = texts(plot_pareto(data.isel(threshold=[0])).axes[0])
    assert all(note.startswith("after ") for note in notes)


def test_pareto_averages_seeds():
    data = sweep(seed=[0, 1])
    _, y = lines(plot_pareto(data).axes[0])["Pareto front"].get_data()
    assert 1 - y[-1] == pytest.approx(float(data.accuracy[..., -1].mean()))


def test_pareto_of_a_silent_network_and_of_free_steps():
    data = sweep(threshold=[0.5, 1.0])
    data.synaptic_operations[..., :2] = 0.0
    figure = plot_pareto(data.assign(accuracy=data.accuracy * 0), along="threshold")
    figure.draw_without_rendering()
    assert len(lines(figure.axes[0])["Pareto front"].get_xdata()) == 0
    assert texts(figure.axes[0]) == []
    x, _ = lines(plot_pareto(data, along="threshold").axes[0])["Pareto front"].get_data()
    assert np.all(x > 0)


def test_pareto_refuses():
    with pytest.raises(ValueError, match=r"'scales' is not a dimension .* max_rate \(1\)"):
        plot_pareto(sweep(scales="a"))
    with pytest.raises(ValueError, match="cost='energy'; it must be one of 'synaptic_operations'"):
        plot_pareto(sweep(), cost="energy")


@pytest.mark.parametrize("cost", ["synaptic_operations", "spikes"])
def test_pareto_refuses_costs_that_are_none(cost):
    data = sweep(scales=["a", "b"])
    with pytest.raises(ValueError, match=f"data\\['{cost}'\\] has negative costs"):
        plot_pareto(data.assign({cost: -data[cost]}), cost=cost)
    with pytest.raises(ValueError, match=f"data\\['{cost}'\\] must be finite numbers"):
        plot_pareto(data.assign({cost: data[cost] * np.nan}), cost=cost)
    with pytest.raises(ValueError, match=f"data has no '{cost}', but 'accuracy'"):
        plot_pareto(data.drop_vars(cost), cost=cost)


# -- All three -------------------------------------------------------------------------------------


@pytest.mark.parametrize("plot", [plot_map, plot_curves, plot_pareto])
def test_figure_of_the_user_is_drawn_into_and_can_be_pickled(plot):
    data = sweep(threshold=[0.5, 1.0], max_rate=[250.0, 1000.0])
    mine = Figure((6, 6))
    upper, lower = mine.subfigures(2, 1)
    assert plot(data, figure=upper) is upper
    assert lower.axes == []
    mine.draw_without_rendering()
    figure = plot(data)
    assert figure._repr_png_().startswith(b"\x89PNG")
    pickle.loads(pickle.dumps(figure))


@pytest.mark.parametrize("plot", [plot_map, plot_curves, plot_pareto])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: xr.Dataset(), "data has nothing, but no 'accuracy' over 'time'"),
        (lambda data: data.drop_vars("accuracy"), "no 'accuracy' over 'time'"),
        (lambda data: data.isel(time=3), "no 'accuracy' over 'time'.*select several times"),
        (lambda data: data.isel(time=[]), r"data has no accuracies: .*time \(0\)"),
        (lambda data: data.isel(max_rate=[]), r"data has no accuracies: .*max_rate \(0\)"),
        (lambda data: data.drop_vars("time"), "data has no 'time'"),
        (lambda data: data.assign_coords(time=data.time - 0.001), "they must rise from above 0"),
        (lambda data: data.isel(time=slice(None, None, -1)), "they must rise from above 0"),
        (lambda data: data.assign_coords(time=data.time * np.nan), "must be finite numbers"),
        (lambda data: data.assign(accuracy=data.accuracy * 1j), "must be real numbers"),
    ],
)
def test_datasets_of_something_else_are_refused(plot, change, message):
    data = sweep(threshold=[0.5, 1.0], scales=["a", "b"])
    with pytest.raises(ValueError, match=message):
        plot(change(data))


@pytest.mark.parametrize("plot", [plot_curves, plot_pareto])
@pytest.mark.parametrize(
    ("relu", "message"),
    [
        (np.nan, "must be finite numbers"),
        (99.2, "an accuracy of 99.2"),
        (("layer", [0.9, 0.9, 0.9]), r"data\['relu_accuracy'\] has 3 values"),
        (None, "data has no 'relu_accuracy'"),
    ],
)
def test_relu_accuracies_that_are_none_are_refused(plot, relu, message):
    data = sweep(scales=["a", "b"]).drop_vars("relu_accuracy")
    with pytest.raises(ValueError, match=message):
        plot(data if relu is None else data.assign(relu_accuracy=relu), along="scales")


@pytest.mark.parametrize("plot", [plot_map, plot_curves, plot_pareto])
def test_the_dataset_is_left_as_it_was(plot):
    data = sweep(threshold=[2.0, 1.0], max_rate=[1000.0, 250.0], seed=[0, 1])
    before = data.copy(deep=True)
    plot(data)
    xr.testing.assert_identical(data, before)


def test_import_imports_neither_matplotlib_nor_xarray():
    name = plotting.__name__
    code = f"import sys, {name}; print([m for m in ('matplotlib', 'xarray') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr
