"""The training loop, on a task of milliseconds with all that a resume can get wrong: dropout, batch norm, a state."""

import json
import signal
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hypernets import LearnedKernels, StaticHypernetwork
from models import WideResNet
from training import checkpoint, loop
from training.distributed import Processes
from training.logger import NoLogger
from training.optimizer import build_optimizer
from training.run_directory import RunDirectory
from training.schedule import constant, one_cycle
from training.tasks import ImageClassification

FEATURES, BATCH_SIZE, STEPS_PER_EPOCH = 6, 8, 5


class Killed(BaseException):
    """Stands for a process that ends without a chance to save."""


class Split:
    """Random features whose sign of the first is the label; a batch is a pure function of the step."""

    examples_per_step, steps_per_epoch = BATCH_SIZE, STEPS_PER_EPOCH

    def __init__(self, at_step=None):
        self.at_step = at_step or {}  # {step: called when its batch is asked for, returns what to add to it}
        self.evaluations = 0

    def batch(self, step):
        x = torch.randn(BATCH_SIZE, FEATURES, generator=torch.Generator().manual_seed(step))
        labels = (x[:, 0] > 0).long()
        if step in self.at_step:
            x = x + self.at_step[step]()
        return x, labels

    def evaluation_batches(self):
        self.evaluations += 1
        return [self.batch(1000), self.batch(1001)]


class Task(nn.Module):
    """Classification with dropout and batch norm, whose input is mixed with what the last step left behind."""

    metric = "error"

    def __init__(self):
        super().__init__()
        self.main_network = nn.Sequential(
            nn.Linear(2 * FEATURES, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2)
        )
        self.evaluated_in_training_mode = []

    def forward(self, batch, carried):
        x, labels = batch
        carried = torch.zeros_like(x) if carried is None else carried
        loss = F.cross_entropy(self.main_network(torch.cat([x, carried], dim=1)), labels)
        return loss, torch.tanh(carried + x).detach()

    @torch.no_grad()
    def evaluate(self, batches, total):
        self.main_network.eval()
        losses = []
        for x, labels in batches:
            self.evaluated_in_training_mode.append(self.main_network.training)
            losses.append(F.cross_entropy(self.main_network(torch.cat([x, torch.zeros_like(x)], dim=1)), labels))
        self.main_network.train()
        loss = torch.stack(losses).mean().item()
        return {"loss": loss, "error": 100 * loss}

    def images(self):
        return {}


class Scripted(Task):
    """A task whose validation errors are given."""

    errors = ()

    def evaluate(self, batches, total):
        super().evaluate(batches, total)
        self.errors, (error, *_) = self.errors[1:], self.errors
        return {"loss": 0.0, "error": error}


class InfiniteGradient(Task):
    """Once `begin` is called, the loss stays finite and its gradient does not: a square root's is infinite at zero."""

    begun = False

    def begin(self):
        self.begun = True
        return 0

    def forward(self, batch, carried):
        loss, carried = super().forward(batch, carried)
        return loss + (0 * self.main_network[0].weight).square().sum().sqrt() if self.begun else loss, carried


