"""Figures draw the numbers they list, for any number of learners, the same each time."""

from __future__ import annotations

import csv
import dataclasses
import subprocess
import sys

import pytest
from fake_records import TOP, fake_records

from toolkit import plots, registry

NAMES = ("comparison", "scaling", "seen_unseen")
SMALL = [(n, c, 0.1) for n in (2_000, 20_000) for c in (2, 16)]


def test_every_figure_is_registered():
    assert set(NAMES) <= set(registry.figures())
    for name, figure in registry.figures().items():
        assert figure.name == name
        assert figure.caption.endswith(".")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_one_to_eight_learners_are_drawn(tmp_path, name, count):
    records = fake_records(learners=[f"learner_{i}" for i in range(count)], cells=SMALL, draws=2, episodes=1)
    png, svg, numbers = plots.save(registry.figures()[name], records, tmp_path, dpi=50)
    assert png.read_bytes().startswith(b"\x89PNG")
    assert "</svg>" in svg.read_text()
    assert [p.name for p in (png, svg, numbers)] == [f"{name}.png", f"{name}.svg", f"{name}.csv"]


@pytest.mark.parametrize("name", NAMES)
def test_the_csv_is_the_rows(tmp_path, name):
    figure, records = registry.figures()[name], fake_records(splits=("seen", "interpolated", "extrapolated"))
    rows = figure.rows(records)
    path = plots.save(figure, records, tmp_path, dpi=50)[2]
    with path.open(newline="") as file:
        read = list(csv.DictReader(file))
    assert [{k: str(v) for k, v in row.items()} for row in rows] == [
        {k: v for k, v in line.items() if k in row} for row, line in zip(rows, read, strict=True)
    ]


@pytest.mark.parametrize("name", NAMES)
def test_same_records_same_bytes(tmp_path, name):
    records = fake_records(cells=SMALL, draws=2, episodes=1)
    first, second = (plots.save(registry.figures()[name], records, tmp_path / d, dpi=50) for d in "ab")
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]
    assert "<dc:date>" not in first[1].read_text()


def test_comparison_serves_untagged_runs_of_one_seed(tmp_path):
    records = fake_records(cells=[TOP], draws=1, seeds=1, tagged=False, splits=["seen"])
    rows = registry.figures()["comparison"].rows(records)
    assert {r["split"] for r in rows} == {"seen"}
    assert {r["interval_over"] for r in rows if r["kind"] == "mean"} == {"nothing"}
    plots.save(registry.figures()["comparison"], records, tmp_path, dpi=50)


def test_comparison_reads_the_top_cell_and_unseen_contexts():
    rows = registry.figures()["comparison"].rows(fake_records(lambda n, c: 0.9 * (c == TOP), seed_sd=0, draw_sd=0))
    means = [r for r in rows if r["kind"] == "mean"]
    assert [r["value"] for r in means] == pytest.approx([0.9] * 4)
    assert {(r["runs"], r["draws"], r["interval_over"]) for r in means} == {(6, 3, "draws")}
    assert next(r["value"] for r in rows if r["kind"] == "behaviour") == pytest.approx(0.3)


def test_seeds_of_one_draw_still_have_an_interval():
    rows = registry.figures()["comparison"].rows(fake_records(cells=[TOP], draws=1, seeds=4, tagged=False))
    assert {r["interval_over"] for r in rows if r["kind"] == "mean"} == {"seeds"}


def test_scaling_names_the_missing_tags():
    with pytest.raises(ValueError, match="missing: contexts, coverage, size"):
        registry.figures()["scaling"].rows(fake_records(cells=[TOP], draws=1, tagged=False))


def test_seen_unseen_gap_is_paired_by_run():
    rows = registry.figures()["seen_unseen"].rows(fake_records(seed_sd=0.3))
    assert [r["gap"] for r in rows] == pytest.approx([0.1] * len(rows))
    assert all(r["gap_low"] == pytest.approx(0.1) for r in rows)
    with pytest.raises(ValueError, match="seen_unseen needs"):
        registry.figures()["seen_unseen"].rows(fake_records(splits=["interpolated"]))


def test_seen_unseen_serves_extrapolated_contexts_alone_and_several_suites(tmp_path):
    records = fake_records(cells=SMALL, splits=["seen", "extrapolated"], draws=1)
    two = [dataclasses.replace(r, suite="pendulum", run=f"p{r.run}") for r in records]
    figure = registry.figures()["seen_unseen"]
    rows = figure.rows(records + two)
    assert {r["split"] for r in rows} == {"extrapolated"}
    assert len({r["data"] for r in rows}) == 2 * len(SMALL)
    plots.save(figure, records + two, tmp_path, dpi=50)
    with pytest.raises(ValueError, match="scaling needs an evaluation on interpolated contexts"):
        registry.figures()["scaling"].rows(records)


def test_few_runs_are_said_to_be_few():
    row = {"runs": 6, "draws": 3}
    assert plots.counts([row]) == "n = 6 runs (3 draws), fewer than 10"
    assert plots.counts([row], "point") == "n = 6 runs a point (3 draws), fewer than 10"
    assert "fewer" not in plots.counts([{"runs": 12, "draws": 4}])
    assert plots.counts([row, {"runs": 8, "draws": 3}]).startswith("n = 6 to 8 runs")


def test_a_learner_keeps_its_colour_and_no_two_look_alike():
    names = [f"n{i:02}" for i in range(16)]
    assert len(set(plots.look(names).values())) == 16
    assert plots.look(["b", "a"]) == plots.look(["a", "b", "a"])


def test_statistics_figures_and_report_load_neither_torch_nor_pyplot():
    code = (
        "import sys, toolkit.stats, toolkit.claim, toolkit.claim.words, toolkit.plots, toolkit.report, "
        "toolkit.plots.comparison, toolkit.plots.scaling, toolkit.plots.unseen; "
        "sys.exit(bool({'torch', 'matplotlib'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
