"""The library as others install it: without a network, from a clean copy. docs/library.md runs with it elsewhere."""

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = "\n".join(re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs" / "library.md").read_text(), re.M | re.S))
STEPS = """
from importlib.metadata import version

import hypernets

for layer in (hypernets.LSTM(4, 5), hypernets.HyperLSTM(4, 5), hypernets.HyperRNN(4, 5)):
    output, _ = layer(torch.randn(6, 2, 4))
    output.square().sum().backward()
    torch.optim.SGD(layer.parameters(), 0.1).step()
    assert all(parameter.isfinite().all() and parameter.grad is not None for parameter in layer.parameters())
assert version("hypernetworks-torch") == hypernets.__version__
print(hypernets.__file__)
"""


@pytest.mark.skipif(int(version("setuptools").partition(".")[0]) < 77, reason="the build needs setuptools 77")
def test_installed_and_used_from_another_folder(tmp_path):
    source, installed, elsewhere = tmp_path / "source", tmp_path / "installed", tmp_path / "elsewhere"
    shutil.copytree(ROOT / "hypernets", source / "hypernets", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(installed), str(source)], check=True)

    elsewhere.mkdir()
    with np.load(ROOT / "tests" / "golden" / "hyperlstm_ln.npz") as golden:
        cell = {name.removeprefix("param:"): golden[name] for name in golden if name.startswith("param:")}
    np.savez(elsewhere / "cell.npz", **cell)
    used = subprocess.run(
        [sys.executable, "-c", PAGE + STEPS],
        cwd=elsewhere,
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
    )
    assert used.returncode == 0, used.stderr
    *printed, mistake, place = used.stdout.splitlines()
    assert printed == re.findall(r"print\(.*\)  # (.*)$", PAGE, re.M)
    assert mistake.startswith("weight has the shape [4, 3]")
    assert Path(place).is_relative_to(installed)