@pytest.fixture(autouse=True)
def one_thread():
    """Threads cost more than such small operations."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_trainer(run, task=None, at_step=None, optimizer="adam", budget=(), **changes):
    """A trainer of 12 steps, new or in the directory of an earlier one; the weights are always the same at first."""
    torch.manual_seed(0)
    task = task or Task()
    intervals = {"steps": 12, "validate_every": 4, "checkpoint_every": 5, "log_every": 3} | dict(budget)
    settings = {
        "learning_rate": one_cycle(peak=0.05, warmup=0.25, steps=12),
        "gradient_clip": None,
        "seed": 7,
        "precision": torch.float32,
        "compile_task": False,
        "sync_batch_norm": True,
        "processes": Processes(0, 1, torch.device("cpu")),
        "session": {},
        "logger": NoLogger(),
    }
    return loop.Trainer(
        task=task,
        splits=SimpleNamespace(train=Split(at_step), validation=Split(), test={"test": Split(), "half": Split()}),
        optimizer=build_optimizer(task.parameters(), optimizer),
        budget=loop.Budget(**intervals),
        run=RunDirectory.reopen(run) if run.exists() else RunDirectory.create(run, [], "", ""),
        **(settings | changes),
    )


def resume(run, **changes):
    """Go on in `run` as a new process would."""
    trainer = make_trainer(run, **changes)
    saved = checkpoint.load_checkpoint(run)
    trainer.restore(saved)
    trainer.run.truncate_metrics(saved["metrics_size"])
    trainer.train()
    trainer.run.close()
    return trainer


def rows(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def interrupt():
    signal.raise_signal(signal.SIGTERM)
    return 0


def kill():
    raise Killed


@pytest.mark.parametrize("end", [interrupt, kill])
def test_interrupted_at_every_step(tmp_path, assert_same, end):
    whole = make_trainer(tmp_path / "whole")
    whole.train()
    for step in range(11):
        run = tmp_path / f"interrupted-at-{step}"
        trainer = make_trainer(run, at_step={step: end})
        with pytest.raises((loop.Interrupted, Killed)):
            trainer.train()
        trainer.run.close()
        saved_at = checkpoint.load_checkpoint(run)["step"]
        last = step - step % 5, step - step % 4  # of the intervals of saving and of validation, which saves a new best
        assert saved_at == step + 1 if end is interrupt else min(last) <= saved_at <= max(last)
        resume(run)
        assert (run / "metrics.jsonl").read_bytes() == (whole.run.path / "metrics.jsonl").read_bytes()
        for name in (checkpoint.NEWEST, checkpoint.BEST):
            assert_same(checkpoint.load(run / name), checkpoint.load(whole.run.path / name), f"{step}/{name}")


def test_dropout_and_carried_state_matter(tmp_path, assert_same):
    """So that the test above can fail: other random numbers, or a state that is not restored, end elsewhere."""
    whole = make_trainer(tmp_path / "whole")
    whole.train()
    other_seed = make_trainer(tmp_path / "seed", seed=8)
    other_state = make_trainer(tmp_path / "state")
    other_state.state.carried = torch.ones(BATCH_SIZE, FEATURES)
    for trainer in (other_seed, other_state):
        trainer.train()
        ours, theirs = (checkpoint.load(each.run.path / checkpoint.NEWEST) for each in (trainer, whole))
        with pytest.raises(AssertionError, match="main_network"):
            assert_same(ours, theirs)


def test_signal_in_the_last_step_ends_the_run_as_usual(tmp_path):
    make_trainer(tmp_path / "run", at_step={11: interrupt}).train()
    assert checkpoint.load_checkpoint(tmp_path / "run")["step"] == 12


def test_signal_handlers_are_put_back(tmp_path):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with pytest.raises(loop.Interrupted):
        make_trainer(tmp_path / "run", at_step={2: interrupt}).train()
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


@pytest.mark.parametrize("what", ["loss", "gradient"])
@pytest.mark.parametrize("intervals", [{"log_every": 1}, {"log_every": 100, "checkpoint_every": 2, "steps": 7}])
def test_non_finite_stops_with_a_checkpoint_from_before(tmp_path, what, intervals):
    run = tmp_path / "run"
    task = InfiniteGradient()
    at_step = {6: {"loss": lambda: float("nan"), "gradient": task.begin}[what]}
    trainer = make_trainer(run, task, at_step, budget=intervals)
    with pytest.raises(loop.NonFiniteLoss, match="not finite.*step 7.*gradient_clip"):
        trainer.train()
    saved = checkpoint.load_checkpoint(run)
    assert 5 <= saved["step"] <= 6
    for name, tensor in saved["main_network"].items():
        assert torch.isfinite(tensor).all(), name
    assert all(torch.isfinite(torch.tensor(row.get("train/loss", 0.0))) for row in rows(run))
    assert all(torch.isfinite(tensor).all() for tensor in checkpoint.load(run / "best.pt")["main_network"].values())


def test_best_on_validation_is_kept_and_tested_once(tmp_path):
    task = Scripted()
    task.errors = (50.0, 20.0, 30.0, 20.0, 7.0, 8.0)  # four validations, then the test split and its subset
    weights = {}
    trainer = make_trainer(tmp_path / "run", task, budget={"steps": 8, "validate_every": 2})
    trainer.optimizer.register_step_post_hook(
        lambda *_: weights.update({trainer.state.step + 1: task.main_network[0].weight.detach().clone()})
    )
    trainer.train()
    best = checkpoint.load(tmp_path / "run" / "best.pt")
    assert (best["step"], best["error"]) == (4, 20.0)  # the earlier of two that are equally good
    assert torch.equal(best["main_network"]["0.weight"], weights[4])
    assert trainer.state.best == {"step": 4, "error": 20.0}
    assert [split.evaluations for split in trainer.splits.test.values()] == [0, 0]

    seen = []
    task.main_network.register_forward_hook(
        lambda network, *_: seen.append((network.training, network[0].weight.clone()))
    )
    assert trainer.test() == {"test": {"loss": 0.0, "error": 7.0}, "half": {"loss": 0.0, "error": 8.0}}
    assert [split.evaluations for split in trainer.splits.test.values()] == [1, 1]
    assert not any(training for training, _ in seen)
    assert all(torch.equal(weight, weights[4]) for _, weight in seen) and not torch.equal(weights[4], weights[8])


def test_best_of_a_future_that_is_discarded_is_forgotten(tmp_path, monkeypatch):
    """Killed between a new best and its checkpoint, and resumed with a rate at which that best is not reached again."""
    run, budget = tmp_path / "run", {"steps": 10, "validate_every": 2, "checkpoint_every": 100}
    task = Scripted()
    task.errors = (50.0, 40.0, 20.0)
    trainer = make_trainer(run, task, budget=budget)
    with monkeypatch.context() as patch:
        save = checkpoint.save_checkpoint
        patch.setattr(
            checkpoint, "save_checkpoint", lambda to, saved: kill() if saved["step"] == 6 else save(to, saved)
        )
        with pytest.raises(Killed):
            trainer.train()
    trainer.run.close()
    assert checkpoint.load(run / "best.pt")["step"] == 6

    again = Scripted()
    again.errors = (60.0, 60.0, 60.0)
    state = resume(run, task=again, budget=budget, learning_rate=constant(0.1)).state
    best = checkpoint.load(run / "best.pt")
    assert state.best == {"step": 4, "error": 40.0} == {key: best[key] for key in ("step", "error")}


def test_best_that_is_lost_is_found_anew(tmp_path):
    run = tmp_path / "run"
    trainer = make_trainer(run)
    trainer.train()
    trainer.run.close()
    (run / "best.pt").unlink()
    (run / "best.previous.pt").unlink(missing_ok=True)
    with pytest.warns(UserWarning, match="best network .* is lost"):
        trainer = resume(run)
    with pytest.raises(ValueError, match="resume with a longer budget"):
        trainer.test()
    with pytest.warns(UserWarning, match="best network .* is lost"):
        trainer = resume(run, budget={"steps": 13})
    assert trainer.state.best["step"] == checkpoint.load(run / "best.pt")["step"] == 13


def test_validation_that_is_not_a_number_is_no_best(tmp_path):
    task = Scripted()
    task.errors = (float("nan"), 40.0, float("nan"))
    trainer = make_trainer(tmp_path / "run", task)
    trainer.train()
    assert trainer.state.best == {"step": 8, "error": 40.0}
    assert checkpoint.load(tmp_path / "run" / "best.pt")["step"] == 8


def test_gradient_clipping_bounds_the_update(tmp_path):
    updates, logged = {}, {}
    for clip in (None, 0.01):
        trainer = make_trainer(
            tmp_path / f"{clip}",
            optimizer="sgd",
            gradient_clip=clip,
            learning_rate=constant(1.0),
            budget={"steps": 4, "log_every": 1},
        )
        before = [torch.cat([p.detach().flatten() for p in trainer.parameters])]
        trainer.optimizer.register_step_post_hook(
            lambda *_, trainer=trainer, before=before: before.append(
                torch.cat([p.detach().flatten() for p in trainer.parameters])
            )
        )
        trainer.train()
        updates[clip] = [(after - old).norm().item() for old, after in zip(before, before[1:], strict=False)]
        logged[clip] = [row["train/gradient_norm"] for row in rows(tmp_path / f"{clip}")]
    assert updates[0.01] == pytest.approx([0.01] * 4, rel=1e-3)
    assert min(updates[None]) > 0.02
    assert logged[None] == pytest.approx(updates[None], rel=1e-4)
    assert logged[0.01][0] == pytest.approx(logged[None][0])  # what is logged is the norm before clipping


def test_learning_rate_follows_the_schedule(tmp_path):
    used = []
    schedule = one_cycle(peak=0.05, warmup=0.25, steps=12)
    trainer = make_trainer(tmp_path / "run", learning_rate=schedule, budget={"log_every": 1})
    trainer.optimizer.register_step_pre_hook(lambda optimizer, *_: used.append(optimizer.param_groups[0]["lr"]))
    trainer.train()
    assert used == [schedule(step) for step in range(12)]
    assert [row["train/learning_rate"] for row in rows(tmp_path / "run")] == used


def test_rows_go_forward(tmp_path):
    make_trainer(tmp_path / "run").train()
    logged = rows(tmp_path / "run")
    assert [row["step"] for row in logged] == [3, 4, 6, 8, 9, 12]
    assert ["validation/error" in row for row in logged] == [False, True, False, True, False, True]
    assert ["train/loss" in row for row in logged] == [True, False, True, False, True, True]
    for row in logged:
        assert row["epoch"] == row["step"] / STEPS_PER_EPOCH
        assert row["examples"] == row["step"] * BATCH_SIZE


def test_logged_loss_is_the_mean_since_the_last_row(tmp_path):
    make_trainer(tmp_path / "each", budget={"log_every": 1}).train()
    make_trainer(tmp_path / "third").train()
    each = [row["train/loss"] for row in rows(tmp_path / "each")]
    third = [row["train/loss"] for row in rows(tmp_path / "third") if "train/loss" in row]
    assert third == pytest.approx([sum(each[start : start + 3]) / 3 for start in range(0, 12, 3)])


def test_carried_state_of_more_processes_is_refused(tmp_path):
    trainer = make_trainer(tmp_path / "run")
    trainer.train()
    saved = checkpoint.load_checkpoint(tmp_path / "run")
    saved["carried"] *= 2
    with pytest.raises(ValueError, match="in 2 processes and cannot go on in 1; resume it with 2"):
        trainer.restore(saved)


def test_budget_that_ends_before_the_checkpoint_is_refused(tmp_path):
    make_trainer(tmp_path / "run").train()
    trainer = make_trainer(tmp_path / "other", budget={"steps": 11})
    with pytest.raises(ValueError, match="has done 12 steps and budget.steps is 11; resume it with budget.steps=12"):
        trainer.restore(checkpoint.load_checkpoint(tmp_path / "run"))


@pytest.mark.parametrize("value", [0, -1, 1.5, "ten"])
def test_bad_budget(value):
    with pytest.raises(ValueError, match="budget.log_every is .*whole number of at least 1"):
        loop.Budget(steps=1, validate_every=1, checkpoint_every=1, log_every=value)


def images(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(4, 3, 8, 8, generator=generator), torch.randint(10, (4,), generator=generator)


def classification(kernel_source=LearnedKernels, kernel_decay=0.0):
    torch.manual_seed(0)
    return ImageClassification(WideResNet(kernel_source, depth=10), kernel_decay)


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_changes_nothing(assert_same, training):
    task = classification().train(training)
    state = {name: tensor.clone() for name, tensor in task.state_dict().items()}
    random_state, modes = torch.get_rng_state(), []
    task.main_network.final_norm.register_forward_hook(lambda norm, *_: modes.append(norm.training))
    values = task.evaluate([images(0), images(1)])
    assert modes == [False, False]
    assert all(module.training is training for module in task.modules())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert_same(dict(task.state_dict()), state)
    assert all(parameter.grad is None for parameter in task.parameters())
    logits, labels = (
        task.eval().main_network(torch.cat([images(0)[0], images(1)[0]])),
        torch.cat([images(0)[1], images(1)[1]]),
    )
    assert values["loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
    assert values["error"] == 100 * (logits.argmax(1) != labels).sum().item() / 8


def test_penalty_is_weight_decay_of_the_kernels_alone():
    ours, theirs = classification(kernel_decay=0.1), classification()
    network = theirs.main_network
    kernels = [network.stem.weight, *network.kernel_source.kernels]
    chosen = {id(kernel) for kernel in kernels}
    others = [parameter for parameter in theirs.parameters() if id(parameter) not in chosen]
    for task, optimizer in (
        (ours, build_optimizer(ours.parameters(), "sgd", momentum=0.9)),
        (
            theirs,
            torch.optim.SGD(
                [{"params": kernels, "weight_decay": 0.1}, {"params": others}], momentum=0.9, nesterov=True
            ),
        ),
    ):
        for group in optimizer.param_groups:
            group["lr"] = 0.1
        task(images(), None)[0].backward()
        optimizer.step()
    start = classification()
    for (name, mine), expected, before in zip(
        ours.named_parameters(), theirs.parameters(), start.parameters(), strict=True
    ):
        torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")
        assert not torch.equal(mine, before), name


def test_penalty_is_on_the_generated_kernels():
    source = partial(StaticHypernetwork, embedding_size=4, projection_size=4)
    plain, decayed = classification(source), classification(source, kernel_decay=0.1)
    losses = [task(images(), None)[0] for task in (plain, decayed)]
    network = decayed.main_network
    squares = [kernel.square().sum() for kernel in [network.stem.weight, *network.kernel_source()]]
    torch.testing.assert_close(losses[1] - losses[0], 0.05 * sum(squares), rtol=1e-4, atol=1e-4)
