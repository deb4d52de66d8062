"""The command line, typed by tyro. Learners are loaded only for the commands that need one.

Exit codes: 0 done, 1 some runs failed, 2 wrong input (nothing was started or written), 130 interrupted, 141 the
reader of its output went away.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, Union, cast

import tyro
from tyro.conf import Positional

from toolkit.commands.bits import Bits
from toolkit.commands.bottlenecks import Bottlenecks
from toolkit.commands.data import Data
from toolkit.commands.distance import Distance
from toolkit.commands.doctor import Completion, Doctor
from toolkit.commands.fetch import Fetch, refuse_urls
from toolkit.commands.figures import Mirror, Plot, Report, tell
from toolkit.commands.learners import Learners
from toolkit.commands.parsing import parsed
from toolkit.commands.proxies import Proxies
from toolkit.commands.runs import FQE, Export
from toolkit.commands.sweep import Status, Sweep, with_preset
from toolkit.commands.train import Train, print_scores, train_command
from toolkit.commands.types import Location, local_runs, refuse_none
from toolkit.urls import is_url


class Command(Protocol):
    """What every subcommand is: a dataclass of its flags, and `run`."""

    def run(self) -> int:
        """Do it; the exit code."""


@dataclass
class Claim:
    """The main job: collect, train, evaluate, test the claim, and write a report.

    Ctrl-C stops it safely; the same command then continues where it stopped.
    """

    suite: Literal["smoke", "standard", "full"] = "smoke"
    """The tier of the study: smoke takes minutes, proves the plumbing, and cannot decide the claim; standard takes many
    hours on two cores; full is for a cluster."""
    out: Path = Path("claim")
    """Folder for stores, runs, figures and the report."""
    slots: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Runs at a time, one process of one thread each."""
    only: list[str] = field(default_factory=list)
    """Tasks of the tier to work on now; the report waits until the others are done too, or is --partial."""
    partial: bool = False
    """Report on the draws and tasks that are whole, and say so, though others are missing."""
    amend: str | None = None
    """Why the plan differs from the one the folder was begun with; without a reason another plan is refused."""
    dry_run: bool = False
    """Print the plan and what it will cost here, from a few updates of every learner, and write nothing."""

    def run(self) -> int:
        from toolkit.engines.local import warm_up

        warm_up()  # while the rest is imported
        from toolkit.study import TIERS, claim

        design = TIERS[self.suite]
        if self.dry_run:
            from toolkit.hours import estimate

            print(estimate(design, only=self.only, slots=self.slots))
            return 0
        result = claim(
            design,
            out=self.out,
            slots=self.slots,
            only=self.only,
            amend=self.amend,
            partial=self.partial,
            command=shlex.join(
                ["packmule", "claim", "--suite", self.suite]
                + (["--only", *self.only] if self.only else [])
                + ["--partial"] * self.partial
            ),
        )
        if result is not None:
            tell(result)
        return 0


