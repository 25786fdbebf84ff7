import json
import pickle
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

import jaxsnn
from jaxsnn import plotting

TIMES = np.arange(1, 101) / 1e3


def lines(ax):
    return {line.get_label(): line for line in ax.lines}


def dots(ax):
    """Positions (ms, neuron) of all drawn spikes; the ring repeats one and is not counted."""
    drawn = [c for c in ax.collections if not c.get_label().startswith("first spike")]
    return np.concatenate([np.asarray(collection.get_offsets()) for collection in drawn])


def as_set(points):
    return {(round(float(x), 6), int(y)) for x, y in points}


def text_of(figure):
    return [text.get_text() for ax in figure.axes for text in ax.texts]


def cells(ax):
    return ax.collections[0].get_array().filled(0)


@pytest.fixture
def spikes(rng):
    """Input of 3 x 2, 500 hidden neurons, 10 classes, 40 steps; class 3 spikes most."""
    layers = [rng.random((40, *shape)) < 0.1 for shape in [(3, 2, 1), (500,), (10,)]]
    layers[-1][:5] = False
    layers[-1][5] = np.arange(10) == 8
    layers[-1][10:30, 3] = True
    return [layer.astype(np.float32) for layer in layers]


# -- Accuracy --------------------------------------------------------------------------------------


def test_accuracy_one_panel_for_each_network_and_one_colour_for_each_variant():
    curves = {
        "FullyConnected": {"a": np.linspace(0, 0.9, 100), "b": np.full(100, 0.98)},
        "ConvNet": {"b": np.full(50, 0.97), "c": np.full(100, 0.5)},
    }
    relu = {"FullyConnected": 0.986, "ConvNet": 0.99}
    figure = plotting.plot_accuracy(curves, TIMES, relu_accuracy=relu)
    left, right = figure.axes
    assert [ax.get_title() for ax in figure.axes] == ["FullyConnected", "ConvNet"]
    assert list(lines(left)) == ["a", "b", "ReLU network"]
    assert lines(left)["b"].get_color() == lines(right)["b"].get_color()
    assert len({line.get_color() for line in left.lines}) == 3
    np.testing.assert_allclose(lines(left)["a"].get_xdata(), TIMES * 1e3)
    np.testing.assert_allclose(lines(left)["a"].get_ydata(), 1 - np.linspace(0, 0.9, 100))
    assert len(lines(right)["b"].get_xdata()) == 50  # a curve may end early
    np.testing.assert_allclose(lines(right)["ReLU network"].get_ydata(), 0.01)
    assert left.get_ylim() == right.get_ylim()
    assert left.get_xlim() == right.get_xlim()
    legend = [text.get_text() for text in figure.legends[0].texts]
    assert legend == ["a", "b", "c", "ReLU network"]


def test_accuracy_axes_name_their_units_and_count_upwards():
    figure = plotting.plot_accuracy({"a": np.linspace(0, 0.99, 100)}, TIMES)
    (ax,) = figure.axes
    figure.canvas.draw()
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("simulated time (ms)", "accuracy (%)")
    low, high = ax.get_ylim()
    assert low == 1
    assert high < 0.01
    labels = dict(zip(ax.get_yticks(), (t.get_text() for t in ax.get_yticklabels()), strict=True))
    shown = [label for error, label in sorted(labels.items(), reverse=True) if high <= error <= low]
    assert shown == ["0", "50", "80", "90", "95", "98", "99"]
    assert {"1", "10", "100"} <= {text.get_text() for text in ax.get_xticklabels()}


def test_accuracy_of_one_is_drawn_above_all_others():
    figure = plotting.plot_accuracy({"a": [0.9, 0.99, 1.0]}, TIMES[:3], relu_accuracy=1.0)
    errors = lines(figure.axes[0])["a"].get_ydata()
    assert np.all(np.isfinite(errors))
    assert errors[2] < errors[1]
    assert errors[2] > figure.axes[0].get_ylim()[1]
    rounded = {"a": [0.99, 1 + 2**-23, 1 - 2**-24]}
    figure = plotting.plot_accuracy(rounded, TIMES[:3])
    np.testing.assert_allclose(lines(figure.axes[0])["a"].get_ydata(), [0.01, 0.005, 0.005])
    plotting.plot_accuracy({"a": [1.0]}, [0.001]).canvas.draw()


def test_accuracy_of_a_narrow_range_still_has_ticks():
    figure = plotting.plot_accuracy({"a": [0.985, 0.9853]}, TIMES[:2])
    figure.canvas.draw()
    (ax,) = figure.axes
    low, high = ax.get_ylim()
    assert sum(high <= tick <= low for tick in ax.get_yticks()) >= 3


