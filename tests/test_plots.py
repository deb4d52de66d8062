"""Figures draw the numbers they list, for any number of learners, the same each time."""

from __future__ import annotations

import csv
import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from fake_records import TOP, fake_records
from fake_runs import fake_runs

from toolkit import plots, registry
from toolkit.tables import BITS, PROXIES, Table

OF_RECORDS = ("comparison", "convergence", "heatmap", "improvement", "profiles", "scaling", "seen_unseen")
NAMES = ("bits", "curves", "pareto", "proxies", "selection", *OF_RECORDS)
FOR_ANY_LEARNERS = ("comparison", "profiles", "scaling", "seen_unseen")
COMPARING = ("heatmap", "improvement")  # need two learners
SMALL = [(n, c, 0.1) for n in (2_000, 20_000) for c in (2, 16)]
CELLS = ("2,000 / 2 / 0.1", "20,000 / 16 / 0.5")


def proxy_rows(value=lambda draw, seed, step: step + 100 * draw, learners=("bc", "iql")):
    """Models at three checkpoints whose return is that number."""
    return [
        {
            "learner": learner, "dataset": data, "draw": draw, "seed": draw, "checkpoint": f"{step}", "proxy": proxy,
            "value": value(draw, draw, step) if proxy == "FQE" else -float(step), "return": step + 100 * draw,
            "score": step / 10,
        }
        for learner in learners for data in CELLS for proxy in ("FQE", "TD error")
        for draw in range(4) for step in (1, 2, 3)
    ]  # fmt: skip


def bits_rows(exactness={"bc": "exact", "vae": "bound", "gan": "none"}):  # noqa: B006
    """Bits of actions that grow with the data, in three draws."""
    return [
        {
            "learner": learner, "dataset": data, "draw": draw, "seed": draw, "size": size, "what": "action",
            "exactness": kind, "marginal": 6.0, "explained": None if kind == "none" else size / 10_000 + 0.1 * draw,
            "return": 50.0 + draw,
        }
        for learner, kind in exactness.items() for size, data in zip((2_000.0, 20_000.0), CELLS, strict=True)
        for draw in range(3)
    ]  # fmt: skip


def given_to(name, folder):
    """What a figure reads, of a study with every split."""
    reads = registry.figures()[name].reads
    if isinstance(reads, Table):
        return {PROXIES: proxy_rows, BITS: bits_rows}[reads]()
    records = fake_records(cells=SMALL, draws=3, splits=("seen", "interpolated", "extrapolated"))
    return records if reads == "records" else fake_runs(folder, records, evaluations=2)


def test_every_figure_is_registered():
    assert set(NAMES) <= set(registry.figures())
    for name, figure in registry.figures().items():
        assert figure.name == name
        assert figure.caption.endswith(".")


@pytest.mark.parametrize(
    ("name", "count"),
    [(n, c) for n in FOR_ANY_LEARNERS for c in (1, 2, 5, 8)] + [(n, c) for n in COMPARING for c in (2, 5, 8)],
)
def test_one_to_eight_learners_are_drawn(tmp_path, name, count):
    records = fake_records(learners=[f"learner_{i}" for i in range(count)], cells=SMALL, draws=2, episodes=1)
    png, svg, numbers = plots.save(registry.figures()[name], records, tmp_path, dpi=50)
    assert png.read_bytes().startswith(b"\x89PNG")
    assert "</svg>" in svg.read_text()
    assert [p.name for p in (png, svg, numbers)] == [f"{name}.png", f"{name}.svg", f"{name}.csv"]


@pytest.mark.parametrize("name", NAMES)
def test_the_csv_is_the_rows(tmp_path, name):
    figure, given = registry.figures()[name], given_to(name, tmp_path / "runs")
    rows = figure.rows(given)
    path = plots.save(figure, given, tmp_path, dpi=50)[2]
    with path.open(newline="") as file:
        read = list(csv.DictReader(file))
    assert [{k: "" if v is None else str(v) for k, v in row.items()} for row in rows] == [
        {k: v for k, v in line.items() if k in row} for row, line in zip(rows, read, strict=True)
    ]


