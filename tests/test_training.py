"""Training: it learns, it repeats itself, it survives being killed, and it refuses bad input."""

import dataclasses
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxsnn import training
from jaxsnn.networks import ConvNet, FullyConnected
from jaxsnn.training import (
    RECIPES,
    Recipe,
    accuracy,
    cross_entropy,
    fit,
    one_sided_squared_error,
    random_warp,
    squared_error,
)

RECIPE = Recipe(
    name="small",
    model=lambda rngs: FullyConnected((144, 16, 4), dropout=0.2, rngs=rngs),
    epochs=30,
    batch_size=100,
    optimizer=lambda steps: optax.sgd(optax.cosine_decay_schedule(0.1, steps), momentum=0.9),
    loss=one_sided_squared_error,
    augment=lambda key, images: images * jax.random.uniform(key, (len(images), 1, 1, 1)),
)
SHORT = dataclasses.replace(RECIPE, epochs=4)


def corners(count=200, size=12):
    """One bright corner per class, on noise."""
    labels = np.arange(count) % 4
    images = 0.1 * np.random.default_rng(0).random((count, size, size, 1), dtype="float32")
    half = size // 2
    for image, label in zip(images, labels, strict=True):
        image[half * (label // 2) :, half * (label % 2) :][:half, :half] += 0.5
    return SimpleNamespace(images=images, labels=labels)


def trained(recipe=SHORT, *, model_seed=0, data=None, **options):
    model = recipe.model(rngs=nnx.Rngs(model_seed))
    history = fit(model, data or corners(), recipe=recipe, progress=False, **options)
    return [np.asarray(w) for w in jax.tree.leaves(nnx.state(model, nnx.Param))], history


def same(first, second) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


# The authors' learning rate of 1 suits the brightness and the number of MNIST's images alone.
@pytest.mark.parametrize("name", ["fc-modern", "conv-modern"])
def test_the_modern_recipes_learn(name):
    recipe = dataclasses.replace(RECIPES[name], epochs=3, batch_size=20)
    model = recipe.model(rngs=nnx.Rngs(0))
    history = fit(model, corners(200, size=28), recipe=recipe, progress=False)
    assert history[-1]["loss"] < history[0]["loss"]
    assert history[-1]["accuracy"] > 0.4  # chance is 0.25


def test_every_recipe_builds_its_network():
    for name, recipe in RECIPES.items():
        assert recipe.name == name
        model = nnx.eval_shape(lambda recipe=recipe: recipe.model(rngs=nnx.Rngs(0)))
        assert isinstance(model, FullyConnected if name.startswith("fc") else ConvNet)


def test_history_has_a_row_per_epoch_and_the_models_accuracy():
    data = corners()
    model = RECIPE.model(rngs=nnx.Rngs(0))
    history = fit(model, data, recipe=SHORT, test=data, progress=False)
    assert [set(row) for row in history] == [{"loss", "accuracy", "test_accuracy"}] * 4
    assert history[-1]["test_accuracy"] == accuracy(model, data)
    np.testing.assert_array_equal(model(data.images), model(data.images))  # evaluation mode


def test_the_seed_decides_the_weights():
    weights = trained(seed=1)[0]
    assert same(weights, trained(seed=1)[0])
    assert not same(weights, trained(seed=2)[0])
    assert not same(weights, trained(seed=1, model_seed=1)[0])


@pytest.mark.parametrize("part", ["dropout", "augmentation", "order"])
def test_each_source_of_randomness_follows_the_seed(part):
    alone = dataclasses.replace(
        SHORT,
        epochs=1,
        batch_size=100 if part == "order" else 200,  # one batch of all images has no order
        augment=RECIPE.augment if part == "augmentation" else lambda key, images: images,
        model=lambda rngs: FullyConnected(
            (144, 16, 4), dropout=0.5 if part == "dropout" else 0.0, rngs=rngs
        ),
    )
    first, second = trained(alone, seed=1)[0], trained(alone, seed=2)[0]
    assert not np.allclose(first[0], second[0], atol=1e-4)  # more than the order of a sum


def test_dropout_differs_between_steps():
    seen = []
    model = FullyConnected((144, 16, 4), dropout=0.5, rngs=nnx.Rngs(0))
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    optimizer = optax.sgd(0.0)

    def one_score(model, images, labels):
        scores = model.logits(images)
        return scores[0, 0], scores

    recipe = dataclasses.replace(SHORT, loss=one_score, augment=lambda key, images: images)
    data, order = corners(), jnp.zeros((2, 25), int)
    for index in (0, 1, 0):
        _, totals = training._step(
            recipe, optimizer, graph, rest, (params, optimizer.init(params)), jnp.zeros(2),
            (jnp.asarray(data.images), jnp.asarray(data.labels)), order, index, jax.random.key(0),
        )  # fmt: skip
        seen.append(float(totals[0]))
    assert seen[0] == seen[2] != seen[1]


def test_resumed_equals_uninterrupted(tmp_path, monkeypatch):
    whole, whole_history = trained(test=corners())
    calls = []

    def interrupted_accuracy(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return accuracy(*args, **kwargs)

    monkeypatch.setattr(training, "accuracy", interrupted_accuracy)
    with pytest.raises(KeyboardInterrupt):
        trained(test=corners(), checkpoint=tmp_path)
    weights, history = trained(test=corners(), checkpoint=tmp_path)
    assert len(calls) == 3 + 2  # two epochs had been stored, so two were left
    assert same(whole, weights)
    assert history == whole_history


def test_a_finished_run_is_only_loaded(tmp_path, monkeypatch):
    first = trained(checkpoint=tmp_path)
    monkeypatch.setattr(training, "_row", None)  # an epoch needs it
    second = trained(checkpoint=tmp_path)
    assert same(first[0], second[0])
    assert first[1] == second[1]


def test_only_the_latest_checkpoint_is_kept(tmp_path):
    trained(checkpoint=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["4"]


def test_a_killed_run_goes_on_as_if_nothing_had_happened(tmp_path):
    script = "from test_training import *; trained(RECIPE, checkpoint=sys.argv[1])"
    process = subprocess.Popen([sys.executable, "-c", script, tmp_path], cwd=Path(__file__).parent)
    deadline = time.monotonic() + 120
    while not any(path.name.isdigit() and int(path.name) >= 2 for path in tmp_path.iterdir()):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    stored = max(int(path.name) for path in tmp_path.iterdir() if path.name.isdigit())
    assert 2 <= stored < RECIPE.epochs
    resumed, history = trained(RECIPE, checkpoint=tmp_path)
    whole, whole_history = trained(RECIPE)
    assert same(whole, resumed)
    assert history == whole_history


def test_the_checkpoint_of_another_run_is_refused(tmp_path):
    trained(checkpoint=tmp_path)
    others = {
        "recipe": (dataclasses.replace(SHORT, name="other"), {}),
        "epochs": (dataclasses.replace(SHORT, epochs=5), {}),
        "batch_size": (dataclasses.replace(SHORT, batch_size=50), {}),
        "weights": (
            dataclasses.replace(SHORT, model=lambda rngs: FullyConnected((144, 9, 4), rngs=rngs)),
            {},
        ),
        "seed": (SHORT, {"seed": 1}),
        "initial weights": (SHORT, {"model_seed": 1}),
        "training set": (SHORT, {"data": corners(201)}),
        "program": (dataclasses.replace(SHORT, augment=lambda key, images: images), {}),
    }
    for what, (recipe, options) in others.items():
        with pytest.raises(ValueError, match=f"another run: its {what} is .*delete this one"):
            trained(recipe, checkpoint=tmp_path, **options)
    assert len(trained(checkpoint=tmp_path)[1]) == 4  # and left alone


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((0, 12, 12, 1), "float32"), "labels": np.zeros(0, int)}, "empty"),
        ({"images": np.full((200, 12, 12, 1), np.nan, "float32")}, "not finite"),
        ({"images": np.full((200, 12, 12, 1), np.inf, "float32")}, "not finite"),
        ({"images": np.full((200, 12, 12, 1), 255.0, "float32")}, r"belong in \[0, 1\]"),
        ({"images": np.zeros((200, 12, 12, 1), "uint8")}, "floating-point"),
        ({"images": np.zeros((200, 11, 12, 1), "float32")}, "cannot take the training set's"),
        ({"images": np.zeros((199, 12, 12, 1), "float32")}, "one label per image"),
        ({"labels": np.zeros((200, 4), int)}, "one label per image"),
        ({"labels": np.zeros(200)}, "integer labels"),
        ({"labels": np.arange(200) % 5}, "labels from 0 to 4; the model has 4 classes"),
        ({"labels": np.arange(200) % 4 - 1}, "labels from -1"),
        ({"images": corners(24).images, "labels": corners(24).labels}, "fewer than one batch"),
    ],
)
def test_bad_training_sets_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        trained(data=SimpleNamespace(**{**vars(corners()), **change}))