def test_accuracy_of_several_seeds_is_a_mean_in_a_band():
    seeds = np.array([[0.5, 0.9], [0.7, 0.92], [0.6, 0.97]])
    (ax,) = plotting.plot_accuracy({"a": seeds, "b": seeds[0]}, TIMES[:2]).axes
    np.testing.assert_allclose(lines(ax)["a"].get_ydata(), [0.4, 0.07])
    (band,) = ax.collections
    corners = band.get_paths()[0].vertices
    np.testing.assert_allclose(sorted(set(corners[:, 1].round(9))), [0.03, 0.1, 0.3, 0.5])


def test_accuracy_from_json():
    table = json.loads('{"curves": {"a": [0.5, 1]}, "times": [0.001, 0.002]}')
    read = plotting.plot_accuracy(**table, relu_accuracy=1)
    direct = plotting.plot_accuracy({"a": jnp.array([0.5, 1])}, TIMES[:2], relu_accuracy=1.0)
    for line, other in zip(direct.axes[0].lines, read.axes[0].lines, strict=True):
        np.testing.assert_array_equal(line.get_xydata(), other.get_xydata())


@pytest.mark.parametrize(
    ("curves", "times", "relu", "message"),
    [
        ({}, TIMES, None, "nothing to draw"),
        ({"net": {}}, TIMES, None, "nothing to draw"),
        ({"net": {"a": [0.5]}, "b": [0.5]}, TIMES, None, "mixes networks and variants"),
        ({"a": [0.5, 0.6]}, [0.001], None, r"a: accuracies of shape \(2,\) and times of shape"),
        ({"a": [[[0.5]]]}, [0.001], None, r"a: accuracies of shape \(1, 1, 1\) and times of shape"),
        ({"a": []}, TIMES, None, "nothing to draw"),
        ({"a": [50.0]}, TIMES, None, "a: an accuracy of 50; .* Divide percentages"),
        ({"a": [np.nan]}, TIMES, None, "curve a: accuracies must be finite numbers; 1 of 1"),
        ({"a": ["0.5"]}, TIMES, None, "curve a: accuracies must be real numbers"),
        ({"a": [0.5j]}, TIMES, None, "curve a: accuracies must be real numbers"),
        ({"a": None}, TIMES, None, "curve a: accuracies must be real numbers"),
        ({"a": 0.5}, TIMES, None, r"a: accuracies of shape \(\)"),
        ({"a": [0.5, 0.6]}, [0.001, np.nan], None, "curve a: times must be finite numbers"),
        ({"a": [0.5, 0.6]}, [0.002, 0.001], None, "times must rise"),
        ({"a": [0.5, 0.6]}, [0.001, 0.001], None, "times must rise"),
        ({"a": [0.5]}, TIMES, np.nan, "relu_accuracy: accuracies must be finite"),
        ({"a": [0.5]}, TIMES, 98.0, "relu_accuracy: an accuracy of 98"),
        ({"a": [0.5]}, [0.0], None, "the first time is 0 s"),
        ({"n": {"a": [0.5]}}, {"m": TIMES}, None, r"no entry for network 'n' among \['m'\]"),
        ({"n": {"a": [0.5]}}, TIMES, {"m": 0.9}, "no entry for network 'n'"),
    ],
)
def test_accuracy_refuses(curves, times, relu, message):
    with pytest.raises(ValueError, match=message):
        plotting.plot_accuracy(curves, times, relu_accuracy=relu)


def test_accuracies_without_a_variant_are_told_to_have_one():
    with pytest.raises(TypeError, match=r"(?s)curves.*variant → accuracies, such as"):
        plotting.plot_accuracy(np.array([0.5, 0.6]), TIMES[:2])


# -- Raster ----------------------------------------------------------------------------------------


def test_raster_has_a_dot_for_every_spike_at_the_end_of_its_step(spikes):
    figure = plotting.plot_raster(spikes, dt=0.002, max_neurons=500)
    panels = figure.axes[1::2]
    assert len(panels) == 3
    for ax, layer in zip(panels, spikes, strict=True):
        step, neuron = np.nonzero(layer.reshape(40, -1))
        assert len(dots(ax)) == len(step)
        assert as_set(dots(ax)) == as_set(zip((step + 1) * 2.0, neuron, strict=True))
        assert ax.get_xlim() == (0, 82)
    assert panels[-1].get_xlabel() == "time (ms)"


