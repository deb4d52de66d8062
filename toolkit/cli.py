"""The command line, typed by tyro. Learners are loaded only for the commands that need one.

Exit codes: 0 done, 1 some runs failed, 2 wrong input (nothing was started or written), 130 interrupted, 141 the
reader of its output went away.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, make_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, Union, cast

import tyro
from tyro.conf import Positional

from toolkit.cli_data import Data, Location

DeviceName = Annotated[str, tyro.conf.arg(help="cpu, cuda, or auto: cuda where there is one.")]


class Command(Protocol):
    """What every subcommand is: a dataclass of its flags, and `run`."""

    def run(self) -> int:
        """Do it; the exit code."""


@dataclass
class Claim:
    """The main job: collect, train, evaluate, test the claim, and write a report.

    Ctrl-C stops it safely; the same command then continues where it stopped.
    """

    suite: Literal["smoke"] = "smoke"
    """The tier of the study: smoke takes minutes, proves the plumbing, and cannot decide the claim."""
    out: Path = Path("claim")
    """Folder for stores, runs, figures and the report."""
    slots: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Runs at a time, one process of one thread each."""

    def run(self) -> int:
        from toolkit.claim import verdict_table
        from toolkit.study import TIERS, claim

        result = claim(
            TIERS[self.suite], out=self.out, slots=self.slots, command=f"packmule claim --suite {self.suite}"
        )
        print("\n" + verdict_table(result.analysis))
        print(f"\nReport: {result.report}")
        return 0


@dataclass
class Collect:
    """Roll out behaviours in many contexts into a store. The same command continues or extends it."""

    suite: Positional[str]
    """pendulum, pointmaze, ..."""
    out: Location
    """The store to make, or to continue."""
    episodes: int = 100
    contexts: int = 16
    """Distinct contexts (starts, goals, dynamics) among the episodes."""
    coverage: float = 0.3
    """Share of time steps under the random policy, in blocks: 0 is the expert, 1 is random."""
    noise: float = 0.0
    """Standard deviation of action noise, as a share of half the action range."""
    seed: int = 0
    workers: int = 1
    """Processes; the data do not depend on their number."""

    def run(self) -> int:
        from toolkit.collect import collect
        from toolkit.progress import ProgressLine

        line = ProgressLine(f"collect {self.suite}", self.episodes)
        store = collect(
            self.suite,
            out=self.out,
            episodes=self.episodes,
            contexts=self.contexts,
            coverage=self.coverage,
            noise=self.noise,
            seed=self.seed,
            workers=self.workers,
            progress=lambda done: line.update(done),
        )
        line.close()
        print(f"{self.out}: {len(store)} episodes, {store.transitions} transitions, commit {store.commit.number}")
        return 0


@dataclass
class Eval:
    """Evaluate trained runs again: mean returns, scores and success by split."""

    runs: Positional[list[Path]]
    """Folders of finished runs."""
    episodes: int | None = None
    """Episodes on each split; as trained by default."""
    contexts: list[Literal["seen", "interpolated", "extrapolated", "held-out"]] = field(default_factory=list)
    """Splits to act on; as trained by default. held-out is interpolated and extrapolated together."""
    seed: int | None = None
    """Seed of contexts and environments; the run's own by default, which repeats its evaluation."""
    json: bool = False
    """Print one JSON record an episode."""

    def run(self) -> int:
        from toolkit.evaluate import evaluate
        from toolkit.records import to_line

        held_out = ("interpolated", "extrapolated")
        asked = {split for name in self.contexts for split in (held_out if name == "held-out" else (name,))}
        settings = {"episodes": self.episodes, "splits": sorted(asked) or None, "seed": self.seed}
        records = [record for folder in self.runs for record in evaluate(folder, **settings)]  # type: ignore[arg-type]
        if self.json:
            print("\n".join(map(to_line, records)))
        else:
            _print_scores(records)
        return 0


@dataclass
class Plot:
    """Draw figures of finished runs: PNG, SVG and the numbers as CSV."""

    runs: Positional[list[Path]]
    figure: list[str] = field(default_factory=list)
    """comparison, scaling, seen_unseen, ...; all that apply by default."""
    out: Path = Path("figures")

    def run(self) -> int:
        from toolkit.plots import plot
        from toolkit.records import load, naming

        records = load(*self.runs)
        with naming(self.out):
            paths = plot(records, self.figure, self.out)
        print("\n".join(map(str, paths)))
        return 0


@dataclass
class Report:
    """Write one self-contained HTML page about finished runs."""

    runs: Positional[list[Path]]
    out: Path = Path("report")

    def run(self) -> int:
        from toolkit.plots import plot
        from toolkit.records import load, naming, read_config, run_folders
        from toolkit.report import write

        records = load(*self.runs)
        with naming(self.out):
            page = write(
                self.out,
                title="Runs",
                records=records,
                figures=[path for path in plot(records, [], self.out / "figures") if path.suffix == ".svg"],
                runs=[read_config(folder).to_json() for folder in run_folders(*self.runs)],
                command=f"packmule report {' '.join(map(str, self.runs))}",
            )
        print(page)
        return 0


@dataclass
class Learners:
    """List the learners there are, with family and source."""

    def run(self) -> int:
        from toolkit import registry
        from toolkit.text import aligned

        rows = [["learner", "family", "what it is"]]
        for name, config in registry.learners().items():
            rows.append([name, config.family, (type(config).__doc__ or "").strip().splitlines()[0]])
        print(aligned(rows))
        return 0


