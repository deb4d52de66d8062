"""Laws of shell completion: a real interactive shell, started as the install command says, completes."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from toolkit.cli import main

STARTUP = {"bash": ".bashrc", "zsh": ".zshrc"}
PLACE = {"bash": ".local/share/bash-completion/completions/packmule", "zsh": ".zfunc/_packmule"}
GIVE_UP_SECONDS = 60.0  # only a shell that does not answer takes them
shells = pytest.mark.parametrize("shell", ["bash", "zsh"])


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    path = tmp_path / "my home"
    path.mkdir()
    monkeypatch.setenv("HOME", str(path))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    return path


@contextmanager
def terminal(shell: str, home: Path) -> Iterator[int]:
    """A terminal in which a shell waits for input."""
    ours, theirs = pty.openpty()
    env = {"HOME": str(home), "PATH": os.environ["PATH"], "TERM": "dumb", "LANG": "C.UTF-8"}
    process = subprocess.Popen([shell, "-i"], stdin=theirs, stdout=theirs, stderr=theirs, env=env, cwd=home,
                               start_new_session=True)  # fmt: skip
    os.close(theirs)
    try:
        yield ours
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def read_until(terminal: int, end: str) -> str:
    """What the shell writes, to the first `end` or until it has said nothing for long."""
    said, until = b"", time.monotonic() + GIVE_UP_SECONDS
    while end.encode() not in said and time.monotonic() < until:
        if select.select([terminal], [], [], 0.2)[0]:
            said += os.read(terminal, 65536)
    return said.decode(errors="replace")


@shells
def test_a_shell_started_as_the_install_command_says_completes(shell, home, capsys):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    assert main(["completion", shell, "--install"]) == 0
    must = capsys.readouterr().out.partition("must say: ")[2]
    (home / STARTUP[shell]).write_text(f"{must}packmule() {{ echo \"got=$*=\"; }}\nPS1='ready'\n")
    with terminal(shell, home) as screen:
        assert "ready" in read_until(screen, "ready")
        for typed, meant in {
            "tr": "train",
            "train iql --learner.exp": "train iql --learner.expectile",
            "data va": "data validate",
            "sweep --learn": "sweep --learners",
        }.items():
            os.write(screen, f"packmule {typed}\t\n".encode())
            said = read_until(screen, "=\r\n")
            assert f"got={meant}=" in said


@shells
def test_completion_is_installed_again_over_itself_only(shell, home, capsys):
    path = home / PLACE[shell]
    for _ in range(2):
        assert main(["completion", shell, "--install"]) == 0
        assert capsys.readouterr().out.startswith(f"{path}: active in new shells")
    assert [one.name for one in path.parent.iterdir()] == [path.name]
    path.write_text("# mine\n")
    assert main(["completion", shell, "--install"]) == 2
    assert f"{path} is there and was not written by packmule" in capsys.readouterr().err
    assert path.read_text() == "# mine\n"
