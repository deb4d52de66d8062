"""`packmule sweep` and `packmule status`: many runs at once, and how far they are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import Positional

from toolkit.commands.train import RunSettings, print_scores
from toolkit.commands.types import Location
from toolkit.urls import is_url

if TYPE_CHECKING:
    from toolkit.engines import Engine
    from toolkit.grid import Grid
    from toolkit.records import RunConfig
    from toolkit.sweep import Outcome


@dataclass(kw_only=True)
class Sweep(RunSettings):
    """Train every learner on every store with every seed, and along the axes; the same command continues.

    What is done is skipped, what was begun resumes, what failed is tried again. Ctrl-C stops it safely.
    """

    learners: tuple[str, ...]
    stores: tuple[str, ...]
    """Folders, URLs or files of mixtures; STORE@VIEW is a saved view."""
    views: tuple[str, ...] = ()
    """Saved views of every store that names none itself."""
    seeds: tuple[int, ...] = (0,)
    axis: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """learner.lr=1e-3,3e-4 for every learner that has it, iql.expectile=0.7,0.9 for one, or batch_size=128,256.

    May be given many times. A level of several numbers has spaces: "learner.hidden=64 64,256 256"."""
    preset: Path | None = None
    """A YAML or JSON file of these flags; those given here stand over it."""
    dry_run: bool = False
    """Print the runs, what is done already and what the rest will cost; start nothing."""
    search: Literal["random", "tpe", "halving"] | None = None
    """Search the axes instead of crossing them, the same budget for each learner; a range is LOW:HIGH or LOW:HIGH:log.

    halving gives random trials few steps, and the best third three times as many, up to --steps."""
    trials: int = 20
    """Of --search, for each learner; each is scored over all stores and seeds."""
    retries: int = 1
    """Times a run that failed is tried again."""
    engine: Literal["local", "ray", "slurm"] = "local"
    """Where runs go: processes of this machine, a Ray cluster, or Slurm."""
    slots: int | None = None
    """Runs at a time; by default as many as cores and memory allow (local), or as the cluster takes."""
    address: str | None = None
    """With --engine ray: the head of a running cluster, host:port; by default one is started on this machine."""
    slurm: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """With --engine slurm: a parameter for submitit, as in --slurm timeout_min=60 --slurm slurm_partition=gpu."""

    def run(self) -> int:
        if self.engine == "local" and not self.dry_run:
            from toolkit.engines.local import warm_up

            warm_up()  # while the rest is imported and the grid is checked
        from toolkit.copies import local_folder
        from toolkit.grid import Axis, Grid
        from toolkit.rundir import check_out
        from toolkit.variants import load_variants

        settings = {item: getattr(self, item) for item in RunSettings.__dataclass_fields__ if item != "out"}
        axes = {str(axis := Axis.parse(text)): axis for text in self.axis}  # the last of a name stands
        engine = self.chosen()
        if not self.dry_run:
            check_out(self.out)
        grid = Grid(self.learners, self.stores, self.seeds, self.views, tuple(axes.values()), settings)
        if self.search is not None:
            return self.searched(grid, engine)
        configs = grid.runs()
        if self.dry_run:
            print(plan(configs, local_folder(self.out), self.slots or getattr(engine, "slots", None)))
            return 0
        outcome = self.carried(configs, engine)
        if self.episodes and self.splits and outcome.done + outcome.skipped:
            folder = local_folder(self.out)
            print_scores(
                load_variants(*(folder / c.folder_name for c in configs if c.folder_name not in outcome.failed))
            )
        print(f"{outcome.done} done, {outcome.skipped} were done before, {len(outcome.failed)} failed: {self.out}")
        return 1 if outcome.failed else 0

    def carried(self, configs: Sequence[RunConfig], engine: Engine) -> Outcome:
        from toolkit.cost import shorter_tail
        from toolkit.sweep import sweep
        from toolkit.watch import Watch

        if (slots := getattr(engine, "slots", None)) and not is_url(self.out):
            configs = shorter_tail(configs, Path(self.out), slots)
        with Watch([config.folder_name for config in configs], None if is_url(self.out) else Path(self.out)) as watch:
            return sweep(configs, self.out, engine=engine, retries=self.retries, watch=watch)

    def searched(self, grid: Grid, engine: Engine) -> int:
        """Find each learner's best options, and keep them as a preset of later sweeps."""
        from toolkit.records import replace_json
        from toolkit.search import Search
        from toolkit.text import aligned

        if not (self.episodes and self.splits) or self.dry_run:
            raise ValueError("--search asks as it goes, by scores: leave out --dry-run and --episodes 0")
        assert self.search is not None
        out = Path(self.out)
        best = Search(self.search, self.trials).best(grid, out, lambda configs: self.carried(configs, engine))
        found = {axis: level for trial in best.values() for axis, level in trial.flags.items()}
        path = out / f"best-{self.search}.json"
        replace_json(path, {"learners": list(best), "axes": found})
        rows = [[name, f"{trial.score:.3f}", json.dumps(trial.flags)] for name, trial in best.items()]
        print(aligned([["learner", "score", "best options"], *rows]))
        print(f"{path}: for packmule sweep --preset, with seeds that the search has not seen")
        return 0

    def chosen(self) -> Engine:
        """The engine. Raises ValueError for flags of another one, ImportError if its extra is missing."""
        for flag, given, engine in (("address", self.address, "ray"), ("slurm", self.slurm, "slurm")):
            if given and self.engine != engine:
                raise ValueError(f"--{flag} is of --engine {engine}, and the engine is {self.engine}")
        if self.search is not None and is_url(self.out):
            raise ValueError(f"--search reads its trials' folders, and {self.out} is none: give --out a folder")
        if self.slots is not None and self.slots < 1:
            raise ValueError(f"slots must be at least 1, got {self.slots}")
        if self.engine == "ray":
            from toolkit.engines.ray import Ray

            return Ray(address=self.address, slots=self.slots, threads=self.threads)
        if self.engine == "slurm":
            from toolkit.engines.slurm import Slurm, parameters

            if is_url(self.out):
                raise ValueError(
                    f"--engine slurm keeps its jobs' scripts and results in --out, and {self.out} is no folder that "
                    "its nodes see; give one, or --engine ray or local"
                )
            return Slurm(
                Path(self.out) / ".slurm", self.slots, {"cpus_per_task": self.threads, **parameters(self.slurm)}
            )
        from toolkit.engines.local import Local
        from toolkit.slots import free_slots

        return Local(self.slots or free_slots(self.threads))


