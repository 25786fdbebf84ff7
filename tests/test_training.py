"""Training: it learns, it repeats itself, it survives being killed, and it refuses bad input."""

import contextlib
import dataclasses
import errno
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxsnn import balance_thresholds, constant, read_network, reset_by_subtraction, simulate
from jaxsnn.paper import training
from jaxsnn.paper.deep_networks import VGG, ResNet
from jaxsnn.paper.networks import ClipFloorConvNet, ConvNet, FullyConnected
from jaxsnn.support import checkpoints
from jaxsnn.training import (
    RECIPES,
    Recipe,
    accuracy,
    cross_entropy,
    fit,
    one_sided_squared_error,
    random_crop_and_flip,
    random_warp,
    squared_error,
)

pytestmark = pytest.mark.promotes

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
@pytest.mark.parametrize("name", ["fc-modern", "conv-modern", "conv-few-steps"])
@pytest.mark.thinned(3)
def test_the_modern_recipes_learn(name):
    recipe = dataclasses.replace(RECIPES[name], epochs=3, batch_size=20)
    model = recipe.model(rngs=nnx.Rngs(0))
    history = fit(model, corners(200, size=28), recipe=recipe, progress=False)
    assert history[-1]["loss"] < history[0]["loss"]
    assert history[-1]["accuracy"] > 0.4  # chance is 0.25


def test_thresholds_of_clip_floors_are_learned_with_the_weights():
    model = ClipFloorConvNet((12, 12, 1), maps=(6,), classes=4, dropout=0.0, rngs=nnx.Rngs(0))
    data = corners()
    recipe = dataclasses.replace(RECIPES["conv-few-steps"], epochs=10, batch_size=20)
    history = fit(model, data, recipe=recipe, progress=False)
    assert history[-1]["accuracy"] > 0.8
    threshold = float(model.thresholds[0][...])
    assert 0 < threshold != 2.0
    network = read_network(model, data.images[:1])
    assert [layer.ceiling for layer in network.layers] == [threshold, np.inf]
    options = {"reset": reset_by_subtraction, "encode": constant}
    run = simulate(balance_thresholds(network, **options), data.images, key=0, duration=0.004)
    assert float(run.accuracy(data.labels)[-1]) > accuracy(model, data) - 0.05


