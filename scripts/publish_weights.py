"""Copy the best network of a run to results/weights/, a few bytes per parameter.

python -m scripts.publish_weights runs/NAME mine
python eval.py mine
"""

import argparse
from pathlib import Path

from training.command_line import one_line_errors
from training.trained import write_weights


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the directory of a run")
    parser.add_argument("name", help="the name of the file; letters, digits and underscores")
    parser.add_argument("--replace", action="store_true", help="overwrite a file of that name")
    arguments = parser.parse_args()
    with one_line_errors("publish_weights"):
        print(write_weights(arguments.run, arguments.name, arguments.replace))


if __name__ == "__main__":
    main()
