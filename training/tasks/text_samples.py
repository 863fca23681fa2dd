"""Text that a character model writes, and where its hypernetwork changes the weights (Figure 4)."""

import html
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hypernets import UserError
from training.tasks.reader import GATES, Reader

LOGGED_CHARACTERS = 300


def sample(
    model: nn.Module, prompt: Sequence[int], length: int, temperature: float, seed: int = 0
) -> tuple[str, Tensor | None]:
    """Write a text that begins with a prompt.

    The model is in evaluation mode meanwhile. Its mode and PyTorch's random state are left as they were, so sampling
    does not change a training run.

    Args:
        model: a `CharacterModel`, on any device.
        prompt: the ids of at least one character.
        length: characters to write after the prompt.
        temperature: logits are divided by it; at 0 each character is the most likely one.
        seed: the seed of the draws.

    Returns:
        The text, prompt included, as the vocabulary spells it; and for a HyperLSTM the norm of the change of each
        gate's row scales d_h when each character was read, in the topmost layer, [characters, 4], zero for the first.
    """
    if not prompt or length < 0 or not 0 <= temperature < math.inf:
        raise UserError(
            f"The prompt has {len(prompt)} characters, length is {length} and temperature {temperature}; the prompt "
            "needs at least one character, the others must be finite and not negative."
        )
    ids, end = list(prompt), len(prompt) + length
    generator = torch.Generator().manual_seed(seed)
    was_training = model.training
    model.eval()
    reader = Reader(model)
    for position in range(end):
        logits = reader.read(torch.tensor([[ids[position]]], device=model.output.weight.device))
        if len(ids) == position + 1 < end:
            # nan_to_num: a model that has diverged writes noise, and it is for its loss to say so.
            probabilities = (logits / max(temperature, 1e-6)).nan_to_num().softmax(-1)
            ids.append(int(torch.multinomial(probabilities, 1, generator=generator)))
    model.train(was_training)
    return "".join(model.vocabulary[index] for index in ids), reader.changes()


def visible(character: str) -> str:
    """A character in a form that is visible on its own."""
    return "\N{RETURN SYMBOL}" if character == "\n" else character if character.isprintable() else "\N{MIDDLE DOT}"


TITLE = f"Change of the row scales d_h of the gates {', '.join(GATES)}, from above"
STYLE = """
body { background: #fff; color: #111; font: 16px/1.1 monospace; margin: 12px }
p { font: 13px/1.4 sans-serif; margin: 0 0 12px }
span { display: inline-block; width: 1ch; margin-bottom: 8px; white-space: pre; vertical-align: top }
i { display: block; height: 4px; margin-top: 1px; background: #08306b }
b { display: inline-block; width: 80px; height: 8px; margin: 0 4px;
    background: linear-gradient(to right, #08306b1a, #08306b) }
"""


def shares_of_largest(changes: Tensor) -> Tensor:
    """Changes of the gates, [characters, 4], divided by the largest one of each gate."""
    return (changes / changes.max(dim=0).values.clamp_min(torch.finfo(torch.float32).tiny)).nan_to_num()


def page(text: str, changes: Tensor) -> str:
    """Figure 4 as an HTML page that needs no other file: under every character a bar for each gate.

    The darkest bars are the largest changes of each gate, [characters, 4].
    """
    cells = []
    for character, opacities in zip(text, (0.1 + 0.9 * shares_of_largest(changes)).tolist(), strict=True):
        bars = "".join(f'<i style="opacity:{opacity:.2f}"></i>' for opacity in opacities)
        cells.append(f"<span>{html.escape(visible(character))}{bars}</span>" + "<br>" * (character == "\n"))
    return (
        f'<!DOCTYPE html><meta charset="utf-8"><title>{TITLE}</title><style>{STYLE}</style>'
        f"<p>{TITLE}: none<b></b>the gate's largest</p>{''.join(cells)}\n"
    )


def row_scales_page(model: nn.Module) -> str:
    """Figure 4 for a text that the model writes, as training logs it: always the same draws, at temperature 1."""
    first = max(model.vocabulary.find("\n"), 0)
    return page(*sample(model, [first], LOGGED_CHARACTERS, temperature=1.0))
