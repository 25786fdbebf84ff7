"""Stop rules: a sample that leaves early is as it was in the full run when it was decided."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsnn
from jaxsnn import stopping
from jaxsnn.engines import scan

import models
import reference

STEPS, BATCH, DT = 20, 6, 1e-3


def third_spike(output, steps):
    """A rule of the user: so many spikes of any output neurons, or much below zero."""
    return (output.spike_counts.sum(1) >= 3) & (steps >= 4)


def third_step(output, steps):
    """A rule that does not wait for a spike."""
    return jnp.full(output.first_spike_class.shape, steps >= 3)


def lead(counts):
    ordered = np.sort(counts, -1)
    return ordered[..., -1] - ordered[..., -2]


# By NumPy, from the counts of the output neurons [T, B, classes] and the steps done [T, 1].
RULES = {
    "first spike": (stopping.first_spike, lambda counts, t: counts.sum(-1) > 0),
    "margin of 1": (stopping.margin(1), lambda counts, t: lead(counts) >= 1),
    "margin of 3": (stopping.margin(3), lambda counts, t: lead(counts) >= 3),
    "margin over time": (
        stopping.margin_over_time(4, every=3),
        lambda counts, t: lead(counts) >= np.maximum(4 - t // 3, 1),
    ),
    "never": (stopping.margin(1000), lambda counts, t: lead(counts) >= 1000),
    "third spike": (third_spike, lambda counts, t: (counts.sum(-1) >= 3) & (t >= 4)),
    "third step": (third_step, lambda counts, t: (t >= 3) & (counts.sum(-1) >= 0)),
}
OWN = "third spike", "third step"


def everything(step):
    return {"inputs": step.inputs, "spikes": step.spikes, "none": None}


def networks():
    rng = np.random.default_rng(3)
    network, _ = models.dense_network(rng, (12, 20, 4))
    snn = jaxsnn.balance_thresholds(network, [1.5, 6.0])
    return {"float32": snn, "fixed point": jaxsnn.quantize(snn, bits=[8, 16])}


NETWORKS = networks()
IMAGES = models.dyadic_images(np.random.default_rng(4), BATCH, 12)
IMAGES[2] = 0  # never decided


def run(arithmetic, images=IMAGES, **options):
    return jaxsnn.simulate(
        NETWORKS[arithmetic], images, **{"key": 5, "duration": STEPS * DT, **options}
    )


@pytest.fixture(scope="module")
def full():
    """The spikes of all steps, by arithmetic."""
    runs = {
        name: run(name, engine=jaxsnn.engines.Scan(chunk=20), record=everything)
        for name in NETWORKS
    }
    return {name: jax.tree.map(np.asarray, found.records) for name, found in runs.items()}


def seconds(steps):
    return np.float32(steps) * np.float32(DT)


def expected(records, rule, done=0):
    """What a run that is stopped has to return, by NumPy from the spikes of the full run."""
    output = records["spikes"][-1]
    steps = np.arange(1, len(output) + 1)[:, None]
    decided = RULES[rule][1](output.cumsum(0), steps)
    decided[:done] = False
    exit_step = np.where(decided.any(0), decided.argmax(0) + 1, 0)
    last = np.where(exit_step > 0, exit_step, len(output))
    running = steps <= last

    def until_exit(spikes):
        return spikes * running.reshape(*running.shape, *[1] * (spikes.ndim - 2))

    kept = jax.tree.map(until_exit, records)
    fired = kept["spikes"][-1].any(-1)
    first = np.where(fired.any(0), fired.argmax(0), -1)
    predictions = np.stack(
        [reference.predictions(output[:, sample]) for sample in range(output.shape[1])], 1
    )
    return {
        "predictions": np.take_along_axis(predictions, np.minimum(steps, last) - 1, 0),
        "exit_time": seconds(last),
        "first_spike_time": np.where(first >= 0, seconds(first + 1), np.nan),
        "first_spike_prediction": np.where(
            first >= 0, output[first, np.arange(len(first))].argmax(-1), -1
        ),
        "input_spike_counts": kept["inputs"].sum(0),
        "spike_counts": [spikes.sum(0) for spikes in kept["spikes"]],
        "records": kept,
    }, exit_step


def assert_stopped(found, wanted, exit_step, records=None):
    for name, values in wanted.items():
        if name != "records":
            jax.tree.map(np.testing.assert_array_equal, getattr(found, name), values)
    np.testing.assert_array_equal(found.state.exit_step, exit_step)
    assert float(found.mean_latency()) == pytest.approx(wanted["exit_time"].mean(), rel=1e-6)
    if records:
        jax.tree.map(np.testing.assert_array_equal, found.records, wanted["records"])


CASES = [
    *[(rule, "fixed point", "events") for rule in RULES if rule not in OWN],
    ("margin over time", "fixed point", "scan"),
    ("third step", "float32", "scan"),
    ("third spike", "float32", "scan"),
]


@pytest.mark.parametrize(("rule", "arithmetic", "engine"), CASES)
@pytest.mark.thinned(3)
def test_a_stopped_sample_is_as_it_was_in_the_full_run(full, rule, arithmetic, engine):
    wanted, exit_step = expected(full[arithmetic], rule)
    if rule not in ("never", "third step"):
        assert len(set(exit_step.tolist())) > 2
        assert 0 < np.count_nonzero(exit_step) < BATCH
    assert_stopped(run(arithmetic, stop=RULES[rule][0], engine=engine), wanted, exit_step)


def test_records_are_zero_after_the_exit(full):
    wanted, exit_step = expected(full["float32"], "margin over time")
    found = run("float32", stop=RULES["margin over time"][0], record=everything)
    assert_stopped(found, wanted, exit_step, records=True)


@pytest.mark.parametrize("options", [{"batch_size": 1, "chunk": 2}, {"batch_size": 4, "chunk": 2}])
def test_exits_do_not_depend_on_pieces_and_chunks(full, options):
    wanted, exit_step = expected(full["fixed point"], "margin over time")
    stop = RULES["margin over time"][0]
    found = run("fixed point", stop=stop, engine=jaxsnn.engines.Scan(**options))
    assert_stopped(found, wanted, exit_step)


def test_records_keep_their_type(full):
    """And lie where they were: in the memory of the host, after samples have left the batch."""
    found = run("float32", stop=third_step, record=lambda step: step.spikes[0] > 0)
    assert isinstance(found.records, np.ndarray)
    assert found.records.dtype == bool
    assert found.records[:3].any()
    assert not found.records[3:].any()


@pytest.mark.parametrize("rule", ["margin over time", "third step"])
def test_exits_under_jit_are_those_outside(full, rule):
    """There all samples stay to the end, and what they do after their exit is not seen."""
    wanted, exit_step = expected(full["float32"], rule)
    found = jax.jit(lambda x: run("float32", x, stop=RULES[rule][0], record=everything))(IMAGES)
    assert_stopped(found, wanted, exit_step, records=True)


def test_vmap_over_images_is_a_loop_over_them(full):
    wanted, exit_step = expected(full["fixed point"], "first spike")

    def one(image, sample):
        return run("fixed point", image[None], samples=sample[None], stop=stopping.first_spike)

    found = jax.vmap(one)(jnp.asarray(IMAGES), jnp.arange(BATCH))
    np.testing.assert_array_equal(found.state.exit_step[:, 0], exit_step)
    np.testing.assert_array_equal(found.predictions[..., 0].T, wanted["predictions"])
    for counts, theirs in zip(found.spike_counts, wanted["spike_counts"], strict=True):
        np.testing.assert_array_equal(counts[:, 0], theirs)


@pytest.mark.parametrize("engine", ["scan", "events"])
def test_the_steps_before_count_where_a_run_goes_on(full, engine):
    """The lead that is asked for has fallen meanwhile, and exits are counted from the start."""
    done = 10
    wanted, exit_step = expected(full["fixed point"], "margin over time", done)
    assert set(exit_step.tolist()) > {0, done + 1}
    first = run("fixed point", duration=done * DT, engine="events")
    found = run(
        "fixed point",
        duration=(STEPS - done) * DT,
        state=first.state,
        stop=RULES["margin over time"][0],
        engine=engine,
    )
    wanted["predictions"] = wanted["predictions"][done:]
    assert_stopped(found, wanted, exit_step)
    np.testing.assert_array_equal(found.times, seconds(np.arange(done + 1, STEPS + 1)))


def test_without_a_stop_rule_all_run_to_the_end():
    found = run("fixed point")
    assert found.exit_time.tolist() == [seconds(STEPS)] * BATCH
    assert found.state.exit_step.tolist() == [0] * BATCH


def test_a_decided_sample_costs_no_more_work(full, monkeypatch):
    """The scan goes on with the others: with half of the batch at most, as soon as half is left."""
    sizes, program = [], scan.program

    def counted(behaviour):
        def advance(network, probabilities, *arguments, **options):
            sizes.append(len(probabilities))
            return program(behaviour)(network, probabilities, *arguments, **options)

        return advance

    monkeypatch.setattr(scan, "program", counted)
    run("float32", stop=third_step)
    assert sizes == [BATCH]  # of 5 steps
    sizes.clear()
    run("fixed point", stop=RULES["margin over time"][0], engine="scan")
    _, exit_step = expected(full["fixed point"], "margin over time")
    left = [int(np.sum((exit_step == 0) | (exit_step > end))) for end in (0, 5, 10, 15)]
    assert sizes[0] == BATCH
    assert len(sizes) == 4
    assert sizes[-1] < BATCH
    assert all(size >= count for size, count in zip(sizes, left, strict=True))


# -- Errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: stopping.margin(0), "margin of 0 spikes"),
        (lambda: stopping.margin(-1), "at least 1 spike"),
        (lambda: stopping.margin_over_time(3, every=0), "every=0"),
        (lambda: stopping.margin_over_time(0, every=5), "margin of 0 spikes"),
    ],
)
def test_bad_margins(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("engine", ["scan", "events"])
def test_a_state_with_exits_is_refused(engine):
    state = run("fixed point", stop=RULES["margin over time"][0], engine=engine).state
    with pytest.raises(ValueError, match="a stop rule ended samples"):
        run("fixed point", state=state)
