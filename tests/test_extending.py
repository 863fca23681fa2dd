"""docs/extending.md: its files, lines and commands, in a copy of the repository."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text()
COMMANDS = {name: line.split() for line, name in re.findall(r"^    python (train\.py run=(\w+) .*)$", PAGE, re.M)}


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """The copy, with each new file of the page, and with each of its lines put into a registry."""
    copy = tmp_path_factory.mktemp("repository")
    shutil.copy(ROOT / "train.py", copy)
    for name in ("configs", "data", "hypernets", "models", "training"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("cache", "__pycache__"))
    for block in re.findall(r"^```(?:python|yaml)\n# (.*?)```$", PAGE, re.M | re.S):
        path, content = block.split("\n", 1)
        assert not (copy / path).exists()
        (copy / path).write_text(content)
    for block in re.findall(r"^```diff\n--- (.*?)```$", PAGE, re.M | re.S):
        path, *hunks = block.split("\n@@\n")
        text = (copy / path).read_text()
        for hunk in hunks:
            lines = hunk.splitlines()
            before, after = ("\n".join(line[1:] for line in lines if line[0] in kept) for kept in (" -", " +"))
            assert text.count(before) == 1, f"{path} has changed: {before}"
            text = text.replace(before, after)
        assert len(re.findall(r"^\+", block, re.M)) == 2  # a line in the registry, and its import
        (copy / path).write_text(text)
    return copy


@pytest.mark.parametrize(
    ("run", "metric", "most", "parameters"),
    [
        ("tiny", "test_error", 85, 2_314),
        ("stripes", "test_error", 5, 78_994),
        ("toy", "test_rmse", 0.15, 97),
        ("subspace", "test_rmse", 0.2, 30),
    ],
)
def test_the_commands_of_the_page(extended, run, metric, most, parameters):
    done = subprocess.run(
        [sys.executable, *COMMANDS[run], "logger=none", "device=cpu"],
        cwd=extended,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((extended / "runs" / run / "result.json").read_text())
    assert result["parameters"] == parameters
    assert result[metric] < most
