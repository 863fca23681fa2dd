"""Let a trained character model write, and show where its hypernetwork changes its weights (Figure 4).

    python -m scripts.sample_text runs/NAME --prompt "The " --length 500 --temperature 0.8
    python -m scripts.sample_text runs/NAME --html sample.html

Needs only the run, not its data set. The page shows the text with four bars under every character: how much the row
scales d_h of the gates i, g, f and o changed when it was read, darker for more.
"""

import argparse
from pathlib import Path

from data.text_sources import encode, readable, spelled
from hypernets import UserError
from models import character_model
from training.checkpoint import write_atomically
from training.command_line import one_line_errors
from training.loop import load_state
from training.run import read_settings
from training.tasks.text_samples import page, sample
from training.trained import read_best


def load_model(run: Path) -> character_model.CharacterModel:
    """The best character model of a run, in evaluation mode on the CPU."""
    settings, best = read_settings(run), read_best(run)
    if "code_points" not in best["network"]:
        raise UserError(f"The run {run} is of {settings['main_net']['name']!r}, which does not write text.")
    vocabulary = "".join(map(chr, best["network"]["code_points"].tolist()))
    model = character_model.build(settings["main_net"], settings["hypernet"], vocabulary)
    load_state(model, best["network"])
    return model.eval()


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
        model = load_model(arguments.run)
        prompt = encode(spelled(arguments.prompt, model.vocabulary), model.vocabulary, "the prompt").tolist()
        text, changes = sample(model, prompt, arguments.length, arguments.temperature, arguments.seed)
        print(readable(text))
        if arguments.html and changes is None:
            raise UserError(f"{arguments.run} has no row scales; choose a run with hypernet=hyperlstm for --html.")
        if arguments.html:
            write_atomically(arguments.html, page(text, changes).encode())


if __name__ == "__main__":
    main()
