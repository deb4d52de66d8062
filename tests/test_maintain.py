"""Laws of upkeep: nothing that counts is ever removed, nothing intact is lost in a repair, copies are equal."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import counting_episode
from test_store import same

from toolkit.cli import main
from toolkit.store import ReplayStore, StoreError, layout
from toolkit.store.files import new_ulid
from toolkit.store.maintain import gc, merge, repair
from toolkit.store.validate import validate

LENGTHS = [5, 9, 1, 20, 3, 7]


@pytest.fixture
def store(make_store, monkeypatch) -> ReplayStore:
    monkeypatch.setattr(layout, "MAX_CHUNK_ROWS", 16)
    monkeypatch.setattr(layout, "EPISODE_CHUNK", 4)
    return make_store(LENGTHS)


def segment(store: ReplayStore) -> Path:
    return store.path / "segments" / store.commit.segments[0]["id"]


def age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    for item in [path, *path.rglob("*")]:
        os.utime(item, (then, then))


def files(path: Path) -> dict[str, bytes]:
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def flip(path: Path, bit: int = 3) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def dead_segment(store: ReplayStore) -> str:
    """A segment whose writer was stopped before its commit."""
    writer = store.writer()
    writer.append(counting_episode(7, 40))
    name = writer._id
    writer._lock.release()
    return f"segments/{name}"


def test_gc_removes_what_no_commit_names_and_nothing_else(store):
    before = files(store.path)
    name = dead_segment(store)
    (store.path / f"commits/.x.json.{'0' * 16}.partial").write_bytes(b"half")
    (store.path / "notes.txt").write_text("mine")
    (store.path / "segments" / "other").mkdir()
    assert gc(store.path).segments == (), "what is young may belong to a writer at work"
    age(store.path, 7200)
    would = gc(store.path, dry_run=True)
    assert would.segments == (name,)
    assert (store.path / name).exists()
    done = gc(store.path)
    assert (done.segments, done.partial) == (would.segments, would.partial)
    assert done.partial == (f"commits/.x.json.{'0' * 16}.partial",)
    assert files(store.path) == {**before, "notes.txt": b"mine"}
    assert (store.path / "segments" / "other").exists()
    assert validate(store) == []


def test_gc_leaves_the_segment_of_a_live_writer_whatever_its_age(store):
    writer = store.writer()
    writer.append(counting_episode(7, 40))
    age(store.path, 7200)
    done = gc(store.path, age=0)
    assert done.segments == ()
    assert "its writer is at work" in done.kept[0]
    writer.commit()
    assert len(ReplayStore.open(store.path)) == len(LENGTHS) + 1
    assert validate(store.path) == []


def test_gc_keeps_a_segment_that_holds_what_packmule_did_not_write(store, tmp_path):
    name = dead_segment(store)
    (store.path / name / "thesis.tex").write_text("x")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "zarr.json").write_text("{}")
    (store.path / "segments" / new_ulid()).symlink_to(outside)
    done = gc(store.path, age=0)
    assert (done.segments, len(done.kept)) == ((), 1)
    assert "thesis.tex" in done.kept[0]
    assert (outside / "zarr.json").exists()


def test_gc_removes_nothing_while_a_commit_is_damaged(store):
    name = dead_segment(store)
    flip(store.path / layout.commit_key(0), 80)
    with pytest.raises(StoreError, match="damaged"):
        gc(store.path, age=0)
    assert (store.path / name).exists()


@pytest.mark.parametrize(
    ("array", "lost"),
    [
        ("reward/c/1", [2, 3]),
        ("episodes/length/c/1", [4, 5]),
        ("action/zarr.json", []),
        ("zarr.json", []),
        ("obs/observation/c/0/0", [0, 1]),
    ],
)
def test_repair_leaves_out_what_is_damaged_and_keeps_all_that_is_intact(store, array, lost):
    flip(segment(store) / array, 99)
    before = files(store.path)
    planned = repair(store.path, dry_run=True)
    assert files(store.path) == before
    done = repair(store.path)
    assert planned.left_out == done.left_out
    assert planned.commit is None
    assert [i for a, b in done.left_out for i in range(a, b + 1)] == lost
    assert files(store.path).items() >= before.items(), "nothing is deleted or changed"
    mended = ReplayStore.open(store.path)
    kept = [i for i in range(len(LENGTHS)) if i not in lost]
    assert mended.episodes["seed"].tolist() == kept
    for index, number in enumerate(kept):
        assert same(mended.episode(index), counting_episode(number, LENGTHS[number], terminated=number % 3 == 0))
    assert validate(mended, commit=done.commit) == []
    assert {f.severity for f in validate(mended)} == {"warning"}, "the past commit still names the damage"
    assert repair(store.path).commit is None, "a second repair has nothing to do"


def test_repair_of_one_segment_keeps_the_others_and_the_order(store):
    with store.writer() as writer:
        writer.append(counting_episode(8, 4))
    untouched = ReplayStore.open(store.path).commit.segments[1]
    flip(segment(store) / "reward/c/0")
    repair(store.path)
    mended = ReplayStore.open(store.path)
    assert mended.commit.segments[1] == untouched
    assert mended.episodes["seed"].tolist() == [2, 3, 4, 5, 8]


def test_repair_of_a_segment_that_is_gone_leaves_all_of_it_out(store):
    with store.writer() as writer:
        writer.append(counting_episode(8, 4))
    segment(store).rename(store.path.parent / "elsewhere")
    assert repair(store.path).left_out == ((0, 5),)
    assert ReplayStore.open(store.path).episodes["seed"].tolist() == [8]


def test_repair_of_a_clean_store_changes_nothing(store):
    before = files(store.path)
    assert repair(store.path).commit is None
    assert files(store.path) == before


def test_repair_without_a_schema_is_refused(store):
    flip(store.path / "zarr.json", 400)
    with pytest.raises(StoreError, match="restore it from a copy"):
        repair(store.path)


def test_merged_stores_hold_every_episode_once(store, make_store, tmp_path):
    other = make_store([5, 9, 30], name="o.zarr")  # the first two are also in `store`, the third is new
    merged, copied, known = merge([store, other.path], tmp_path / "m.zarr")
    assert (len(merged), copied, known) == (7, 7, 2)
    assert set(map(bytes, merged.episodes["uid"])) == set(map(bytes, [*store.episodes["uid"], *other.episodes["uid"]]))
    assert same(merged.episode(6), counting_episode(2, 30))
    assert validate(merged) == []
    again, copied, known = merge([store, other], merged.path)
    assert (copied, known, again.commit.number) == (0, 9, merged.commit.number)


def test_a_merged_store_records_what_all_its_sources_agree_on(schema, tmp_path):
    spec = {"id": "A-v0", "kwargs": {"size": 1}}
    parts = [
        {"environment_spec": spec, "evaluation_spec": spec, "requirements": ("a==1", "b==1")},
        {"environment_spec": spec, "evaluation_spec": None, "requirements": ("a==2",)},
    ]
    stores = [ReplayStore.create(tmp_path / f"{i}.zarr", replace(schema, **part)) for i, part in enumerate(parts)]
    made = merge(stores, tmp_path / "m.zarr")[0].schema
    assert (made.environment_spec, made.evaluation_spec) == (spec, None)
    assert made.requirements == ("a==1", "a==2", "b==1")


def test_stores_that_do_not_fit_are_refused_naming_the_difference(store, schema, tmp_path):
    first = ReplayStore.create(tmp_path / "first.zarr", replace(schema, environment_spec={"id": "A-v0"}))
    for change, message in [
        ({"context_names": ("mass",)}, "context_names is"),
        ({"action": replace(schema.action, high=(2.0, 2.0))}, "high of 'action' is"),
        ({"environment": {"suite": "other"}}, "its suite is 'other', expected 'count'"),
        ({"info": {"cost": ()}}, "info is"),
        ({"environment_spec": {"id": "B-v0"}}, "its environment is 'B-v0', expected 'A-v0'"),
    ]:
        other = ReplayStore.create(tmp_path / f"{next(iter(change))}.zarr", replace(schema, **change))
        with pytest.raises(ValueError, match=message):
            merge([first, other], tmp_path / "m.zarr")
    assert not (tmp_path / "m.zarr").exists()
    with pytest.raises(ValueError, match="both a source"):
        merge([store], store.path)


def test_a_damaged_source_is_refused_and_nothing_committed(store, tmp_path):
    flip(segment(store) / "reward/c/2")
    with pytest.raises(StoreError, match="reward/c/2"):
        merge([store], tmp_path / "m.zarr")
    assert len(ReplayStore.open(tmp_path / "m.zarr")) == 0


def run(*argv: str, capsys) -> tuple[int, str, str]:
    code = main(["data", *argv])
    out = capsys.readouterr()
    return code, out.out, out.err


def test_the_exit_code_of_validate_tells_clean_from_damaged(store, capsys):
    assert run("validate", str(store.path), capsys=capsys)[:2] == (0, f"{store.path}: clean\n")
    flip(segment(store) / "reward/c/1")
    code, out, _ = run("validate", str(store.path), "--json", capsys=capsys)
    found = json.loads(out)
    assert (code, found["clean"], found["findings"][0]["episodes"]) == (1, False, [[2, 3]])
    assert "reward/c/1" in run("validate", str(store.path), capsys=capsys)[1]
    assert run("validate", "nowhere.zarr", capsys=capsys)[0] == 2
    assert "left out: 2 to 3" in run("repair", str(store.path), capsys=capsys)[1]
    assert run("validate", str(store.path), "--commit", "2", capsys=capsys)[0] == 0


def test_cat_prints_what_was_appended(store, capsys):
    code, out, _ = run("cat", str(store.path), "1:3", "--json", capsys=capsys)
    lines = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [(r["episode"], r["step"]) for r in lines] == [(1, t) for t in range(10)] + [(2, 0), (2, 1)]
    assert lines[3]["obs"]["observation"] == [1.0, 3.0, 0.0]
    assert np.float32(lines[3]["reward"]) == counting_episode(1, 9).reward[3]
    assert lines[0]["columns"]["seed"] == 1
    assert "action" not in lines[9]
    assert "9 steps" in run("cat", str(store.path), "1", capsys=capsys)[1]
    for wrong in ("6", "3:3", "-1", "x", "0:99"):
        code, _, err = run("cat", str(store.path), "--", wrong, capsys=capsys)
        assert (code, "episodes" in err) == (2, True), wrong


def test_views_made_by_the_command_select_and_nest(store, capsys):
    path = str(store.path)
    for size in ("2", "4"):
        assert run("view", path, f"n{size}", "--episodes", size, "--seed", "1", capsys=capsys)[0] == 0
    assert set(store.view("n2").episodes["seed"]) < set(store.view("n4").episodes["seed"])
    run("view", path, "b", "--behaviour", "b0", "--context", "number=1:4", "--success", capsys=capsys)
    assert store.view("b").episodes["seed"].tolist() == [2, 4]
    for flags, message in [
        (["--behaviour", "b7"], "behaviours are b0, b1"),
        (["--context", "mass=0:1"], "no context is named 'mass'"),
        (["--context", "number"], "not a range"),
        (["--context", "number=90:"], "none of the 6 episodes"),
        (["--episodes", "9"], "choose 1 to 6"),
    ]:
        code, _, err = run("view", path, "w", *flags, capsys=capsys)
        assert (code, message in err) == (2, True), err
    assert not (store.path / "views" / "w.json").exists()


@pytest.mark.parametrize("command", ["info", "validate", "repair", "gc", "merge", "cat", "view"])
def test_every_data_command_speaks_json(store, tmp_path, capsys, command):
    more = {"cat": ["0"], "view": ["v"], "merge": ["--into", str(tmp_path / "m.zarr")]}.get(command, [])
    code, out, _ = run(command, str(store.path), *more, "--json", capsys=capsys)
    assert code == 0
    assert [json.loads(text) for text in (out.splitlines() if command == "cat" else [out])]
