"""The `packmule learners` command: who there is, what each asks of the data, what its options mean, how large it is."""

from __future__ import annotations

import ast
import inspect
import itertools
import json
import textwrap
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional

from toolkit.commands.types import Location
from toolkit.text import aligned, asks

if TYPE_CHECKING:
    from toolkit.core import LearnerConfig

WIDTH = 80  # columns


@dataclass
class Learners:
    """List the learners there are: paper, the actions each takes, and what it asks of the data besides these."""

    names: Positional[list[str]] = field(default_factory=list)
    """Show these only: what they are, their options with defaults and meaning, and how large they are."""
    store: Location | None = None
    """With names: count parameters and work on this store, not on data of Hopper's size (11 numbers seen, 3 done)."""
    json: bool = False
    """Print one JSON object a learner, with its defaults and its size."""

    def run(self) -> int:
        from toolkit import registry

        if self.store is not None and not self.names:
            raise ValueError(
                "--store counts the size of named learners; name one, as in packmule learners iql --store S"
            )
        chosen = {name: registry.learner(name) for name in self.names} or registry.learners()
        facts = {name: described(name, config) for name, config in chosen.items()}
        if not (self.names or self.json):
            print(table(facts))
            return 0
        for name, config in chosen.items():
            facts[name] |= counted(config, self.store)
            print(json.dumps(facts[name]) if self.json else page(facts[name]), flush=True)
        return 0


def described(name: str, config: LearnerConfig) -> dict[str, Any]:
    """What is said of a learner: plain JSON."""
    return {
        "learner": name,
        "family": config.family,
        "paper": config.paper,
        "what": inspect.getdoc(type(config)) or "",
        "asks": asks(config.needs),
        "needs": asdict(config.needs),
        "actions": list(config.actions),
        "defaults": asdict(config),
        "options": meanings(type(config)),
    }


def meanings(kind: type) -> dict[str, str]:
    """Option -> what the docstring under it says, on one line; of a configuration and those it extends."""
    found = {}
    for base in reversed(kind.__mro__[:-1]):
        (body,) = (node.body for node in ast.parse(textwrap.dedent(inspect.getsource(base))).body)  # type: ignore[attr-defined]
        for option, said in itertools.pairwise(body):
            match option, said:
                case ast.AnnAssign(target=ast.Name(name)), ast.Expr(ast.Constant(str(text))):
                    found[name] = " ".join(text.split())
    return found


def counted(config: LearnerConfig, store: str | None) -> dict[str, Any]:
    """Trained parameters and floating-point operations of an update of 256, and on which data; None with the reason."""
    from toolkit.size import BATCH, REFERENCE, reference_size, size
    from toolkit.store import ReplayStore

    where = f"{REFERENCE if store is None else store}, batch {BATCH}"
    try:
        found = reference_size(config) if store is None else size(config, ReplayStore.open(store))
    except ValueError as error:
        if store is not None:
            raise
        return {"parameters": None, "flops": None, "size_of": f"not counted on {where}: {error}"}
    return asdict(found) | {"size_of": where}


def table(facts: dict[str, dict[str, Any]]) -> str:
    """Learners by family; lines fit 80 columns."""
    rows: list[list[str]] = []
    for family in dict.fromkeys(said["family"] for said in facts.values()):
        rows += [["", "", "", ""]] if rows else []
        rows.append([family, "paper", "actions", "asks of the data"])
        for name, said in facts.items():
            if said["family"] == family:
                actions = said["actions"][0] if len(said["actions"]) == 1 else "both"
                rows.append([f"  {name}", said["paper"], actions, ", ".join(said["asks"])])
    return aligned(rows) + "\n\npackmule learners NAME shows what a learner is, its options and its size."


def page(said: dict[str, Any]) -> str:
    """One learner: what it is, its options and its size; lines fit 80 columns."""
    about = {
        "family": said["family"],
        "paper": f"arXiv:{said['paper']}" if said["paper"] else "none",
        "actions": ", ".join(said["actions"]),
        "asks of the data": ", ".join(said["asks"]) or "observations and actions",
        "size": said["size_of"],
    }
    if said["parameters"] is not None:
        work = f"{said['parameters']:,} trained parameters, {said['flops'] / 1e6:,.1f} MFLOP an update"
        about["size"] = f"{work} ({said['size_of']})"
    lines = [said["learner"], *(wrapped(f"{key + ':':<18}{value}", "  ", " " * 20) for key, value in about.items())]
    lines += ["\n" + wrapped(" ".join(paragraph.split())) for paragraph in said["what"].split("\n\n")]
    lines.append("\noptions, as --learner.NAME VALUE, with their defaults")
    for option, value in said["defaults"].items():
        lines.append(f"  {option.replace('_', '-')}  {shown(value)}")
        if option in said["options"]:
            lines.append(wrapped(said["options"][option], " " * 6, " " * 6))
    return "\n".join(lines) + "\n"


def wrapped(text: str, first: str = "", rest: str = "") -> str:
    """Lines of 80 columns at most, indented."""
    return textwrap.fill(text, WIDTH, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False)


def shown(value: Any) -> str:
    """A value as it is typed on the command line."""
    if isinstance(value, list | tuple):
        return " ".join(map(str, value)) or "(none)"
    return str(value)
