"""The generating part of a dynamic hypernetwork (section 3.2): from the hyper cell to the weights.

The static hypernetwork (static.py) learns an embedding z for each basic kernel. A dynamic one computes its embeddings
anew at every time step: the hyper cell, a small recurrent cell, reads x^_t = [x_t; h_{t-1}], and `Embeddings` projects
its output. Linear projections turn these into whole matrices (`GeneratedWeights` in hyperrnn.py), or into scales for
the rows of a learned matrix (`RowScales`).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

INITIAL_ROW_SCALE = 0.1  # A.2.3


class Embeddings(nn.Module):
    """The embeddings z_h, z_x and z_b of each gate, projected from the hyper cell's h^ (Eq. 6, Eq. 11).

    Initialisation (A.2.3): z_h and z_x start at 1 for any h^ (weights zero, biases one); the projection to z_b,
    which has no bias, starts with normal weights of standard deviation 0.01.
    """

    def __init__(self, hyper_size: int, embedding_size: int, gates: int) -> None:
        super().__init__()
        self.gates = gates
        self.z_h = nn.Linear(hyper_size, gates * embedding_size)
        self.z_x = nn.Linear(hyper_size, gates * embedding_size)
        self.z_b = nn.Linear(hyper_size, gates * embedding_size, bias=False)
        for projection in (self.z_h, self.z_x):
            nn.init.zeros_(projection.weight)
            nn.init.ones_(projection.bias)
        nn.init.normal_(self.z_b.weight, std=0.01)

    def forward(self, hyper_h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Project hyper_h [B, H^] to (z_h, z_x, z_b), each [B, gates, N_z]."""
        # One product for all three: small ones cost more than their arithmetic.
        weights = torch.cat([self.z_h.weight, self.z_x.weight, self.z_b.weight])
        z_h, z_x, z_b = F.linear(hyper_h, weights).unflatten(-1, (3, self.gates, -1)).unbind(-3)
        return z_h + self.z_h.bias.view(self.gates, -1), z_x + self.z_x.bias.view(self.gates, -1), z_b


class RowScales(nn.Module):
    """The scales of the rows of W_h and W_x, and the change of the bias (Eq. 7-8, Eq. 12).

        d_h = W_hz z_h,   d_x = W_xz z_x,   b = W_bz z_b        for each gate

    Initialisation (A.2.3): W_hz and W_xz constant at 0.1 / N_z, so that every scale starts at 0.1 where z is
    one; W_bz zero.
    """

    def __init__(self, embedding_size: int, hidden_size: int, gates: int) -> None:
        super().__init__()
        self.gates = gates
        size, start = (gates * hidden_size, embedding_size), INITIAL_ROW_SCALE / embedding_size
        self.weight_hz = nn.Parameter(torch.full(size, start))
        self.weight_xz = nn.Parameter(torch.full(size, start))
        self.weight_bz = nn.Parameter(torch.zeros(size))

    def forward(self, z_h: Tensor, z_x: Tensor, z_b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Turn embeddings, each [B, gates, N_z], into (d_h, d_x, b), each [B, gates, H]."""
        pairs = (self.weight_hz, z_h), (self.weight_xz, z_x), (self.weight_bz, z_b)
        return tuple(self._project(weight, z) for weight, z in pairs)

    def _project(self, weight: Tensor, z: Tensor) -> Tensor:
        each_gate = weight.unflatten(0, (self.gates, -1)).transpose(1, 2)
        with torch.autocast(z.device.type, enabled=False):  # scales of three digits would be coarse, and no faster
            return torch.bmm(z.to(weight.dtype).transpose(0, 1), each_gate).transpose(0, 1)
