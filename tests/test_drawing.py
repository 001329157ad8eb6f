"""`mlops-nb graph`: the drawing says which stage reads from which, and the other formats are valid for every name."""

import fcntl
import json
import os
import re
import struct
import subprocess
import sys
import termios
import warnings
from pathlib import Path

import pytest
from conftest import Run, environment, notebook
from hypothesis import given
from hypothesis import strategies as st

from mlops_nb.drawing import Edge, Node, Pipeline, draw

AWKWARD = ["naïve données.csv", 'a "quoted" #1.csv', "back\\slash & <tag> `x`.csv", "end-of--it.csv"]
HAND_WRITTEN = """
  it-s end:
    cmd: "true"
    deps: [out/table.csv, "naïve données.csv"]
    outs: ['a "quoted" #1.csv']
  each:
    foreach: [one, two]
    do:
      cmd: "true"
      deps: ['a "quoted" #1.csv']
      outs: ["${item}.csv"]
"""


@pytest.fixture
def awkward(small: Path) -> Path:
    """The small project with data that a .dvc file tracks, hand-written stages, and names that need escapes"""
    (small / "naïve données.csv").write_text("1")
    (small / "more data.dvc").write_text("outs:\n- path: 'back\\slash & <tag> `x`.csv'\n- path: end-of--it.csv\n")
    with (small / "dvc.yaml").open("a", encoding="utf-8") as file:
        file.write(HAND_WRITTEN)
    cells = ('raw: In = "end-of--it.csv"\ntable: Out = "out/last.csv"', "1")
    (small / "notebooks/3_last-one.ipynb").write_text(notebook(*cells))
    return small


def row(printed: str, name: str) -> str:
    """The line of a node"""
    return next(line for line in printed.splitlines() if f"  {name}  " in line)


def test_text(awkward: Path, run: Run) -> None:
    printed = run("mlops-nb", "graph", cwd=awkward).stdout
    assert "\x1b" not in printed
    assert row(printed, "make").startswith("●")
    assert row(printed, "make").endswith("never ran")
    assert re.search(r"hand-written +out/table.csv$", row(printed, "it-s end"))
    assert re.search(r"never ran +end-of--it.csv$", row(printed, "last-one"))
    lines = printed.splitlines()
    assert lines.index(row(printed, "more data.dvc")) < lines.index(row(printed, "last-one"))
    plain = run("mlops-nb", "graph", "--outs", cwd=awkward, PYTHONIOENCODING="ascii").stdout
    assert plain.isascii()
    assert "na?ve donn?es.csv" in plain


def test_nothing_to_draw(tmp_path: Path, run: Run) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.mlops_nb]\n")
    assert "no stage yet" in run("mlops-nb", "graph", cwd=tmp_path).stderr


def test_json(awkward: Path, run: Run) -> None:
    drawn = json.loads(run("mlops-nb", "graph", "--json", cwd=awkward).stdout)
    assert {"source": "stage make", "target": "stage count", "paths": ["out/table.csv"]} in drawn["edges"]
    kinds = {node["name"]: node["kind"] for node in drawn["nodes"]}
    assert kinds == {
        "make": "stage",
        "count": "stage",
        "last-one": "stage",
        "more data.dvc": "data",
        "it-s end": "hand-written",
        "each": "hand-written",
    }
    assert [node["state"] for node in drawn["nodes"] if node["name"] == "make"] == ["never ran"]
    files = json.loads(run("mlops-nb", "graph", "--json", "--outs", cwd=awkward).stdout)
    names = [node["name"] for node in files["nodes"] if node["kind"] == "file"]
    assert {*AWKWARD} <= {*names}
    assert names.index("out/table.csv") < [node["name"] for node in files["nodes"]].index("count")


NODE = re.compile(r'    n\d+(\["[^"]*"\]|\("[^"]*"\)|\[\("[^"]*"\)\]|\(\["[^"]*"\]\))(:::[a-z_]+)?')
LINK = re.compile(r'    n\d+ (-->|-->\|"[^"]*"\|) n\d+')
CLASS = re.compile(r"    classDef [a-z_]+ fill:#[0-9a-f]{6},stroke:#[0-9a-f]{3},color:#[0-9a-f]{3}")
LABEL = re.compile(r"([\w ./:@-]|#\d+;|<br/>)*")  # of what Mermaid gives a meaning, only what we mean