def test_raster_shows_an_even_subset_of_a_large_layer_and_says_so(spikes):
    figure = plotting.plot_raster(spikes, max_neurons=6)
    hidden = figure.axes[3]
    subset = np.array([0, 100, 200, 299, 399, 499])
    assert set(dots(hidden)[:, 1]) <= set(subset)
    assert len(dots(hidden)) == np.count_nonzero(spikes[1][:, subset])
    labels = text_of(figure)
    assert "layer 1\n500 neurons,\n6 shown" in labels
    assert "input\n6 pixels" in labels
    assert "output\n10 neurons" in labels  # whole, though it has more than 6


def test_raster_of_a_deep_network_has_low_panels(spikes):
    deep = [spikes[0], *[spikes[1]] * 30, spikes[2]]
    figure = plotting.plot_raster(deep, max_neurons=6)
    assert figure.get_size_inches()[1] < 14
    labels = text_of(figure)
    assert {f"layer {n}\n6 of 500 neurons" for n in range(1, 31)} <= set(labels)
    assert "input\n6 pixels" in labels


def test_raster_marks_the_predicted_class_and_the_first_spike(spikes):
    output = plotting.plot_raster(spikes).axes[-1]
    labelled = {c.get_label(): np.asarray(c.get_offsets()) for c in output.collections}
    assert set(labelled["predicted class: 3"][:, 1]) == {3}
    assert len(labelled["predicted class: 3"]) == spikes[-1][:, 3].sum()
    np.testing.assert_allclose(labelled["first spike: 6 ms"], [[6, 8]])
    counts = spikes[-1].sum(0).astype(int)
    expected = [f"{n} spikes" if i == 3 else f"{n}" for i, n in enumerate(counts)]
    assert [text.get_text() for text in output.texts] == expected
    assert [tick.get_text() for tick in output.get_yticklabels()] == [str(i) for i in range(10)]
    assert to_hex(output.get_yticklabels()[3].get_color()).upper() == "#D55E00"


def test_raster_of_a_silent_output_says_that_it_is_undecided(spikes):
    spikes[-1][:] = 0
    output = plotting.plot_raster(spikes).axes[-1]
    assert output.get_title("right") == "no output spike: undecided"
    assert len(dots(output)) == 0


@pytest.mark.parametrize("shape", [(28, 28), (28, 28, 1), (28, 28, 3)])
def test_raster_draws_the_image(spikes, shape):
    figure = plotting.plot_raster(spikes, image=np.ones(shape))
    (inset,) = figure.axes[0].child_axes
    assert inset.images[0].get_array().shape[:2] == (28, 28)


def test_raster_with_names(spikes):
    figure = plotting.plot_raster(spikes, names=["retina", "hidden", "digit"])
    texts = text_of(figure)
    assert "retina\n6 pixels" in texts
    assert "digit\n10 neurons" in texts


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spikes": []}, "spikes has 0 arrays"),
        ({"spikes": [np.ones((4, 2))]}, "spikes has 1 arrays"),
        ({"spikes": [np.ones((4, 2)), np.ones((5, 2))]}, r"\(4, 2\), \(5, 2\).*with one T"),
        ({"spikes": [np.ones(()), np.ones(())]}, "with one T"),
        ({"spikes": [np.ones((0, 2)), np.ones((0, 2))]}, "with one T"),
        ({"names": ["input"]}, "names has 1 entries"),
        ({"names": "abc"}, "names 'abc', but there are 3 panels; give a list"),
        ({"max_neurons": 0}, "max_neurons=0"),
        ({"dt": 0.0}, "dt=0; it must be a positive number"),
        ({"dt": np.nan}, "dt=nan; it must be a positive number"),
        ({"dt": -0.001}, "dt=-0.001; it must be a positive number"),
        ({"dt": np.inf}, "dt=inf; it must be a positive number"),
        ({"spikes": [np.ones((4, 2)), np.full((4, 2), np.nan)]}, "spikes must be finite numbers"),
        ({"spikes": [np.ones((4, 2)), 1j * np.ones((4, 2))]}, "spikes must be real numbers"),
        (
            {"spikes": [np.ones((4, 2)), 0.4 * np.ones((4, 2))]},
            r"spikes\[1\] .* 0.4 to 0.4; .* 0 or",
        ),
        ({"image": np.full((2, 2), np.nan)}, "image must be finite numbers"),
        ({"image": np.full((2, 2), 1j)}, "image must be real numbers"),
        ({"image": np.ones((0, 0))}, r"image has shape \(0, 0\)"),
        ({"image": np.full((2, 2), 255)}, r"image has pixels from 255 to 255.*by 255"),
        ({"image": np.ones((1, 28, 28, 1))}, r"image has shape \(1, 28, 28, 1\).*images\[0\]"),
    ],
)
def test_raster_refuses(spikes, change, message):
    with pytest.raises(ValueError, match=message):
        plotting.plot_raster(**({"spikes": spikes} | change))


