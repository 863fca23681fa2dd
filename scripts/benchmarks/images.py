"""What the static hypernetwork costs beside the plain network, and how fast the input pipeline is."""

import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from data.images import ImageBatches
from hypernets import LearnedKernels, StaticHypernetwork
from models import WideResNet
from scripts.benchmarks.timing import alternate, timed
from training.optimizer import build_optimizer
from training.precision import autocast
from training.tasks import ImageClassification

BATCH_SIZE = 128
SOURCES = {"plain": LearnedKernels, "hyper": StaticHypernetwork}


def training_step(task: nn.Module, batches: ImageBatches, precision: torch.dtype, device: torch.device) -> Callable:
    """A step as the loop does it: forward, penalty, backward, SGD with momentum."""
    optimizer = build_optimizer(task.parameters(), "sgd", momentum=0.9)
    batch = batches.batch(0)

    def step() -> None:
        with autocast(precision, device):
            loss, _ = task(batch, None)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def inference_pass(network: nn.Module, batches: ImageBatches, precision: torch.dtype, device: torch.device) -> Callable:
    """Logits of one batch, without gradients."""
    images, _ = batches.batch(0)

    def infer() -> None:
        with torch.no_grad(), autocast(precision, device):
            network(images)

    return infer


def operations(width: int, device: torch.device) -> dict[str, float]:
    """Floating-point operations of a training step of WRN-40-width, forward and backward, for each image of a batch."""
    images = torch.zeros(BATCH_SIZE, 3, 32, 32, device=device)
    labels = torch.zeros(BATCH_SIZE, dtype=torch.int64, device=device)
    counted = {}
    for name, source in SOURCES.items():
        task = ImageClassification(WideResNet(source, width=width).to(device), 5e-4)
        with FlopCounterMode(display=False) as counter:
            task((images, labels), None)[0].backward()
        counted[name] = counter.get_total_flops() / BATCH_SIZE
    return counted


def hyper_against_plain(
    width: int, batches: ImageBatches, rounds: int, precision: torch.dtype, device: torch.device
) -> dict[str, Any]:
    """Training steps and inference of WRN-40-width, plain and with its hypernetwork taking turns."""
    training, inference = {}, {}
    for name, source in SOURCES.items():
        torch.manual_seed(0)
        network = WideResNet(source, width=width).to(device, memory_format=torch.channels_last)
        training[name] = training_step(ImageClassification(network, 5e-4), batches, precision, device)
        evaluated = WideResNet(source, width=width).to(device, memory_format=torch.channels_last).eval()
        inference[name] = inference_pass(evaluated, batches, precision, device)
    return {
        "training": alternate(training, rounds, device, warm_up=2),
        "inference": alternate(inference, rounds, device, warm_up=2),
    }


def precision_and_compilation(batches: ImageBatches, rounds: int, device: torch.device) -> dict[str, Any]:
    """Training steps of Hyper WRN-40-1 with each setting changed from bf16, not compiled."""
    settings = {
        "as by default": (torch.bfloat16, False),
        "precision=float32": (torch.float32, False),
        "compile=true": (torch.bfloat16, True),
    }
    steps = {}
    for name, (precision, compiled) in settings.items():
        network = WideResNet(StaticHypernetwork).to(device, memory_format=torch.channels_last)
        task = ImageClassification(network, 5e-4)
        if compiled:
            task.compile()
        steps[name] = training_step(task, batches, precision, device)
    return alternate(steps, rounds, device, warm_up=2)


def pipeline_images_per_second(batches: ImageBatches, device: torch.device, steps: int = 100) -> float:
    """Images a second of cropping, flipping and normalising alone: the median of nine stretches of steps."""
    stretches = [range(first, first + steps) for first in range(0, 10 * steps, steps)]
    seconds = [timed(lambda: [batches.batch(step) for step in stretch], device) for stretch in stretches]  # noqa: B023
    return steps * BATCH_SIZE / statistics.median(seconds[1:])
