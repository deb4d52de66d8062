"""`packmule doctor` and `packmule completion`: what this machine lacks, and flags that complete themselves."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

PLACES = {
    "bash": "~/.local/share/bash-completion/completions/packmule",
    "zsh": "~/.zfunc/_packmule",
}


@dataclass
class Doctor:
    """Look at versions, processor, memory, disk, environments and rendering, and say how to mend what is wrong.

    Exit code 1 if something always needed is wrong; what only some uses need is a note.
    """

    out: Path = Path(".")
    """Where stores and runs will be: the disk that is measured."""
    json: bool = False
    """Print one JSON object a finding."""

    def run(self) -> int:
        from toolkit.doctor import findings
        from toolkit.text import aligned

        found = findings(self.out)
        if self.json:
            print("\n".join(json.dumps(asdict(one)) for one in found))
        else:
            print(aligned([[one.level, one.what, one.found] for one in found]))
            for one in found:
                if one.fix:
                    print(f"\n{one.level}: {one.what}: {one.found}\n   {one.fix}")
        return 1 if any(one.level == "problem" for one in found) else 0


@dataclass
class Completion:
    """Print the completion script of a shell, or install it for this user."""

    shell: Positional[Literal["bash", "zsh"]]
    install: bool = False
    """Write it where the shell looks."""

    def run(self) -> int:
        from toolkit.cli import parse

        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
            parse(["--tyro-print-completion", self.shell])
        if not said.getvalue().strip():
            raise RuntimeError(f"no completion script was made for {self.shell}")
        if not self.install:
            print(said.getvalue(), end="")
            return 0
        path = Path(PLACES[self.shell]).expanduser()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(said.getvalue())
        more = (
            ""
            if self.shell == "bash"
            else f"; ~/.zshrc must say: fpath=({path.parent} $fpath); autoload -U compinit; compinit"
        )
        print(f"{path}: active in new shells{more}")
        return 0
