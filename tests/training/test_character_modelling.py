"""Language models in the training loop: the carried state, the exact evaluation, and runs that go on bitwise."""

import math
import shutil
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from data.text import EvaluationStreams, TrainingStreams
from hypernets import LSTM, HyperLSTM, UserError
from models.character_model import CharacterModel
from training.run import read_result
from training.tasks.character_modelling import CharacterModelling

VOCABULARY = "abcdefgh"


def small_task(**dropout):
    torch.manual_seed(0)
    make_layer = partial(HyperLSTM, hidden_size=6, hyper_size=4, embedding_size=2)
    task = CharacterModelling(CharacterModel(make_layer, VOCABULARY, **dropout))
    with torch.no_grad():  # away from the initial weights, at which the states of all characters are much the same
        for parameter in task.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return task


def random_ids(number):
    return np.random.default_rng(0).integers(len(VOCABULARY), size=number).astype(np.uint8)


def test_loss_in_nats_with_the_state_carried_and_detached():
    task = small_task()
    streams = TrainingStreams(random_ids(200), batch_size=2, sequence_length=10)
    first, second = streams.batch(0), streams.batch(1)
    loss, carried = task(first, None)
    next_loss, carried_on = task(second, carried)
    assert not any(tensor.requires_grad for tensor in (*carried, *carried_on))

    inputs, targets = (torch.cat([first[field], second[field]]) for field in (0, 1))
    logits, state = task.network(inputs)
    log_likelihood = logits.log_softmax(-1).gather(-1, targets[..., None])
    torch.testing.assert_close((loss + next_loss) / 2, -log_likelihood.mean())
    torch.testing.assert_close(carried_on[0], state[0])


def test_state_is_zero_at_the_beginning_of_an_epoch():
    task = small_task()
    streams = TrainingStreams(random_ids(200), batch_size=2, sequence_length=10)
    _, carried = task(streams.batch(streams.steps_per_epoch - 1), None)
    first_step, second_epoch = streams.batch(0), streams.batch(streams.steps_per_epoch)
    assert torch.equal(task(second_epoch, carried)[0], task(first_step, None)[0])
    assert not torch.equal(task(streams.batch(1), carried)[0], task(streams.batch(1), None)[0])


def test_streams_start_anew_now_and_then():
    task = small_task()
    task.restart_probability = 0.2
    window = TrainingStreams(random_ids(2000), batch_size=32, sequence_length=10).batch(1)
    carried = tuple(torch.randn(1, 32, units) for units in (6, 6, 4, 4))
    _, after = task(window, carried)
    _, from_zero = task.eval()(window, None)
    _, from_carried = task(window, carried)  # not restarted, since it is not being trained
    restarted, going_on = ((after.h[0] == other.h[0]).all(dim=1) for other in (from_zero, from_carried))
    assert torch.equal(restarted, ~going_on) and 0 < restarted.sum() < 16
    with pytest.raises(UserError, match="restart_probability is 1.0"):
        CharacterModelling(task.network, 1.0)


def test_evaluation_is_that_of_one_sequence():
    task = small_task(input_dropout=0.5, output_dropout=0.5).train()
    ids = random_ids(500)
    values = task.evaluate(EvaluationStreams(ids, window=37).evaluation_batches())
    assert task.training
    whole = torch.tensor(ids).long()[:, None]
    with torch.no_grad():
        logits, _ = task.eval().network(whole[:-1])
    loss = F.cross_entropy(logits.flatten(0, 1), whole[1:].flatten()).item()
    assert values["loss"] == pytest.approx(loss, rel=1e-6)
    assert values["bits_per_character"] == pytest.approx(loss / math.log(2), rel=1e-6)


def test_evaluation_in_parallel_streams_comes_near_that_of_one_sequence():
    task = small_task()
    ids = random_ids(4000)

    def bits(**settings):
        return task.evaluate(EvaluationStreams(ids, **settings).evaluation_batches())["bits_per_character"]

    exact = bits()
    assert bits(streams=16, warm_up=200) == pytest.approx(exact, abs=1e-4)
    assert bits(streams=16, warm_up=1) != pytest.approx(exact, abs=1e-4)


def test_page_of_a_sampled_text_disturbs_nothing():
    task = small_task(input_dropout=0.5, output_dropout=0.5).train()
    before, weights = torch.get_rng_state(), [parameter.clone() for parameter in task.parameters()]
    (name, page), *others = task.pictures().items()
    assert name == "text/row_scales" and not others and page.count("<span>") == 301
    assert task.training and all(module.training for module in task.modules())
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(*pair) for pair in zip(task.parameters(), weights, strict=True))
    assert not any(parameter.grad is not None for parameter in task.parameters())
    compiled = small_task().eval()
    compiled.compile()  # which a page does without
    assert task.pictures() == {name: page} == compiled.pictures()  # the same draws, without dropout


