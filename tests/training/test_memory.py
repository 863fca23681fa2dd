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
from training.memory import keep_freed_memory
if {keep}:
    keep_freed_memory()
def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    [torch.ones(2**23) for _ in range(4)]  # 128 MiB, more than glibc keeps by itself
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(min([pages() for _ in range(6)][3:]))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc only")
def test_a_step_needs_no_new_pages():
    kept, given_back = (
        int(subprocess.run([sys.executable, "-c", PAGES.format(keep=keep)], **PLACE).stdout) for keep in (True, False)
    )
    assert 10 * kept < given_back, (kept, given_back)
