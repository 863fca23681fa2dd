"""Handwriting: the mixture density, its loss and draws, the log-loss of whole lines, and runs that go on bitwise."""

import math
from functools import partial

import numpy as np
import pytest
import torch

from data.build import build_strokes
from hypernets import LSTM, HyperLSTM
from models.handwriting_model import OUTPUTS, HandwritingModel
from training.run import read_result
from training.tasks.handwriting import Handwriting
from training.tasks.handwriting_samples import Written, picture, pixels, write
from training.tasks.mixture_density import draw, mixture, negative_log_likelihood

SMALL_HYPERLSTM = partial(HyperLSTM, hidden_size=6, hyper_size=4, embedding_size=2)


def small_task(make_layer=SMALL_HYPERLSTM, **dropout):
    torch.manual_seed(0)
    task = Handwriting(HandwritingModel(make_layer, [8.0, 0.5], [40.0, 30.0], **dropout))
    with torch.no_grad():  # away from the initial weights, at which all outputs are much the same
        for parameter in task.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return task


def small_splits(**settings):
    shared = {"kind": "scribbles", "lines": 60, "batch_size": 8, "shortest": 60}
    return build_strokes({**shared, **settings}, seed=0, device="cpu", rank=0, world_size=1)


def outputs_and_targets(size=50, mixtures=20, **kind):
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(size, 6 * mixtures + 1, generator=generator, dtype=torch.float64)
    targets = torch.randn(size, 3, generator=generator, dtype=torch.float64)
    targets[:, 2] = (targets[:, 2] > 0).double()
    return outputs.to(**kind), targets.to(**kind)


def transcribed(outputs, targets):
    """-log p, from the equations of Graves (2013) as they are printed, for one step, in float64."""
    weight_hat, mean, std_hat, rho_hat = np.split(outputs[1:], [20, 60, 100])
    x1, x2, end = targets
    weights = np.exp(weight_hat) / np.exp(weight_hat).sum()  # Eq. 19
    mean1, mean2, std1, std2 = mean[:20], mean[20:], np.exp(std_hat[:20]), np.exp(std_hat[20:])  # Eq. 20, 21
    rho = 0.99 * np.tanh(rho_hat)  # Eq. 22, bounded
    z = ((x1 - mean1) / std1) ** 2 + ((x2 - mean2) / std2) ** 2
    z -= 2 * rho * (x1 - mean1) * (x2 - mean2) / (std1 * std2)  # Eq. 25
    normal = np.exp(-z / (2 * (1 - rho**2))) / (2 * np.pi * std1 * std2 * np.sqrt(1 - rho**2))  # Eq. 24
    probability = 1 / (1 + np.exp(-outputs[0]))  # of the end of the stroke; Eq. 18 has the other sign
    return -np.log((weights * normal).sum()) - np.log(probability if end else 1 - probability)  # Eq. 26


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_loss_is_that_of_the_equations(dtype, tolerance):
    outputs, targets = outputs_and_targets()
    expected = [transcribed(*pair) for pair in zip(outputs.numpy(), targets.numpy(), strict=True)]
    losses = negative_log_likelihood(outputs.to(dtype), targets.to(dtype))
    assert losses.tolist() == pytest.approx(expected, rel=tolerance, abs=tolerance)


def test_loss_has_the_gradients_of_finite_differences():
    outputs, targets = outputs_and_targets(size=4, mixtures=3)
    assert torch.autograd.gradcheck(lambda given: negative_log_likelihood(given, targets), outputs.requires_grad_())


def test_density_integrates_to_one():
    outputs, _ = outputs_and_targets(size=3)
    outputs[:, 61:101] *= 0.3  # not too narrow for the grid
    outputs[:, 101:] *= 0.3
    places = torch.linspace(-10, 10, 201, dtype=torch.float64)
    grid = torch.cartesian_prod(places, places, torch.tensor([0.0, 1.0], dtype=torch.float64))
    for each in outputs:
        density = (-negative_log_likelihood(each.expand(len(grid), -1), grid)).exp()
        assert density.sum() * 0.1**2 == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("scale", [1e2, 1e4])
