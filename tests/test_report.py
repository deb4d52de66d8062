"""The page is whole, self-contained, escaped and repeatable."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from fake_records import TOP, fake_records

from toolkit import plots, registry, report
from toolkit.claim import analyse
from toolkit.threats import THREATS, answers

EVIL = "<script>alert(1)</script>"
VOID = {"meta", "img", "br"}


class Balanced(HTMLParser):
    """Collects tags and attributes, and checks that elements close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def parse(page):
    parser = Balanced()
    parser.feed(page)
    parser.close()
    assert not parser.open
    return parser.tags


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A report of a study with a learner named to break pages, and what was passed to it."""
    folder = tmp_path_factory.mktemp("report")
    records = fake_records(learners=["bc", "iql", EVIL], cells=[(2_000, 16, 0.5), TOP], draws=3)
    for name in ("comparison", "scaling", "seen_unseen"):
        plots.save(registry.figures()[name], records, folder / "figures", dpi=50)
    given = dict(
        title="A & B",
        records=records,
        analysis=analyse(records, seed=0),
        figures=["comparison", folder / "figures" / "scaling.png", "seen_unseen"],
        design={
            "steps": 1000,
            "notes": (f"Proves {EVIL} only.",),
            "threats": {"Environment determinism": "Noisy <here>."},
        },
        datasets=[{"name": EVIL, "SACo": 0.123456, f"{EVIL} bits": 2, "entropy": {"state": 1.5}}],
        runs=[{"learner": {"name": n, "lr": 3e-4}, "seed": 0} for n in ("bc", EVIL)],
        timings={"collect": 1.5, "train": 2.0},
        command="packmule claim --suite smoke --out 'a b'",
    )
    return report.write(folder, **given), given


def test_everything_is_escaped(written):
    page = written[0].read_text()
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "A &amp; B" in page
    assert not any(tag == "script" or any(k.startswith("on") for k in attrs) for tag, attrs in parse(page))


def test_nothing_is_loaded_from_anywhere(written):
    page = written[0].read_text()
    assert not re.search(r"https?://", page)
    assert "@import" not in page
    for _, attrs in parse(page):
        assert attrs.get("href", "#").startswith("#")
        assert attrs.get("src", "data:").startswith("data:")


def test_the_page_holds_verdict_range_figures_numbers_threats_and_command(written):
    page, given = written[0].read_text(), written[1]
    for verdict in given["analysis"].verdicts[:1]:
        assert verdict.outcome in page
    pictures = [attrs for tag, attrs in parse(page) if tag == "img"]
    assert len(pictures) == 3
    assert all(len(p["alt"]) > 40 for p in pictures)
    assert page.count("The numbers drawn") == 3
    for words in (
        "within this range",
        *THREATS,
        "Noisy &lt;here&gt;.",
        "entropy.state",
        "3.5 s",
        "claim --suite",
    ):
        assert words in page
    assert 'name="viewport"' in page
    assert "@media print" in page


def test_a_reader_meets_verdict_notes_words_and_direction_before_any_table(written):
    page = written[0].read_text()
    places = [
        page.index(found)
        for found in (
            "Weak reading", "Strong reading", "Proves &lt;script&gt;", "Student&#x27;s factor is 4.3",
            "Words used here",
            "large and diverse data beat small and narrow data for",
            "<table>", "no mistake: the noise",
        )
    ]  # fmt: skip
    assert places == sorted(places)
    assert page.count("Proves") == 1


def test_every_link_leads_to_a_section(written):
    tags = parse(written[0].read_text())
    marks = {attrs["id"] for _, attrs in tags if "id" in attrs}
    links = [attrs["href"].removeprefix("#") for tag, attrs in tags if tag == "a"]
    assert links
    assert set(links) <= marks


def test_threats_are_answered_with_what_the_study_shows(written):
    _, given = written
    costs = [{"panel": "acting", "learner": "iql", "cost": "0.1"}, {"panel": "training", "learner": "iql", "cost": "9"}]
    design = {"learners": {"bc": {}, "iql": {"lr": 1e-3}}, "threats": {"Privileged expert": "It sees what they see."}}
    told = answers(given["analysis"], given["records"], design=design, asks={"bc": [], "iql": ["reward"]}, costs=costs)
    assert set(told) == set(THREATS)
    for threat, words in {
        "Equal tuning budgets": "Options set over the defaults here: bc 0, iql 1.",
        "What each learner sees": "bc: nothing more; iql: reward.",
        "Privileged expert": "It sees what they see.",
        "Inference compute": "an action took: iql 0.1 ms",
        "Ceiling and floor": "of 2 cells count",
        "Reference returns": "pointmaze, interpolated: -50 and 150",
        "Plain BC against coverage": "stands for the supervised family",
        "Independent units": "Here: 3 draws, 2 seeds each.",
    }.items():
        assert words in told[threat]
    tried = {"iql": {"tried": [{"lr": 1e-3}, {"lr": 1e-4}], "scores": [0.5, 0.6], "chosen": {"lr": 1e-4}}}
    told = answers(given["analysis"], given["records"], design={"tuning": tried}, asks={}, costs=[])
    assert "iql lr = 0.0001 of 2" in told["Equal tuning budgets"]
    assert "Nothing was tuned" not in told["Equal tuning budgets"]


def test_a_card_for_each_dataset_and_what_all_share_once(tmp_path):
    cards = [{"cell": f"{n} transitions", "draw": 0, "TQ": "0.5", "SACo against": "all"} for n in (10, 20)]
    records = fake_records(cells=[TOP], draws=1)
    page = report.write(tmp_path, title="t", records=records, datasets=cards).read_text()
    assert page.count('class="card"') == 2
    assert page.count("SACo against all") == 1
    assert "<h4>10 transitions</h4>" in page


def test_same_input_same_bytes(written):
    path, given = written
    before = path.read_bytes()
    assert report.write(path.parent, **given).read_bytes() == before
    assert not list(path.parent.glob(".report*"))


def test_any_runs_make_a_page_without_analysis(tmp_path):
    records = fake_records(cells=[TOP], draws=1, seeds=1, tagged=False)
    plots.save(registry.figures()["comparison"], records, tmp_path, dpi=50)
    page = report.write(tmp_path, title="runs", records=records, figures=["comparison"]).read_text()
    parse(page)
    assert "Verdict" not in page
    assert "iql" in page


def test_a_study_of_one_draw_makes_a_page(tmp_path):
    records = fake_records(draws=1, seeds=1)
    page = report.write(tmp_path, title="t", records=records, analysis=analyse(records, seed=0)).read_text()
    parse(page)
    assert "inconclusive" in page
    assert "inf" not in re.sub(r"[a-z]*inf[a-z]+", "", page)


def test_a_figure_not_saved_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="'scaling' is not there"):
        report.write(tmp_path, title="t", records=fake_records(draws=1), figures=["scaling"])