def plan(configs: Sequence[RunConfig], out: Path, slots: int | None) -> str:
    """The runs, how far they are and what is left to pay."""
    from toolkit.cost import costs, plans
    from toolkit.progress import duration
    from toolkit.text import aligned

    found, prices = plans(configs, out), costs(configs, out)
    rows = [["run", "data", "state", "steps", "estimate", *(names := differing(configs))]]
    total, states = 0.0, {"done": 0, "begun": 0, "new": 0}
    for config, one, price in zip(configs, found, prices, strict=True):
        state = "new" if one is None else "done" if one.state == "done" else "begun"
        states[state] += 1
        seconds = 0.0 if state == "done" or price is None else price.seconds(config, one.step if one else 0)
        total += seconds
        data = config.store + (f"@{config.view}" if config.view else "")
        taken = f"{one.step}/{config.steps}" if one else str(config.steps)
        levels = [json.dumps(config.options[name]) if name in config.options else "" for name in names]
        row = [config.folder_name, data, state if one is None or state == "done" else one.state, taken]
        rows.append([*row, "" if state == "done" else duration(seconds), *levels])
    sources = sorted({price.source for price in prices if price is not None})
    counts = ", ".join(f"{count} {state}" for state, count in states.items() if count)
    shared = f", {duration(total / slots)} on {slots} slots" if slots else ""
    how = {"measured": "by finished runs", "calibrated": "by a few updates made now"}
    paid = f"; about {duration(total)} of one slot{shared} ({' and '.join(how[s] for s in sources)})" if total else ""
    return f"{aligned(rows)}\n{len(configs)} runs: {counts}{paid}"


