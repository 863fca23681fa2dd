"""Measure what hypernetworks cost.

    python -m benchmarks --quick             # a few ratios, in about a minute; writes nothing
    python -m benchmarks [--rounds 9]        # everything, in an hour or so; writes results/performance.json
    python -m benchmarks --only recurrent    # or first_step, images, counts: the others keep their figures

What was measured on other machines stays in the file.

`python -m scripts.make_pages` then makes results/performance.md.
"""

import argparse
import json
import sys
from pathlib import Path

from benchmarks import images, recurrent, report
from training import provenance
from training.distributed import start_processes

RECORD = Path(__file__).resolve().parent.parent / "results" / "performance.json"
PARTS = {
    "recurrent": recurrent.measure,
    "first_step": lambda rounds, device: {"first_step": recurrent.first_steps(device)},
    "images": images.measure,
    "counts": lambda rounds, device: {
        "operations_per_image": images.operations((1, 2), device),
        "hyperrnn_forms": recurrent.memory_of_forms(device),
    },
}
QUICK = {
    "recurrent": lambda device: recurrent.against_built_in("256 units, batch of 32", 3, device),
    "images": lambda device: images.hyper_against_plain(1, images.sample_batches(device), 3, device),
    "counts": lambda device: images.operations((1,), device),
}


def main() -> None:
    """Measure; print the figures, and write them unless in a hurry."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="turns of each contender")
    parser.add_argument("--only", choices=PARTS, help="measure only one part; the others keep their last figures")
    parser.add_argument("--quick", action="store_true", help="a few figures in about a minute; write nothing")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error(f"--rounds is {arguments.rounds}; it must be at least 1")
    parts = QUICK if arguments.quick else PARTS
    if arguments.only and arguments.only not in parts:
        parser.error(f"--quick has no {arguments.only}; measure it without --quick, or choose from {', '.join(parts)}")
    device = start_processes("auto").device
    for part in [arguments.only] if arguments.only else parts:
        if arguments.quick:
            print("\n".join([part, *report.table(QUICK[part](device))]), flush=True)
            continue
        about = {
            "command": " ".join(["python -m benchmarks", *sys.argv[1:]]),
            "commit": provenance.commit(),
            "versions": provenance.versions(),
            "rounds": arguments.rounds,
        }
        figures = about | PARTS[part](arguments.rounds, device)
        record = json.loads(RECORD.read_text())
        record.setdefault(part, {})[provenance.hardware(device, 1)] = figures
        RECORD.write_text(json.dumps(record, indent=1) + "\n")
        print(f"{part}: done", flush=True)


if __name__ == "__main__":
    main()
