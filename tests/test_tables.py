"""Tables are found beside and below runs; what is wrong in one is named by file, line and column."""

from __future__ import annotations

import csv

import pytest

from toolkit.tables import BITS, PROXIES

PROXY = {"learner": "iql", "dataset": "d", "draw": 0, "seed": 0, "checkpoint": 500, "proxy": "FQE"}
PROXY |= {"value": 1.5, "return": 9, "score": 0.5}


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_every_table_of_the_name_is_read_once(tmp_path):
    file = write(tmp_path / "proxies_of_runs.csv", [PROXY])
    write(tmp_path / "a" / "b" / "proxies_of_runs.csv", [{**PROXY, "seed": 1, "more": "x"}])
    rows = PROXIES.read(tmp_path, file)
    assert [(r["seed"], r["value"], r["return"]) for r in rows] == [(1, 1.5, 9.0), (0, 1.5, 9.0)]
    assert "more" not in rows[0]
    write(tmp_path / "report" / "proxies_of_runs.csv", [PROXY])  # a copy
    assert PROXIES.read(tmp_path) == rows
    assert BITS.read(tmp_path) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": "high"}, r"proxies_of_runs\.csv:3: value is 'high'; expected a finite number"),
        ({"value": "nan"}, "value is 'nan'; expected a finite number"),
        ({"return": ""}, "return is ''; expected a finite number"),
        ({"seed": "1.5"}, "seed is '1.5'; expected a whole number"),
        ({"proxy": ""}, "proxy is ''; expected text"),
    ],
)
def test_a_wrong_cell_is_named(tmp_path, change, message):
    write(tmp_path / "proxies_of_runs.csv", [PROXY, {**PROXY, **change}])
    with pytest.raises(ValueError, match=message):
        PROXIES.read(tmp_path)


def test_a_missing_column_is_named(tmp_path):
    write(tmp_path / "proxies_of_runs.csv", [{k: v for k, v in PROXY.items() if k not in ("value", "draw")}])
    with pytest.raises(ValueError, match=r"no column draw, value; expected learner, dataset, draw, seed"):
        PROXIES.read(tmp_path)


def test_undefined_bits_are_none(tmp_path):
    row = {"learner": "gan", "dataset": "d", "draw": 0, "seed": 0, "size": 10, "what": "action", "return": 1}
    write(tmp_path / "bits_of_runs.csv", [{**row, "exactness": "none", "marginal": 6.5, "explained": ""}])
    (found,) = BITS.read(tmp_path)
    assert found["explained"] is None
    assert found["marginal"] == 6.5
