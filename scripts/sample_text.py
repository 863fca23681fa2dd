"""Let a trained character model write, and show where its hypernetwork changes its weights (Figure 4).

    python scripts/sample_text.py runs/NAME --prompt "The " --length 500 --temperature 0.8
    python scripts/sample_text.py runs/NAME --figure sample.png --html sample.html

Needs the run alone, not its data set. The figure and the page show the text with four bars under every character: how
much the row scales d_h of the gates i, g, f and o changed when it was read, darker for more.
"""

import argparse
import sys
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the checkout, for its packages

from data.text_sources import encode, readable, spelled
from models import CharacterModel, build_character_model
from training import checkpoint
from training.command_line import one_line_errors
from training.run_directory import CONFIG, read_settings
from training.text_samples import GATES, page, sample, shades, visible

CHARACTERS_A_LINE = 80


def load_model(run: Path) -> CharacterModel:
    """The best character model of a run, in evaluation mode on the CPU.

    Raises:
        ValueError: there is no run, or it is not one of a character model that has been validated.
    """
    if not (run / CONFIG).exists() or not (run / checkpoint.BEST).exists():
        raise ValueError(f"There is no run with a best checkpoint in {run}; it is written at the first validation.")
    settings, saved = read_settings(run), checkpoint.load(run / checkpoint.BEST)["main_network"]
    if "code_points" not in saved:
        raise ValueError(f"The run {run} is of {settings['main_net']['name']!r}, which does not write text.")
    vocabulary = "".join(map(chr, saved["code_points"].tolist()))
    model = build_character_model(settings["main_net"], settings["hypernet"], vocabulary)
    model.load_state_dict(saved)
    return model.eval()


def draw(text: str, changes: Tensor, path: Path) -> None:
    """Write Figure 4 for a text and the changes of its row scales [characters, 4] to a picture file."""
    lines = -(-len(text) // CHARACTERS_A_LINE)
    figure, axes = plt.subplots(figsize=(12, 0.15 + 0.5 * lines))
    for position, (character, colours) in enumerate(zip(text, shades(changes), strict=True)):
        line, column = divmod(position, CHARACTERS_A_LINE)
        axes.text(column + 0.5, 3 * line + 0.5, visible(character), ha="center", va="center", family="monospace")
        for gate, colour in enumerate(colours):
            axes.add_patch(Rectangle((column, 3 * line + 1.1 + 0.4 * gate), 0.95, 0.38, color=colour, linewidth=0))
    for line in range(lines):
        for gate, name in enumerate(GATES):
            axes.text(-0.3, 3 * line + 1.3 + 0.4 * gate, name, ha="right", va="center", fontsize=5)
    axes.set(xlim=(-1, CHARACTERS_A_LINE), ylim=(3 * lines, 0))
    axes.axis("off")
    figure.savefig(path, dpi=150, bbox_inches="tight")
    plt.close(figure)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the directory of a run, runs/NAME")
    parser.add_argument("--prompt", default="The ", help="what the text begins with")
    parser.add_argument("--length", type=int, default=500, help="characters to write")
    parser.add_argument("--temperature", type=float, default=0.8, help="0 for the most likely characters")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--figure", type=Path, help="a picture of the text and its row scales, .png, .pdf or .svg")
    parser.add_argument("--html", type=Path, help="the same as a page")
    arguments = parser.parse_args()
    with one_line_errors("sample_text.py"):
        model = load_model(arguments.run)
        prompt = encode(spelled(arguments.prompt, model.vocabulary), model.vocabulary, "the prompt").tolist()
        text, changes = sample(model, prompt, arguments.length, arguments.temperature, arguments.seed)
        print(readable(text))
        if (arguments.figure or arguments.html) and changes is None:
            raise ValueError(
                f"The network of {arguments.run} has no hypernetwork with row scales to show; "
                "leave out --figure and --html, or choose a run with hypernet=hyperlstm."
            )
        if arguments.figure:
            draw(text, changes, arguments.figure)
        if arguments.html:
            arguments.html.write_text(page(text, changes), encoding="utf-8")


if __name__ == "__main__":
    main()
