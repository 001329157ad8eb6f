"""The page of a run in a real browser without a network."""

import json
import re
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import nbformat
import pytest
from conftest import ROOT, need

from mlops_nb.hashes import md5
from mlops_nb.ledger import CellRun, Ledger, Run, RunFolder
from mlops_nb.markup import PAGE, POLICY
from mlops_nb.project import Project
from mlops_nb.report import render, write_report

ELSEWHERE = "http://elsewhere.invalid"
HOSTILE = [
    f'</div></body></iframe></template>"><script>document.title="broken"; fetch("{ELSEWHERE}/fetch")</script>',
    f'<base href="{ELSEWHERE}/"><meta http-equiv="refresh" content="0; url={ELSEWHERE}/refresh">',
    f'<form action="{ELSEWHERE}/form"><button id="send">send</button></form>',
    '<a id="script" href="javascript:top.document.title=\'broken\'">click</a>',
    f'<a id="top" target="_top" href="{ELSEWHERE}/top">top</a><a id="self" href="{ELSEWHERE}/self">self</a>',
    f'<a id="blank" target="_blank" href="{ELSEWHERE}/blank">blank</a>',
    "<style>body, html, section { display: none !important }</style>",
    f'<img src="{ELSEWHERE}/img.png" onerror="top.document.title=\'broken\'"><iframe src="{ELSEWHERE}/frame"></iframe>',
    f'<link rel="stylesheet" href="{ELSEWHERE}/style.css"><style>@import "{ELSEWHERE}/import.css";</style>',
    f'<object data="{ELSEWHERE}/object"></object><video src="{ELSEWHERE}/video" autoplay></video>',
]
SVG = (
    f'<svg xmlns="http://www.w3.org/2000/svg" width="40" height="40"><script>top.document.title="broken"</script>'
    f'<image href="{ELSEWHERE}/svg.png" width="9" height="9"/><rect width="40" height="40" fill="red"/></svg>'
)
FAILING = "def scale(rate):\n    raise ValueError(f'negative rate {rate}')\n\nprint('before it failed')\nscale(-1)"


def notebook(*cells: Any) -> Any:
    return nbformat.v4.new_notebook(cells=[*cells])


def code(source: str, *outputs: Any, **options: Any) -> Any:
    return nbformat.v4.new_code_cell(source, outputs=[*outputs], **options)


def text(source: str, **options: Any) -> Any:
    return nbformat.v4.new_markdown_cell(source, **options)


def shows(kind: str, data: Any) -> Any:
    return nbformat.v4.new_output("display_data", {kind: data, "text/plain": "plain"})


def prints(printed: str) -> Any:
    return nbformat.v4.new_output("stream", name="stdout", text=printed)


def record(state: str, **more: Any) -> Run:
    times = {"created": 1_700_000_000.0, "started": 1_700_000_000.0, "ended": 1_700_000_003.2}
    return Run(f"train-{state}", "train", "nbs/stages/02_train.ipynb", state=state, **times | more)


def save(project: Project, run: Run, content: Any) -> None:
    """The executed notebook of a run"""
    path = RunFolder(project, run.id).notebook
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(content, path)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.fixture(scope="module")
def executed() -> Any:
    """A notebook that a kernel has run: a picture, a table and an error"""
    from nbclient import NotebookClient

    cells = [
        text("# Train\n> Fit the classifier"),
        code("epochs: int = 5", metadata={"tags": ["parameters"]}),
        code("epochs = 7", metadata={"tags": ["injected-parameters"]}),
        text("## Loss **curve**"),
        code("import matplotlib.pyplot as plt\nplt.plot([2.3, 1.1, 0.6])\nplt.show()"),
        code("import pandas as pd\npd.DataFrame({'digit': range(3), 'recall': [0.9, 0.95, 1.0]})"),
        code(FAILING, metadata={"tags": ["raises-exception"]}),
        text("## Save"),
    ]
    return NotebookClient(notebook(*cells), kernel_name="python3").execute()


class Browser:
    """Opens pages; notes what they asked the network or a file for, and not what their own policy refused"""

    def __init__(self, chromium: Any):
        self.chromium = chromium
        self.requests: list[str] = []

    def open(self, path: Path, scheme: str = "light", width: int = 1000, offline: bool = True) -> Any:
        context = self.chromium.new_context(color_scheme=scheme, viewport={"width": width, "height": 900})
        context.set_offline(offline)
        context.on("requestfinished", self.note)
        context.on("requestfailed", self.note)
        page = context.new_page()
        page.goto(path.as_uri())
        return page

    def note(self, request: Any) -> None:
        if request.failure != "csp" and not request.url.startswith("data:"):
            self.requests.append(request.url)


