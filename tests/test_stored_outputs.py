"""Stored outputs against new ones: what must agree, what must not, and that nothing breaks the comparison."""

import base64
import copy
import json
import re
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mlops_nb.errors import MlopsError
from mlops_nb.output_rules import NBVAL_TAGS
from mlops_nb.stored_outputs import Rules, compare, rules_of, update

PATIENT = settings(max_examples=150, deadline=None)
RULES = Rules()

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
chance = st.sampled_from([
    *("\r 50%|##  | 1/2 [00:01<00:01, 1.0it/s]", "at 0x7f31c8a2b5d0", "\x1b[31m", "2024-05-01 12:33:21", "/home/ann/a"),
    *("12.3 ms ± 40 µs per loop (mean ± std. dev. of 7 runs, 100 loops each)", "Wall time: 3 s", "nan", "1e999"),
    *('<div id="d41d8cd98f00b204e9800998ecf8427e">', "data:image/png;base64," + "A" * 60, "\x08\x08", "\x1b[3A", "\0"),
])  # fmt: skip
pieces = st.lists(texts | chance | st.floats().map(repr) | st.integers().map(repr), max_size=6).map(" ".join)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | pieces,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
kinds = st.sampled_from([
    *("text/plain", "text/html", "text/markdown", "image/png", "image/svg+xml", "application/json", "application/pdf"),
    *("application/vnd.plotly.v1+json", "application/vnd.jupyter.widget-view+json", "application/javascript"),
])  # fmt: skip
streams = st.fixed_dictionaries({
    "output_type": st.just("stream"),
    "name": st.sampled_from(["stdout", "stderr"]),
    "text": pieces | st.lists(pieces, max_size=3),
})  # fmt: skip
shows = st.fixed_dictionaries({
    "output_type": st.sampled_from(["display_data", "execute_result"]),
    "data": st.dictionaries(kinds, pieces | values, max_size=3),
    "metadata": st.just({}),
})  # fmt: skip
errors = st.fixed_dictionaries({
    "output_type": st.just("error"),
    "ename": pieces,
    "evalue": pieces,
    "traceback": st.lists(pieces, max_size=2),
})  # fmt: skip
outputs = st.lists(streams | shows | errors, max_size=5)


def printed(text: str, name: str = "stdout") -> dict[str, Any]:
    return {"output_type": "stream", "name": name, "text": text}


@PATIENT
@given(outputs)
def test_the_same_outputs_agree(some: list[dict[str, Any]]) -> None:
    """Also when they were made anew, so that no two parts are one object"""
    assert compare(some, json.loads(json.dumps(some)), RULES) == ""


@PATIENT
@given(outputs, outputs)
def test_it_says_the_same_from_both_sides(one: list[dict[str, Any]], two: list[dict[str, Any]]) -> None:
    """Whether two outputs differ does not depend on which is the stored one; and no output breaks it"""
    without = Rules(sanitizers=RULES.sanitizers - {"clock", "paths"})  # these know an old from a new
    assert bool(compare(one, two, without)) == bool(compare(two, one, without))
    compare(one, two, RULES)


@PATIENT
@given(st.lists(st.one_of(st.just(None), st.integers(), texts, st.dictionaries(texts, values, max_size=3)), max_size=3))
def test_what_are_no_outputs(odd: list[Any]) -> None:
    keys = ("output_type", "name", "text", "data", "ename", "evalue")
    made = [dict.fromkeys(keys, item) for item in odd] + odd
    assert compare(made, json.loads(json.dumps(made)), RULES) == ""
    compare(made, odd, RULES)


digits = st.integers(1, 9)


@PATIENT
@given(st.integers(0, 999), st.integers(0, 99999), st.integers(-12, 12), st.integers(0, 4), digits, pieces)
def test_a_changed_digit_is_seen(
    whole: int, fraction: int, exponent: int, place: int, change: int, around: str
) -> None:
    """A digit of a number that moves it by more than its tolerance"""
    figures = f"{fraction:05d}"
    other = figures[:place] + str((int(figures[place]) + change) % 10) + figures[place + 1 :]
    old, new = f"{whole}.{figures}e{exponent}", f"{whole}.{other}e{exponent}"
    apart = abs(float(old) - float(new)) > max(1e-6 * max(float(old), float(new)), 1e-12)
    words = compare([printed(f"loss {old} of")], [printed(f"loss {new} of")], RULES)
    assert bool(words) == apart
    assert not apart or f"{old} → {new}" in words
    table = {"output_type": "display_data", "data": {"text/html": f"<td>{old}</td>"}}
    other_table = {"output_type": "display_data", "data": {"text/html": f"<td>{new}</td>"}}
    assert bool(compare([table], [other_table], RULES)) == apart
    if apart and not re.search(r"[\r\x08\x1b]", around):  # of what is written over nothing is left
        assert compare([printed(f"{around}\nloss {old}\n")], [printed(f"{around}\nloss {new}\n")], RULES)


