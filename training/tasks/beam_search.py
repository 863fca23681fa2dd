"""Translations that a network finds likely: beam search with length normalisation.

Shape legend
    B, K, V  sentences, beams of each, subwords in the vocabulary
"""

import torch
from torch import Tensor, nn

from data.translation import BEGIN, END, PADDING

LENGTH_EXPONENT = 0.6  # of GNMT's normalisation, ((5 + length) / 6) ** exponent (Wu et al. 2016, Eq. 14)


@torch.no_grad()
def translate(network: nn.Module, source: Tensor, beams: int) -> list[list[int]]:
    """Translate sources, ids [S, B], by the `beams` best beginnings at each step; with one, greedily.

    Beginnings and ended translations are compared by their log-likelihood, divided by ((5 + length) / 6) ** 0.6. A
    translation is given up at twice its source's length and 10 subwords more. The network must be in evaluation mode.

    Returns:
        The ids of each translation, without begin and end.
    """
    size, device = source.shape[1], source.device
    limits = (2 * (source != PADDING).sum(dim=0) + 10).repeat_interleave(beams)  # [B K]
    memory = network.encode(source)
    memory = memory._make(tensor.repeat_interleave(beams, dim=0) for tensor in memory)
    first_of_sentence = torch.arange(size, device=device)[:, None] * beams  # [B, 1]
    ids = torch.full((1, size * beams), BEGIN, device=device)  # [steps, B K]
    lengths = torch.zeros(size, beams, device=device)
    has_ended = torch.zeros(size, beams, dtype=torch.bool, device=device)
    likelihoods = torch.full((size, beams), -torch.inf, device=device)
    likelihoods[:, 0] = 0  # all beams of a sentence are the same at first: only one counts
    states = None
    while not has_ended.all():
        logits, states = network.decode(ids[-1:], memory, states)
        following = logits[0].float().log_softmax(-1)
        following[:, :END] = -torch.inf  # what is no text
        following[len(ids) >= limits, END + 1 :] = -torch.inf
        following = following.view(size, beams, -1)
        following[has_ended] = -torch.inf  # an ended translation goes on by padding, and stays as likely
        following[..., PADDING][has_ended] = 0
        candidates = likelihoods[..., None] + following  # [B, K, V]
        grown = lengths + (~has_ended)
        _, best = (candidates / ((5 + grown[..., None]) / 6) ** LENGTH_EXPONENT).flatten(1).topk(beams)  # [B, K]
        beam, subword = best // candidates.shape[-1], best % candidates.shape[-1]
        likelihoods, lengths = candidates.flatten(1).gather(1, best), grown.gather(1, beam)
        has_ended = has_ended.gather(1, beam) | (subword == END)
        origin = (first_of_sentence + beam).flatten()
        ids = torch.cat([ids[:, origin], subword.flatten()[None]])
        states = [type(state)(*(tensor[origin] for tensor in state)) for state in states]
    best_beams = ids.view(len(ids), size, beams)[1:, :, 0].t().tolist()  # topk puts the best first
    return [[index for index in sentence if index not in (PADDING, END)] for sentence in best_beams]
