"""`packmule eval RUN --diagnose`: what is wrong with a run's model, as figures, CSV, JSON and a table."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.progress import Phases

if TYPE_CHECKING:
    from toolkit.diagnose import Diagnosis


def diagnose_runs(
    folders: Sequence[Path], *, on: str | None, horizon: int, episodes: int | None, seed: int | None, out: Path | None,
    video: int, as_json: bool,
) -> int:  # fmt: skip
    """Diagnose each run into its folder's `diagnosis`, or into `out`/<the folder's name>; print tables or JSON."""
    from toolkit.diagnose import PHASES, diagnose, ready, write
    from toolkit.episodes import check_range
    from toolkit.imagined_film import film_imagined, need_films
    from toolkit.rundir import check_folder

    if video:
        check_range(video, 0)
    if out is not None:  # refused now, not after an hour; made when there is something to put there
        check_folder(out)
    asked: dict[str, Any] = {
        "on": on, "horizon": horizon, "episodes": 20 if episodes is None else episodes, "seed": seed or 0,
    }  # fmt: skip
    for folder in folders:  # of every run, before the first is measured
        ready(folder, **asked)
    lacking = {folder: need_films(folder, video) if video else "" for folder in folders}
    for folder in folders:
        place = folder / "diagnosis" if out is None else out / folder.resolve().name
        filmed = bool(video) and not lacking[folder]
        if lacking[folder]:
            print(f"no video of {folder.name}: {lacking[folder]}", file=sys.stderr)
        show = Phases(f"diagnose {folder.name}", [*PHASES, *["video"] * filmed])
        found = diagnose(folder, **asked, progress=show.update)
        films = film_imagined(folder, video, place, **asked, progress=show.update) if filmed else []
        show.close()
        paths = write(found, place) + films
        print(json.dumps(found.to_json()) if as_json else table(found))
        print("\n".join(map(str, paths)), file=sys.stderr if as_json else sys.stdout)
    return 0


def table(found: Diagnosis) -> str:
    """The numbers of one diagnosis, a line each."""
    from toolkit.text import aligned

    def span(row: dict[str, Any], name: str = "value", form: str = ".3g") -> str:
        if row["low"] is None or not math.isfinite(row["low"]):
            return f"{row[name]:{form}}"
        return f"{row[name]:{form}} [{row['low']:{form}}, {row['high']:{form}}]"

    lines = [["measured", f"{found.learner} on {found.suite}"]]
    last = max(r["horizon"] for r in found.compounding)
    for horizon in sorted({1, min(10, last), last}):
        at = {r["model"]: r for r in found.compounding if r["horizon"] == horizon}
        own = at.pop(found.learner)
        others = ", ".join(f"{name} {row['rmse']:.3g}" for name, row in at.items())
        lines.append([f"error after {horizon} steps [sd]", f"{span(own, 'rmse')}   {others}"])
    covered = [r for r in found.calibration if r["kind"] == "coverage"]
    for level in sorted({r["level"] for r in covered}):
        shares = [r["covered"] for r in covered if r["level"] == level]
        mean, least, most = sum(shares) / len(shares), min(shares), max(shares)
        lines.append([f"inside the {level:.0%} interval", f"{mean:.1%}, {least:.1%} to {most:.1%} between numbers"])
    if found.termination:
        lines.append(
            [
                "termination",
                f"Brier {found.brier:.3g} (mean rate: {found.brier_of_mean_rate:.3g}), ECE {found.ece:.3g}, "
                f"{found.termination[0]['ends']} ends",
            ]
        )
    else:
        lines.append(["termination", "nothing ends, and the model says so"])
    if found.mean_optimism is not None:
        realised = sum(r["realised"] for r in found.optimism) / len(found.optimism)
        lines.append(["imagined less realised return", f"{span(found.mean_optimism)}, realised {realised:.4g}"])
    for row in found.bits:
        what = "of the model (a bound)" if row["exactness"] == "bound" else row["known"]
        lines.append([f"bits explained, {what}", f"{span(row, 'explained')} of {row['marginal']:.3g}"])
    if all(row["known"] != "model" for row in found.bits):
        lines.append(["bits explained, model", "n/a: the model gives no probabilities"])
    lines.append(["n", f"{found.transitions:,} transitions of {found.held_out}"])
    return aligned(lines)