def test_raster_does_not_take_samples_for_neurons(spikes):
    batch = [np.stack([layer, layer], 1) for layer in spikes]
    message = r"shapes \[\(40, 2, 3, 2, 1\).*2 samples; take one: \[record\[:, 0\]"
    with pytest.raises(ValueError, match=message):
        plotting.plot_raster(batch)
    one = plotting.plot_raster([layer[:, :1] for layer in batch])  # a batch of one is no mistake
    for ax, other in zip(one.axes[1::2], plotting.plot_raster(spikes).axes[1::2], strict=True):
        np.testing.assert_array_equal(dots(ax), dots(other))


def test_raster_of_maps_of_one_height_can_be_flattened(rng):
    maps = [rng.random((5, 4, 4, size)) < 0.5 for size in (1, 3)]
    with pytest.raises(ValueError, match=r"one sample, flatten its neurons: \[s.reshape"):
        plotting.plot_raster(maps)
    figure = plotting.plot_raster([s.reshape(len(s), -1) for s in maps])
    assert len(dots(figure.axes[-1])) == maps[1].sum()


def test_raster_takes_inputs_that_are_no_spikes(spikes):
    spikes[0] *= 0.37  # a constant encoding
    assert len(dots(plotting.plot_raster(spikes).axes[1])) == np.count_nonzero(spikes[0])


# -- Rates -----------------------------------------------------------------------------------------


def test_rates_count_every_neuron_once_beside_the_identity(rng):
    counts = [rng.integers(0, 101, (5, 7, 2)), rng.integers(0, 30, (5, 10))]
    activations = [3.0 * counts[0] / 100, 0.5 * counts[1] / 100]
    figure = plotting.plot_rates(activations, counts, [3.0, 0.5], steps=100)
    *panels, bar = figure.axes
    assert [ax.get_title() for ax in panels] == ["layer 1", "output"]
    assert bar.get_ylabel() == "neurons × images"
    for ax, count in zip(panels, counts, strict=True):
        assert cells(ax).sum() == count.size
        assert np.count_nonzero(cells(ax) - np.diag(np.diag(cells(ax)))) == 0
        x, y = lines(ax)["identity"].get_data()
        np.testing.assert_array_equal(x, y)
        np.testing.assert_allclose(x, [0, count.max() / 100])
        assert ax.texts[0].get_text().startswith("r = 1.000\nmean |error|")
        assert ax.get_xlim() == ax.get_ylim()
        assert (ax.get_xlabel(), ax.get_ylabel()) != ("", "")
    assert panels[0].get_ylabel() == "firing rate (spikes per step)"
    assert panels[0].collections[0].get_clim() == panels[1].collections[0].get_clim()


def test_rates_no_cell_of_the_histogram_is_missed_by_the_possible_rates():
    counts = np.arange(501)[None]
    figure = plotting.plot_rates([np.linspace(0, 1, 501)[None]], [counts], [1.0], steps=500)
    assert set(cells(figure.axes[0]).sum(1)[:-1]) == {10.0}


def test_rates_take_scale_factors_of_channels_and_of_the_rules():
    activation, count = np.array([[[2.0, 4.0]]]), np.array([[[5, 10]]])
    figure = plotting.plot_rates([activation], [count], [np.array([4.0, 4.0])], steps=10)
    assert figure.axes[0].texts[0].get_text() == "r = 1.000\nmean |error| 0"
    plotting.plot_rates([jnp.asarray(activation)], [jnp.asarray(count)], jnp.ones(1), steps=10)


def test_rates_of_a_silent_layer_are_no_small_error():
    silent, spiking = np.zeros((2, 3)), np.ones((2, 3))
    tiny = np.full((2, 3), 1.8e-8)
    figure = plotting.plot_rates([tiny, tiny], [silent, spiking], [1.0, 1.0], steps=10)
    first, second, _ = figure.axes
    assert (first.texts[0].get_text(), first.get_title()) == ("no spikes", "layer 1: silent")
    assert (second.texts[0].get_text(), second.get_title()) == ("mean |error| 0.1", "output")
    figure.canvas.draw()


