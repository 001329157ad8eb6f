"""What must hold for every input: normal form, params.yaml, typed values."""

import random
import subprocess
import sysconfig
import tokenize
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, environment
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mlops_nb.code import normal_form, parse
from mlops_nb.params import Params, add_params, parse_assignment
from mlops_nb.project import fit

LIBRARY = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
MODULES = [path for path in LIBRARY if path.stat().st_size < 15_000]
NAMES = st.from_regex(r"[a-z][a-z_]{0,8}", fullmatch=True).filter(
    lambda name: name not in ("on", "off", "yes", "no", "y", "n")
)
SCALARS = st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.floats(allow_nan=False, allow_infinity=False)
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp")), max_size=20)
VALUES = st.recursive(
    SCALARS | TEXTS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3)
)


def reformatted(source: str, seed: int) -> str:
    """The same code with comments, blank lines and spaces at the ends of lines"""
    chance = random.Random(seed)
    ends = {
        token.start[0]
        for token in tokenize.generate_tokens(StringIO(source).readline)
        if token.type == tokenize.NEWLINE
    }
    lines = []
    for number, line in enumerate(source.splitlines(), 1):
        noisy = number in ends and "#" not in line and not line.endswith("\\")
        lines.append(line + (chance.choice(["", "  # why", "   "]) if noisy else ""))
        if noisy and chance.random() < 0.2:
            lines.append("")
    return "\n".join(lines) + "\n"


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(MODULES), st.integers())
def test_normal_form_ignores_comments_and_blank_lines(path: Path, seed: int) -> None:
    source = path.read_text(encoding="utf-8")
    once = normal_form(parse(source))
    assert normal_form(parse(reformatted(source, seed))) == once
    assert normal_form(parse(once)) == once


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(MODULES), st.data())
def test_normal_form_sees_a_changed_number(path: Path, data: st.DataObject) -> None:
    source = path.read_text(encoding="utf-8")
    numbers = [token for token in tokenize.generate_tokens(StringIO(source).readline) if token.type == tokenize.NUMBER]
    decimal = [token for token in numbers if token.string[0] in "123456789"]
    assume(decimal)
    token = data.draw(st.sampled_from(decimal))
    lines = source.splitlines(keepends=True)
    line = lines[token.start[0] - 1]
    lines[token.start[0] - 1] = f"{line[: token.start[1]]}7{line[token.start[1] :]}"
    assert normal_form(parse("".join(lines))) != normal_form(parse(source))


@pytest.mark.parametrize("version", ["3.12", "3.13"])
def test_normal_form_is_the_same_in_other_versions(version: str) -> None:
    """A clone on another machine may have another Python; its stages must not be stale for that"""
    code = (
        "import sys, hashlib, pathlib\nfrom mlops_nb.code import normal_form, parse\n"
        "for name in sys.argv[1:]:\n"
        "    print(hashlib.sha256(normal_form(parse(pathlib.Path(name).read_text())).encode()).hexdigest())"
    )
    files = [str(path) for path in [*MODULES[:60], *(ROOT / "mlops_nb").glob("*.py"), ROOT / "tests/data/f_strings.py"]]
    seen = []
    for python in ("python", f"python{version}"):
        more = environment(PYTHONPATH=str(ROOT), PYTHONWARNINGS="ignore")
        try:
            done = subprocess.run([python, "-c", code, *files], env=more, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            pytest.skip(f"needs {python}, which is not installed")
        if done.returncode and "command not found" in done.stderr:
            pytest.skip(f"needs {python}, which is not installed")
        assert done.returncode == 0, done.stderr
        seen.append(done.stdout)
    assert seen[0] == seen[1]


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(NAMES, st.dictionaries(NAMES, VALUES, min_size=1, max_size=3), max_size=3),
    NAMES,
    st.dictionaries(NAMES, VALUES, max_size=3),
)
def test_added_values_come_back_and_others_stay(present: dict[str, Any], stage: str, new: dict[str, Any]) -> None:
    params = Params("")
    for name, section in present.items():
        params = add_params(params, name, {key: (value, "note") for key, value in section.items()})
    assert params.values == present
    missing = {key: value for key, value in new.items() if key not in present.get(stage, {})}
    added = add_params(params, stage, {key: (value, "") for key, value in missing.items()})
    assert added.values == ({**present, stage: present.get(stage, {}) | missing} if missing else present)
    assert [line for line in params.text.splitlines() if line not in added.text.splitlines()] == []


@settings(max_examples=40, deadline=None)
@given(st.integers() | st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_on_the_command_line_is_itself(value: float) -> None:
    key, read = parse_assignment(f"rate={value!r}")
    assert (key, fit(read, float)) == ("rate", float(value))


@settings(max_examples=60, deadline=None)
@given(VALUES)
def test_fit_accepts_what_has_the_type_and_nothing_else(value: Any) -> None:
    """The one conversion is of a whole number where a float is asked for"""
    for kind in (int, float, bool, str, list, dict):
        suits = type(value) is kind or (kind is float and type(value) is int)
        if suits:
            fitted = fit(value, kind)
            assert fitted == value
            assert type(fitted) is kind
            assert repr(fit([value, None], list[kind | None])) == repr([fitted, None])
        else:
            with pytest.raises(TypeError, match="expected"):
                fit(value, kind)