@dataclass
class _TrainSettings:
    """Train one learner on one store and evaluate it. Ctrl-C saves; the same command continues."""

    store: Location
    """The replay store: a folder, or a URL like s3://bucket/prefix."""
    view: str | None = None
    """A saved view of the store; the whole store by default."""
    commit: int | None = None
    """A past commit; the newest by default."""
    steps: int = 10_000
    """Gradient steps."""
    batch_size: int = 256
    seed: int = 0
    episodes: int = 20
    """Evaluation episodes on each split; 0 evaluates nothing."""
    splits: tuple[Literal["seen", "interpolated", "extrapolated"], ...] = ("seen", "interpolated")
    device: DeviceName = "auto"
    threads: int = 1
    out: Path = Path("runs")
    """The run's folder is made inside this one."""

    def run_learner(self, name: str, config: Any) -> int:
        from toolkit.configure import configure
        from toolkit.progress import ProgressLine
        from toolkit.records import load
        from toolkit.train import run

        settings = {k: v for k, v in vars(self).items() if k not in ("learner", "out")}
        configured = configure(name, options=asdict(config), **settings)
        line = ProgressLine(f"train {name}", self.steps)
        folder = run(configured, self.out, progress=lambda what, done, total: line.update(done, what))
        line.close()
        if self.episodes and self.splits:
            _print_scores(load(folder))
        print(folder)
        return 0


@dataclass
class Train(_TrainSettings):
    """Train one learner on one store and evaluate it: `packmule train iql --store ...`."""


def _train_command(argv: Sequence[str]) -> type:
    """The train command with one subcommand a learner; `argv` names the one that runs."""
    from toolkit import registry

    known = registry.learners()
    words = [word for word in argv if not word.startswith("-")]
    if words and argv[0] == words[0]:
        registry.learner(words[0])  # says what was perhaps meant
    kind = tyro.extras.subcommand_type_from_defaults(known, prefix_names=False)
    command = make_dataclass("Train", [("learner", kind)], bases=(_TrainSettings,), kw_only=True)
    command.__doc__ = _TrainSettings.__doc__

    def run(self: Any) -> int:  # a flag's value may be a learner's name too: the parsed configuration decides
        named = (word for word in words if type(known.get(word)) is type(self.learner))
        return self.run_learner(next(named), self.learner)

    command.run = run  # type: ignore[attr-defined]
    return command


def _print_scores(records: Sequence[Any]) -> None:
    from toolkit.records import mean_scores
    from toolkit.text import aligned

    rows = [["learner", "contexts", "return", "score", "success", "episodes"]]
    for (learner, split), (score, _) in mean_scores(records).items():
        chosen = [r for r in records if (r.learner, r.split) == (learner, split)]
        mean = sum(r.episode_return for r in chosen) / len(chosen)
        success = sum(r.success for r in chosen) / len(chosen)
        rows.append([learner, split, f"{mean:.1f}", f"{score:.3f}", f"{success:.2f}", str(len(chosen))])
    print(aligned(rows))
    print("score: 0 acts at random, 1 as the scripted expert")


def parse(argv: Sequence[str]) -> Command:
    """Flags to a command. Raises SystemExit (code 2) with what is wrong, ValueError for an unknown learner."""
    train: type = Train
    if argv and argv[0] == "train":
        train = _train_command(argv[1:])
    commands = {
        "claim": Claim,
        "collect": Collect,
        "data": Data,
        "train": train,
        "eval": Eval,
        "plot": Plot,
        "report": Report,
        "learners": Learners,
    }
    kinds = tuple(Annotated[kind, tyro.conf.subcommand(name)] for name, kind in commands.items())
    return tyro.cli(
        cast(Any, Union[kinds]),  # noqa: UP007
        prog="packmule",
        description="One replay store, any learner.",
        args=list(argv),
        config=(tyro.conf.CascadeSubcommandArgs,),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Wrong input prints one clear message and returns 2; Ctrl-C and SIGTERM return 130."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    return guarded(lambda: parse(sys.argv[1:] if argv is None else argv).run())


def guarded(action: Callable[[], int]) -> int:
    """Run `action`, turning errors of input into a message and an exit code. PACKMULE_TRACEBACK=1 shows all."""
    try:
        try:
            return action()
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # here, so that a reader who went away is noticed here
    except KeyboardInterrupt:
        for number in (signal.SIGINT, signal.SIGTERM):  # asking again changes nothing: it is stopping
            signal.signal(number, signal.SIG_IGN)
        print("\ninterrupted; what was done is saved, the same command continues", file=sys.stderr)
        return 130
    except BrokenPipeError:
        for stream in (sys.stdout, sys.stderr):  # nothing more can be said, also not when Python ends
            if stream is not None:
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return 141
    except (ValueError, ImportError, OSError, RuntimeError, ArithmeticError, MemoryError) as error:
        if os.environ.get("PACKMULE_TRACEBACK"):
            raise
        text = str(error).strip() or type(error).__name__
        if isinstance(error, ValueError | ImportError | OSError):
            print(f"packmule: error: {text}", file=sys.stderr)
            return 2
        print(f"packmule: failed: {text.splitlines()[0]} (PACKMULE_TRACEBACK=1 shows where)", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
