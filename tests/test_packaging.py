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
import torch
from torch import nn
from torchvision.models import resnet18

ROOT = Path(__file__).resolve().parents[1]
PAGE = "\n".join(re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs" / "library.md").read_text(), re.M | re.S))
README = re.search(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.M | re.S).group(1)
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


def test_the_code_of_the_readme_runs():
    place = {
        "resnet18": resnet18,
        "images": torch.randn(2, 3, 32, 32),
        "model": nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10)),
        "condition": torch.randn(32),
        "sequence": torch.randn(3, 2, 50),
    }
    exec(README, place)
    assert sum(parameter.numel() for parameter in place["network"].parameters()) == 577_242
    assert place["logits"].shape == (2, 10) and place["output"].shape == (3, 2, 1000)


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
