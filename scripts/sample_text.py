"""Let a trained character model write, and show where its hypernetwork changes its weights (Figure 4).

    python -m scripts.sample_text runs/NAME --prompt "The " --length 500 --temperature 0.8
    python -m scripts.sample_text runs/NAME --html sample.html --picture sample.png

Needs only the run, or the name of a file in results/weights/, not the data set. The page and the picture show the text
with four bars under every character: how much the row scales d_h of the gates i, g, f and o changed when it was read,
darker for more.
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor

from data.text_sources import encode, readable, spelled
from hypernets import UserError
from models.character_model import CharacterModel
from scripts.plot import save_figure
from training.checkpoint import write_atomically
from training.command_line import one_line_errors
from training.tasks.text_samples import TITLE, page, sample, shares_of_largest, visible
from training.trained import load_network

CHARACTERS_PER_LINE = 100  # of the picture


def draw(text: str, changes: Tensor) -> Figure:
    """Figure 4 as a picture. The darkest bars are the largest changes of each gate, [characters, 4]."""
    starts = range(0, len(text), CHARACTERS_PER_LINE)
    size = (CHARACTERS_PER_LINE / 10, len(starts) / 2.5 + 0.5)
    figure, panels = plt.subplots(len(starts), 1, figsize=size, squeeze=False, layout="constrained")
    for start, axes in zip(starts, panels[:, 0], strict=True):
        line = slice(start, start + CHARACTERS_PER_LINE)
        axes.imshow(shares_of_largest(changes)[line].T.numpy(), cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for place, character in enumerate(text[line]):
            axes.text(place, -0.8, visible(character), family="monospace", ha="center")
        axes.set_xlim(-0.5, CHARACTERS_PER_LINE - 0.5)
        axes.axis("off")
    figure.suptitle(f"{TITLE}; dark: the gate's largest", fontsize=9)
    return figure


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the directory of a run, runs/NAME")
    parser.add_argument("--prompt", default="The ", help="what the text begins with")
    parser.add_argument("--length", type=int, default=500, help="characters to write")
    parser.add_argument("--temperature", type=float, default=0.8, help="0 for the most likely characters")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--html", type=Path, help="a page with the text and its row scales")
    parser.add_argument("--picture", type=Path, help="the same as a picture")
    arguments = parser.parse_args()
    with one_line_errors("sample_text"):
        model = load_network(arguments.run)
        if not isinstance(model, CharacterModel):
            raise UserError(f"The network {arguments.run} does not write text.")
        prompt = encode(spelled(arguments.prompt, model.vocabulary), model.vocabulary, "the text of --prompt").tolist()
        text, changes = sample(model, prompt, arguments.length, arguments.temperature, arguments.seed)
        print(readable(text))
        if (arguments.html or arguments.picture) and changes is None:
            raise UserError(f"{arguments.run} has no row scales to show; choose a run with hypernet=hyperlstm.")
        if arguments.html:
            write_atomically(arguments.html, page(text, changes).encode(), remedy="choose another file with --html")
        if arguments.picture:
            save_figure(draw(text, changes), arguments.picture)


if __name__ == "__main__":
    main()