@pytest.fixture(scope="module")
def chromium(executed: Any) -> Iterator[Any]:
    """A browser; asked for after the kernel is through, since both want an event loop"""
    program = need("chromium", "chromium-browser", "google-chrome")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as player:
        started = player.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@pytest.fixture
def browser(chromium: Any) -> Iterator[Browser]:
    made = Browser(chromium)
    yield made
    for context in chromium.contexts:
        context.close()


@pytest.fixture
def elsewhere() -> Iterator[tuple[str, list[str]]]:
    """The address of a server that no page should call, and the calls"""
    calls: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            calls.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_POST = do_GET

        def log_message(self, *rest: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", calls
        server.shutdown()


@pytest.fixture
def show(browser: Browser, project: Project) -> Callable[..., Any]:
    """Write the page of a run and open it"""

    def opened(run: Run, *rest: Any, **options: Any) -> Any:
        path = project.root / f"{run.id}.html"
        write_report(project, run, path, *rest)
        page = browser.open(path, **options)
        assert browser.requests == [path.as_uri()]
        return page

    return opened


def top(page: Any, selector: str) -> float:
    box = page.locator(selector).first.bounding_box()
    assert box is not None, f"{selector} is not visible"
    return float(box["y"])


def test_a_run_that_succeeded(project: Project, show: Callable[..., Any], executed: Any) -> None:
    run = record("succeeded", metrics={"accuracy": 0.97}, parameters={"epochs": {"value": 7, "origin": "command line"}})
    earlier = replace(run, id="train-before", metrics={"accuracy": 0.96}, parameters={"epochs": {"value": 5}})
    save(project, run, executed)
    page = show(run, [(True, "train.accuracy is 0.97, floor 0.95"), (False, "train.loss is 2")], earlier)
    assert page.locator(".headline").inner_text().endswith("succeeded in 3.2 s")
    assert page.locator(".verdicts li").all_inner_texts() == [
        "✓ reached train.accuracy is 0.97, floor 0.95",
        "✗ missed train.loss is 2",
    ]
    assert page.locator("#parameters .changed").inner_text().split() == ["epochs", "7", "was", "5", "command", "line"]
    assert "+0.01, was 0.96" in page.locator("#metrics").inner_text()
    figure = page.locator("#pictures figure")
    assert figure.inner_text() == "Loss **curve**"
    assert figure.locator("img").evaluate("picture => picture.naturalWidth") > 100
    assert top(page, "header") < top(page, "#metrics") < top(page, "#parameters") < top(page, "#pictures")
    assert not page.locator("#notebook article").first.is_visible()
    page.locator("summary").click()
    assert page.locator("#notebook h1").inner_text() == "Train"
    assert page.locator("#notebook .count").all_inner_texts()[1:3] == ["2", "set"]
    cell = page.frame_locator("#notebook iframe").locator("table td")
    assert cell.all_inner_texts() == ["0", "0.90", "1", "0.95", "2", "1.00"]


@pytest.mark.parametrize("width", [1000, 360])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_run_that_failed(project: Project, show: Callable[..., Any], executed: Any, scheme: str, width: int) -> None:
    """The failed cell comes first, can be read in the dark, and nothing makes a phone scroll sideways"""
    cells = [
        CellRun(2, "epochs: int = 5", "succeeded", 0.1),
        CellRun(6, "def scale(rate):", "failed", 3.0),
        CellRun(7, "x", "skipped"),
    ]
    long = {"a_parameter_with_a_rather_long_name": {"value": "x" * 200, "origin": "params.smoke.yaml"}}
    problem = "ValueError: negative rate -1"
    run = record("failed", cell=6, problem=problem, cells=cells, parameters=long, fingerprint="a" * 64)
    save(project, run, executed)
    page = show(run, [], record("succeeded"), scheme=scheme, width=width)
    assert page.locator(".headline").inner_text().endswith(f"failed in cell 6 of 7 after 3.2 s: {problem}")
    stopped = page.locator("#stopped")
    assert stopped.locator(".hll").inner_text().strip() == "5scale(-1)"
    tops = stopped.locator(".linenos").evaluate_all("all => all.map(one => one.getBoundingClientRect().top)")
    assert tops == sorted(set(tops)), "each line of the source has a line of its own"
    assert "ValueError: negative rate -1" in stopped.locator("pre.error").inner_text()
    assert "before it failed" in stopped.locator("pre.stdout").inner_text()
    assert stopped.locator("pre.error .ink").count() > 3
    assert top(page, "#stopped .source") < top(page, "#stopped pre.error") < top(page, "#parameters")
    assert top(page, "#stopped pre.error") < 900  # without scrolling
    page.locator("summary").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    light = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(243, 245, 248)"
    assert light == (scheme == "light")
    for spot in (".headline", "pre .ink", ".source span[class]:not(.w)", "#parameters th", ".soft", ".note", "dt"):
        assert contrast(page, spot) >= 4.5, spot
    assert page.locator(".timeline .skipped .took").inner_text() == "skipped"


def contrast(page: Any, selector: str) -> float:
    """The least between the colour of some texts and what lies behind them, as WCAG counts it"""
    script = """element => {
        const drawn = document.createElement("canvas").getContext("2d");
        const paint = colour => { drawn.fillStyle = colour; drawn.fillRect(0, 0, 1, 1); };
        const read = () => [...drawn.getImageData(0, 0, 1, 1).data].slice(0, 3);
        const above = [];
        for (let now = element; now; now = now.parentElement) above.unshift(getComputedStyle(now).backgroundColor);
        above.forEach(paint);
        const behind = read();
        paint(getComputedStyle(element).color);
        return [behind, read()];
    }"""
    return min(_contrast(element.evaluate(script)) for element in page.locator(selector).all())


def _contrast(colours: list[list[int]]) -> float:
    shades = []
    for colour in colours:
        parts = [part / 255 / 12.92 if part <= 10 else ((part / 255 + 0.055) / 1.055) ** 2.4 for part in colour]
        shades.append(0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2])
    return (max(shades) + 0.05) / (min(shades) + 0.05)


