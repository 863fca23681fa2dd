"""Measure what hypernetworks cost, in one run; writes results/performance.json, and the pages made of it.

    python scripts/benchmark.py [--rounds 9] [--output results]
    python scripts/benchmark.py --only recurrent   # or images, operations, commands: the others keep their last figures

Contenders take turns in one process, step by step. A ratio is the median over the turns of the two times within one
turn, so that it holds where absolute times depend on the machine and on what else it does; times are medians. There are
three times as many turns as `--rounds` of hyper against plain Wide ResNets, which are quick, and a third of them of the
slow parts: the loop over time, float32 against bf16, other sizes, commands.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the checkout, for its packages

from data.build import build_images
from scripts import make_tables
from scripts.benchmarks import commands, images, recurrent, report
from scripts.benchmarks.timing import few, many
from training import provenance
from training.distributed import start_processes
from training.precision import resolve_precision

PROJECT = Path(__file__).resolve().parent.parent
RESULTS = PROJECT / "results"


def measure_recurrent(rounds: int, device: torch.device) -> dict[str, Any]:
    """Everything about the recurrent layers."""
    return {
        "against_built_in": {str(size): recurrent.against_built_in(size, rounds, device) for size in (128, 32)},
        "against_loop": {str(size): recurrent.against_loop(size, few(rounds), device) for size in (128, 32)},
        "bfloat16_gain": recurrent.bfloat16_gain(128, few(rounds), device),
        "kept_megabytes": recurrent.kept_megabytes(32, device),
        "peak_megabytes": recurrent.peak_megabytes(32),
        "sampling_characters_per_second": recurrent.sampling_characters_per_second(rounds, device),
        "scaling": recurrent.scaling(few(rounds), device),
        "where_the_time_goes": recurrent.where_the_time_goes(128, device),
    }


def measure_images(rounds: int, device: torch.device) -> dict[str, Any]:
    """Everything about the convolutional networks, in the precision that is default on the device."""
    source = {"source": "arrays", "path": str(PROJECT / "data" / "cifar10_sample.npz"), "root": ""}
    batches = build_images(**source, batch_size=images.BATCH_SIZE, padding=2, flip=True, device=device).train
    precision = resolve_precision("auto", device)
    return {
        "precision": str(precision).removeprefix("torch."),
        "wide_resnets": {
            f"WRN-40-{width}": images.hyper_against_plain(width, batches, many(rounds), precision, device)
            for width in (1, 2)
        },
        "settings": images.precision_and_compilation(batches, rounds, device),
        "pipeline_images_per_second": images.pipeline_images_per_second(batches, device),
    }


def count_operations(rounds: int, device: torch.device) -> dict[str, Any]:
    """What the convolutional networks compute, which is counted, not measured."""
    return {"wide_resnets": {f"WRN-40-{width}": images.operations(width, device) for width in (1, 2)}}


def measure_commands(rounds: int, device: torch.device) -> dict[str, Any]:
    """Everything about whole commands."""
    return {
        "seconds_to_first_step": commands.seconds_to_first_step(max(3, few(rounds))),
        "seconds_of_a_step": commands.seconds_of_a_step(few(rounds)),
    }


PARTS = {
    "recurrent": measure_recurrent,
    "images": measure_images,
    "operations": count_operations,
    "commands": measure_commands,
}


def main() -> None:
    """Measure, and write the record and the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="turns that count (but see above)")
    parser.add_argument("--only", choices=PARTS, help="measure one part; the others keep their last figures")
    parser.add_argument("--output", type=Path, default=RESULTS, help="another folder for performance.json alone")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error(f"--rounds is {arguments.rounds}; it must be at least 1")
    device = start_processes("auto").device
    path = arguments.output / "performance.json"
    record = json.loads(path.read_text()) if arguments.only and path.exists() else {}
    for part in [arguments.only] if arguments.only else PARTS:
        about = {
            "command": " ".join(["python scripts/benchmark.py", *sys.argv[1:]]),
            "commit": provenance.commit(),
            "versions": provenance.versions(),
            "hardware": provenance.hardware(device, 1),
            "rounds": arguments.rounds,
        }
        record[part] = about | PARTS[part](arguments.rounds, device)
        arguments.output.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record, indent=1) + "\n")
        print(f"{part}: done", flush=True)
    print(report.page(record, []))
    if arguments.output.resolve() == RESULTS:
        make_tables.write(PROJECT)


if __name__ == "__main__":
    main()
