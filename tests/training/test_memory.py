"""Memory that a step frees is there for the next one."""

import subprocess
import sys

import pytest

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


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_steps_need_no_new_pages():
    counts = [
        int(subprocess.run([sys.executable, "-c", PAGES.format(keep=keep)], capture_output=True, check=True).stdout)
        for keep in (True, False)
    ]
    assert 10 * counts[0] < counts[1], counts
