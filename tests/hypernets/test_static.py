"""The static hypernetwork against Eq. 1-3, finite differences and its own statistics."""

import math

import pytest
import torch
from torch.func import functional_call

from hypernets import StaticHypernetwork, UserError

# N_in and N_out, N_z, d, shapes: square and not, tiled and not, d and N_z larger and smaller than what they feed
SETTINGS = [
    ((16, 16), 64, 64, [(16, 16, 3, 3), (32, 16, 3, 3), (64, 64, 3, 3)]),
    ((4, 6), 5, 3, [(12, 8, 3, 3), (6, 4, 3, 3)]),
    ((3, 2), 7, 11, [(2, 3, 1, 5), (8, 9, 1, 5)]),
    ((16, 16), 4, 4, [(16, 16, 7, 7)]),
]


def kernels(*shapes):
    """Kernels to be generated; only their names and shapes are read."""
    return {f"layers.{index}.weight": torch.empty(shape) for index, shape in enumerate(shapes)}


def transcription(hypernetwork, z):
    """Eq. 2 for one embedding, slice by slice, in float64: a basic kernel [N_out, N_in, f, f]."""
    n_out, n_in, height, width = hypernetwork.basic_kernel_shape
    double = {name: p.detach().double() for name, p in hypernetwork.named_parameters()}
    kernel = torch.empty(n_out, n_in, height, width, dtype=torch.float64)
    for i in range(n_in):
        a = double["first_weight"][:, i, :] @ z.detach().double() + double["first_bias"][:, i]
        for o in range(n_out):
            for y in range(height):
                for x in range(width):
                    row = (o * height + y) * width + x
                    kernel[o, i, y, x] = double["second_weight"][row] @ a + double["second_bias"][row]
    return kernel


@pytest.mark.parametrize(("basic_channels", "embedding_size", "projection_size", "shapes"), SETTINGS)
def test_kernels_equal_the_equations(basic_channels, embedding_size, projection_size, shapes):
    torch.manual_seed(0)
    n_in, n_out = basic_channels
    hypernetwork = StaticHypernetwork(kernels(*shapes), embedding_size, projection_size, basic_channels)
    with torch.no_grad():  # so that a wrong use of the biases, which start at zero, shows
        hypernetwork.first_bias.normal_(std=0.1)
        hypernetwork.second_bias.normal_(std=0.1)
    generated = hypernetwork()
    assert {name: tuple(kernel.shape) for name, kernel in generated.items()} == {
        name: tuple(kernel.shape) for name, kernel in kernels(*shapes).items()
    }
    embeddings = iter(hypernetwork.embeddings)
    for kernel in generated.values():
        for rows in kernel.double().split(n_out):  # Eq. 3: output tiles are the rows, input tiles the columns
            for tile in rows.split(n_in, dim=1):
                expected = transcription(hypernetwork, next(embeddings))
                assert (tile - expected).norm() <= 1e-6 * expected.norm()
    assert next(embeddings, None) is None


def test_gradients_equal_finite_differences():
    torch.manual_seed(0)
    hypernetwork = StaticHypernetwork(kernels((4, 3, 2, 3), (2, 6, 2, 3)), 4, 3, basic_channels=(3, 2)).double()
    names = [name for name, _ in hypernetwork.named_parameters()]

    def generate(*values):
        return tuple(functional_call(hypernetwork, dict(zip(names, values, strict=True)), ()).values())

    assert torch.autograd.gradcheck(generate, [p.detach().requires_grad_() for p in hypernetwork.parameters()])


@pytest.mark.parametrize("width", [1, 2, 4])
def test_kernels_start_with_the_variance_of_he_in_every_layer(width):
    channels = [(16, 16), (16 * width, 16), (32 * width, 16 * width), (64 * width, 64 * width)]
    for seed in range(3):
        torch.manual_seed(seed)
        hypernetwork = StaticHypernetwork(kernels(*((c_out, c_in, 3, 3) for c_out, c_in in channels)))
        for kernel in hypernetwork().values():
            variance = 2 / (9 * kernel.shape[1])
            assert kernel.square().mean().item() == pytest.approx(variance, rel=1e-4)  # exact by construction
            assert abs(kernel.mean().item()) < 0.1 * math.sqrt(variance)


def test_start_variance_in_expectation_where_a_projection_widens():
    """d larger than N_out f^2: the second matrix has fewer rows than columns and keeps the variance only on average."""
    torch.manual_seed(0)
    shapes = [(4, 4, 1, 1)] * 8
    drawn = [StaticHypernetwork(kernels(*shapes), 32, 24, basic_channels=(4, 4))() for _ in range(50)]
    variances = torch.stack([torch.stack(list(each.values())).square().mean() for each in drawn])
    assert variances.mean().item() == pytest.approx(2 / 4, rel=0.1)


