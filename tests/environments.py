"""Python environments of other people, into which this one's packages are put: nothing is downloaded for them."""

import os
import shutil
import sys
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement

SCRIPT = """\
#!/bin/sh
'''exec' "{python}" "$0" "$@"
' '''
"""  # as pip writes it, since the path of an environment may have spaces


def lend(environment: Path, *requirements: str) -> None:
    """Install into a new environment what these requirements ask for, and what that needs in turn"""
    found: dict[str, Distribution] = {}
    for requirement in requirements:
        gather(Requirement(requirement), found)
    for item in {item.name: item for item in found.values()}.values():
        for file in item.files or []:
            put(Path(os.path.normpath(item.locate_file(file))), environment)


def gather(requirement: Requirement, found: dict[str, Distribution]) -> None:
    """The distributions that a requirement leads to"""
    if str(requirement) in found:
        return
    item = found[str(requirement)] = distribution(requirement.name)
    for needed in map(Requirement, item.requires or []):
        if not needed.marker or any(needed.marker.evaluate({"extra": extra}) for extra in ["", *requirement.extras]):
            needed.marker = None
            gather(needed, found)


def put(source: Path, environment: Path) -> None:
    """One file, as a link where that can be, since there are thousands"""
    target = environment / source.relative_to(sys.prefix)
    if not target.parent.exists():
        target.parent.mkdir(parents=True)
    if target.parent.name == "bin":
        target.write_text(script(source.read_text(encoding="utf-8"), environment), encoding="utf-8")
        target.chmod(0o755)
        return
    try:
        target.hardlink_to(source)
    except OSError:  # on another file system
        shutil.copy2(source, target)


def script(text: str, environment: Path) -> str:
    """A script of this environment as one of another"""
    first, _, rest = text.replace(sys.prefix, str(environment)).partition("\n")
    return SCRIPT.format(python=first[2:]) + rest if "python" in first else f"{first}\n{rest}"
