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
COMMANDS = [line.split() for line in re.findall(r"^    python (train\.py run=.*)$", PAGE, re.M)]
RESULTS = {  # of each run: the metric, what it stays below, the number of parameters
    "tiny": ("test_error", 85, 2_314),
    "stripes": ("test_error", 5, 78_994),
    "toy": ("test_rmse", 0.15, 97),
    "coupled": ("test_bits_per_character", 3.9, 29_185),
    "subspace": ("test_rmse", 0.2, 30),
}
# All in one process, because the start of a process takes longer than most of them.
PROGRAM = """
import json, runpy, sys
for sys.argv in json.loads(sys.argv[1]):
    runpy.run_path("train.py", run_name="__main__")
"""


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """The copy, with the files of the page, and its lines in the registries, after all of its commands."""
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
    commands = json.dumps([[*command, "logger=none", "device=cpu"] for command in COMMANDS])
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, commands], cwd=copy, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return copy


@pytest.mark.parametrize("run", RESULTS)
def test_the_commands_of_the_page(extended, run):
    metric, most, parameters = RESULTS[run]
    result = json.loads((extended / "runs" / run / "result.json").read_text())
    assert result["parameters"] == parameters
    assert result[metric] < most
