"""Memory that a step frees is there for the next one."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PLACE = {"cwd": ROOT, "env": os.environ | {"OMP_NUM_THREADS": "1"}, "capture_output": True, "check": True}
PAGES = """
import resource, torch
from hypernets import LSTM
from training.memory import keep_freed_memory
if {keep}:
    keep_freed_memory()
layer, input = LSTM(50, 600), torch.randn(100, 32, 50)
def pages():
    layer.zero_grad()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    layer(input)[0].sum().backward()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(min([pages() for _ in range(6)][3:]))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc only")
def test_steps_need_no_new_pages():
    counts = [
        int(subprocess.run([sys.executable, "-c", PAGES.format(keep=keep)], **PLACE).stdout) for keep in (True, False)
    ]
    assert 10 * counts[0] < counts[1], counts
