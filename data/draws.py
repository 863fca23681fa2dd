"""Random numbers that are pure functions of (seed, what they are for, number)."""

import numpy as np
import torch

# What a generator is for. It is part of the seed, so that epoch 3 and step 3 do not share their numbers.
EPOCH, STEP, SPLIT = range(3)


def generator(seed: int, purpose: int, number: int) -> torch.Generator:
    """A CPU generator for one purpose, such as the shuffling of epoch `number`; the same on every device."""
    # torch's CPU engine keeps only the low 32 bits of its seed: packing (seed, number) into 64 bits
    # would silently drop one of them, so the three are hashed.
    (word,) = np.random.SeedSequence((seed, purpose, number)).generate_state(1)
    return torch.Generator().manual_seed(int(word))
