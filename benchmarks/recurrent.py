"""What the recurrent layers cost against torch.nn.LSTM of the same width: as they are, compiled, in the first call.

And the memory of a HyperRNN in both forms, which is counted.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.timing import alternate
from hypernets import LSTM, HyperLSTM, HyperRNN
from hypernets.recurrent.recurrence import BLOCK_ROWS, MatrixGradient, input_multiplier, multiplier
from training.precision import autocast, has_bfloat16

VOCABULARY, STEPS, HYPER_UNITS, EMBEDDING = 50, 100, 128, 4  # Table 3
BUILT_IN = "torch.nn.LSTM"
PRODUCTS = "HyperLSTM, its products with x and h alone"
ALL_PRODUCTS = "HyperLSTM, all its products alone"
LAYERS: dict[str, Callable[..., nn.Module]] = {
    "Layer Norm LSTM": partial(LSTM, layer_norm=True),
    "HyperLSTM": partial(HyperLSTM, layer_norm=False),
    "Layer Norm HyperLSTM": partial(HyperLSTM, layer_norm=True),
}
# Units, layers and sequences in the batch.
CASES = {
    "batch of 128": (1000, 1, 128),
    "batch of 32": (1000, 1, 32),
    "two layers, batch of 32": (1000, 2, 32),
    "500 units, batch of 32": (500, 1, 32),
    "256 units, batch of 32": (256, 1, 32),
}
# Prints the seconds of a training step in a new process: of torch.nn.LSTM's first, then of the layer's first.
FIRST_STEP = """
import time, torch
from hypernets import HyperLSTM
for layer in torch.nn.LSTM(50, 1000).to("{device}"), HyperLSTM(50, 1000).to("{device}"):
    start = time.perf_counter()
    if {compiled} and isinstance(layer, HyperLSTM):
        layer.compile()
    layer(torch.randn(100, 32, 50, device="{device}"))[0].sum().backward()
    if "{device}" != "cpu":
        torch.cuda.synchronize()
    print(time.perf_counter() - start)
"""
# Prints the figures of a case as JSON. A new process, since the memory that an earlier case has left behind counts.
CASE = """
import json, torch
from benchmarks.recurrent import against_built_in
from training.memory import keep_freed_memory
if {setting.keeps_memory}:
    keep_freed_memory()
print(json.dumps(against_built_in({case!r}, {rounds}, torch.device("{device}"), {setting.precision})))
"""
# PyTorch (and the code that it compiles), oneDNN and MKL then use the instructions of older processors.
AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}


class Setting(NamedTuple):
    """What a process that measures sets up."""

    precision: torch.dtype = torch.float32
    keeps_memory: bool = False  # as train.py does
    environment: Mapping[str, str] = {}


def measure(rounds: int, device: torch.device) -> dict[str, Any]:
    """Everything about the recurrent layers."""
    settings = {"float32": Setting()}
    if has_bfloat16(device):
        settings["bf16"] = Setting(torch.bfloat16)
    if device.type == "cpu":
        settings["float32, memory kept"] = Setting(keeps_memory=True)
    if device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX512":
        settings["float32, only AVX2"] = Setting(environment=AVX2)
    cases: dict[str, dict[str, Any]] = {case: {} for case in CASES}
    for case, measured in cases.items():
        for name, setting in settings.items():
            program = CASE.format(case=case, rounds=rounds, device=device, setting=setting)
            measured[name] = json.loads(_printed(program, setting.environment))
    return {"against_built_in": cases}


def training_step(
    layer: nn.Module, batch_size: int, device: torch.device, precision: torch.dtype = torch.float32
) -> Callable[[], None]:
    """Forward and backward pass of a layer over random sequences."""
    layer.to(device)
    input = torch.randn(STEPS, batch_size, VOCABULARY, device=device)

    def step() -> None:
        layer.zero_grad(set_to_none=True)
        with autocast(precision, device):
            output, _ = layer(input)
        output.sum().backward()

    return step


def large_products(units: int, batch_size: int, device: torch.device) -> Callable[[], None]:
    """Only the products with x_t and h_{t-1} of a HyperLSTM's training step."""
    rows = 4 * (units + HYPER_UNITS)
    of_x, of_h = torch.randn(rows, VOCABULARY, device=device), torch.randn(rows, units, device=device)
    x, h, d_product = (torch.randn(STEPS, batch_size, columns, device=device) for columns in (VOCABULARY, units, rows))
    block = BLOCK_ROWS // batch_size

    def step() -> None:
        multiply_x = input_multiplier(of_x, x, block)
        multiply_h, multiply_d_h = (multiplier(weight, STEPS, batch_size) for weight in (of_h, of_h.t()))
        gradients = [(MatrixGradient(of_x, of_x.dtype, block, batch_size), x)]
        gradients.append((MatrixGradient(of_h, of_h.dtype, block, batch_size), h))
        for first in range(0, STEPS, block):
            multiply_x(x[first : first + block])  # forward, and once more on the way back
            multiply_x(x[first : first + block])
            for t in range(first, min(first + block, STEPS)):
                multiply_h(h[t])
                multiply_d_h(d_product[t])
            for gradient, vectors in gradients:
                gradient.add(vectors[first : first + block])

    return step