def test_hostile_outputs_stay_in_their_box(
    project: Project, show: Callable[..., Any], browser: Browser, elsewhere: tuple[str, list[str]]
) -> None:
    """With a network and clicks on all that can be clicked"""
    address, calls = elsewhere
    run = record("succeeded")
    outputs = [shows("text/html", markup.replace(ELSEWHERE, address)) for markup in HOSTILE]
    content = notebook(
        code("hostile()", *outputs, shows("image/svg+xml", SVG.replace(ELSEWHERE, address))),
        text(f'<script>document.title="broken"</script> ![seen]({address}/seen.png) [go](javascript:alert(1))'),
        code("markdown()", shows("text/markdown", f'<img src="{address}/md.png" onerror="alert(1)">')),
        text("the last cell"),
    )
    save(project, run, content)
    page = show(run, offline=False)
    page.locator("summary").click()
    assert page.locator("iframe").count() == len(HOSTILE)
    for place in range(len(HOSTILE)):
        frame = page.frame_locator("iframe").nth(place)
        for link in ("#send", "#script", "#top", "#self", "#blank"):
            if frame.locator(link).count():
                frame.locator(link).click(no_wait_after=True)
                page.wait_for_timeout(200)
    assert page.title() == "train: succeeded (train-succeeded)"
    assert page.get_by_text("the last cell").is_visible()
    assert page.evaluate("document.scripts.length") == 0
    assert page.locator("base, form, link:not([rel=icon]), meta[http-equiv=refresh]").count() == 0
    assert page.locator('a[href^="javascript"]').count() == 0
    assert page.locator("#pictures img").evaluate("picture => picture.naturalWidth") == 40
    assert len(page.context.pages) == 1
    assert len(browser.requests) == 1
    assert calls == []


def test_hostile_outputs_do_harm_elsewhere(browser: Browser, tmp_path: Path, elsewhere: tuple[str, list[str]]) -> None:
    """The test above can fail"""
    address, calls = elsewhere
    path = tmp_path / "bare.html"
    path.write_text(f"<!doctype html><title>whole</title>{''.join(HOSTILE[4:]).replace(ELSEWHERE, address)}")
    browser.open(path, offline=False).wait_for_timeout(500)
    assert {"/img.png", "/frame", "/style.css", "/import.css"} <= {*calls}


def test_a_record_is_text(project: Project, show: Callable[..., Any]) -> None:
    """Markup in whatever a record holds is shown, not obeyed"""
    bad = "</title></style><script>alert(1)</script>"
    run = record(
        "failed", problem=bad, cell=1, who=bad, host=bad, device=bad, command=[bad], commit=bad, dirty=[bad],
        signal=bad, packages={bad: bad}, parameters={bad: {"value": {bad: [bad]}, "origin": bad}}, metrics={bad: 1.0},
        inputs={bad[2:8]: {"name": bad, "md5": bad, "size": 1}}, outputs={bad[2:8]: {"name": bad, "kind": bad}},
        cells=[CellRun(1, bad, bad, 1.0)],
    )  # fmt: skip
    run.name = run.fingerprint = run.profile = run.python = run.kernel = bad
    broken = nbformat.v4.new_output("error", ename=bad, evalue=bad, traceback=[f"\x1b[31m{bad}\x1b[0m"])
    save(project, run, notebook(text(f"# {bad}"), code(bad, prints(bad), broken, shows("text/plain", bad))))
    page = show(run, [(False, bad)], replace(run, parameters={bad: {"value": bad}}, metrics={bad: 2.0}))
    page.locator("summary").click()
    assert page.evaluate("document.scripts.length") == 0
    assert page.title() == f"{bad}: failed (train-failed)"
    assert bad in page.locator("h1").first.inner_text()
    content = render(project, run, [(False, bad)])
    assert "<script" not in content
    assert POLICY.replace("'", "&#39;") in content