@pytest.mark.parametrize("name", NAMES)
def test_same_input_same_bytes(tmp_path, name):
    given = given_to(name, tmp_path / "runs")
    first, second = (plots.save(registry.figures()[name], given, tmp_path / d, dpi=50) for d in "ab")
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]
    assert "<dc:date>" not in first[1].read_text()


@pytest.mark.parametrize("name", COMPARING)
def test_a_comparison_of_one_learner_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} compares learners; there is only iql"):
        registry.figures()[name].rows(fake_records(learners=["iql"], cells=[TOP]))


def test_the_heatmap_frames_what_cannot_be_told_from_the_best():
    truth = {"bc": 0.3, "cql": 0.7, "iql": 0.7, "mpc": 0.7}
    rows = registry.figures()["heatmap"].rows(fake_records(lambda n, c: truth[n], cells=[TOP], draws=8))
    assert {r["learner"]: r["tied"] for r in rows} == {"bc": False, "cql": True, "iql": True, "mpc": True}
    assert sum(r["best"] for r in rows) == 1
    few = registry.figures()["heatmap"].rows(fake_records(lambda n, c: truth[n], cells=[TOP], draws=1, seeds=1))
    assert all(r["tied"] for r in few), "one run tells nothing apart"


def test_learners_on_different_draws_are_not_compared():
    records = fake_records(learners=["bc"], cells=[TOP], draws=1)
    other = [dataclasses.replace(r, tags={**r.tags, "draw": 7}) for r in fake_records(learners=["iql"], cells=[TOP])]
    for name in COMPARING:
        with pytest.raises(ValueError, match="no draw of the data in common"):
            registry.figures()[name].rows(records + other)


def test_improvement_marks_only_what_is_sure_and_pairs_add_up_to_one():
    truth = {"bc": 0.3, "cql": 0.6, "iql": 0.6}
    records = fake_records(lambda n, c: truth[n], learners=list(truth), cells=[TOP], draws=10)
    rows = registry.figures()["improvement"].rows(records)
    table = {(r["first"], r["second"]): r for r in rows}
    assert {pair for pair, r in table.items() if r["sure"]} >= {("iql", "bc"), ("bc", "iql"), ("cql", "bc")}
    assert not table["iql", "cql"]["sure"]
    for (a, b), r in table.items():
        assert r["value"] + table[b, a]["value"] == pytest.approx(1)
        assert r["p_holm"] >= r["p"]


def test_a_profile_falls_from_all_to_none():
    rows = registry.figures()["profiles"].rows(fake_records(cells=[TOP], draws=4))
    for name in ("bc", "mpc"):
        shares = [r["value"] for r in rows if r["learner"] == name]
        assert shares[0] == 1
        assert shares[-1] == 0
        assert np.all(np.diff(shares) <= 0)
    assert all(0 <= r["low"] <= r["value"] <= r["high"] <= 1 for r in rows)


def test_convergence_shows_a_spread_that_falls_and_levels_that_do_not_count():
    def truth(learner, cell):
        far = {2_000: 0.3, 20_000: 0.02}[cell[0]]
        return 0.45 + {"bc": -far, "cql": 0.0, "iql": 0.0, "mpc": 0.0}[learner] + 0.3 * (cell[0] > 2_000)

    cells = [(2_000, 16, 0.5), (20_000, 16, 0.5)]
    rows = registry.figures()["convergence"].rows(fake_records(truth, cells=cells, draws=6, seed_sd=0.01))
    assert {r["axis"] for r in rows} == {"size"}
    small, large = rows
    assert small["spread"] > 0.1 > large["spread"]
    assert small["low"] < small["spread"] < small["high"]
    assert (small["counts"], large["counts"]) == (False, True)


