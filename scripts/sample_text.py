"""Let a trained character model write, and show where its hypernetwork changes its weights (Figure 4).

    python -m scripts.sample_text runs/NAME --prompt "The " --length 500 --temperature 0.8
    python -m scripts.sample_text runs/NAME --html sample.html

Needs only the run, or the name of a file in results/weights/, not the data set. The page shows the text with four bars
under every character: how much the row scales d_h of the gates i, g, f and o changed when it was read, darker for more.
"""

import argparse
from pathlib import Path

from data.text_sources import encode, readable, spelled
from hypernets import UserError
from models.character_model import CharacterModel
from training.checkpoint import write_atomically
from training.command_line import one_line_errors
from training.tasks.text_samples import page, sample
from training.trained import load_network


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the directory of a run, runs/NAME")
    parser.add_argument("--prompt", default="The ", help="what the text begins with")
    parser.add_argument("--length", type=int, default=500, help="characters to write")
    parser.add_argument("--temperature", type=float, default=0.8, help="0 for the most likely characters")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--html", type=Path, help="a page with the text and its row scales")
    arguments = parser.parse_args()
    with one_line_errors("sample_text"):
        model = load_network(arguments.run)
        if not isinstance(model, CharacterModel):
            raise UserError(f"The network {arguments.run} does not write text.")
        prompt = encode(spelled(arguments.prompt, model.vocabulary), model.vocabulary, "the text of --prompt").tolist()
        text, changes = sample(model, prompt, arguments.length, arguments.temperature, arguments.seed)
        print(readable(text))
        if arguments.html and changes is None:
            raise UserError(f"{arguments.run} has no row scales; choose a run with hypernet=hyperlstm for --html.")
        if arguments.html:
            write_atomically(arguments.html, page(text, changes).encode(), remedy="choose another file with --html")


if __name__ == "__main__":
    main()