def test_loss_and_gradients_stay_finite_far_out(scale):
    outputs, targets = outputs_and_targets(dtype=torch.float32)
    outputs = (scale * outputs).requires_grad_()
    losses = negative_log_likelihood(outputs, 60 * targets.sign())
    losses.mean().backward()
    assert losses.isfinite().all() and outputs.grad.isfinite().all()


def test_density_is_bounded():
    """However sure the outputs are of an offset that comes often, its loss has a floor."""
    outputs = torch.zeros(OUTPUTS)
    outputs[61:101], outputs[101:], outputs[0] = -50, 50, -50
    narrow = math.log(2 * math.pi * 0.01**2 * math.sqrt(1 - 0.99**2))
    assert negative_log_likelihood(outputs, torch.zeros(3)).item() == pytest.approx(narrow, rel=1e-5)


def test_draws_have_the_moments_of_the_mixture():
    outputs, _ = outputs_and_targets(size=1, mixtures=2, dtype=torch.float32)
    (log_weights, means, log_stds, correlations, end_logit) = (each[0] for each in mixture(outputs))
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([draw(outputs[0], 0.0, generator) for _ in range(4000)])
    weights, stds = log_weights.exp(), log_stds.exp()
    mean = (weights * means).sum(-1)
    torch.testing.assert_close(drawn[:, :2].mean(0), mean, atol=0.1, rtol=0)
    product = (weights * (correlations * stds[0] * stds[1] + means[0] * means[1])).sum() - mean[0] * mean[1]
    torch.testing.assert_close(drawn[:, :2].T.cov()[0, 1], product, atol=0.2, rtol=0)
    torch.testing.assert_close(drawn[:, 2].mean(), end_logit.sigmoid(), atol=0.03, rtol=0)
    likeliest = means[:, weights.argmax()]
    certain = torch.stack([draw(outputs[0], 50.0, generator) for _ in range(10)])
    torch.testing.assert_close(certain[:, :2], likeliest.expand(10, 2))


def test_training_loss_is_the_mean_over_the_steps_of_a_batch():
    task, window = small_task(), small_splits().train.batch(0)
    loss, carried = task(window, None)
    outputs, _ = task.network(window.inputs)
    each = [negative_log_likelihood(outputs[:, b], window.targets[:, b])[window.counted[:, b]] for b in range(8)]
    torch.testing.assert_close(loss, torch.cat(each).mean())
    assert carried is None and len({len(losses) for losses in each}) > 1


def test_losses_of_the_ranks_average_to_that_of_the_batch():
    task, shared = small_task(), {"kind": "scribbles", "lines": 60, "batch_size": 8, "shortest": 60}
    place = {"seed": 0, "device": "cpu", "world_size": 2}
    whole, *shares = (small_splits().train, *(build_strokes(shared, rank=rank, **place).train for rank in range(2)))
    losses = [task(share.batch(0), None)[0] for share in shares]  # of lines of different lengths
    torch.testing.assert_close(sum(losses) / 2, task(whole.batch(0), None)[0])


def test_log_loss_is_the_sum_over_a_line_averaged_over_lines(monkeypatch):
    monkeypatch.setattr("data.strokes.EVALUATED_STEPS", 25)
    task, splits = small_task(output_dropout=0.5).train(), small_splits()
    values = task.evaluate(splits.validation.evaluation_batches())
    assert task.training
    task.eval()
    lines, steps = [], 0
    with torch.no_grad():
        for line, length in enumerate(splits.validation.steps.tolist()):  # one by one, each in one pass
            inputs, targets, _ = splits.validation.window(torch.tensor([line]), 0, length)
            outputs = task.network(inputs)[0].double()
            lines.append(negative_log_likelihood(outputs, targets.double()).sum().item())
            steps += length
    assert values["log_loss"] == pytest.approx(np.mean(lines), rel=1e-5)
    assert values["loss"] == pytest.approx(np.sum(lines) / steps, rel=1e-5)


