"""Bad calls and command lines end in errors that name what is wrong; none is accepted.

The corpus is run in a process of its own, as users run the library: the type checks that the other
tests install would raise errors of their own.
"""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import bad_inputs
import pytest

pytestmark = pytest.mark.promotes

LEAST_CALLS, LEAST_COMMAND_LINES = 870, 80
# Cases that cannot be better than they are, each with its reason.
JUSTIFIED: dict[str, str] = {}


@pytest.fixture(scope="module", params=[6, pytest.param(1, marks=pytest.mark.slow)])
def results(request):
    """What came of every sixth case, or of all."""
    script = Path(bad_inputs.__file__)
    done = subprocess.run(
        [sys.executable, str(script), "--json", f"--every={request.param}"],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [bad_inputs.Result(**result) for result in json.loads(done.stdout.splitlines()[-1])]


def test_the_corpus_is_large(results, request):
    every = request.node.callspec.params["results"]
    lines = [result for result in results if result.part == "command lines"]
    assert len(lines) >= LEAST_COMMAND_LINES // every
    assert len(results) - len(lines) >= LEAST_CALLS // every
    assert {result.part for result in results} == set(bad_inputs.PARTS)


@pytest.mark.parametrize("part", bad_inputs.PARTS)
@pytest.mark.parametrize("kind", ["unclear", "accepted"])
def test_no_bad_input_is(kind, part, results):
    left = [
        f"{result.name} [{result.reason}] {result.message[:200]}"
        for result in results
        if (result.kind, result.part) == (kind, part) and result.name not in JUSTIFIED
    ]
    assert not left, "\n".join(left)


def test_what_is_justified_is_still_there(results):
    bad = {result.name for result in results if result.kind in ("unclear", "accepted")}
    assert set(JUSTIFIED) <= bad


# -- The classifier --------------------------------------------------------------------------------


def outcome(call, words="x", **expected):
    return bad_inputs.judged(bad_inputs.Case("part", "group", "name", call, words, **expected))


def raising(error):
    def call():
        raise error

    return call


def test_an_error_of_the_library_is_clear_and_one_from_elsewhere_is_not():
    import jaxsnn

    def library():
        return jaxsnn.FixedPoint(bits=4)

    assert outcome(library, "bits").kind == "clear"
    assert outcome(library, "steps").kind == "unclear"  # it does not name the argument
    assert outcome(library, "bits", forbid="8 or 16").kind == "unclear"
    assert outcome(raising(ValueError("x")), "x").kind == "unclear"  # not raised by the library
    assert outcome(lambda: len(None)).kind == "unclear"


def test_what_is_accepted():
    assert outcome(lambda: 1).kind == "accepted"
    assert outcome(lambda: 1, expect="clear").kind == "fine"
    assert outcome(lambda: 1, expect="warning").kind == "accepted"
    assert outcome(lambda: warnings.warn("x", stacklevel=2), "x", expect="warning").kind == "fine"
    assert (
        outcome(lambda: warnings.warn("y", stacklevel=2), "x", expect="warning").kind == "accepted"
    )
    assert outcome(lambda: float("nan"), expect="nan").kind == "fine"
    assert outcome(lambda: 1.0, expect="nan").kind == "accepted"


@pytest.mark.parametrize(
    ("code", "kind"), [("x is wrong", "clear"), ("wrong", "unclear"), (0, "accepted")]
)
def test_command_lines(code, kind):
    assert outcome(raising(SystemExit(code))).kind == kind
