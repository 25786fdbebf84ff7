"""The spikes of version 0.4.0, before its structure was changed."""

import json
from pathlib import Path

import golden


def test_the_spikes_are_those_of_before():
    expected = json.loads(Path(golden.__file__).with_suffix(".json").read_text())
    found = golden.digests()
    assert {name: found[name] for name in expected} == expected
    assert len(found) == len(expected) == 27