def differing(configs: Sequence[RunConfig]) -> list[str]:
    """Options in which runs of one learner differ."""
    seen: dict[tuple[str, str], set[str]] = {}
    for config in configs:
        for name, value in config.options.items():
            seen.setdefault((config.learner, name), set()).add(json.dumps(value))
    return sorted({name for (_, name), values in seen.items() if len(values) > 1})


PRESET_KEYS = {*Sweep.__dataclass_fields__} - {"preset", "dry_run", "axis"} | {"axes"}


def with_preset(argv: Sequence[str]) -> list[str]:
    """`packmule sweep` flags with those of --preset FILE put before them, so that the same parser types both.

    The file holds flags by name; `axes` maps each axis to its levels. Raises ValueError naming what is wrong in it.
    """
    argv = list(argv)
    places = [i for i, word in enumerate(argv) if word == "--preset" or word.startswith("--preset=")]
    if not places:
        return argv
    at = places[-1]
    name = argv[at].partition("=")[2] or (argv[at + 1] if at + 1 < len(argv) else "")
    body = read_preset(Path(name))
    words = []
    for key, value in body.items():
        if key == "axes":
            for axis, levels in value.items():
                given = levels if isinstance(levels, list) else [levels]
                words += ["--axis", f"{axis}={','.join(_text(level) for level in given)}"]
        else:
            words += [
                f"--{key.replace('_', '-')}",
                *(_text(v) for v in (value if isinstance(value, list) else [value])),
            ]
    return [*words, *argv]


def read_preset(path: Path) -> dict[str, Any]:
    """The flags in a YAML or JSON file. No tag in it makes an object. Raises ValueError for anything else in it."""
    import yaml

    try:
        body = yaml.safe_load(path.read_text())  # JSON is YAML
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"preset {path} cannot be read ({' '.join(str(error).split())})") from None
    if not isinstance(body, dict) or not isinstance(body.get("axes", {}), dict):
        raise ValueError(f"preset {path} must map flags to values, and its axes names to levels")
    from toolkit.registry import suggestion

    for key in body:
        if key not in PRESET_KEYS:
            raise ValueError(f"preset {path} has an unknown flag {key!r}{suggestion(str(key), PRESET_KEYS)}")
    return body


def _text(value: Any) -> str:
    """A value of a preset as it would be typed: a list of numbers with spaces between."""
    if isinstance(value, list):
        return " ".join(_text(part) for part in value)
    if isinstance(value, dict) or value is None:
        raise ValueError(f"preset: {value!r} is no number, text or list of them")
    return str(value)


@dataclass
class Status:
    """Show how far runs are: progress, score, time left. Reads their folders, whatever engine runs them."""

    runs: Positional[list[Location]] = field(default_factory=lambda: ["runs"])
    """Runs, or what holds them: folders or URLs."""
    json: bool = False
    """Print one JSON object a run."""
    summary: bool = False
    """Only how many are in each state."""

    def run(self) -> int:
        from toolkit.status import states, summary, table

        urls: dict[Path, str] = {}
        if any(map(is_url, self.runs)):
            from toolkit.copies import states_of

            found, urls = states_of(*self.runs)
        else:
            found = states(*self.runs)
        if self.json:
            bodies = [
                {**asdict(one), "folder": urls.get(one.folder, str(one.folder)), "score": one.score, "left": one.left}
                for one in found
            ]
            print("\n".join(map(json.dumps, bodies)))
        else:
            print(summary(found) if self.summary else table(found))
        return 0