def test_bad_test_sets_are_refused():
    bad = SimpleNamespace(images=corners().images[:, 1:], labels=corners().labels)
    with pytest.raises(ValueError, match="cannot take the test set's images"):
        trained(test=bad)


def test_divergence_is_an_error(tmp_path):
    recipe = dataclasses.replace(SHORT, optimizer=lambda steps: optax.sgd(1e30))
    with pytest.raises(FloatingPointError, match="diverged in epoch 1"):
        trained(recipe, checkpoint=tmp_path)
    assert not list(tmp_path.iterdir())  # a broken state is not kept


def test_one_compilation_for_all_epochs(caplog):
    def compilations(epochs):
        caplog.clear()
        with jax.log_compiles(), caplog.at_level(logging.WARNING, logger="jax"):
            trained(dataclasses.replace(SHORT, epochs=epochs), test=corners())
        return [r.message for r in caplog.records if "Finished XLA compilation" in r.message]

    compilations(2)  # whatever is shared with other trainings is compiled by now
    short, long = compilations(2), compilations(6)
    assert sum("_step" in message for message in long) == 1
    assert len(long) == len(short)


def test_progress_shows_loss_and_accuracy(capsys):
    fit(RECIPE.model(rngs=nnx.Rngs(0)), corners(), recipe=SHORT)
    shown = capsys.readouterr().err
    assert "small: 100%" in shown
    assert "loss=" in shown
    assert "accuracy=" in shown


