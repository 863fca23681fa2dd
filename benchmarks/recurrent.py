"""What the recurrent layers cost, against torch.nn.LSTM of the same width and against their own loop over time."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks.timing import alternate
from hypernets import LSTM, HyperLSTM

VOCABULARY, UNITS, STEPS = 50, 1000, 100  # Table 3; hyper cell of 128 units, N_z = 4
BUILT_IN = "torch.nn.LSTM"
LAYERS: dict[str, Callable[..., nn.Module]] = {
    BUILT_IN: nn.LSTM,
    "Layer Norm LSTM": partial(LSTM, layer_norm=True),
    "HyperLSTM": partial(HyperLSTM, layer_norm=False),
    "Layer Norm HyperLSTM": partial(HyperLSTM, layer_norm=True),
}


def measure(rounds: int, device: torch.device) -> dict[str, Any]:
    """Everything about the recurrent layers, by batch size."""
    return {
        "against_built_in": {str(size): against_built_in(size, rounds, device) for size in (128, 32)},
        "against_loop": {str(size): against_loop(size, rounds, device) for size in (128, 32)},
    }


def training_step(
    name: str, batch_size: int, device: torch.device, units: int = UNITS, fast: bool = True
) -> Callable[[], None]:
    """Forward and backward pass of a layer over random sequences, on its fast path or as the loop over time."""
    layer = LAYERS[name](VOCABULARY, units).to(device)
    if fast and name != BUILT_IN:
        layer.compile()
    input = torch.randn(STEPS, batch_size, VOCABULARY, device=device)

    def step() -> None:
        layer.zero_grad(set_to_none=True)
        output, _ = layer(input)
        output.sum().backward()

    return step


def against_built_in(batch_size: int, rounds: int, device: torch.device, units: int = UNITS) -> dict[str, Any]:
    """Training steps in float32, all layers taking turns."""
    return alternate({name: training_step(name, batch_size, device, units) for name in LAYERS}, rounds, device)


def against_loop(batch_size: int, rounds: int, device: torch.device) -> dict[str, float]:
    """How many times longer each of our layers takes as a loop than on the fast path."""
    ratios = {}
    for name in list(LAYERS)[1:]:
        steps = {fast: training_step(name, batch_size, device, fast=fast) for fast in (True, False)}
        ratios[name] = alternate(steps, rounds, device)[False]["ratio"]
    return ratios