@dataclass
class Collect:
    """Roll out behaviours in many contexts into a store. The same command continues or extends it.

    Three dials that are never merged: contexts (how many, from how much of their range), coverage (random steps and
    noise) and quality (who acts). A preset sets the first two, a size the number of episodes.
    """

    suite: Positional[str]
    """pendulum, pointmaze, metaworld-mt10, ...; `packmule suites` lists them."""
    out: Location
    """The store to make, or to continue: a folder, or a URL like s3://bucket/prefix."""
    preset: Literal["narrow", "wide-context", "wide-coverage", "both"] | None = None
    """Few or many contexts, no or half the steps random."""
    size: Literal["small", "medium", "large"] | None = None
    """100, 1,000 or 10,000 episodes; with one seed a smaller size is the beginning of a larger one."""
    episodes: int | None = None
    """100 unless the size says otherwise."""
    contexts: int | None = None
    """Distinct contexts (starts, goals, dynamics) that the episodes take turns in; 16 unless the preset says."""
    context_range: float | None = None
    """Share of the suite's training contexts to draw from, those nearest the middle of their ranges; all by default."""
    coverage: float | None = None
    """Share of time steps under the random policy, in blocks: 0 is the expert, 1 is random; by default 0.3."""
    noise: float | None = None
    """Standard deviation of action noise, as a share of half the action range; none by default."""
    exploration: Literal["white", "ou", "pink"] | None = None
    """How that noise hangs together in time: not at all (white, the default), for 10 steps, or at every scale."""
    quality: float | None = None
    """Share of episodes that the expert plays; all by default."""
    weaker: str | None = None
    """The behaviour that plays the others: random, or another of the suite's."""
    seed: int = 0
    workers: int = 1
    """Processes; the data do not depend on their number."""
    video: int = 0
    """Sample episodes to show as mp4 files, beside the store in NAME-videos."""

    def run(self) -> int:
        if self.workers > 1:
            from toolkit.engines.local import warm_up

            warm_up()  # while the rest is imported
        from toolkit.collect import collect
        from toolkit.dials import choose
        from toolkit.progress import ProgressLine

        apart = ("suite", "out", "seed", "workers", "video")
        episodes, dials = choose(**{name: value for name, value in vars(self).items() if name not in apart})
        films = None
        if self.video:
            from toolkit.video import Films

            if is_url(self.out):
                raise ValueError(f"--video puts films beside the store, and {self.out} is no folder; leave it out")

            films = Films(self.suite, self.video)  # says what is missing before anything is written
        line = ProgressLine(f"collect {self.suite}", episodes)
        store = collect(
            self.suite,
            out=self.out,
            episodes=episodes,
            seed=self.seed,
            workers=self.workers,
            progress=lambda done: line.update(done),
            **dials.to_json(),
        )
        line.close()
        print(f"{self.out}: {len(store)} episodes, {store.transitions} transitions, commit {store.commit.number}")
        if films is not None:
            print("\n".join(map(str, films.of_store(store))))
        return 0


@dataclass
class Expert:
    """Train the expert of a suite that has no script, by PPO. The same command continues one that was stopped."""

    suite: Positional[str]
    """hopper, halfcheetah, walker2d, ..."""
    out: Path
    """The folder of the training; its <suite>.safetensors is what ships in toolkit/envs/weights."""
    seed: int = 0
    steps: int | None = None
    """Environment steps, rounded up to whole rounds; those of the suite's recipe by default."""

    def run(self) -> int:
        from toolkit.experts import train_expert
        from toolkit.progress import ProgressLine

        line: ProgressLine | None = None

        def show(done: int, total: int, note: str) -> None:
            nonlocal line
            line = line or ProgressLine(f"expert {self.suite}", total)
            line.update(done, note)

        path = train_expert(self.suite, out=self.out, seed=self.seed, steps=self.steps, progress=show)
        if line is not None:
            line.close()
        print(path)
        return 0