def test_only_what_is_html_is_not_escaped() -> None:
    source = (ROOT / "mlops_nb" / "report.html").read_text(encoding="utf-8")
    passed = re.findall(r"([\w.]+)\s*\|\s*safe", source)
    assert len(passed) == source.count("safe") > 4
    assert all(name.endswith("html") for name in passed)


def test_a_killed_run_without_a_notebook(project: Project, show: Callable[..., Any]) -> None:
    cells = [CellRun(2, "import torch", "succeeded", 1.0), CellRun(4, "fit(model)", "killed", 2.0)]
    run = record("killed", signal="SIGKILL", cell=4, problem="nobody ran it any more", cells=cells)
    log = RunFolder(project, run.id).log
    log.parent.mkdir(parents=True)
    log.write_text("".join(f"epoch {number}\n" for number in range(100_000)))
    page = show(run)
    assert (
        page.locator(".headline")
        .inner_text()
        .endswith("killed by SIGKILL in cell 4 after 3.2 s: nobody ran it any more")
    )
    stopped = page.locator("#stopped").inner_text()
    assert "fit(model)" in stopped
    assert "epoch 99999" in stopped
    assert "epoch 90000" not in stopped
    tail = page.locator(".tail").evaluate("box => box.getBoundingClientRect().bottom")
    last = page.locator(".tail pre").evaluate("text => text.getBoundingClientRect().bottom")
    assert abs(tail - last) < 20  # the end is what one sees
    assert page.locator("#notebook").count() == 0


def test_a_run_that_goes_on(project: Project) -> None:
    run = record("running", ended=None, cells=[CellRun(2, "epochs: int = 5", "running", 0.0)])
    log = RunFolder(project, run.id).log
    log.parent.mkdir(parents=True)
    log.write_text("epoch 1\n")
    RunFolder(project, run.id).notebook.write_text('{"half a')
    page = render(project, run)
    assert "running in cell 2" in page
    assert "epoch 1" in page
    assert page == render(project, run)
    waiting = record("queued", started=None, ended=None)
    assert "waiting to start" in render(project, waiting)


def test_same_run_same_bytes(project: Project, executed: Any) -> None:
    curves = project.root / "curves"
    for name in ("train", "validation"):
        (curves / name).mkdir(parents=True)
        (curves / name / "loss.tsv").write_text("step\tloss\n0\t2.5\n1\t1.5\n2\tnan\n3\t0.5\n")
    run = record("succeeded", outputs={"curves": {"name": "curves", "kind": "Plots", "md5": md5(curves), "size": 9}})
    save(project, run, executed)
    path = project.root / "page.html"
    assert write_report(project, run, path)
    first = path.read_bytes()
    assert not write_report(project, run, path)
    assert path.read_bytes() == first
    assert path.stat().st_size < 200_000


