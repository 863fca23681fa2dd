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

    Parameters: the three projections as one matrix, weight [3 * gates * N_z, H^], since one product is faster than
    three; and bias [2 * gates * N_z], since that to z_b has none.

    Initialisation (A.2.3): z_h and z_x start at 1 for any h^ (weights zero, biases one); the projection to z_b
    starts with normal weights of standard deviation 0.01.
    """

    def __init__(self, hyper_size: int, embedding_size: int, gates: int) -> None:
        super().__init__()
        self.gates = gates
        self.weight = nn.Parameter(torch.zeros(3 * gates * embedding_size, hyper_size))
        self.bias = nn.Parameter(torch.ones(2 * gates * embedding_size))
        nn.init.normal_(self.weight.detach()[len(self.bias) :], std=0.01)

    def forward(self, hyper_h: Tensor) -> Tensor:
        """Project hyper_h [B, H^] to z_h, z_x and z_b, together [B, 3, gates, N_z]."""
        bias = F.pad(self.bias, (0, len(self.weight) - len(self.bias)))
        return F.linear(hyper_h, self.weight, bias).unflatten(-1, (3, self.gates, -1))


class RowScales(nn.Module):
    """The scales of the rows of W_h and W_x, and the change of the bias (Eq. 7-8, Eq. 12).

        d_h = W_hz z_h,   d_x = W_xz z_x,   b = W_bz z_b        for each gate

    Parameters: W_hz, W_xz and W_bz of each gate, transposed, as one tensor: weight [3, gates, N_z, H].

    Initialisation (A.2.3): W_hz and W_xz constant at 0.1 / N_z, so that every scale starts at 0.1 where z is
    one; W_bz zero.
    """

    def __init__(self, embedding_size: int, hidden_size: int, gates: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(3, gates, embedding_size, hidden_size))
        nn.init.constant_(self.weight.detach()[:2], INITIAL_ROW_SCALE / embedding_size)
        nn.init.zeros_(self.weight.detach()[2])

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Turn embeddings [B, 3, gates, N_z] into (d_h, d_x, b), each [gates, B, H]."""
        z = z.flatten(1, 2).transpose(0, 1)  # [3 * gates, B, N_z]
        with torch.autocast(z.device.type, enabled=False):  # scales of three digits would be coarse, and no faster
            scales = torch.bmm(z.to(self.weight.dtype), self.weight.flatten(0, 1))
        return scales.unflatten(0, (3, -1)).unbind()