def test_orbax_writes_no_log(tmp_path, caplog, capfd):
    trained(checkpoint=tmp_path)
    trained(checkpoint=tmp_path)
    assert not [record for record in caplog.records if record.name == "absl"]
    assert capfd.readouterr().err == ""


def test_accuracy_counts_right_answers_whatever_the_batch_size():
    data = corners()
    model = RECIPE.model(rngs=nnx.Rngs(0))
    model.eval()
    expected = np.mean(np.asarray(model(data.images)).argmax(-1) == data.labels)
    model.train()
    assert accuracy(model, data) == accuracy(model, data, batch_size=7) == expected
    assert not same([model(data.images)], [model(data.images)])  # its mode has not changed
    with pytest.raises(ValueError, match="empty"):
        accuracy(model, SimpleNamespace(images=np.zeros((0, 12, 12, 1)), labels=np.zeros(0, int)))


def test_losses():
    logits = jnp.array([[0.5, -2.0, 0.25], [-1.0, 0.0, 0.5]])
    model = SimpleNamespace(logits=lambda x: x)
    relu = jax.nn.relu
    right, labels = jnp.array([0, 2]), jnp.array([0, 0])
    # (0.5² + 0.25²)/2 and 0.5²/2, averaged
    assert float(squared_error(relu, logits, right)[0]) == (0.3125 + 0.25) / 4
    assert float(one_sided_squared_error(model, logits, right)[0]) == (0.3125 + 0.25) / 4
    # A silent right class: only the one-sided error pulls it up.
    slope = jax.grad(lambda x: squared_error(relu, x, labels)[0])(logits)[1, 0]
    assert slope == 0
    slope = jax.grad(lambda x: one_sided_squared_error(model, x, labels)[0])(logits)[1, 0]
    assert slope == -(1 + 1) / 2
    expected = -np.log(np.exp(0.5) / np.exp([0.5, -2, 0.25]).sum())
    np.testing.assert_allclose(cross_entropy(model, logits[:1], right[:1])[0], expected, rtol=1e-6)


def test_a_warp_of_nothing_is_the_identity():
    images = jax.random.uniform(jax.random.key(0), (3, 8, 10, 2))
    warped = random_warp(shift=0.0, distortion=0.0)(jax.random.key(1), images)
    np.testing.assert_allclose(warped, images, atol=1e-6)


def test_a_warp_moves_and_keeps_within_its_limits():
    images = jnp.zeros((200, 21, 21, 1)).at[:, 10, 10].set(1.0)
    warped = random_warp(shift=3.0, distortion=0.0)(jax.random.key(1), images)[..., 0]
    rows = jnp.einsum("bhw,h->b", warped, jnp.arange(21) - 10.0)
    columns = jnp.einsum("bhw,w->b", warped, jnp.arange(21) - 10.0)
    for moves in (rows, columns):  # linear interpolation keeps the centre of mass
        assert 2.5 < np.abs(moves).max() <= 3.0 + 1e-4
        assert len(np.unique(moves)) > 190  # each image on its own
    assert abs(np.corrcoef(rows, columns)[0, 1]) < 0.3


@pytest.mark.parametrize("options", [{"distortion": 0.3}, {"distortion": 0.0, "elastic": 1.0}])
def test_a_warp_deforms_and_stays_in_range(options):
    images = jax.random.uniform(jax.random.key(0), (20, 12, 12, 1))
    warped = random_warp(shift=0.0, **options)(jax.random.key(1), images)
    assert warped.min() >= 0
    assert warped.max() <= 1
    assert np.abs(warped - images).mean() > 0.05
