"""Every example of the README runs as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """Fenced blocks of one language ('' for none)."""
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("readme")


def test_command_line_examples_run_as_written(folder):
    (script,) = [block for block in blocks("") if block.startswith("packmule")]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "-e", "-c", script],
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "extrapolated" in done.stdout
    assert (folder / "report" / "report.html").exists()
    assert (folder / "figures" / "comparison.png").exists()


def test_python_examples_run_as_written(folder):
    (program,) = blocks("python")
    (folder / "example").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder / "example", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "('iql', 'interpolated')" in done.stdout


def test_the_readme_names_only_files_and_targets_that_exist():
    for name in set(re.findall(r"`((?:toolkit|algos|worldmodel|tests|examples|docs|benchmarks)/[\w/.]*)`", TEXT)):
        if "NAME" not in name:
            assert (ROOT / name).exists(), name
    for name in re.findall(r"!\[[^]]*\]\(([^)]*)\)", TEXT):
        assert (ROOT / name).exists(), name
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"(?:^|`)make (\w+)", TEXT, re.MULTILINE)):
        assert f"\n{target}:" in makefile, target
    assert not re.search(r"[A-Z]+_(?:TABLE|RUNS|MINUTES)", TEXT), "a placeholder was left"