@PATIENT
@given(st.integers(-(10**6), 10**6), st.integers(1, 10**6), st.sampled_from(["", "n=", "(", "x "]))
def test_whole_numbers_are_exact(number: int, change: int, before: str) -> None:
    loose = Rules(numbers=1.0, absolute=1e9)
    assert compare([printed(f"{before}{number}")], [printed(f"{before}{number + change}")], loose)


@PATIENT
@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=1, max_size=20), st.floats(-4e-7, 4e-7))
def test_numbers_within_the_tolerance_agree(numbers: list[float], change: float) -> None:
    """Also where a table becomes wider by it"""
    moved = [number * (1 + change) for number in numbers]
    fractions = [all("." in repr(value) or "e" in repr(value) or value != value for value in pair)
                 for pair in zip(numbers, moved, strict=True)]  # fmt: skip
    assume(all(fractions) and not any(abs(value) == float("inf") for value in moved))
    width = max(len(repr(number)) for number in numbers)
    other = max(len(repr(number)) for number in moved)
    old = "\n".join(["loss".rjust(width), "-" * width, *(repr(number).rjust(width) for number in numbers)])
    new = "\n".join(["loss".rjust(other), "-" * other, *(repr(number).rjust(other) for number in moved)])
    assert compare([printed(old)], [printed(new)], RULES) == ""
    data = [{"output_type": "display_data", "data": {"application/json": {"y": some}}} for some in (numbers, moved)]
    assert compare(data[:1], data[1:], RULES) == ""


@PATIENT
@given(st.lists(st.tuples(st.booleans(), texts), max_size=8), st.randoms())
def test_the_order_of_unrelated_streams(parts: list[tuple[bool, str]], random: Any) -> None:
    """stdout against stderr, and into how many pieces a text came"""
    stored = [printed(text, "stderr" if is_error else "stdout") for is_error, text in parts]
    by_name = {name: [one for one in stored if one["name"] == name] for name in ("stdout", "stderr")}
    new = []
    while any(by_name.values()):
        name = random.choice([name for name, waiting in by_name.items() if waiting])
        one = by_name[name].pop(0)
        cut = random.randint(0, len(one["text"]))
        new += [printed(one["text"][:cut], name), printed(one["text"][cut:], name)]
    assert compare(stored, new, RULES) == ""


@PATIENT
@given(texts, texts)
def test_another_text_is_seen(old: str, new: str) -> None:
    """Without digits and what a terminal obeys, nothing but blanks at the end is let pass"""
    old, new = (re.sub(r"[\d\W_]+", " ", text) for text in (old, new))
    assert bool(compare([printed(old)], [printed(new)], RULES)) == (old.rstrip() != new.rstrip())


@PATIENT
@given(outputs, outputs)
def test_an_update_leaves_nothing_to_update(stored: list[dict[str, Any]], new: list[dict[str, Any]]) -> None:
    content = {"cells": [{"cell_type": "code", "source": "x", "metadata": {}, "outputs": copy.deepcopy(stored)}]}
    before = json.dumps(content)
    differ = bool(compare(stored, new, RULES))
    assert update(content, {0: new}, RULES) == differ
    assert differ or json.dumps(content) == before
    assert not update(content, {0: json.loads(json.dumps(new))}, RULES)


@PATIENT
@given(st.text(max_size=80), st.lists(st.text(max_size=20), max_size=3))
def test_a_directive_is_understood_or_refused(words: str, tags: list[str]) -> None:
    rules = Rules(file="a.ipynb")
    for source in (f"#| outputs: {words}", f"#| notebook_outputs: {words}", f"x = 1\n{words}"):
        assert said(rules.for_cell, source, [*tags, *NBVAL_TAGS]).startswith("a.ipynb: ")
        assert said(rules.for_notebook, {}, [source]).startswith("a.ipynb: ")
    assert said(rules.for_notebook, {"mlops_nb": {"outputs": words}}).startswith("a.ipynb: ")


def said(call: Any, *words: Any) -> str:
    """The refusal, or one that says nothing"""
    try:
        call(*words)
    except MlopsError as error:
        return str(error)
    return "a.ipynb: "


