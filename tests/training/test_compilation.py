"""Which runs compile by themselves."""

import torch
from torch import nn

from training.compilation import PAYS_FROM, resolve_compile


class SaysHow(nn.Module):
    def compile(self):
        pass


def test_only_long_runs_of_tasks_that_say_how(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr("shutil.which", lambda program: f"/usr/bin/{program}")
    assert resolve_compile("auto", PAYS_FROM, SaysHow(), cpu)
    assert not resolve_compile("auto", PAYS_FROM - 1, SaysHow(), cpu)
    assert not resolve_compile("auto", PAYS_FROM, nn.Linear(1, 1), cpu)
    assert not resolve_compile("auto", PAYS_FROM, SaysHow(), torch.device("cuda"))
    assert resolve_compile(True, 1, nn.Linear(1, 1), cpu) and not resolve_compile(False, PAYS_FROM, SaysHow(), cpu)
    monkeypatch.setattr("shutil.which", lambda program: None)
    assert not resolve_compile("auto", PAYS_FROM, SaysHow(), cpu)
