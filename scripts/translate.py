"""Let a trained network translate, by four beams unless you say otherwise.

    python -m scripts.translate runs/NAME                              # the first ten sentences of its test split
    python -m scripts.translate runs/NAME --text "A dog runs." --beams 1

Sentences of the test split are printed with their translations there. Needs the run and its data set.
"""

import argparse
from itertools import islice
from pathlib import Path

from hypernets import UserError
from hypernets.errors import require_whole
from training.command_line import one_line_errors
from training.tasks.translation import Translation
from training.trained import load_trained


def translate(run: Path, sentences: list[str], number: int, beams: int) -> list[tuple[str, str | None, str]]:
    """Sentences, what the test split says of them, if they are from there, and the network's translations."""
    require_whole("--number", number)
    require_whole("--beams", beams)
    settings, splits, task, _ = load_trained(run, "auto")
    if not isinstance(task, Translation):
        raise UserError(f"The run {run} is of {settings['main_net']['name']!r}, which does not translate.")
    references: list[str | None] = [None] * len(sentences)
    if not sentences:
        pairs = list(islice(splits.test.pairs(), number))
        sentences = [splits.subwords.decode(source) for source, _ in pairs]
        references = [reference for _, reference in pairs]
    return list(zip(sentences, references, task.translated(sentences, beams), strict=True))


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the directory of a run, runs/NAME")
    parser.add_argument("--text", nargs="+", default=[], help="sentences to translate in place of the test split's")
    parser.add_argument("--number", type=int, default=10, help="how many of the test split")
    parser.add_argument("--beams", type=int, default=4)
    arguments = parser.parse_args()
    with one_line_errors("translate"):
        for sentence, reference, translation in translate(
            arguments.run, arguments.text, arguments.number, arguments.beams
        ):
            print(f"- {sentence}" + (f"\n  - {reference}" if reference else "") + f"\n  - **{translation}**")


if __name__ == "__main__":
    main()