def test_convergence_needs_families_draws_and_an_axis():
    figure = registry.figures()["convergence"]
    with pytest.raises(ValueError, match="two families and two draws of the data or more; there are 1 and 3"):
        figure.rows(fake_records(learners=["cql", "iql"]))
    with pytest.raises(ValueError, match="an axis with two levels"):
        figure.rows(fake_records(cells=[TOP]))


def test_a_dearer_learner_that_scores_less_is_off_the_front(tmp_path):
    truth = {"bc": 0.3, "cql": 0.5, "iql": 0.7, "mpc": 0.6}
    folders = fake_runs(tmp_path, fake_records(lambda n, c: truth[n], cells=[TOP], seed_sd=0, draw_sd=0))
    rows = registry.figures()["pareto"].rows(folders)
    front = {
        panel: {r["learner"] for r in rows if r["panel"] == panel and r["front"]} for panel in ("training", "acting")
    }
    assert front == {"training": {"bc", "iql"}, "acting": {"iql"}}  # mpc costs more than iql, and acting costs alike
    both = next(r for r in rows if r["panel"] == "both" and r["learner"] == "mpc")
    assert both["cost"] > 800  # 100,000 actions of 8 ms


def test_runs_that_do_not_tell_their_times_are_named(tmp_path):
    folders = fake_runs(tmp_path, fake_records(cells=[TOP], draws=2), times=False)
    with pytest.raises(ValueError, match=r"bc-seed0-.* does not tell how long it trained and acted"):
        plots.plot([tmp_path], ["pareto"], tmp_path / "figures")
    assert len(folders) == 16


def test_curves_show_scores_only_where_runs_were_evaluated_on_the_way(tmp_path):
    records = fake_records(cells=[TOP], draws=2)
    once = registry.figures()["curves"].rows(fake_runs(tmp_path / "once", records))
    often = registry.figures()["curves"].rows(fake_runs(tmp_path / "often", records, evaluations=4))
    assert "score" not in {r["metric"] for r in once}
    assert [r["step"] for r in often if r["metric"] == "score" and r["learner"] == "iql"] == [250, 500, 750, 1000]
    assert {r["metric"] for r in once if r["learner"] == "cql"} == {"critic_loss"}, "of losses and others, the losses"


def test_taus_are_of_one_dataset_so_that_easy_data_are_not_mistaken_for_good_models():
    rows = registry.figures()["proxies"].rows(proxy_rows(lambda draw, seed, step: 1000 * draw - step))
    taus = {(r["learner"], r["dataset"], r["proxy"]): r for r in rows if r["kind"] == "tau"}
    assert len(taus) == 8
    assert taus["bc", CELLS[0], "TD error"]["regret"] == 2, "it always prefers the worst of returns 1, 2 and 3"
    assert {r["models"] for r in taus.values()} == {12}


def test_undefined_proxies_and_single_models_are_left_out_and_nothing_else_is_refused():
    table = proxy_rows()
    undefined = [{**r, "proxy": "TD error 2", "value": None} for r in table]
    single = [{**r, "proxy": "one"} for r in table if (r["draw"], r["checkpoint"], r["proxy"]) == (0, "1", "FQE")]
    figure = registry.figures()["proxies"]
    assert figure.rows(table + undefined + single) == figure.rows(table)
    with pytest.raises(ValueError, match="two models or more"):
        figure.rows(undefined + single)


def test_of_many_datasets_the_taus_are_drawn_a_panel_a_learner(tmp_path):
    figure = registry.figures()["proxies"]
    table = [{**r, "dataset": f"suite{i} / {r['dataset']}"} for i in range(8) for r in proxy_rows()]
    assert figure.panels(figure.rows(proxy_rows())) == 4  # learners and proxies
    assert figure.panels(figure.rows(table)) == 2
    numbers = plots.save(figure, table, tmp_path, dpi=50)[2]
    assert len([r for r in read(numbers) if r["kind"] == "tau"]) == 2 * 2 * 16


