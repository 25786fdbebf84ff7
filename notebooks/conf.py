"""Settings of the documentation: `python -m sphinx -W notebooks documentation`.

The pages of the API are written here, one for each name in `jaxsnn.__all__`.
"""

import inspect
import os
import re
from importlib.metadata import metadata
from pathlib import Path
from typing import Any

import jaxsnn
from jaxsnn.support.typed import readable_signature

project = "jaxsnn"
author = "The jaxsnn authors"
copyright = "The jaxsnn authors"
version = release = jaxsnn.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["jupyter_execute", ".jupyter_cache"]
default_role = (
    "py:obj"  # what stands in backticks in a docstring is a link, if there is such a name
)
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # -D nb_execution_mode=cache runs the notebooks, and shows what came out
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_merge_streams = True

autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
napoleon_use_ivar = True
napoleon_attr_annotations = False
python_maximum_signature_line_length = 80
python_use_unqualified_type_names = True

html_theme = "sphinx_book_theme"
html_title = f"jaxsnn {version}"
html_theme_options: dict[str, Any] = {
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "navbar_persistent": [],
}
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["narrow.css"]
# Notebooks open in Colab once [project.urls] says where the repository is.
_urls = dict(url.split(", ", 1) for url in metadata("jaxsnn-conversion").get_all("Project-URL", []))
if repository := _urls.get("Repository"):
    html_theme_options |= {
        "repository_url": repository,
        "repository_branch": "main",
        "path_to_docs": "notebooks",
        "launch_buttons": {"colab_url": "https://colab.research.google.com"},
    }

_DIRECTIVES = {
    "Functions": ("autofunction", inspect.isroutine),
    "Classes": ("autoclass", inspect.isclass),
    "Modules": ("automodule", inspect.ismodule),
}


def _page(name: str, directive: str) -> str:
    """The page of a public name."""
    lines = [".. py:currentmodule:: jaxsnn", "", f".. {directive}:: jaxsnn.{name}"]
    if directive == "autoclass":
        lines.append("   :members:")
        fields = getattr(jaxsnn, name).__dict__.get("__dataclass_fields__", ())  # not as methods
        lines.append(f"   :exclude-members: {', '.join(fields)}")
    return "\n".join([f"# {name}\n", "```{eval-rst}", *lines, "```\n"])


def _page_of_module(name: str, directive: str) -> str:
    """The page of a module, with links to what has pages of its own."""
    module = getattr(jaxsnn, name)
    parts = [
        part for part in getattr(module, "__all__", []) if inspect.ismodule(vars(module)[part])
    ]
    shared = [
        other for other in jaxsnn.__all__ if vars(module).get(other) is getattr(jaxsnn, other)
    ]
    lines = []
    for path in (name, *(f"{name}.{part}" for part in parts)):
        lines += [f".. {directive}:: jaxsnn.{path}", "   :members:"]
        lines += [f"   :exclude-members: {', '.join(shared)}", ""]
    links = ", ".join(f"[`{other}`]({other}.md)" for other in shared)
    others = f"With pages of their own: {links}\n" if links else ""
    return "\n".join([f"# {name}\n", "```{eval-rst}", *lines, "```\n", others])


def _write(path: Path, text: str) -> None:
    """Write a page if it is another one, so that Sphinx reads only what is new."""
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def _write_api() -> None:
    """Write the page of every public name, and the index of them all."""
    folder = Path(__file__).parent / "api"
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.md"):
        if old.stem not in jaxsnn.__all__:
            old.unlink()
    index = ["# API\n\nEvery public name of `jaxsnn` has a page.\n"]
    for title, (directive, is_kind) in _DIRECTIVES.items():
        names = [name for name in jaxsnn.__all__ if is_kind(getattr(jaxsnn, name))]
        index.append(f"## {title}\n")
        for name in names:
            first = (inspect.getdoc(getattr(jaxsnn, name)) or "").partition("\n\n")[0]
            index.append(f"[`{name}`]({name}.md)\n: {' '.join(first.split())}\n")
            page = _page_of_module if title == "Modules" else _page
            _write(folder / f"{name}.md", page(name, directive))
        index.append("```{toctree}\n:hidden:\n\n" + "\n".join(names) + "\n```\n")
    (folder / "index.md").write_text("\n".join(index))


_ROOT = Path(__file__).parents[1]
_LINK = re.compile(r"(?<=\]\()(?!https?:|#)([^)#\s]+)")
_PAGES = {"README.md": "index.md", "benchmarks/README.md": "benchmarks.md"}


def _link_to_pages(app: Any, path: Path, parent: str, content: list[str]) -> None:
    """Let links of a README lead to pages where there are some, and else to files."""
    folder = (app.srcdir / path).resolve().parent

    def target(link: re.Match[str]) -> str:
        named = os.path.relpath(folder / link[0], _ROOT)
        if named.startswith("notebooks/"):
            return named.removeprefix("notebooks/")
        return _PAGES.get(named, f"../{named}")

    content[0] = _LINK.sub(target, content[0])


def _as_in_help(
    app: Any, what: str, name: str, thing: Any, options: Any, signature: str, returns: str
) -> tuple[str, str] | None:
    """The signature that `help` shows, with the names of types and not what they stand for."""
    try:
        found = readable_signature(inspect.signature(thing))
    except (TypeError, ValueError):  # exceptions, and what is no function
        return None
    parameters = list(found.parameters.values())[what == "method" :]  # without self
    empty = inspect.Signature.empty
    text = str(found.replace(parameters=parameters, return_annotation=empty))
    return text, "" if what == "class" else str(found.return_annotation)


def setup(app: Any) -> None:
    """What Sphinx calls."""
    app.connect("autodoc-process-signature", _as_in_help)
    app.connect("include-read", _link_to_pages)


_write_api()