def test_every_recipe_builds_its_network():
    for name, recipe in RECIPES.items():
        assert recipe.name == name
        model = nnx.eval_shape(lambda recipe=recipe: recipe.model(rngs=nnx.Rngs(0)))
        classes = {"fc": FullyConnected, "conv": ConvNet, "resnet20": ResNet, "vgg11": VGG}
        assert isinstance(model, classes[name.split("-")[0]])


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
    graph, params, kept, rest = nnx.split(model, nnx.Param, training._KEPT, ...)
    optimizer = optax.sgd(0.0)

    def one_score(model, images, labels):
        scores = model.logits(images)
        return scores[0, 0], scores

    recipe = dataclasses.replace(SHORT, loss=one_score, augment=lambda key, images: images)
    data, order = corners(), jnp.zeros((2, 25), int)
    for index in (0, 1, 0):
        _, totals = training._step(
            recipe, optimizer, graph, rest, (params, optimizer.init(params), kept), jnp.zeros(2),
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


# --- Batch norm -----------------------------------------------------------------------------------


class Normalized(nnx.Module):
    """A network with batch norm."""

    def __init__(self, rngs):
        self.first = nnx.Linear(144, 8, rngs=rngs)
        self.norm = nnx.BatchNorm(8, momentum=0.9, rngs=rngs)
        self.last = nnx.Linear(8, 4, rngs=rngs)

    def logits(self, images):
        x = nnx.relu(self.norm(self.first(images.reshape(len(images), -1))))
        return self.last(x)

    __call__ = logits


NORMALIZED = dataclasses.replace(SHORT, model=Normalized, loss=cross_entropy)


def trained_with_norm(**options):
    """All variables of a model that was trained, and its history."""
    model = Normalized(nnx.Rngs(0))
    history = fit(model, corners(), recipe=NORMALIZED, progress=False, **options)
    return model, history


def variables(model):
    return jax.tree.leaves(nnx.state(model, (nnx.Param, nnx.BatchStat)))


def test_statistics_of_batch_norm_are_those_of_the_steps():
    """One step moves them by a tenth towards those of its batch; evaluation uses them."""
    once = dataclasses.replace(NORMALIZED, epochs=1, batch_size=200, augment=lambda key, x: x)
    model, data = Normalized(nnx.Rngs(0)), corners()
    hidden = model.first(jnp.asarray(data.images).reshape(200, -1))
    fit(model, data, recipe=once, progress=False)
    expected = 0.1 * hidden.mean(0), 0.9 + 0.1 * hidden.var(0)
    np.testing.assert_allclose(model.norm.mean.get_value(), expected[0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(model.norm.var.get_value(), expected[1], rtol=1e-4)
    assert model.norm.use_running_average
    np.testing.assert_allclose(model(data.images[:3]), model(data.images)[:3], atol=1e-6)


def test_a_network_with_batch_norm_learns():
    """In evaluation too, which needs the statistics."""
    longer = dataclasses.replace(NORMALIZED, epochs=20)
    model = Normalized(nnx.Rngs(0))
    history = fit(model, corners(), recipe=longer, test=corners(), progress=False)
    assert history[-1]["test_accuracy"] == accuracy(model, corners()) > 0.95


@pytest.mark.filterwarnings("ignore:Using 'Module.sow")
def test_what_a_model_sows_is_not_kept():
    class Sowing(Normalized):
        def logits(self, images):
            self.sow(nnx.Intermediate, "brightness", images.mean())
            return super().logits(images)

        __call__ = logits

    model = Sowing(nnx.Rngs(0))
    fit(model, corners(), recipe=NORMALIZED, progress=False)
    assert same(variables(model), variables(trained_with_norm()[0]))


def test_resumed_with_batch_norm_equals_uninterrupted(tmp_path, monkeypatch):
    whole, whole_history = trained_with_norm(test=corners())
    row, rows = training._row, []

    def interrupted(*arguments):
        rows.append(1)
        if len(rows) == 3:
            raise KeyboardInterrupt
        return row(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(training, "_row", interrupted)
        with pytest.raises(KeyboardInterrupt):
            trained_with_norm(test=corners(), checkpoint=tmp_path)
    resumed, history = trained_with_norm(test=corners(), checkpoint=tmp_path)
    assert len(variables(whole)) == 8
    assert same(variables(whole), variables(resumed))
    assert history == whole_history
    loaded, _ = trained_with_norm(test=corners(), checkpoint=tmp_path)
    assert same(variables(whole), variables(loaded))


def test_the_checkpoint_of_other_statistics_is_refused(tmp_path):
    trained_with_norm(checkpoint=tmp_path)
    model = Normalized(nnx.Rngs(0))
    model.norm.mean.set_value(jnp.ones(8))
    with pytest.raises(ValueError, match="another run: its initial weights is"):
        fit(model, corners(), recipe=NORMALIZED, progress=False, checkpoint=tmp_path)


# --- Checkpoints ----------------------------------------------------------------------------------


def test_a_finished_run_is_only_loaded(tmp_path, monkeypatch):
    first = trained(checkpoint=tmp_path)
    monkeypatch.setattr(training, "_row", None)  # an epoch needs it
    second = trained(checkpoint=tmp_path)
    assert same(first[0], second[0])
    assert first[1] == second[1]


def test_only_the_latest_checkpoint_is_kept(tmp_path):
    trained(checkpoint=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["4"]


@pytest.mark.slow
def test_a_killed_run_resumes_as_if_nothing_had_happened(tmp_path):
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


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_changed_file_of_a_checkpoint_is_never_read(tmp_path):
    """Of every file every change ends in one error, which names the folder and what to do."""
    kept, changed = tmp_path / "kept", tmp_path / "changed"
    trained(checkpoint=kept)
    names = [path.relative_to(kept) for path in files_of(kept)]
    assert len(names) > 5
    assert {Path("4/run.json"), Path("4/sha256.json")} < set(names)
    rng = np.random.default_rng(0)
    state, identity = 0, {}
    for name in names:
        whole = (kept / name).read_bytes()
        flipped = bytearray(whole)
        flipped[rng.integers(len(whole))] ^= 1 << rng.integers(8)
        for content in (bytes(flipped), whole[: len(whole) // 2], whole + b" x", b"", None):
            shutil.rmtree(changed, ignore_errors=True)
            shutil.copytree(kept, changed)
            if content is None:
                (changed / name).unlink()
            else:
                (changed / name).write_bytes(content)
            with pytest.raises(
                ValueError, match=f"{changed}/4 cannot be used.*delete .*train again"
            ):
                checkpoints.Checkpoints(changed).load(state, identity)
    shutil.copytree(kept, changed, dirs_exist_ok=True)
    (changed / "4" / "more").write_text("x")
    with pytest.raises(ValueError, match="its file more has changed"):
        checkpoints.Checkpoints(changed).load(state, identity)


def test_fit_refuses_a_damaged_checkpoint_and_leaves_it_alone(tmp_path):
    trained(checkpoint=tmp_path)
    (largest,) = sorted(files_of(tmp_path), key=lambda path: path.stat().st_size)[-1:]
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    with pytest.raises(
        ValueError, match=f"{tmp_path}/4 cannot be used.*{largest.name} has changed"
    ):
        trained(checkpoint=tmp_path)
    assert largest.read_bytes() == content


def test_the_checkpoint_of_an_earlier_version_is_refused(tmp_path):
    import orbax.checkpoint as ocp

    with ocp.CheckpointManager(tmp_path) as manager:
        run = ocp.args.JsonSave({"identity": {}, "history": [{}]})
        manager.save(1, args=ocp.args.Composite(run=run))
    with pytest.raises(ValueError, match=r"has no checksums.*earlier version.*train again"):
        trained(checkpoint=tmp_path)


def test_a_kill_between_two_checkpoints_leaves_the_newer(tmp_path):
    trained(dataclasses.replace(SHORT, epochs=1), checkpoint=tmp_path / "other")
    whole = trained(checkpoint=tmp_path / "run")
    shutil.copytree(tmp_path / "other" / "1", tmp_path / "run" / "3")  # not yet deleted
    (tmp_path / "run" / ".unfinished-checkpoint").mkdir()
    resumed = trained(checkpoint=tmp_path / "run")
    assert same(whole[0], resumed[0])
    assert whole[1] == resumed[1]


FULL_DISK = """
import resource
from test_training import *

model = SHORT.model(rngs=nnx.Rngs(0))
once = dataclasses.replace(SHORT, epochs=1)
fit(model, corners(), recipe=once, progress=False)
first = jax.tree.leaves(nnx.state(model, nnx.Param))
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
model = SHORT.model(rngs=nnx.Rngs(0))
try:
    fit(model, corners(), recipe=once, checkpoint=sys.argv[1], progress=False)
except OSError as error:
    assert same(first, jax.tree.leaves(nnx.state(model, nnx.Param)))
    print(error)
"""


@pytest.mark.slow
def test_a_full_disk_is_named_and_costs_nothing(tmp_path):
    """A limit on the size of files stands for it."""
    run = subprocess.run(
        [sys.executable, "-c", FULL_DISK, tmp_path],
        cwd=Path(__file__).parent, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "File too large" in run.stdout
    assert f"the checkpoint folder {tmp_path} cannot be read or written" in run.stdout
    assert "Epoch 1 was not stored: the model has its weights" in run.stdout
    assert "Make room there" in run.stdout
    assert list(tmp_path.iterdir()) == []  # no half of a checkpoint takes what room there is


def test_what_is_written_after_the_error_is_deleted_too(tmp_path):
    """Orbax's threads write the other files of a checkpoint when one has failed."""
    folder = tmp_path / "unfinished"

    def write():
        for part in range(20):
            folder.mkdir(exist_ok=True)
            time.sleep(0.01)
            with contextlib.suppress(FileNotFoundError):
                (folder / str(part)).write_text("late")

    late = threading.Thread(target=write)

    def fail():
        with checkpoints._deleted(folder):
            late.start()
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        fail()
    late.join()
    assert not folder.exists()


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_checkpoint_needs_a_folder(tmp_path, place):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=f"checkpoint folder {tmp_path / place} cannot be .*another"):
        trained(checkpoint=tmp_path / place)
    with pytest.raises(ValueError, match="checkpoint is an empty path"):
        trained(checkpoint="")


def test_a_folder_that_cannot_be_written_is_found_before_the_training(tmp_path, monkeypatch):
    def refuse(**_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(checkpoints.tempfile, "TemporaryFile", refuse)
    monkeypatch.setattr(training, "_row", None)  # an epoch needs it
    with pytest.raises(PermissionError, match=f"Permission denied: .*{tmp_path}.*another folder"):
        trained(checkpoint=tmp_path)


@pytest.mark.slow
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
        ({"images": np.full((200, 12, 12, 1), np.nan, "float32")}, "must be finite numbers"),
        ({"images": np.full((200, 12, 12, 1), np.inf, "float32")}, "must be finite numbers"),
        ({"images": np.full((200, 12, 12, 1), 255.0, "float32")}, r"belong in \[0, 1\]"),
        (
            {"images": np.zeros((200, 12, 12, 1), "uint8")},
            "needs images of floating-point .*by 255",
        ),
        ({"images": np.zeros((200, 12, 12, 1), complex)}, "training set must be real numbers"),
        ({"images": np.full((200, 12, 12, 1), None)}, "training set must be real numbers"),
        ({"images": [[1.0], [1.0, 2.0]]}, "images of the training set must be an array"),
        ({"images": np.ma.masked_array(corners().images, False)}, "images .*must have no mask"),
        ({"images": None}, "images of the training set must be real numbers"),
        ({"images": np.zeros((200, 11, 12, 1), "float32")}, "cannot take the training set's"),
        ({"images": np.zeros((199, 12, 12, 1), "float32")}, "one label per image"),
        ({"labels": np.zeros((200, 4), int)}, "one label per image"),
        ({"labels": np.zeros(200)}, "labels of the training set must be integers, not float64"),
        ({"labels": np.full(200, np.nan)}, "labels of the training set must be integers"),
        ({"labels": np.ones(200, bool)}, "labels of the training set must be integers, not bool"),
        ({"labels": np.array(["a"] * 200)}, "labels of the training set must be integers"),
        ({"labels": np.ma.masked_array(corners().labels, False)}, "labels .*must have no mask"),
        ({"labels": None}, "labels of the training set must be integers"),
        ({"labels": np.arange(200) % 5}, "labels from 0 to 4; the model has 4 classes"),
        ({"labels": np.arange(200) % 4 - 1}, "labels of the training set range from -1 to 2"),
        ({"images": corners(24).images, "labels": corners(24).labels}, "fewer than one batch"),
    ],
)
def test_bad_training_sets_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        trained(data=SimpleNamespace(**{**vars(corners()), **change}))


def test_lists_and_other_floats_are_trained_on():
    data = corners(100)
    lists = SimpleNamespace(images=data.images.tolist(), labels=data.labels.tolist())
    half = SimpleNamespace(images=jnp.asarray(data.images, jnp.bfloat16), labels=data.labels)
    once = dataclasses.replace(SHORT, epochs=1)
    assert same(trained(once, data=lists)[0], trained(once, data=data)[0])
    assert len(trained(once, data=half)[1]) == 1


def test_bad_test_sets_are_refused():
    bad = SimpleNamespace(images=corners().images[:, 1:], labels=corners().labels)
    with pytest.raises(ValueError, match="cannot take the test set's images"):
        trained(test=bad)


@pytest.mark.parametrize("seed", [-1, 2**32, 2**40])
def test_seeds_that_a_key_would_wrap_are_refused(seed):
    with pytest.raises(ValueError, match=rf"seed={seed}; it must be from 0 to 2\*\*32 - 1"):
        trained(seed=seed)


@pytest.mark.parametrize("name", ["epochs", "batch_size"])
@pytest.mark.parametrize("value", [0, -1])
def test_recipes_check_themselves(name, value):
    with pytest.raises(ValueError, match=f"{name}={value}; a recipe needs at least 1"):
        dataclasses.replace(SHORT, **{name: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": lambda: None}, "the recipe's optimizer failed: .*positional argument"),
        ({"loss": lambda m: m}, "the recipe's loss failed: .*positional argument"),
        ({"loss": lambda m, x, y: None}, "the recipe's loss returns None; it must return one"),
        ({"loss": lambda m, x, y: m(x).mean()}, "the recipe's loss returns a traced array"),
        ({"loss": lambda m, x, y: (m(x), m(x))}, r"the recipe's loss returns .*\(100, 4\)"),
        ({"loss": lambda m, x, y: ("a", m(x))}, "the recipe's loss returns 'a'"),
        ({"augment": lambda x: x}, "the recipe's augment failed: .*positional argument"),
        ({"augment": lambda k, x: x[:, :6]}, r"the recipe's augment returns .*\(100, 6, 12, 1\)"),
        ({"augment": lambda k, x: None}, "the recipe's augment returns None"),
    ],
)
def test_functions_of_a_recipe_that_return_something_else(change, message):
    with pytest.raises(ValueError, match=message):
        trained(dataclasses.replace(SHORT, **change))


def test_an_optimizer_that_is_none():
    with pytest.raises(TypeError, match=r"the recipe's optimizer returns 0.1; .*optax.adam"):
        trained(dataclasses.replace(SHORT, optimizer=lambda steps: 0.1))


def test_models_that_cannot_be_trained():
    class Bare(nnx.Module):
        def __init__(self):
            self.dense = nnx.Linear(144, 4, use_bias=False, rngs=nnx.Rngs(0))

        def __call__(self, images):
            return nnx.relu(self.dense(images.reshape(len(images), -1)))

    for loss in (cross_entropy, one_sided_squared_error):
        with pytest.raises(TypeError, match=r"a Bare, has no method `logits`.*logits\(images\)"):
            loss(Bare(), jnp.zeros((1, 144)), jnp.zeros(1, int))
        recipe = dataclasses.replace(SHORT, loss=loss)
        with pytest.raises(ValueError, match=r"the recipe's loss failed: .*`logits`"):
            fit(Bare(), corners(), recipe=recipe, progress=False)
    with pytest.raises(ValueError, match=r"has no nnx.Param"):
        fit(nnx.Sequential(lambda x: x.reshape(len(x), -1)), corners(), recipe=SHORT)
    with pytest.raises(ValueError, match=r"returns scores of shape \(1, 12, 12, 4\) .*\[B, cl"):
        fit(nnx.Linear(1, 4, rngs=nnx.Rngs(0)), corners(), recipe=SHORT)


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
    for batch_size in (0, -1):
        with pytest.raises(ValueError, match=f"batch_size={batch_size}; it must be at least 1"):
            accuracy(model, data, batch_size=batch_size)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: 1, "the model cannot take the set's images of shape .*positional argument"),
        (lambda x: None, "the model's scores must be real numbers, not object"),
        (lambda x: jnp.zeros(len(x)), r"the model returns scores of shape \(4,\) for 4 images"),
        (lambda x: jnp.zeros((1, 4)), r"the model returns scores of shape \(1, 4\) for 4 images"),
        (lambda x: x * np.nan, "the model's scores must be finite numbers"),
        (lambda x: x[:, :2], "labels range from 0 to 3; they must be classes, from 0 to 1"),
    ],
)
def test_accuracy_needs_scores(model, message):
    with pytest.raises(ValueError, match=message):
        accuracy(model, SimpleNamespace(images=np.eye(4), labels=np.arange(4)))


@pytest.mark.parametrize("labels", [np.arange(4) / 2, np.arange(4) - 1, np.arange(4) > 1, [0, 1]])
def test_accuracy_needs_labels(labels):
    with pytest.raises(ValueError, match="label"):
        accuracy(lambda x: x, SimpleNamespace(images=np.eye(4), labels=labels))


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


@pytest.mark.parametrize("loss", [squared_error, one_sided_squared_error, cross_entropy])
@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        (jnp.zeros((2, 3)), [0], r"labels have shape \(1,\) and the model's scores \(2, 3\)"),
        (jnp.zeros((2, 3)), [0, 3], "labels range from 0 to 3; they must be classes, from 0 to 2"),
        (jnp.zeros((2, 3)), [0.0, 1.0], "labels must be integers"),
        (jnp.zeros(2), [0, 1], r"the model returns .*\(2,\).*it must return scores"),
    ],
)
def test_losses_refuse(loss, scores, labels, message):
    class Model:
        def __call__(self, images):
            return scores

        logits = __call__

    with pytest.raises(ValueError, match=message):
        loss(Model(), jnp.zeros((2, 4)), labels)


@pytest.mark.parametrize("name", ["shift", "distortion", "elastic"])
@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
def test_warps_refuse(name, value):
    with pytest.raises(ValueError, match=f"{name}={value:g}; it must be a finite number"):
        random_warp(**{name: value})
    with pytest.raises(ValueError, match="cells=0; there must be at least 1"):
        random_warp(cells=0)
    with pytest.raises(ValueError, match=r"takes images \[B, height, width, channels\]"):
        random_warp()(jax.random.key(0), jnp.zeros((2, 144)))


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


def test_a_crop_moves_by_whole_pixels_and_half_are_mirrored():
    images = jnp.zeros((400, 9, 9, 2)).at[:, 4, 4, 0].set(1.0).at[:, 4, 5, 1].set(1.0)
    moved = np.asarray(random_crop_and_flip(padding=2)(jax.random.key(0), images))
    assert moved.shape == images.shape
    image, row, column = np.nonzero(moved[..., 0])
    np.testing.assert_array_equal(image, np.arange(400))  # each keeps its pixel
    assert set(np.unique(moved)) == {0.0, 1.0}
    shifts = {(int(r) - 4, int(c) - 4) for r, c in zip(row, column)}
    assert shifts == {(r, c) for r in range(-2, 3) for c in range(-2, 3)}
    mirrored = np.nonzero(moved[..., 1])[2] < column
    assert 0.4 < mirrored.mean() < 0.6


def test_a_crop_fills_with_zeros_and_without_padding_only_mirrors():
    images = jnp.arange(1.0, 28.0).reshape(1, 3, 3, 3).repeat(20, 0)
    for image in random_crop_and_flip(padding=0)(jax.random.key(0), images):
        assert same([image], [images[0]]) or same([image], [images[0, :, ::-1]])
    assert (random_crop_and_flip(padding=3)(jax.random.key(0), images) == 0).any()
    with pytest.raises(ValueError, match="padding=-1; it must be"):
        random_crop_and_flip(padding=-1)
    with pytest.raises(ValueError, match=r"takes images \[B, height, width, channels\]"):
        random_crop_and_flip()(jax.random.key(0), jnp.zeros((2, 144)))


def test_momentum_and_decay_of_the_weights_are_those_of_the_textbooks():
    """g + d·w into v = 0.9 v + g, w -= rate · v, with the rate of the schedule."""
    optimizer = RECIPES["resnet20-cifar10"].optimizer(100)
    weight = jnp.array(2.0)
    state, velocity, expected = optimizer.init(weight), 0.0, 2.0
    for step in range(4):
        update, state = optimizer.update(jnp.array(0.5), state, weight)
        weight = optax.apply_updates(weight, update)
        velocity = 0.9 * velocity + 0.5 + 5e-4 * expected
        expected -= 0.1 * step / 5 * velocity  # five steps of 100 to the peak
        np.testing.assert_allclose(weight, expected, rtol=1e-6)