def test_learns_to_scribble():
    task, splits = small_task(partial(LSTM, hidden_size=24)), small_splits(sequence_length=40)
    optimizer = torch.optim.Adam(task.parameters(), 0.01)
    losses = []
    for step in range(40):
        loss, _ = task(splits.train.batch(step), None)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 3 and np.mean(losses[-5:]) < 2, "3.1 is the loss of one standard normal distribution"


def test_written_line_is_made_of_predictions_and_disturbs_nothing():
    task = small_task(input_dropout=0.5, output_dropout=0.5).train()
    before = torch.get_rng_state()
    line, again, other = (write(task.network, 30, seed=seed) for seed in (0, 0, 1))
    assert task.training and all(module.training for module in task.modules())
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(line.points, again.points) and not np.array_equal(line.points, other.points)
    assert line.points.shape == (31, 3) and line.changes.shape == (30, 4)
    # What a pass over the written line predicts at its end is what the next step is drawn from.
    offsets = torch.tensor(np.diff(line.points, axis=0, prepend=0.0))
    rows = (offsets[:, :2] - task.network.offset_mean) / task.network.offset_std
    rows = torch.cat([rows, torch.tensor(line.points[:, 2:])], dim=1)[:, None].float()
    with torch.no_grad():
        outputs, _ = task.eval().network(rows[:-1])
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([draw(each[0], 0.0, generator) for each in outputs])
    torch.testing.assert_close(drawn, rows[1:, 0], rtol=1e-3, atol=1e-3)


def test_picture_has_strokes_and_strips():
    points = np.array([[0, 0, 0], [50, 0, 1], [50, 20, 0], [100, 20, 1]], dtype=np.float32)
    changes = torch.zeros(3, 4)
    changes[2, 3] = 1.0  # of the last gate, in the right half
    plain, with_strips = (pixels(picture([("title", [Written(points, each)])])).astype(int) for each in (None, changes))
    assert plain.shape[2] == 3 and (plain.sum(axis=2) < 100).any() and not (np.ptp(plain, axis=2) > 20).any()
    blue = with_strips[..., 2] - with_strips[..., 0] > 60
    rows, columns = np.nonzero(blue)
    black = np.nonzero(with_strips.sum(axis=2) < 100)[1]
    middle = (black.min() + black.max()) / 2
    assert columns.min() > middle - 5 and len(set(rows)) > 3, "where the pen was above, not where the gate was still"


# Runs


def small_run(launcher, *overrides):
    """The command line of a small HyperLSTM run with all kinds of dropout; an epoch has 6 steps."""
    sizes = ["main_net.hidden_size=12", "hypernet.hyper_size=6", "dataset.lines=60"]
    return [
        *("main_net=layer_norm_lstm", "hypernet=hyperlstm", "dataset=scribbles", "gradient_clip=5.0"),
        *("dataset.batch_size=8", "dataset.sequence_length=20"),
        *("logger=none", "device=cpu", f"runs={launcher.runs}"),
        *(*sizes, *overrides),
    ]


def test_killed_run_goes_on_bitwise(launcher, tmp_path, make_launcher, assert_same_run, kill_before):
    budget = ("steps=24", "log_every=2", "validate_every=13", "checkpoint_every=5")
    uninterrupted = make_launcher(tmp_path / "uninterrupted")
    uninterrupted.succeed(*small_run(uninterrupted, *budget))

    kill_before(12, lambda: launcher.succeed(*small_run(launcher, *budget)))
    run = launcher.only_run()
    assert torch.load(run / "checkpoint.pt", weights_only=True)["step"] == 10
    launcher.succeed("-r", f"runs={launcher.runs}")
    assert_same_run(uninterrupted.only_run(), run)
    assert read_result(run)["sessions"] == 2
    assert (run / "pictures" / "handwriting_sample.png").read_bytes().startswith(b"\x89PNG")
