"""The options of pytest that have notebooks run as tests.

pytest imports this file at each start, before coverage begins to count, so it stands outside the package and imports
nothing of it; `mlops_nb.testing` does the work, once it is asked to.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("--notebooks", {"action": "store_true", "default": None, "help": "run notebooks as tests"}),
    ("--no-notebooks", {"action": "store_false", "dest": "notebooks", "help": "do not, whatever pyproject.toml says"}),
    ("--notebook-workers", {"type": int, "metavar": "N", "help": "notebooks that run at a time (default: one a core)"}),
    ("--notebook-timeout", {"type": float, "metavar": "S", "help": "seconds for a notebook; 0 for no limit"}),
    ("--notebook-cell-timeout", {"type": float, "metavar": "S", "help": "seconds for each cell that says no other"}),
    ("--notebook-flags", {"action": "append", "metavar": "NAME", "help": "run the cells with this flag, as slow"}),
    ("--notebook-kernel", {"metavar": "NAME", "help": "an ordinary kernel of this name for every notebook"}),
    ("--notebook-outputs", {"action": "store_true", "help": "compare the stored outputs with what cells show now"}),
    ("--notebook-update", {"action": "store_true", "help": "write what cells show now into the notebooks"}),
    ("--notebook-changed", {"action": "store_true", "help": "run only what changed since it last passed"}),
    ("--notebook-durations", {"type": int, "metavar": "N", "help": "tell the N slowest cells"}),
    ("--notebook-executed", {"metavar": "DIR", "help": "leave the executed notebooks in this folder"}),
    ("--notebook-stages", {"action": "store_true", "default": None, "help": "run the stage notebooks as a pipeline"}),
    ("--no-notebook-stages", {"action": "store_false", "dest": "notebook_stages", "help": "leave the stages out"}),
    ("--notebook-profile", {"metavar": "NAME", "help": "lay params.NAME.yaml over params.yaml for the stages"}),
]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("notebooks", "notebooks as tests (mlops_nb)")
    for name, rest in OPTIONS:
        group.addoption(name, **rest)


def is_asked(config: pytest.Config) -> bool:
    """Do the options or pyproject.toml want notebooks?"""
    option = config.getoption("notebooks")
    if option is not None:
        return bool(option)
    file = Path(config.rootpath, "pyproject.toml")
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8")).get("tool", {}).get("mlops_nb", {})
    except (OSError, ValueError, AttributeError):
        return False
    return isinstance(table, dict) and table.get("notebooks") is True


def pytest_cmdline_main(config: pytest.Config) -> None:
    """`-n 3` of xdist, where nothing but notebooks is named: three at a time in this process, which needs no workers"""
    option = config.option
    if getattr(option, "numprocesses", None) and option.dist != "each" and is_asked(config) and _only_notebooks(config):
        option.notebook_workers = option.notebook_workers or len(option.tx)
        option.dist, option.tx = "no", []


def _only_notebooks(config: pytest.Config) -> bool:
    """Can nothing that is named hold other tests?"""
    named = [config.invocation_params.dir / text.partition("::")[0] for text in config.args]
    patterns = config.getini("python_files")
    return bool(named) and all(
        path.suffix == ".ipynb" or (path.is_dir() and not any(found for one in patterns for found in path.rglob(one)))
        for path in named
    )


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Markers, and the rest when notebooks are asked for; coverage counts by now"""
    config.addinivalue_line("markers", "notebook: a notebook that runs as a test")
    config.addinivalue_line("markers", "slow: a notebook with cells that take long, which run only with -m slow")
    if is_asked(config):
        from mlops_nb.testing import Plugin

        config.pluginmanager.register(Plugin(config), "mlops_nb_notebooks")


@pytest.fixture
def notebook(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Run a notebook, or some of its cells, in a kernel of its own: see `mlops_nb.testing.NotebookFixture`"""
    from mlops_nb.testing import NotebookFixture

    made = NotebookFixture(request.config.rootpath, request.path.parent)
    yield made
    made.close()


def _plugin(config: pytest.Config) -> Any:
    """The plugin, when notebooks run"""
    return config.pluginmanager.get_plugin("mlops_nb_notebooks")


def pytest_report_header(config: pytest.Config) -> list[str]:
    """One line, when notebooks run"""
    plugin = _plugin(config)
    return plugin.header() if plugin is not None else []


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """What the plugin has to say at the end"""
    plugin = _plugin(config)
    if plugin is not None and plugin.summary:
        terminalreporter.section("notebooks")
        for line in plugin.summary:
            terminalreporter.write_line(line)


def pytest_unconfigure(config: pytest.Config) -> None:
    """When no test ran, there may still be a process"""
    plugin = _plugin(config)
    if plugin is not None and not plugin.closed:
        plugin.close()
