"""Let trained handwriting models write, and show where their hypernetworks change the weights (Figure 7).

    python -m scripts.sample_handwriting runs/LSTM runs/HYPERLSTM --lines 10 --output samples.png
    python -m scripts.sample_handwriting runs/NAME --lines 1 --bias 0.5 --output sample.svg

Needs only the runs, or the names of files in results/weights/, not their data set. Each run has a column, and the same
seed draws the same numbers in each. Under each line of a HyperLSTM is a strip for each of the gates i, g, f and o: how
much the row scales d_h changed while the pen was above, darker for more. The file's name says its format, such as PNG,
SVG or PDF.
"""

import argparse
from pathlib import Path

from hypernets import UserError
from hypernets.errors import require_whole
from models.handwriting_model import HandwritingModel
from scripts.plot import save_figure
from training.command_line import one_line_errors
from training.tasks.handwriting_samples import LOGGED_STEPS, picture, write
from training.trained import load_network, read_trained


def title(run: Path) -> str:
    """The names of a run's main network and hypernetwork."""
    settings = read_trained(run).settings
    main_net, hypernet = settings["main_net"], settings["hypernet"]
    return ", ".join([main_net["name"]] + [hypernet["name"]] * (hypernet["kind"] != "none"))


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="the directories of runs, runs/NAME")
    parser.add_argument("--lines", type=int, default=10, help="lines that each writes")
    parser.add_argument("--steps", type=int, default=LOGGED_STEPS, help="how often the pen moves in a line")
    parser.add_argument("--bias", type=float, default=0.0, help="above 0 for tidier lines")
    parser.add_argument("--seed", type=int, default=0, help="of the first line; the next ones count up")
    parser.add_argument("--output", type=Path, default=Path("handwriting.png"))
    arguments = parser.parse_args()
    with one_line_errors("sample_handwriting"):
        require_whole("--lines", arguments.lines)
        columns = []
        for run in arguments.runs:
            model, seeds = load_network(run), range(arguments.seed, arguments.seed + arguments.lines)
            if not isinstance(model, HandwritingModel):
                raise UserError(f"The network {run} does not write by hand.")
            columns.append((title(run), [write(model, arguments.steps, arguments.bias, seed) for seed in seeds]))
        save_figure(picture(columns), arguments.output)


if __name__ == "__main__":
    main()