def all_products(units: int, batch_size: int, device: torch.device) -> Callable[[], None]:
    """The large products, and per time step those of the hyper cell's state, the embeddings and the row scales."""
    coordinates = 12 * EMBEDDING  # of z_h, z_x and z_b for four gates
    weights = [torch.randn(rows, HYPER_UNITS, device=device) for rows in (4 * HYPER_UNITS, coordinates)]
    d_products = [torch.randn(batch_size, len(weight), device=device) for weight in weights]
    hyper_h = torch.randn(batch_size, HYPER_UNITS, device=device)
    row_scales = torch.randn(12, EMBEDDING, units, device=device)
    z, d_scales = (torch.randn(12, batch_size, n, device=device) for n in (EMBEDDING, units))
    large = large_products(units, batch_size, device)

    def step() -> None:
        large()
        for _ in range(STEPS):
            for weight, d_product in zip(weights, d_products, strict=True):
                hyper_h @ weight.t()  # forward; then the gradients of the vectors and of the weight
                d_product @ weight
                d_product.t() @ hyper_h
            torch.bmm(z, row_scales)
            torch.bmm(d_scales, row_scales.transpose(1, 2))
            torch.bmm(z.transpose(1, 2), d_scales)

    return step


def against_built_in(
    case: str, rounds: int, device: torch.device, precision: torch.dtype = torch.float32
) -> dict[str, Any]:
    """Training steps, all layers taking turns, each as it is and compiled."""
    units, layers, batch_size = CASES[case]
    make_step = partial(training_step, batch_size=batch_size, device=device, precision=precision)
    contenders = {BUILT_IN: make_step(nn.LSTM(VOCABULARY, units, layers))}
    for name, make in LAYERS.items():
        for suffix in "", ", compiled":
            layer = make(VOCABULARY, units, layers)
            if suffix:
                layer.compile()
            contenders[name + suffix] = make_step(layer)
    if layers == 1 and precision == torch.float32:
        contenders[PRODUCTS] = large_products(units, batch_size, device)
        contenders[ALL_PRODUCTS] = all_products(units, batch_size, device)
    return alternate(contenders, rounds, device)


def memory_of_forms(device: torch.device) -> dict[str, dict[str, float]]:
    """Megabytes of a HyperRNN of 1000 units that generates its weights or scales their rows (section 3.2); counted."""
    counted = {}
    for form in "full", "row_scaled":
        layer = HyperRNN(VOCABULARY, 1000, form=form).to(device)
        parameters = {each.untyped_storage().data_ptr(): each.nbytes for each in layer.parameters()}
        kept: dict[int, int] = {}

        def keep(tensor: Tensor, kept: dict[int, int] = kept) -> Tensor:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            _outputs = layer(torch.randn(STEPS, 32, VOCABULARY, device=device))  # what is kept lives as long as these
        beside_parameters = sum(size for place, size in kept.items() if place not in parameters)
        counted[form] = {"parameters": sum(parameters.values()) / 1e6, "kept": beside_parameters / 1e6}
    return counted


def first_steps(device: torch.device) -> dict[str, Any]:
    """Seconds to compile and take the first training step in a new process, and those of torch.nn.LSTM's first."""
    measured = {}
    with tempfile.TemporaryDirectory() as cache:
        # PyTorch keeps what it has compiled in the first, but the C++ headers that it has compiled in the second.
        environment = {"TORCHINDUCTOR_CACHE_DIR": cache, "TMPDIR": cache}
        for name in "as it is", "compiled, with an empty cache", "compiled, in the next process":
            program = FIRST_STEP.format(compiled=name.startswith("compiled"), device=device)
            built_in, ours = map(float, _printed(program, environment).split())
            measured[name] = {BUILT_IN: built_in, "Layer Norm HyperLSTM": ours}
    return measured


def _printed(program: str, environment: Mapping[str, str]) -> str:
    """Return what a program prints that runs in a new process, with these variables added to the environment."""
    command = [sys.executable, "-c", program]
    return subprocess.run(command, env=os.environ | environment, stdout=subprocess.PIPE, check=True, text=True).stdout
