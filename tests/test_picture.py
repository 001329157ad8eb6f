"""The executed train notebook in a real browser: `python tests/test_picture.py` writes the picture of the README."""

import struct
import sys
from pathlib import Path

import pytest
from conftest import ROOT, Run, need

PICTURE = ROOT / "nbs" / "images" / "train.png"


def photograph(notebook: Path, picture: Path, browser: str, heading: str = "") -> list[str]:
    """Write a picture of an executed notebook, from a heading on; returns what the page logged as errors"""
    from nbconvert import HTMLExporter
    from playwright.sync_api import sync_playwright

    html, _ = HTMLExporter(theme="light").from_filename(str(notebook))
    errors: list[str] = []
    with sync_playwright() as player:
        chromium = player.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu"])
        page = chromium.new_page(viewport={"width": 1000, "height": 1000}, device_scale_factor=1)
        page.route("**/*", lambda route: route.abort())  # the page must do without the network
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.set_content(html, wait_until="domcontentloaded")
        top = page.get_by_role("heading", name=heading).first.bounding_box() if heading else None
        height = page.evaluate("document.documentElement.scrollHeight")
        start = top["y"] - 10 if top else 0
        page.screenshot(
            path=picture, full_page=True, clip={"x": 0, "y": start, "width": 1000, "height": height - start}
        )
        chromium.close()
    return errors


def size(picture: Path) -> tuple[int, int]:
    """Width and height of a PNG"""
    width, height = struct.unpack(">II", picture.read_bytes()[16:24])
    return width, height


@pytest.fixture
def browser() -> str:
    """Asked for before the pipeline runs, so that a skip costs nothing"""
    return need("chromium", "chromium-browser", "google-chrome")


def test_executed_notebook_in_a_browser(browser: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    reproduced = request.getfixturevalue("reproduced")
    picture = tmp_path / "train.png"
    errors = photograph(reproduced / "reports/train/notebook.ipynb", picture, browser)
    assert [error for error in errors if not error.startswith(("require", "MathJax"))] == []  # those are from a CDN
    width, height = size(picture)
    assert width == 1000
    assert height > 1000
    assert picture.stat().st_size > 50_000  # a blank page has a few thousand bytes


def test_a_missing_program_skips_and_require_all_fails(run: Run) -> None:
    """What `need` promises, seen from outside on a machine without a browser"""
    pytest_here = [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", __file__, "-k", "in_a_browser"]
    skipped = run(*pytest_here, cwd=ROOT, PATH="/nowhere").stdout
    assert "needs chromium or chromium-browser or google-chrome, which is not installed" in skipped
    assert "1 skipped" in skipped
    failed = run(*pytest_here, cwd=ROOT, PATH="/nowhere", REQUIRE_ALL="1", code=1).stdout
    assert "REQUIRE_ALL=1, and this was skipped" in failed


def test_readme_has_the_picture() -> None:
    assert size(PICTURE)[0] == 1000


if __name__ == "__main__":
    problems = photograph(ROOT / "reports/train/notebook.ipynb", PICTURE, need("chromium"), "Fit")
    sys.exit("\n".join(problems))
