"""The public interface: every name documented, with an example that the doctests run."""

import doctest
import importlib
import inspect
import pkgutil
import subprocess
import sys
import types

import pytest

import jaxsnn

PARTS = [
    importlib.import_module(f"jaxsnn.{module.name}")
    for module in pkgutil.iter_modules(jaxsnn.__path__)
    if module.name != "__main__"
]
PUBLIC = {f"jaxsnn.{name}": getattr(jaxsnn, name) for name in jaxsnn.__all__}
FUNCTIONS = {name: thing for name, thing in PUBLIC.items() if callable(thing)}
# What stands in the modules that the package names, such as jaxsnn.readout.spike_count.
FUNCTIONS |= {
    f"jaxsnn.{module.__name__.split('.')[-1]}.{name}": thing
    for module in PUBLIC.values()
    if isinstance(module, types.ModuleType)
    for name, thing in vars(module).items()
    if inspect.isfunction(thing)
    and thing.__module__ == module.__name__
    and not name.startswith("_")
    and module.__name__ != "jaxsnn.network"  # the representation; Network itself is public
}


def test_all_names_exist_and_are_sorted():
    assert list(jaxsnn.__all__) == sorted(jaxsnn.__all__)
    assert all(hasattr(jaxsnn, name) for name in jaxsnn.__all__)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_public_name_has_a_docstring_with_an_example(name):
    documentation = inspect.getdoc(FUNCTIONS[name])
    assert documentation, f"{name} has no docstring"
    assert doctest.DocTestParser().get_examples(documentation), f"{name} has no example"


@pytest.mark.parametrize("module", PARTS, ids=lambda module: module.__name__)
def test_every_module_says_what_it_is_for(module):
    assert inspect.getdoc(module)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_public_function_is_typed(name):
    thing = FUNCTIONS[name]
    if not inspect.isfunction(thing):
        pytest.skip("a class; its fields have types by being a dataclass")
    signature = inspect.signature(thing)
    for parameter in signature.parameters.values():
        assert parameter.annotation is not inspect.Parameter.empty, f"{name}: {parameter}"
    assert signature.return_annotation is not inspect.Signature.empty, name


@pytest.mark.parametrize("name", FUNCTIONS)
def test_help_shows_no_addresses(name):
    thing = FUNCTIONS[name]
    if not (inspect.isclass(thing) and issubclass(thing, Exception)):
        assert " at 0x" not in str(inspect.signature(thing)), name


def test_import_is_quick_and_draws_nothing_in():
    """Matplotlib, pandas and TensorFlow Datasets are imported when they are needed."""
    code = "import sys, jaxsnn; print([m for m in sys.modules if '.' not in m])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for heavy in ("matplotlib", "pandas", "tensorflow_datasets", "tyro", "tensorflow"):
        assert f"'{heavy}'" not in done.stdout
