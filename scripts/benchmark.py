"""Measure what a hypernetwork costs, and how fast the input pipeline is.

    python scripts/benchmark.py [--rounds 25] [--precision auto] [--output results/performance.json]

The contenders take turns in one process, step by step. A ratio is the median over the turns of the two times within
one turn, so that it holds where absolute times depend on the machine and on what else it does; times are medians.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the checkout, for its packages

from data.build import build_images
from data.images import ImageBatches
from hypernets import LearnedKernels, StaticHypernetwork
from models import WideResNet
from training import provenance
from training.distributed import start_processes
from training.optimizer import build_optimizer
from training.precision import resolve_precision
from training.tasks import ImageClassification

BATCH_SIZE = 128


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds that a piece of work takes, with what it left to a GPU."""
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def alternate(
    contenders: dict[str, Callable[[], object]], rounds: int, device: torch.device
) -> tuple[dict[str, float], float]:
    """Median seconds of "plain" and "hyper" taking turns, and the median of hyper / plain; two turns do not count."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + 2):
        for name, work in contenders.items():
            seconds = timed(work, device)
            if turn >= 2:
                times[name].append(seconds)
    ratio = statistics.median(hyper / plain for hyper, plain in zip(times["hyper"], times["plain"], strict=True))
    return {name: statistics.median(values) for name, values in times.items()}, ratio


def training_step(task: nn.Module, batches: ImageBatches, precision: torch.dtype, device: torch.device) -> Callable:
    """A step as the loop does it: forward, penalty, backward, SGD with momentum."""
    optimizer = build_optimizer(task.parameters(), "sgd", momentum=0.9)
    batch = batches.batch(0)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision is torch.bfloat16):
            loss, _ = task(batch, None)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def inference_pass(network: nn.Module, batches: ImageBatches, precision: torch.dtype, device: torch.device) -> Callable:
    """Logits of one batch, without gradients."""
    images, _ = batches.batch(0)

    def infer() -> None:
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=precision is torch.bfloat16):
            network(images)

    return infer


def measure_wide_resnets(width: int, batches: ImageBatches, rounds: int, precision: torch.dtype, device: torch.device):
    """Seconds and ratios of training steps and of inference, WRN-40-width plain against generated."""
    training, inference = {}, {}
    for name, source in {"plain": LearnedKernels, "hyper": StaticHypernetwork}.items():
        torch.manual_seed(0)
        network = WideResNet(source, width=width).to(device, memory_format=torch.channels_last)
        training[name] = training_step(ImageClassification(network, 5e-4), batches, precision, device)
        evaluated = WideResNet(source, width=width).to(device, memory_format=torch.channels_last).eval()
        inference[name] = inference_pass(evaluated, batches, precision, device)
    step, step_ratio = alternate(training, rounds, device)
    forward, forward_ratio = alternate(inference, rounds, device)
    return {
        "training_step_seconds": step,
        "training_step_ratio": step_ratio,
        "training_images_per_second": {name: BATCH_SIZE / seconds for name, seconds in step.items()},
        "inference_seconds": forward,
        "inference_ratio": forward_ratio,
    }


def measure_pipeline(batches: ImageBatches, device: torch.device, steps: int = 100) -> float:
    """Images a second of cropping, flipping and normalising alone: the median of nine stretches of steps."""
    stretches = [range(first, first + steps) for first in range(0, 10 * steps, steps)]
    seconds = [timed(lambda: [batches.batch(step) for step in stretch], device) for stretch in stretches]  # noqa: B023
    return steps * BATCH_SIZE / statistics.median(seconds[1:])


def main() -> None:
    """Measure, print and write a JSON record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25, help="turns of each contender that count")
    parser.add_argument("--precision", default="auto", help="auto, bf16 or float32")
    parser.add_argument("--output", type=Path, help="where to write the record")
    arguments = parser.parse_args()
    processes = start_processes("auto")
    device, precision = processes.device, resolve_precision(arguments.precision, processes.device)
    splits = build_images(
        source="arrays",
        path="data/cifar10_sample.npz",
        root="",
        batch_size=BATCH_SIZE,
        padding=2,
        flip=True,
        device=device,
    )
    record = {
        "commit": provenance.commit(),
        "versions": provenance.versions(),
        "hardware": provenance.hardware(device, 1),
        "precision": str(precision).removeprefix("torch."),
        "batch_size": BATCH_SIZE,
        "rounds": arguments.rounds,
        "pipeline_images_per_second": measure_pipeline(splits.train, device),
    }
    print(f"input pipeline alone: {record['pipeline_images_per_second']:,.0f} images/s")
    for width in (1, 2):
        measured = measure_wide_resnets(width, splits.train, arguments.rounds, precision, device)
        record[f"wrn_40_{width}"] = measured
        speed = measured["training_images_per_second"]
        print(
            f"WRN-40-{width}: training step hyper / plain {measured['training_step_ratio']:.3f} "
            f"({speed['hyper']:.0f} / {speed['plain']:.0f} images/s), inference {measured['inference_ratio']:.3f}"
        )
    if arguments.output is not None:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