def test_plots(project: Project, show: Callable[..., Any]) -> None:
    """Drawn, counted or listed; what has changed since is not shown"""
    tables = {
        "curves/train/loss.csv": "step,loss\n0,2\n1,1\n",
        "curves/validation/loss.csv": "step,loss\n0,3\n1,2\n",
        "curves/strange.csv": "a,$b_{\n1e400,1\n,2\n",
        "confusion.csv": "actual,predicted\ncat,cat\ncat,dog\ndog,dog\ndog,dog\n",
        "names.csv": "image,label\n" + "".join(f"{number}.png,cat\n" for number in range(40)),
        "changed.csv": "step,loss\n0,2\n",
        "empty.csv": "",
        "shape.svg": SVG,
        "noise.json": "[]",
    }
    for name, content in tables.items():
        (project.root / name).parent.mkdir(parents=True, exist_ok=True)
        (project.root / name).write_text(content)
    names = {name.split("/")[0] for name in tables}
    outputs = {name: {"name": "x", "kind": "Plots", "md5": md5(project.root / name)} for name in sorted(names)}
    outputs["gone.csv"] = {"name": "gone", "kind": "Plots", "md5": "0" * 32}
    (project.root / "changed.csv").write_text("step,loss\n0,2\n1,1\n")
    page = show(record("succeeded", outputs=outputs))
    figures = {figure.locator("figcaption").inner_text(): figure for figure in page.locator("figure").all()}
    assert [*figures] == [
        "changed.csv changed since, so it is not shown",
        "confusion.csv rows: actual, columns: predicted",
        "strange",
        "loss",
        "empty.csv",
        "names.csv the first 12 of 40 rows",
        "noise.json files of the kind .json are not drawn",
        "shape.svg",
        "gone.csv no longer there, so it is not shown",
    ]
    for name in ("loss", "shape.svg", "strange"):
        assert figures[name].locator("img").evaluate("picture => picture.naturalWidth") >= 40
    counted = figures["confusion.csv rows: actual, columns: predicted"].locator("td")
    assert counted.all_inner_texts() == ["1", "1", "0", "2"]
    assert figures["names.csv the first 12 of 40 rows"].locator("tbody tr").count() == 12
    states = page.locator(".files").last.inner_text()
    assert "changed since" in states
    assert "no longer there" in states


def test_plots_without_matplotlib(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    (project.root / "loss.csv").write_text("step,loss\n0,2.25\n1,1\n")
    outputs = {"loss.csv": {"name": "loss", "kind": "Plots", "md5": md5(project.root / "loss.csv"), "size": 20}}
    assert "<td>2.25" in render(project, record("succeeded", outputs=outputs))


def test_lineage(project: Project) -> None:
    """An input names the run that wrote the same bytes, the last before this one"""
    made = {"out.csv": {"name": "table", "kind": "Out", "md5": "1" * 32, "size": 5}}
    for number, created in enumerate((1.0, 2.0, 1_800_000_000.0)):
        ledger = Ledger(project)
        ledger.save(Run(f"prepare-{number}", "prepare", "prepare.ipynb", created=created, outputs=made))
    run = record("succeeded", inputs={"in.csv": {"name": "table", "md5": "1" * 32, "size": 5}}, exit_code=0)
    page = render(project, run)
    assert "written by prepare-1" in page
    assert "prepare-2" not in page


def test_a_large_run_makes_no_large_page(project: Project, executed: Any) -> None:
    picture = next(output.data["image/png"] for output in executed.cells[4].outputs if "data" in output)
    cells = [
        code("print('x' * 10**8)", prints("line\n" * 2_000_000)),
        code("big()", shows("image/png", "A" * 20_000_000), shows("text/html", "<p>" + "y" * 20_000_000)),
        *(code(f"many({number})", *[shows("image/png", picture)] * 100) for number in range(20)),
        code("z" * 5_000_000),
        text("w" * 5_000_000, attachments={"a.png": {"image/png": "A" * 20_000_000}}),
    ]
    run = record("succeeded")
    save(project, run, notebook(*cells))
    page = render(project, run)
    assert len(page) < PAGE + 2_000_000
    assert "characters left out; all of it is in .mlops_nb/runs/train-succeeded/notebook.ipynb" in page
    assert "too large for this page" in page


def test_a_notebook_of_any_shape(project: Project) -> None:
    """What nbformat allows and what it does not: lists of lines, half letters, no outputs, another language"""
    cells = [
        {"cell_type": "markdown", "source": ["# A\n", "![a](attachment:a.png) ![b](attachment:b.png)"],
         "attachments": {"a.png": {"image/png": "AAAA"}}},
        {"cell_type": "code", "source": ["echo \ud800"], "outputs": [
            {"output_type": "stream", "text": ["one\n", "two\ud800"]},
            {"output_type": "display_data", "data": {"application/json": {"key": [1]}}},
            {"output_type": "display_data", "data": {}},
            {"output_type": "error", "ename": "E", "evalue": "told"},
        ]},
        {"cell_type": "code", "source": None},
        {"cell_type": "raw", "source": "raw <b>"},
        {"cell_type": "markdown", "source": "", "metadata": {"tags": ["papermill-error-cell-tag"]}},
    ]  # fmt: skip
    run = record("failed", cell=2)
    path = RunFolder(project, run.id).notebook
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"cells": cells, "metadata": {"language_info": {"name": "no language"}}, "nbformat": 4}))
    page = render(project, run)
    page.encode()
    assert 'src="data:image/png;base64,AAAA"' in page
    assert "picture not in this page: b" in page
    assert "E: told" in page
    assert "&#34;key&#34;" in page or "&quot;key&quot;" in page
    assert "in cell 2 of 4" in page
