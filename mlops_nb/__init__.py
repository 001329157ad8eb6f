"""A notebook is written once, and is at once the library module, the stage, the job, the test and the report.

Names are loaded when they are used (PEP 562), so `import mlops_nb` costs nothing, and a stage that imports
`In` depends on `mlops_nb.interface` alone.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlops_nb.errors import MlopsError
    from mlops_nb.interface import In, Metrics, Out, Plots, Secret

_WHERE = {
    "In": "interface",
    "Metrics": "interface",
    "MlopsError": "errors",
    "Out": "interface",
    "Plots": "interface",
    "Secret": "interface",
}

__all__ = ["In", "Metrics", "MlopsError", "Out", "Plots", "Secret"]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(_WHERE)