@PATIENT
@given(st.dictionaries(st.sampled_from(["marked", "numbers", "ignore", "keep", "sanitize", "sanitize_file"]), values))
def test_a_table_is_understood_or_refused(table: dict[str, Any]) -> None:
    refusal = said(rules_of, table)
    assert refusal.startswith(("pyproject.toml: [tool.mlops_nb.notebook_outputs] ", "a.ipynb: "))


# What the documentation of nbval shows, and what its own tests hold


def nbval(stored: str, new: str, source: str = "x", **settings: Any) -> bool:
    """Does it pass?"""
    return not compare([printed(stored)], [printed(new)], rules_of(settings).for_cell(source))


def test_nbval_documentation(tmp_path: Any) -> None:
    assert nbval("7\n", "7\n")
    assert not nbval("[0.36133679016382714, 0.5043774697891126]\n", "[0.5512421277985322, 0.02592706358897756]\n")
    assert not nbval("1\n1\n1\n", "1\n1\n")
    assert not nbval("", "a warning\n")
    old = "The time is: 15:28:30\nToday's date is: 21/12/16\n"
    new = "The time is: 09:01:02\nToday's date is: 03/02/18\n"
    assert not nbval(old, new)  # of another day than this, so a result
    assert nbval(old, new, remove=["dates"])
    cfg = "[regex1]\nregex: \\d{1,2}/\\d{1,2}/\\d{2,4}\nreplace: DATE-STAMP\n\n[regex2]\nregex: \\d{2}:\\d{2}:\\d{2}\n"
    (tmp_path / "doc_sanitize.cfg").write_text(cfg + "replace: TIME-STAMP")
    rules = rules_of({"sanitize_file": "doc_sanitize.cfg"}, root=tmp_path)
    assert compare([printed(old)], [printed(new)], rules) == ""
    assert nbval("12544\n", "7\n", "# NBVAL_IGNORE_OUTPUT\nprint('This is not going to be tested')")
    assert nbval("12544\n", "7\n", marked=True)
    assert not nbval("42\n", "43\n", "# NBVAL_CHECK_OUTPUT\nprint(6 * 7)", marked=True)


def test_nbval_errors_and_streams() -> None:
    raised = {"output_type": "error", "ename": "RuntimeError", "evalue": "Foo", "traceback": ["one"]}
    other = raised | {"ename": "SyntaxError"}
    assert compare([printed("a"), raised], [printed("a"), raised | {"traceback": ["two"]}], RULES) == ""
    assert "RuntimeError: Foo" in compare([raised], [other], RULES)
    assert compare([raised], [other], RULES.for_cell("# NBVAL_IGNORE_OUTPUT\n# NBVAL_RAISES_EXCEPTION\nx")) == ""
    assert nbval("0%\r50%\r100%\n", "0%\r100%\n")
    assert nbval("abd\x08c\n", "abc\n")
    assert compare([printed("a", "stderr")], [], rules_of({"ignore": ["stderr"]})) == ""
    figure = "<Figure size 432x288 with 1 Axes>"
    old, new = ({"output_type": "display_data", "data": {"text/plain": figure, "image/png": png}} for png in "ab")
    assert "image/png" in compare([old], [new], RULES)
    assert compare([old], [new], rules_of({"ignore": ["image/png", "image/jpeg"]})) == ""  # as nbval does
    latex = [{"output_type": "display_data", "data": {"text/latex": text}} for text in ("$x^1$", "$x^2$")]
    assert "text/latex" in compare(latex[:1], latex[1:], RULES)


# Outputs of 20 MB: the comparison itself, by what it does rather than by the clock


@pytest.mark.parametrize("lines", [1, 400_000])
def test_large_outputs_are_told_in_a_few_words(lines: int) -> None:
    text = "\n".join(["0.123456789 abcdefghi " * (20_000_000 // 22 // lines)] * lines)
    middle = text.index("abc", len(text) // 2)
    changed = f"{text[:middle]}ABC{text[middle + 3 :]}"
    assert compare([printed(text)], [printed(text)], RULES) == ""
    words = compare([printed(text)], [printed(changed)], RULES)
    assert "ABCdefghi" in words
    assert len(words) < 1000
    assert len(compare([printed(text)], [printed(text[:middle])], RULES)) < 3000


def test_no_base64() -> None:
    data = base64.b64encode(b"no picture").decode()
    for text in ("é", "====", "a", data, "", ["a\n"]):
        old, new = ([{"output_type": "display_data", "data": {"image/png": some}}] for some in (text, data + "AAAA"))
        assert "what they show is not compared" in compare(old, new, RULES)
        assert compare(old, old, RULES) == ""
