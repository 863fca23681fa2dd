"""Text that a character model writes, and where its hypernetwork changes the weights meanwhile (Figure 4)."""

import html
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hypernets import UserError
from hypernets.recurrent import run_cell

GATES = "igfo"
LIGHTEST, DARKEST = (232, 239, 248), (8, 48, 107)  # red, green and blue, of no change and of a gate's largest
LOGGED_CHARACTERS = 300


@torch.no_grad()
def sample(
    model: nn.Module, prompt: Sequence[int], length: int, temperature: float, seed: int = 0
) -> tuple[str, Tensor | None]:
    """Write a text that begins with a prompt.

    The model computes as in evaluation and is then in the mode in which it was; PyTorch's own random numbers are left
    alone, so that a training that samples goes on as one that does not.

    Args:
        model: a `CharacterModel`, on any device.
        prompt: the ids of at least one character.
        length: characters to write after the prompt.
        temperature: logits are divided by it; at 0 each character is the most likely one.
        seed: of the draws.

    Returns:
        The text, prompt included, as the vocabulary spells it; and for a HyperLSTM the norm of the change of each
        gate's row scales d_h when each character was read, in the topmost layer, [characters, 4], zero for the first.
    """
    if not prompt or length < 0 or not 0 <= temperature < math.inf:
        raise UserError(
            f"The prompt has {len(prompt)} characters, length is {length} and temperature {temperature}; the prompt "
            "needs at least one character, the others must be finite and not negative."
        )
    vocabulary, layer = model.vocabulary, model.recurrent_layer
    ids = list(prompt)
    generator = torch.Generator().manual_seed(seed)
    states = [cell.state_type(*(tensor[0] for tensor in layer.initial_state(1))) for cell in layer.cells]
    end, scales = len(ids) + length, []
    was_training = model.training
    model.eval()
    for position in range(end):
        # By run_cell also where the layer is compiled: that would compile anew for one character at a time.
        output = torch.tensor([[ids[position]]], device=model.output.weight.device)
        for index, cell in enumerate(layer.cells):
            output, states[index] = run_cell(cell, output, states[index])
        if shows_row_scales(model):
            scales.append(row_scales(layer.cells[-1], states[-1].hyper_h).cpu())
        if len(ids) == position + 1 < end:
            logits = model.output(output)[0, 0].float().cpu()
            # nan_to_num: a model that has diverged writes noise, and it is for its loss to say so.
            probabilities = (logits / max(temperature, 1e-6)).nan_to_num().softmax(-1)
            ids.append(int(torch.multinomial(probabilities, 1, generator=generator)))
    model.train(was_training)
    text = "".join(vocabulary[index] for index in ids)
    if not scales:
        return text, None
    changes = torch.stack(scales).diff(dim=0).norm(dim=-1)  # [characters - 1, 4]
    return text, torch.cat([torch.zeros(1, len(GATES)), changes])


def shows_row_scales(model: nn.Module) -> bool:
    """Whether the model has a HyperLSTM, whose row scales Figure 4 shows."""
    return hasattr(model.recurrent_layer.cells[-1], "row_scales")


def row_scales(cell: nn.Module, hyper_h: Tensor) -> Tensor:
    """The scales d_h of the rows of each gate's W_h [4, H], from the hyper cell's output [1, H^] (Eq. 11-12)."""
    d_h, _, _ = cell.row_scales(*cell.embeddings(hyper_h))
    return d_h[0].float()


def shades(changes: Tensor) -> list[list[str]]:
    """A colour, #rrggbb, for each change [characters, 4]: the darkest for the gate's largest, the lightest for none."""
    share = changes / changes.max(dim=0).values.clamp_min(torch.finfo(torch.float32).tiny)
    lightest, darkest = torch.tensor(LIGHTEST), torch.tensor(DARKEST)
    colours = lightest + share.nan_to_num()[..., None] * (darkest - lightest)  # [characters, 4, 3]
    return [[_hex(colour) for colour in row] for row in colours.round().int().tolist()]


def _hex(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def visible(character: str) -> str:
    """A character as it can be shown alone."""
    return "\N{RETURN SYMBOL}" if character == "\n" else character if character.isprintable() else "\N{MIDDLE DOT}"


STYLE = f"""
body {{ background: #fff; color: #111; font: 16px/1.1 monospace; margin: 12px }}
p {{ font: 13px/1.4 sans-serif; margin: 0 0 12px }}
span {{ display: inline-block; width: 1ch; margin-bottom: 8px; white-space: pre; vertical-align: top }}
i {{ display: block; height: 4px; margin-top: 1px }}
b {{ display: inline-block; width: 80px; height: 8px; margin: 0 4px;
     background: linear-gradient(to right, {_hex(LIGHTEST)}, {_hex(DARKEST)}) }}
"""


def page(text: str, changes: Tensor) -> str:
    """Figure 4 as an HTML page that needs no other file: under every character a bar for each gate.

    Args:
        text: N characters.
        changes: of the row scales when each was read, [N, 4].
    """
    cells = []
    for character, colours in zip(text, shades(changes), strict=True):
        bars = "".join(f'<i style="background:{colour}"></i>' for colour in colours)
        cells.append(f"<span>{html.escape(visible(character))}{bars}</span>" + "<br>" * (character == "\n"))
    title = f"Change of the row scales d_h of the gates {', '.join(GATES)}, from above"
    return (
        f'<!DOCTYPE html><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
        f"<p>{title}: none<b></b>the gate's largest</p>{''.join(cells)}\n"
    )


def row_scales_page(model: nn.Module) -> str:
    """Figure 4 for a text of the model's own, as training logs it: always the same draws, at temperature 1."""
    first = max(model.vocabulary.find("\n"), 0)
    return page(*sample(model, [first], LOGGED_CHARACTERS, temperature=1.0))