def test_mermaid(awkward: Path, run: Run) -> None:
    for more in ([], ["--outs"]):
        first, *lines = run("mlops-nb", "graph", "--mermaid", *more, cwd=awkward).stdout.splitlines()
        assert first == "flowchart TD"
        for line in lines:
            assert NODE.fullmatch(line) or LINK.fullmatch(line) or CLASS.fullmatch(line), line
            for label in re.findall(r'"([^"]*)"', line):
                assert LABEL.fullmatch(label), label
        nodes = {line.split()[0].split("[")[0].split("(")[0] for line in lines if NODE.fullmatch(line)}
        used = {word for line in lines if LINK.fullmatch(line) for word in re.findall(r"\bn\d+\b", line)}
        assert used <= nodes
    assert "a #34;quoted#34; #35;1.csv" in "\n".join(lines)


def test_dot(awkward: Path, run: Run) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pyparsing
        import pydot

        for more in ([], ["--outs"]):
            (graph,) = pydot.graph_from_dot_data(run("mlops-nb", "graph", "--dot", *more, cwd=awkward).stdout) or []
            drawn = json.loads(run("mlops-nb", "graph", "--json", *more, cwd=awkward).stdout)
            nodes = [node for node in graph.get_nodes() if node.get_name() not in ("node", "edge")]
            shown = [
                node.get_label().strip('"').split(r"\n")[0].replace(r"\"", '"').replace("\\\\", "\\") for node in nodes
            ]
            assert shown == [node["name"] for node in drawn["nodes"]]
            assert len(graph.get_edges()) == len(drawn["edges"])


def on_terminal(root: Path, columns: int, *words: str) -> str:
    """What a command prints on a terminal of this width"""
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    kept = {name: value for name, value in environment().items() if name not in ("NO_COLOR", "COLUMNS")}
    command = [sys.executable, "-m", "mlops_nb", *words]
    with subprocess.Popen(command, cwd=root, stdout=slave, env=kept | {"TERM": "xterm-256color"}) as process:
        os.close(slave)
        said = b""
        while part := _read(master):
            said += part
    os.close(master)
    assert process.returncode == 0
    return said.decode().replace("\r\n", "\n")


def _read(file: int) -> bytes:
    try:
        return os.read(file, 1 << 16)
    except OSError:  # the other end was closed
        return b""


def test_terminal(awkward: Path) -> None:
    for columns in (100, 40, 12):
        said = on_terminal(awkward, columns, "graph")
        plain = re.sub(r"\x1b\[[0-9;]*m", "", said)
        assert max(map(len, plain.splitlines())) <= columns
        assert "make" in plain
    assert "…" in plain
    assert re.search(r"\x1b\[36m[^\x1b]*make", said)  # never ran: cyan


GLYPH, DOWN, END = "●", "├┤┼", "╰╯┴"


def edges_seen(lines: list[str], names: list[str]) -> set[tuple[str, str]]:
    """The edges that a reader of the drawing sees"""
    left, lanes, seen = [*names], {}, set()  # type: list[str], dict[int, str], set[tuple[str, str]]
    for line in lines:
        marks = dict(enumerate(line[::2]))
        links = dict(enumerate(line[1::2]))
        lanes = {lane: owner for lane, owner in lanes.items() if marks.get(lane, " ") not in " ─"}
        column = next((lane for lane, mark in marks.items() if mark == GLYPH), None)
        if column is None:
            assert {*marks.values()} <= {*"│ "}
            continue
        first = last = column
        while first and links.get(first - 1) == "─":
            first -= 1
        while links.get(last) == "─":
            last += 1
        inputs = [lane for lane in range(first, last + 1) if marks[lane] in DOWN + END] + [column] * (column in lanes)
        name = left.pop(0)
        seen |= {(lanes[lane], name) for lane in inputs}
        lanes = {lane: owner for lane, owner in lanes.items() if marks[lane] not in END} | {column: name}
    assert not left
    return seen


@st.composite
def graphs(some: st.DrawFn) -> list[tuple[int, int]]:
    """Pairs of nodes, the first of which stands before the second"""
    size = some(st.integers(1, 12))
    pairs = [(one, two) for two in range(size) for one in range(two)]
    return [
        (0, 0),
        (size - 1, size - 1),
        *some(st.lists(st.sampled_from(pairs), unique=True) if pairs else st.just([])),
    ]


@given(graphs())
def test_a_reader_sees_every_edge_and_no_other(pairs: list[tuple[int, int]]) -> None:
    names = [str(number) for number in range(max(two for _, two in pairs) + 1)]
    edges = [Edge(str(one), str(two), []) for one, two in pairs if one != two]
    rows = draw(Pipeline([Node(name, name, "stage") for name in names], edges))
    assert edges_seen([row.lanes for row in rows], names) == {(edge.source, edge.target) for edge in edges}