@pytest.mark.parametrize("layers", [1, 3, 5])
def test_rates_have_one_panel_for_each_layer(layers):
    figure = plotting.plot_rates(
        [np.eye(3)] * layers, [np.eye(3)] * layers, [1.0] * layers, steps=1
    )
    assert len(figure.axes) == layers + 1  # and the colour bar


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activations": []}, r"\[0, 1, 1\] entries"),
        ({"scales": [1.0, 2.0]}, r"\[1, 1, 2\] entries"),
        ({"spike_counts": [np.ones((1, 3))]}, r"output: .*\(1, 2\).*\(1, 3\)"),
        ({"scales": 1.0, "activations": [], "spike_counts": []}, r"\[0, 0, 1\] entries"),
        ({"steps": 0}, "steps=0"),
        ({"steps": -1}, "steps=-1"),
        ({"activations": [[[np.nan, 1]]]}, "output: activations must be finite numbers"),
        ({"activations": [[[1j, 1]]]}, "output: activations must be real numbers"),
        ({"activations": [[[-1.0, 1]]]}, "output: activations as low as -1"),
        ({"activations": [[[1e300, 1]]], "scales": [1e-30]}, "activations / scales must be finite"),
        ({"spike_counts": [[[np.inf, 1]]]}, "output: spike_counts must be finite numbers"),
        ({"spike_counts": [[[-1, 1]]]}, "output: spike_counts from -1 to 1 .* whole numbers"),
        ({"spike_counts": [[[0.5, 1]]]}, "output: spike_counts from 0.5 to 1 .* whole numbers"),
        ({"spike_counts": [[[11, 1]]]}, "spike_counts from 1 to 11 with steps=10; .* one spike in"),
        ({"scales": [0.0]}, r"output: scales of 0.0; they must be positive"),
        ({"scales": [np.nan]}, "output: scales must be finite numbers"),
        ({"scales": [1j]}, "output: scales must be real numbers"),
        ({"scales": [np.ones(3)]}, r"output: scales of shape \(3,\) for activations of shape"),
        ({"scales": [np.ones((1, 1, 2))]}, r"output: scales of shape \(1, 1, 2\)"),
        ({"names": "x"}, "names 'x', but there are 1 panels"),
        ({"names": ["a", "b"]}, "names has 2 entries"),
    ],
)
def test_rates_refuse(change, message):
    good = {"activations": [np.ones((1, 2))], "spike_counts": [np.ones((1, 2))], "scales": [1.0]}
    with pytest.raises(ValueError, match=message):
        plotting.plot_rates(**({"steps": 10} | good | change))


# -- All three -------------------------------------------------------------------------------------


def test_figures_of_a_simulation():
    weights = jnp.array([[1.0, 0.25], [0.0, 0.5]])
    network = jaxsnn.read_network(lambda x: jnp.maximum(x @ weights, 0), jnp.zeros((1, 2)))
    snn = jaxsnn.balance_thresholds(network, 1.0)
    images = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    run = jaxsnn.simulate(
        snn, images, key=0, duration=0.008, record=lambda step: [step.inputs, *step.spikes]
    )
    figure = plotting.plot_accuracy({"a": run.accuracy(np.array([0, 1]))}, run.times)
    errors = lines(figure.axes[0])["a"].get_ydata()
    assert errors.tolist() == [0.5, *[0.25] * 7]  # all right from 2 ms on: half of the least error

    figure = plotting.plot_raster([record[:, 1] for record in run.records])
    assert as_set(dots(figure.axes[-1])) == {(2, 1), (4, 1), (6, 1), (8, 1)}

    figure = plotting.plot_rates(
        network.activations(images), run.spike_counts, snn.thresholds, steps=8
    )
    assert figure.axes[0].texts[0].get_text() == "r = 1.000\nmean |error| 0"


# -- Figures ---------------------------------------------------------------------------------------


def test_figures_are_shown_by_notebooks_and_unknown_to_pyplot():
    import matplotlib.pyplot as plt

    figure = plotting.plot_accuracy({"a": [0.5]}, [0.001])
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert plt.get_fignums() == []
    pickle.loads(pickle.dumps(figure))


def test_figure_of_the_user_is_drawn_into(spikes):
    mine = Figure((3, 2))
    upper, lower = mine.subfigures(2, 1)
    assert plotting.plot_accuracy({"a": [0.5]}, [0.001], figure=upper) is upper
    assert plotting.plot_raster(spikes, figure=lower) is lower
    assert len(mine.axes) == 1 + 6


def test_import_does_not_import_matplotlib():
    code = "import sys, jaxsnn.plotting; print('matplotlib.figure' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "False", result.stderr