def test_bits_of_several_suites_have_panels_of_their_own(tmp_path):
    figure = registry.figures()["bits"]
    table = [{**r, "dataset": f"{suite} / {r['dataset']}"} for suite in ("hopper", "pendulum") for r in bits_rows()]
    assert figure.panels(figure.rows(bits_rows())) == 2  # against size, and against return
    assert figure.panels(figure.rows(table)) == 2  # a suite each
    plots.save(figure, table, tmp_path, dpi=50)


def test_findings_say_what_the_numbers_drawn_say(tmp_path):
    for name, table, words in (
        ("proxies", proxy_rows(), "FQE: median τ 1.00, surely above zero in 4 of 4; TD error: median τ -1.00"),
        ("bits", bits_rows(), "surely explained in 4 of 4 cells of learner and dataset, from 2.10 of 6.00 bits by"),
        ("selection", proxy_rows(), "bc: at random 0.10, FQE 0.00 (3), TD error 0.20 (0)"),
    ):
        figure = registry.figures()[name]
        assert words in figure.finding(read(plots.save(figure, table, tmp_path, dpi=50)[2]))


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_bits_keep_bounds_and_the_undefined_apart():
    rows = {(r["learner"], r["size"]): r for r in registry.figures()["bits"].rows(bits_rows())}
    assert rows["bc", 20_000]["explained"] == pytest.approx(2.1)
    assert rows["gan", 2_000]["explained"] is None
    with pytest.raises(ValueError, match="no learner here has probabilities"):
        registry.figures()["bits"].rows(bits_rows({"gan": "none"}))
    with pytest.raises(ValueError, match=r"bits of bc on 2,000 / 2 / 0\.1 are bound and exact of 'action'"):
        registry.figures()["bits"].rows(bits_rows({"bc": "exact"}) + bits_rows({"bc": "bound"}))


@pytest.mark.parametrize("name", ["bits", "proxies"])
def test_a_figure_of_a_table_is_drawn_beside_runs_and_refused_without_it(tmp_path, name):
    fake_runs(tmp_path / "runs", fake_records(cells=[TOP], draws=2))
    with pytest.raises(
        ValueError, match=rf"figure '{name}' is drawn from {name}_of_runs\.csv beside or below the runs"
    ):
        plots.plot([tmp_path], [name], tmp_path / "figures")
    rows = {"bits": bits_rows, "proxies": proxy_rows}[name]()
    (tmp_path / f"{name}_of_runs.csv").write_text(plots.to_csv(rows))
    assert plots.plot([tmp_path], [name], tmp_path / "figures")[0].name == f"{name}.png"


def test_without_names_all_that_apply_are_drawn_but_damage_is_told(tmp_path):
    fake_runs(tmp_path / "runs", fake_records(cells=[TOP], draws=2))
    drawn = {path.stem for path in plots.plot([tmp_path / "runs"], [], tmp_path / "figures")}
    assert drawn == {"comparison", "curves", "heatmap", "improvement", "pareto", "profiles", "scaling", "seen_unseen"}
    (tmp_path / "runs" / "bits_of_runs.csv").write_text("learner\nbc\n")
    with pytest.raises(ValueError, match=r"bits_of_runs\.csv has no column dataset"):
        plots.plot([tmp_path / "runs"], [], tmp_path / "figures")


def test_nothing_to_draw_is_said(tmp_path):
    with pytest.raises(ValueError, match=r"no finished runs under"):
        plots.plot([tmp_path], [], tmp_path / "figures")
    with pytest.raises(FileNotFoundError, match="absent does not exist"):
        plots.plot([tmp_path / "absent"], [], tmp_path / "figures")


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
        "toolkit.registry; toolkit.registry._modules('toolkit.plots'); "
        "sys.exit(bool({'torch', 'matplotlib'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