def test_evaluation_generates_once_and_notices_every_change():
    torch.manual_seed(0)
    hypernetwork = StaticHypernetwork(kernels((16, 16, 3, 3))).eval()

    def kernel():
        return hypernetwork()["layers.0.weight"]

    with torch.no_grad():
        first = kernel()
        assert kernel() is first
        hypernetwork.embeddings.grad = torch.ones_like(hypernetwork.embeddings)
        torch.optim.SGD(hypernetwork.parameters(), lr=0.1).step()
        changed = kernel()
        assert not torch.equal(changed, first)
        hypernetwork.load_state_dict(StaticHypernetwork(kernels((16, 16, 3, 3))).state_dict())
        assert not torch.equal(kernel(), changed)
        hypernetwork.to(torch.float64)
        assert kernel().dtype == torch.float64
        hypernetwork().clear()  # a caller's dictionary is its own
        hypernetwork.embeddings.data.mul_(2)
        hypernetwork.eval()
        before = kernel()
        hypernetwork.embeddings.data.mul_(2)  # which only eval() tells of
        hypernetwork.eval()
        assert not torch.equal(kernel(), before)
    with torch.inference_mode():
        hypernetwork.eval()()
    with torch.no_grad():
        kernel().detach().requires_grad_()  # as HyperDNN does; an inference tensor would refuse
    assert kernel().requires_grad  # with gradients on, a kept result would cut the graph
    hypernetwork.train()
    with torch.no_grad():
        assert kernel() is not kernel()


@torch.no_grad()
def test_what_evaluation_keeps_is_never_of_other_parameters_or_changed():
    hypernetwork = StaticHypernetwork(kernels((16, 16, 3, 3))).eval()
    # One tensor after another in the same memory, as when averaged weights are evaluated.
    norms = []
    for size in (1.0, 2.0, 3.0):
        placed = {"embeddings": torch.full_like(hypernetwork.embeddings, size)}
        norms.append(torch.func.functional_call(hypernetwork, placed, ())["layers.0.weight"].norm().item())
        del placed
    assert norms == pytest.approx([norms[0], 2 * norms[0], 3 * norms[0]])
    kernel = hypernetwork()["layers.0.weight"]
    before = kernel.clone()
    kernel.zero_()  # by a caller
    assert torch.equal(hypernetwork()["layers.0.weight"], before)

    def of(embeddings):
        return torch.func.functional_call(hypernetwork, {"embeddings": embeddings}, ())["layers.0.weight"]

    several = torch.randn(2, *hypernetwork.embeddings.shape)
    torch.testing.assert_close(torch.func.vmap(of)(several), torch.stack([of(each) for each in several]))
    with torch.inference_mode():
        built = StaticHypernetwork(kernels((16, 16, 3, 3))).eval()
        assert torch.equal(built()["layers.0.weight"], built()["layers.0.weight"])


def test_autocast_leaves_the_generator_in_full_precision():
    torch.manual_seed(0)
    hypernetwork = StaticHypernetwork(kernels((16, 16, 3, 3)))
    expected = hypernetwork()["layers.0.weight"]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(hypernetwork()["layers.0.weight"], expected)


@pytest.mark.parametrize(
    ("shapes", "settings", "words"),
    [
        ([(16, 24, 3, 3)], {}, ["layers.0.weight", "24", "do not divide"]),
        ([(16, 16, 3, 3), (16, 16, 1, 1)], {}, ["layers.1.weight", "1x1", "one size"]),
        ([(16, 16)], {}, ["layers.0.weight", "[16, 16]", "tileable_kernels"]),
        ([], {}, ["at least one"]),
        ([(16, 16, 3, 3)], {"embedding_size": 0}, ["embedding_size", "0"]),
        ([(16, 16, 3, 3)], {"basic_channels": 16}, ["basic_channels is 16", "two"]),
        ([(16, 16, 3, 3)], {"basic_channels": (0, 16)}, ["An entry of basic_channels is 0"]),
    ],
)
def test_kernels_and_sizes_that_do_not_fit_are_refused(shapes, settings, words):
    with pytest.raises(UserError) as raised:
        StaticHypernetwork(kernels(*shapes), **settings)
    assert all(word in str(raised.value) for word in words)


def test_a_condition_is_refused():
    with pytest.raises(UserError, match="takes no condition"):
        StaticHypernetwork(kernels((16, 16, 3, 3)))(torch.zeros(1, 8))