@dataclass
class Eval:
    """Evaluate trained runs again: mean returns, scores and success by split; or measure a run's model."""

    runs: Positional[list[Location]]
    """Finished runs, or what holds them at a URL."""
    episodes: int | None = None
    """Episodes on each split; as trained by default."""
    contexts: list[Literal["seen", "interpolated", "extrapolated", "held-out"]] = field(default_factory=list)
    """Splits to act on; as trained by default. held-out is interpolated and extrapolated together."""
    seed: int | None = None
    """Seed of contexts and environments; the run's own by default, which repeats its evaluation."""
    json: bool = False
    """Print one JSON record an episode."""
    video: int = 0
    """Episodes of each split to play again and show as mp4 files, in the run's videos. With diagnose: held-out episodes
    to show beside what the model imagines, with the figures."""
    diagnose: bool = False
    """Measure the run's model instead: compounding error, calibration, termination, optimism, bits; with figures."""
    horizon: int = 50
    """With diagnose: steps the model is left alone, at most."""
    on: Location | None = None
    """With diagnose: a store of held-out episodes; fresh ones of the data's behaviour by default."""
    out: Path | None = None
    """With diagnose: where figures go; the run's folder by default."""

    def run(self) -> int:
        if self.video < 0:
            raise ValueError(f"video must be at least 1 episode to film, or 0 for none; got {self.video}")
        for where in filter(is_url, self.runs):
            if self.video or (self.diagnose and self.out is None):
                raise ValueError(
                    f"films and figures of a run are put into its folder, and {where} is none: with --diagnose give "
                    "--out, for films copy the run first (packmule fetch)"
                )
        runs = local_runs(self.runs, whole=True)
        if self.diagnose:
            from toolkit.commands.diagnose import diagnose_runs

            return diagnose_runs(
                runs, on=self.on, horizon=self.horizon, episodes=self.episodes, seed=self.seed, out=self.out,
                video=self.video, as_json=self.json,
            )  # fmt: skip

        from toolkit.evaluate import again, evaluate_timed, film
        from toolkit.records import to_line
        from toolkit.video import need_video

        if self.video:
            need_video()

        held_out = ("interpolated", "extrapolated")
        asked = {split for name in self.contexts for split in (held_out if name == "held-out" else (name,))}
        settings = {"episodes": self.episodes, "splits": sorted(asked) or None, "seed": self.seed}
        for folder in runs:  # every run, before the first acts
            again(folder, self.episodes, sorted(asked) or None, self.seed)
        found = [evaluate_timed(folder, **settings) for folder in runs]  # type: ignore[arg-type]
        records = [record for those, _ in found for record in those]
        if self.json:
            print("\n".join(map(to_line, records)))
        else:
            print_scores(records)
        for folder, (_, pace) in zip(runs, found, strict=True):
            print(f"{folder.name} acts in {pace}", file=sys.stderr)
        if self.video:
            paths = [path for folder in runs for path in film(folder, self.video, **settings)]  # type: ignore[arg-type]
            print("\n".join(map(str, paths)), file=sys.stderr if self.json else sys.stdout)
        return 0


@dataclass
class Suites:
    """List the suites there are: time limit, numbers in a context, the [extra] or modules they need, what they are."""

    family: Positional[str | None] = None
    """Only the suites of this family (metaworld, ogbench), or the one of this name."""

    def run(self) -> int:
        from toolkit import registry
        from toolkit.text import aligned

        chosen = list(registry.suites().values())
        if self.family is not None:
            chosen = registry.families().get(self.family) or [registry.suite(self.family)]
        rows = [["suite", "steps", "context", "needs", "what it is"]]
        for suite in chosen:
            what = (type(suite).__doc__ or "").strip().splitlines()[0]
            needs = f"[{suite.extra}]" if suite.extra else ", ".join(suite.requires)
            rows.append([suite.name, str(suite.max_steps), str(len(suite.context_names)), needs, what])
        print(aligned(rows))
        return 0


def parse(argv: Sequence[str]) -> Command:
    """Flags to a command. Raises SystemExit (code 2) with what is wrong, ValueError as `parsed` and for a learner."""
    train: type = Train
    if argv and argv[0] == "train":
        train = train_command(argv[1:])
    if argv and argv[0] == "--tyro-print-completion":
        train = train_command([])  # of every learner
    if argv and argv[0] == "sweep":
        argv = ["sweep", *with_preset(argv[1:])]
    commands = {
        "claim": Claim,
        "collect": Collect,
        "expert": Expert,
        "data": Data,
        "train": train,
        "sweep": Sweep,
        "status": Status,
        "eval": Eval,
        "fqe": FQE,
        "bits": Bits,
        "bottlenecks": Bottlenecks,
        "distance": Distance,
        "proxies": Proxies,
        "plot": Plot,
        "report": Report,
        "mirror": Mirror,
        "fetch": Fetch,
        "export": Export,
        "learners": Learners,
        "suites": Suites,
        "doctor": Doctor,
        "completion": Completion,
    }
    kinds = tuple(Annotated[kind, tyro.conf.subcommand(name)] for name, kind in commands.items())
    return parsed(
        lambda: tyro.cli(
            cast(Any, Union[kinds]),  # noqa: UP007
            prog="packmule",
            description="One replay store, any learner.",
            args=list(argv),
            config=(tyro.conf.CascadeSubcommandArgs,),
        ),
        argv,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Wrong input prints one clear message and returns 2; Ctrl-C and SIGTERM return 130."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    return guarded(lambda: refuse_none(refuse_urls(parse(sys.argv[1:] if argv is None else argv))).run())


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
        print("\ninterrupted; nothing is half written, the same command continues from what was saved", file=sys.stderr)
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
