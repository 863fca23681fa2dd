"""What the recurrent layers cost, against torch.nn.LSTM of the same width and against their own loop."""

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from hypernets import LSTM, HyperLSTM
from scripts.benchmarks.timing import alternate

PROJECT = Path(__file__).resolve().parents[2]
VOCABULARY, UNITS, STEPS = 50, 1000, 100  # Table 3; hyper cell of 128 units, N_z = 4
BUILT_IN = "torch.nn.LSTM"
LAYERS: dict[str, Callable[..., nn.Module]] = {
    BUILT_IN: nn.LSTM,
    "Layer Norm LSTM": partial(LSTM, layer_norm=True),
    "HyperLSTM": partial(HyperLSTM, layer_norm=False),
    "Layer Norm HyperLSTM": partial(HyperLSTM, layer_norm=True),
}
HYPER = "Layer Norm HyperLSTM"


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


def against_built_in(batch_size: int, rounds: int, device: torch.device) -> dict[str, Any]:
    """Training steps in float32, all layers taking turns."""
    steps = {name: training_step(make_layer(name, device), batch_size, device) for name in LAYERS}
    return alternate(steps, rounds, device, warm_up=2)


def against_loop(batch_size: int, rounds: int, device: torch.device) -> dict[str, float]:
    """Seconds of the loop over those of the fast path, for each layer of ours."""
    ratios = {}
    for name in list(LAYERS)[1:]:
        layers = {"fast": make_layer(name, device), "loop": make_layer(name, device, fast=False)}
        steps = {kind: training_step(layer, batch_size, device) for kind, layer in layers.items()}
        ratios[name] = alternate(steps, rounds, device)["loop"]["ratio"]
    return ratios


def bfloat16_gain(batch_size: int, rounds: int, device: torch.device) -> dict[str, float]:
    """Seconds in float32 over those with bf16 matrix products, on the fast path."""
    gains = {}
    for name in list(LAYERS)[1:]:
        layer = make_layer(name, device)
        steps = {
            "bf16": training_step(layer, batch_size, device, bfloat16=True),
            "float32": training_step(layer, batch_size, device),
        }
        gains[name] = alternate(steps, rounds, device)["float32"]["ratio"]
    return gains


def kept_megabytes(batch_size: int, device: torch.device) -> dict[str, float]:
    """Tensors kept for the backward pass, the parameters not counted."""
    kept = {}
    for name in (*LAYERS, f"{HYPER}, loop"):
        layer = make_layer(name.removesuffix(", loop"), device, fast=not name.endswith("loop"))
        parameters = {parameter.untyped_storage().data_ptr() for parameter in layer.parameters()}
        sizes: dict[int, int] = {}

        def count(
            tensor: torch.Tensor, parameters: set[int] = parameters, sizes: dict[int, int] = sizes
        ) -> torch.Tensor:
            if tensor.untyped_storage().data_ptr() not in parameters:
                sizes[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            layer(torch.randn(STEPS, batch_size, VOCABULARY, device=device))
        kept[name] = sum(sizes.values()) / 1e6
    return kept


def peak_megabytes(batch_size: int) -> dict[str, float]:
    """Peak resident memory that training steps add to a process on the CPU, each layer in a process of its own."""
    peaks = {}
    for name in LAYERS:
        command = [sys.executable, "-m", "scripts.benchmarks.recurrent", name, str(batch_size)]
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
        peaks[name] = float(done.stdout.split()[-1])
    return peaks


def print_peak(name: str, batch_size: int) -> None:
    """Print by how many MB the resident memory of this process grows over three training steps."""
    device = torch.device("cpu")
    layer = make_layer(name, device)
    training_step(layer, batch_size, device, steps=2)()  # whatever is compiled or loaded for it
    before = resident_peak()
    step = training_step(layer, batch_size, device)
    for _ in range(3):
        step()
    print(resident_peak() - before)


def resident_peak() -> float:
    """The highest resident memory of this process so far in MB, by Linux; getrusage would count its parent's."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1e3


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


START = {"sequence length": "100", "units": "1000", "batch": "32", "layers": "1"}  # of `scaling`, in each series anew


def scaling(rounds: int, device: torch.device) -> dict[str, dict[str, dict[str, float]]]:
    """Seconds of training steps of the Layer Norm HyperLSTM and of torch.nn.LSTM as one size changes; B = 32."""

    def measured(batch_size: int = 32, steps: int = STEPS, **sizes: int) -> dict[str, float]:
        layers = {name: make_layer(name, device, **sizes) for name in (BUILT_IN, HYPER)}
        contenders = {name: training_step(layer, batch_size, device, steps=steps) for name, layer in layers.items()}
        turns = alternate(contenders, rounds, device)
        return {name: turn["seconds"] for name, turn in turns.items()} | {"ratio": turns[HYPER]["ratio"]}

    changes: dict[str, dict[str, dict[str, int]]] = {
        "sequence length": {str(steps): {"steps": steps} for steps in (50, 100, 200)},
        "units": {str(units): {"units": units} for units in (500, 1000)},
        "batch": {str(batch): {"batch_size": batch} for batch in (32, 128)},
        "layers": {str(layers): {"num_layers": layers} for layers in (1, 2)},
    }
    return {what: {value: measured(**change) for value, change in values.items()} for what, values in changes.items()}


def where_the_time_goes(batch_size: int, device: torch.device) -> dict[str, float]:
    """Shares of a training step of the Layer Norm HyperLSTM on the fast path, by PyTorch's profiler."""
    step = training_step(make_layer(HYPER, device), batch_size, device)
    step()
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        step()
    groups = {
        "products with h and x, and their gradients with respect to h": ("mkldnn::_linear_pointwise", "aten::linear"),
        "gradients of the matrices": ("aten::addmm_",),
        "compiled steps": ("CompiledFxGraph", "cpp_fused"),
        "gradients of embeddings and row scales": ("aten::bmm",),
        "other small products": ("aten::addmm", "aten::mm"),
    }
    shares = dict.fromkeys([*groups, "the rest"], 0.0)
    events = profiled.key_averages()
    whole = sum(event.self_cpu_time_total for event in events)
    for event in events:
        named = (
            group
            for group, keys in groups.items()
            if any(event.key == key if key.startswith(("aten", "mkldnn")) else key in event.key for key in keys)
        )
        shares[next(named, "the rest")] += event.self_cpu_time_total / whole
    return shares


if __name__ == "__main__":
    print_peak(sys.argv[1], int(sys.argv[2]))
