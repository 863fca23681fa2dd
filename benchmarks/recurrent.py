"""What the recurrent layers cost, against torch.nn.LSTM of the same width and against their own loop over time."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks.timing import alternate
from hypernets import LSTM, HyperLSTM

VOCABULARY, UNITS, STEPS = 50, 1000, 100  # Table 3; hyper cell of 128 units, N_z = 4
BUILT_IN, HYPER = "torch.nn.LSTM", "Layer Norm HyperLSTM"
LAYERS: dict[str, Callable[..., nn.Module]] = {
    BUILT_IN: nn.LSTM,
    "Layer Norm LSTM": partial(LSTM, layer_norm=True),
    "HyperLSTM": partial(HyperLSTM, layer_norm=False),
    HYPER: partial(HyperLSTM, layer_norm=True),
}
OURS = list(LAYERS)[1:]
CHANGES: dict[str, dict[str, dict[str, int]]] = {  # of `scaling`; each series measures the starting point anew
    "sequence length": {str(steps): {"steps": steps} for steps in (50, 100, 200)},
    "units": {str(units): {"units": units} for units in (500, 1000)},
    "batch": {str(batch): {"batch_size": batch} for batch in (32, 128)},
    "layers": {str(layers): {"num_layers": layers} for layers in (1, 2)},
}


def measure(rounds: int, device: torch.device) -> dict[str, Any]:
    """Everything about the recurrent layers."""
    return {
        "against_built_in": {str(size): against_built_in(size, rounds, device) for size in (128, 32)},
        "against_loop": {str(size): against_loop(size, rounds, device) for size in (128, 32)},
        "bfloat16_gain": bfloat16_gain(128, rounds, device),
        "kept_megabytes": kept_megabytes(32, device),
        "sampling_characters_per_second": sampling_characters_per_second(rounds, device),
        "scaling": scaling(rounds, device),
    }


def make_layer(
    name: str, device: torch.device, fast: bool = True, units: int = UNITS, num_layers: int = 1
) -> nn.Module:
    """A layer of `LAYERS` on its fast path or, if not `fast`, as the loop over time."""
    layer = LAYERS[name](VOCABULARY, units, num_layers=num_layers).to(device)
    if fast and name != BUILT_IN:
        layer.compile()
    return layer


def training_step(
    layer: nn.Module, batch_size: int, device: torch.device, bfloat16: bool = False, steps: int = STEPS
) -> Callable[[], None]:
    """Forward and backward pass over random sequences [T, B, 50], the loss being the sum of the output."""
    input = torch.randn(steps, batch_size, VOCABULARY, device=device)

    def step() -> None:
        layer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            output, _ = layer(input)
        output.sum().backward()

    return step


def against_built_in(batch_size: int, rounds: int, device: torch.device, units: int = UNITS) -> dict[str, Any]:
    """Training steps in float32, all layers taking turns."""
    steps = {name: training_step(make_layer(name, device, units=units), batch_size, device) for name in LAYERS}
    return alternate(steps, rounds, device, warm_up=2)


def against_loop(batch_size: int, rounds: int, device: torch.device) -> dict[str, float]:
    """Seconds of the loop over those of the fast path, for each layer of ours."""
    ratios = {}
    for name in OURS:
        steps = {fast: training_step(make_layer(name, device, fast), batch_size, device) for fast in (True, False)}
        ratios[name] = alternate(steps, rounds, device)[False]["ratio"]
    return ratios


def bfloat16_gain(batch_size: int, rounds: int, device: torch.device) -> dict[str, float]:
    """Seconds in float32 over those with bf16 matrix products, on the fast path."""
    gains = {}
    for name in OURS:
        layer = make_layer(name, device)
        steps = {bfloat16: training_step(layer, batch_size, device, bfloat16) for bfloat16 in (True, False)}
        gains[name] = alternate(steps, rounds, device)[False]["ratio"]
    return gains


def kept_megabytes(batch_size: int, device: torch.device) -> dict[str, float]:
    """Tensors kept for the backward pass, without the parameters."""
    kept = {}
    for name in (*LAYERS, f"{HYPER}, loop"):
        layer = make_layer(name.removesuffix(", loop"), device, fast=not name.endswith("loop"))
        parameters = {parameter.untyped_storage().data_ptr() for parameter in layer.parameters()}
        saved: list[torch.Tensor] = []
        keep = partial(lambda saved, tensor: saved.append(tensor) or tensor, saved)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            layer(torch.randn(STEPS, batch_size, VOCABULARY, device=device))
        others = [tensor for tensor in saved if tensor.untyped_storage().data_ptr() not in parameters]
        kept[name] = (
            sum({tensor.data_ptr(): tensor.numel() * tensor.element_size() for tensor in others}.values()) / 1e6
        )
    return kept


def sampling_characters_per_second(rounds: int, device: torch.device) -> dict[str, float]:
    """One sequence, one character at a time, each step reading the state of the one before; softmax not included."""
    layers = {name: make_layer(name, device).eval() for name in LAYERS}
    layers[f"{HYPER}, loop"] = make_layer(HYPER, device, fast=False).eval()
    inputs = torch.randn(50, 1, 1, VOCABULARY, device=device)

    @torch.no_grad()
    def sample(layer: nn.Module) -> None:
        state = None
        for input in inputs:
            _, state = layer(input, state)

    measured = alternate({name: partial(sample, layer) for name, layer in layers.items()}, rounds, device)
    return {name: len(inputs) / value["seconds"] for name, value in measured.items()}


def scaling(rounds: int, device: torch.device) -> dict[str, dict[str, dict[str, float]]]:
    """Seconds of training steps of the Layer Norm HyperLSTM and of torch.nn.LSTM as one size changes; B = 32."""

    def measured(batch_size: int = 32, steps: int = STEPS, **sizes: int) -> dict[str, float]:
        layers = {name: make_layer(name, device, **sizes) for name in (BUILT_IN, HYPER)}
        contenders = {name: training_step(layer, batch_size, device, steps=steps) for name, layer in layers.items()}
        turns = alternate(contenders, rounds, device)
        return {name: turn["seconds"] for name, turn in turns.items()} | {"ratio": turns[HYPER]["ratio"]}

    return {what: {value: measured(**change) for value, change in values.items()} for what, values in CHANGES.items()}
