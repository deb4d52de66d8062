"""The `packmule train` command, with one subcommand a learner, and the table of scores it ends with."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, make_dataclass
from typing import Annotated, Any, Literal

import tyro

from toolkit.commands.types import Location
from toolkit.urls import is_url

DeviceName = Annotated[str, tyro.conf.arg(help="cpu, cuda, or auto: cuda where there is one.")]


@dataclass(kw_only=True)
class RunSettings:
    """What one run and a sweep of them have in common."""

    relabel: str | None = None
    """A relabel of the store, made by `data relabel`; rewards and goals as recorded by default. Needs --episodes 0."""
    steps: int = 10_000
    """Gradient steps."""
    batch_size: int = 256
    episodes: int = 20
    """Evaluation episodes on each split; 0 evaluates nothing."""
    evaluate_every: int = 0
    """Also evaluate, and keep a snapshot, after every so many steps: for learning curves. 0: only at the end."""
    splits: tuple[Literal["seen", "interpolated", "extrapolated"], ...] = ("seen", "interpolated")
    device: DeviceName = "auto"
    threads: int = 1
    compile: Literal["off", "on", "auto"] = "off"
    """Compile the update whole: quicker steps after a minute's wait, numbers rounded otherwise. auto: in long runs."""
    tier: Literal["auto", "memory", "mapped", "streaming"] = "auto"
    """Where batches come from; by size against available memory unless told."""
    out: Location = "runs"
    """Each run's folder is made inside this one, or below this URL: then it is saved there every minute."""


@dataclass(kw_only=True)
class TrainSettings(RunSettings):
    """Train one learner on one store and evaluate it. Ctrl-C saves; the same command continues."""

    store: Location
    """The replay store, a folder or a URL like s3://bucket/prefix, or the file of a mixture (`data mix`)."""
    view: str | None = None
    """A saved view of the store; the whole store by default."""
    commit: int | None = None
    """A past commit; the newest by default."""
    seed: int = 0

    def run_learner(self, name: str, config: Any) -> int:
        from toolkit.configure import configure
        from toolkit.evaluate import Pace
        from toolkit.progress import ProgressLine
        from toolkit.records import load, read_object
        from toolkit.rundir import check_out
        from toolkit.size import size_of_run
        from toolkit.train import run

        check_out(self.out)
        settings = {k: v for k, v in vars(self).items() if k not in ("learner", "out")}
        configured = configure(name, options=asdict(config), **settings)
        line = ProgressLine(f"train {name}", self.steps)
        folder = run(configured, self.out, progress=lambda what, done, total: line.update(done, what))
        line.close()
        if self.episodes and self.splits:
            print_scores(load(folder))
            if (folder / "acting.json").exists():  # runs of earlier versions have none
                acting = read_object(folder / "acting.json")
                print(f"acts in {Pace(acting['seconds'], acting['calls'], acting['rows'])}", file=sys.stderr)
        print(size_of_run(configured, folder), file=sys.stderr)  # beside the progress; the folder stays the last line
        print(f"{self.out.rstrip('/')}/{folder.name}" if is_url(self.out) else folder)
        return 0


@dataclass
class Train(TrainSettings):
    """Train one learner on one store and evaluate it: `packmule train iql --store ...`."""


def train_command(argv: Sequence[str]) -> type:
    """The train command with one subcommand a learner; `argv` names the one that runs."""
    from toolkit import registry

    known = registry.learners()
    words = [word for word in argv if not word.startswith("-")]
    if words and argv[0] == words[0]:
        registry.learner(words[0])  # says what was perhaps meant
    kind = tyro.extras.subcommand_type_from_defaults(known, prefix_names=False)
    command = make_dataclass("Train", [("learner", kind)], bases=(TrainSettings,), kw_only=True)
    command.__doc__ = TrainSettings.__doc__

    def run(self: Any) -> int:  # a flag's value may be a learner's name too: the parsed configuration decides
        named = (word for word in words if type(known.get(word)) is type(self.learner))
        return self.run_learner(next(named), self.learner)

    command.run = run  # type: ignore[attr-defined]
    return command


def print_scores(records: Sequence[Any]) -> None:
    from toolkit.records import last, mean_scores
    from toolkit.text import aligned

    records = last(records)
    rows = [["learner", "contexts", "return", "score", "success", "episodes"]]
    for (learner, split), (score, _) in mean_scores(records).items():
        chosen = [r for r in records if (r.learner, r.split) == (learner, split)]
        mean = sum(r.episode_return for r in chosen) / len(chosen)
        success = sum(r.success for r in chosen) / len(chosen)
        rows.append([learner, split, f"{mean:.1f}", f"{score:.3f}", f"{success:.2f}", str(len(chosen))])
    print(aligned(rows))
    print("score: 0 acts at random, 1 as the scripted expert")