def test_page_of_bytes_and_of_a_diverged_network():
    make_layer = partial(HyperLSTM, hidden_size=6, hyper_size=4, embedding_size=2)
    task = CharacterModelling(CharacterModel(make_layer, "\udca9\udcc3"))  # no ASCII: the first symbol is a surrogate
    with torch.no_grad():
        task.network.output.bias.fill_(math.nan)
    (page,) = task.pictures().values()
    assert page.encode("utf-8") and page.count("<span>") == 301


@pytest.mark.parametrize("make_layer", [LSTM, partial(HyperLSTM, hyper_size=16)])
def test_learns_a_text_that_the_carried_state_decides(make_layer):
    # Three characters decide the next. Without a carried state two of the five predictions of a window would be
    # guesses, 0.28 nats in the mean.
    torch.manual_seed(0)
    cycle = np.array([0, 0, 1, 0, 1, 1, 1, 0], dtype=np.uint8)
    task = CharacterModelling(CharacterModel(partial(make_layer, hidden_size=16), "ab"))
    streams = TrainingStreams(np.tile(cycle, 100), batch_size=4, sequence_length=5)
    optimizer = torch.optim.Adam(task.parameters(), 0.01)
    carried, losses = None, []
    for step in range(200):
        loss, carried = task(streams.batch(step), carried)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.median(losses[-40:]) < 0.1  # not the last alone: at this rate single steps go astray


# Runs


def small_run(launcher, path, *overrides):
    """The command line of a small HyperLSTM run with all kinds of dropout; an epoch has 33 steps."""
    sizes = ["main_net.hidden_size=12", "hypernet.hyper_size=6", "hypernet.hyper_recurrent_dropout=0.2"]
    text = [f"dataset.path={path}", "dataset.batch_size=4", "dataset.sequence_length=10", "dataset.warm_up=20"]
    return [
        *("main_net=layer_norm_lstm", "hypernet=hyperlstm", "dataset=text", "gradient_clip=1.0"),
        *("logger=none", "device=cpu", f"runs={launcher.runs}"),
        *(*sizes, *text, *overrides),
    ]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A text of 1,500 characters."""
    path = tmp_path_factory.mktemp("text") / "my.txt"
    path.write_text("".join(np.random.default_rng(0).choice(list("the quick brown föx\n"), 1500)), encoding="utf-8")
    return path


# A run ends in its second epoch; checkpoints, validations and rows have no common interval.
BUDGET = ("steps=40", "log_every=2", "validate_every=15", "checkpoint_every=7")


def test_killed_run_goes_on_bitwise(launcher, tmp_path, make_launcher, assert_same_run, kill_before, path):
    settings = (*BUDGET, "main_net.num_layers=2", "+dataset.restart_probability=0.2")
    uninterrupted = make_launcher(tmp_path / "uninterrupted")
    uninterrupted.succeed(*small_run(uninterrupted, path, *settings))

    kill_before(24, lambda: launcher.succeed(*small_run(launcher, path, *settings)))
    run = launcher.only_run()
    killed = torch.load(run / "checkpoint.pt", weights_only=True)
    assert killed["step"] == 21 and killed["carried"][0][0].abs().sum() > 0
    launcher.succeed("-r", f"runs={launcher.runs}")
    assert_same_run(uninterrupted.only_run(), run)
    assert read_result(run)["sessions"] == 2 and run.name.startswith("text-layer_norm_lstm_12-hyperlstm-s0-")
    assert (run / "pictures" / "text_row_scales.html").read_text(encoding="utf-8").count("<span>") == 301


@pytest.mark.compiler
def test_compiled_run_goes_on_bitwise(launcher, tmp_path, assert_same_run, path):
    launcher.succeed(*small_run(launcher, path, *BUDGET, "compile=true", "dataset.validation_streams=1"))
    whole = launcher.only_run()
    run = shutil.copytree(whole, tmp_path / "runs" / "interrupted")
    (run / "result.json").unlink()
    (run / "checkpoint.previous.pt").replace(run / "checkpoint.pt")
    assert torch.load(run / "checkpoint.pt", weights_only=True)["step"] == 35
    launcher.succeed("-r", str(run))
    assert_same_run(whole, run)
