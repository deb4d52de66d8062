"""The report in a real browser, if PACKMULE_BROWSER=1 asks for it: no wider than a phone, no complaint, no request."""

from __future__ import annotations

import os

import pytest
from browser import CHROMIUM, Browser
from fake_records import fake_records
from fake_runs import fake_runs

from toolkit import plots, report
from toolkit.claim import analyse
from toolkit.records import load

pytestmark = [
    pytest.mark.skipif(not os.environ.get("PACKMULE_BROWSER"), reason="PACKMULE_BROWSER=1 asks for a browser"),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (Debian: apt install chromium)"),
]

WIDTHS = (360, 768, 1280)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A report with long names, wide tables and every figure of runs."""
    folder = tmp_path_factory.mktemp("page")
    cells = [(2_000, 16, 0.5), (20_000, 16, 0.5)]
    fake_runs(folder / "runs", fake_records(cells=cells, draws=3))
    records = load(folder / "runs")
    figures = plots.plot([folder / "runs"], [], folder / "figures", records=records)
    card = {"cell": "2,000 transitions, 16 contexts, coverage 0.5", "draw": 0, "SACo": "0.15 [0.09, 0.22]"}
    return report.write(
        folder,
        title="Does the choice of learner matter?",
        records=records,
        analysis=analyse(records, seed=0),
        figures=[path for path in figures if path.suffix == ".svg"],
        design={"learners": {"cql": {f"option_{i}": (64, 64) for i in range(12)}}, "hash": "0123456789abcdef" * 4},
        datasets=[card, card | {"draw": 1, "store": "draw1-contexts16-coverage0.5" * 3}],
        runs=[{"learner": name, "a": {"very": {"long": {"key": "x" * 90}}}, "seed": 0} for name in ("bc", "cql")],
        command="packmule claim --suite smoke " + "--with-many-words " * 12,
    )


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    made = Browser(tmp_path_factory.mktemp("profile"))
    yield made
    made.close()


@pytest.mark.parametrize("width", WIDTHS)
def test_no_page_is_wider_than_its_window(browser, page, width):
    browser.open(page, width=width)
    browser.run("document.querySelectorAll('details').forEach(fold => fold.open = true)")
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run("document.body.getBoundingClientRect().right") <= width


def test_text_on_a_phone_is_not_tiny(browser, page):
    browser.open(page, width=360)
    sizes = browser.run(
        "[...document.querySelectorAll('p, li, dd, dt, td, th, figcaption, summary, pre')]"
        ".map(part => parseFloat(getComputedStyle(part).fontSize))"
    )
    assert min(sizes) >= 12


def test_the_browser_asks_for_nothing_and_complains_of_nothing(browser, page):
    browser.open(page, width=1280)
    browser.open(page, width=360, dark=True)
    assert {url for url in browser.requests if not url.startswith("data:")} == {page.resolve().as_uri()}
    assert browser.complaints == []


def test_it_prints(browser, page, tmp_path):
    browser.open(page, width=1280)
    browser.pdf(tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
