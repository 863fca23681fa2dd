"""The training loop, on a task of milliseconds with all that a resume can get wrong: dropout, batch norm, a state."""

import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hypernets import UserError
from training import checkpoint, loop
from training.distributed import Processes
from training.logger import NoLogger
from training.optimizer import build_optimizer
from training.run import Run, read_rows
from training.schedule import constant, one_cycle
from training.signals import Interrupted
from training.task import Metric

FEATURES, BATCH_SIZE, STEPS_PER_EPOCH = 6, 8, 5
ADAM, PLAIN_SGD = {"kind": "adam", "betas": [0.9, 0.999]}, {"kind": "sgd", "momentum": 0.0}
MUON = {"kind": "muon", "momentum": 0.9, "betas": [0.9, 0.999], "adam_rate": 0.2}


class Killed(BaseException):
    """Stands for a process that ends without a chance to save."""


class Training:
    """Random features whose sign of the first is the label; a batch is a pure function of the step."""

    examples_per_step, steps_per_epoch = BATCH_SIZE, STEPS_PER_EPOCH

    def __init__(self, at_step):
        self.at_step = at_step  # {step: called when its batch is asked for, returns what to add to it}

    def batch(self, step):
        x = torch.randn(BATCH_SIZE, FEATURES, generator=torch.Generator().manual_seed(step))
        labels = (x[:, 0] > 0).long()
        return x + self.at_step.get(step, lambda: 0)(), labels


@dataclass
class Splits:
    """Three splits of one kind; the last two are counted together, and something may happen within an evaluation."""

    at_step: dict[int, Callable] = field(default_factory=dict)
    at_evaluation: dict[int, Callable] = field(default_factory=dict)  # {number: called between its two batches}
    evaluations: int = 0
    digest = "of the data"

    def __post_init__(self):
        self.train, self.validation, self.test = Training(self.at_step), self, self

    def evaluation_batches(self):
        self.evaluations += 1
        yield self.train.batch(1000)
        self.at_evaluation.get(self.evaluations, lambda: 0)()
        yield self.train.batch(1001)


class Task(nn.Module):
    """Classification with dropout and batch norm, whose input is mixed with what the last step left behind."""

    metric = Metric("error", "error", digits=2, unit=" %")

    def __init__(self, errors=()):
        super().__init__()
        self.network = nn.Sequential(nn.Linear(2 * FEATURES, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))
        self.errors = list(errors)  # of the evaluations to come, in place of what the network makes of them

    def forward(self, batch, carried):
        x, labels = batch
        carried = torch.zeros_like(x) if carried is None else carried
        loss = F.cross_entropy(self.network(torch.cat([x, carried], dim=1)), labels)
        return loss, torch.tanh(carried + x).detach()

    @torch.no_grad()
    def evaluate(self, batches, total):
        self.network.eval()
        losses = [F.cross_entropy(self.network(x.repeat(1, 2)), labels) for x, labels in batches]
        self.network.train()
        loss = torch.stack(losses).mean().item()
        return {"loss": loss, "error": self.errors.pop(0) if self.errors else 100 * loss}

    def pictures(self):
        return {}


class InfiniteGradient(Task):
    """Once `begin` is called, the loss stays finite and its gradient does not: a square root's is infinite at zero."""

    begun = False

    def begin(self):
        self.begun = True
        return 0

    def forward(self, batch, carried):
        loss, carried = super().forward(batch, carried)
        return loss + (0 * self.network[0].weight).square().sum().sqrt() if self.begun else loss, carried


class Steep(Task):
    """Has a gradient whose squares are infinite in float32."""

    def forward(self, batch, carried):
        loss, carried = super().forward(batch, carried)
        return 1e25 * loss, carried


class Observed(Task):
    """Notes whether it was compiled, and in which precision it is called."""

    def __init__(self):
        super().__init__()
        self.compiled, self.in_bfloat16 = False, set()

    def compile(self):
        self.compiled = True

    def forward(self, batch, carried):
        self.in_bfloat16.add(torch.is_autocast_enabled("cpu"))
        return super().forward(batch, carried)


def make_trainer(path, task=None, splits=None, optimizer=None, budget=(), **changes):
    """A trainer of 12 steps, of a new run or of the one at `path`; the weights are always the same at first."""
    torch.manual_seed(0)
    task = task or Task()
    settings = {
        "learning_rate": one_cycle(steps=12, peak=0.05, warmup=0.25),
        "gradient_clip": None,
        "seed": 7,
        "precision": torch.float32,
        "compile_task": False,
        "sync_batch_norm": True,
        "processes": Processes(0, 1, torch.device("cpu")),
        "session": {},
        "open_logger": NoLogger,
    }
    return loop.Trainer(
        task=task,
        splits=splits or Splits(),
        optimizer=build_optimizer(task, optimizer or ADAM),
        budget=loop.Budget(**{"steps": 12, "validate_every": 4, "checkpoint_every": 5, "log_every": 3} | dict(budget)),
        directory=Run(path, {"a": "setting"}, []),
        **(settings | changes),
    )


def train(path, **changes):
    """What train.py does with a trainer: begin or go on, to the end."""
    trainer = make_trainer(path, **changes)
    try:
        trainer.begin()
        trainer.result = trainer.run()
    finally:
        trainer.directory.close()
    return trainer


def saved(path, name=checkpoint.NEWEST):
    """The content of a checkpoint without the id of its run."""
    content = torch.load(path / name, weights_only=True)
    del content["run"]
    return content


def interrupt():
    signal.raise_signal(signal.SIGTERM)
    return 0


def kill():
    raise Killed


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run of 12 steps that nothing interrupts."""
    return train(tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture
def assert_as_whole(whole, assert_same):
    """Checks that a finished run left the bytes of the one that was never interrupted, and the same result."""

    def check(trainer):
        ours, theirs = trainer.directory.path, whole.directory.path
        assert (ours / "metrics.jsonl").read_bytes() == (theirs / "metrics.jsonl").read_bytes()
        for name in (checkpoint.NEWEST, checkpoint.BEST):
            assert_same(saved(ours, name), saved(theirs, name), name)
        assert trainer.result == whole.result

    return check


@pytest.mark.parametrize("end", [interrupt, kill])
def test_interrupted_at_every_step(tmp_path, assert_as_whole, end):
    for step in range(12):
        run = tmp_path / f"interrupted-at-{step}"
        with pytest.raises((Interrupted, Killed)):
            train(run, splits=Splits(at_step={step: end}))
        last = step - step % 5, step - step % 4  # of the intervals of saving and of validation, which saves a new best
        assert saved(run)["step"] == step + 1 if end is interrupt else min(last) <= saved(run)["step"] <= max(last)
        assert_as_whole(train(run))


@pytest.mark.parametrize("end", [interrupt, kill])
@pytest.mark.parametrize("evaluation", [1, 2, 3, 4], ids=["at 4", "at 8", "at 12", "test"])
def test_interrupted_within_an_evaluation(tmp_path, assert_as_whole, end, evaluation):
    run, splits = tmp_path / "run", Splits(at_evaluation={evaluation: end})
    with pytest.raises((Interrupted, Killed)):
        train(run, splits=splits)
    assert splits.evaluations == evaluation
    if end is interrupt:
        assert saved(run)["step"] == min(4 * evaluation, 12)
    assert_as_whole(train(run))


def test_interrupted_again_before_anything_is_logged(tmp_path, assert_as_whole):
    with pytest.raises(Killed):
        train(tmp_path / "run", splits=Splits(at_step={3: kill}))  # after a row that the checkpoint does not know
    for end, step in ((interrupt, 0), (kill, 1), (interrupt, 1)):
        with pytest.raises((Interrupted, Killed)):
            train(tmp_path / "run", splits=Splits(at_step={step: end}))
    assert_as_whole(train(tmp_path / "run"))


def test_resumes_several_optimizers_together(tmp_path, assert_same):
    train(tmp_path / "whole", optimizer=MUON)
    with pytest.raises(Interrupted):
        train(tmp_path / "run", optimizer=MUON, splits=Splits(at_step={6: interrupt}))
    train(tmp_path / "run", optimizer=MUON)
    assert_same(saved(tmp_path / "run"), saved(tmp_path / "whole"), checkpoint.NEWEST)


def test_dropout_and_carried_state_matter(tmp_path, whole, assert_same):
    """So that the tests above can fail: other random numbers, or a state that is not restored, end elsewhere."""
    train(tmp_path / "seed", seed=8)
    with pytest.raises(Interrupted):
        train(tmp_path / "state", splits=Splits(at_step={5: interrupt}))
    broken = torch.load(tmp_path / "state" / checkpoint.NEWEST, weights_only=True)
    broken["carried"] = [torch.ones(BATCH_SIZE, FEATURES)]
    torch.save(broken, tmp_path / "state" / checkpoint.NEWEST)
    train(tmp_path / "state")
    for name in ("seed", "state"):
        with pytest.raises(AssertionError, match="0.weight"):
            assert_same(saved(tmp_path / name)["network"], saved(whole.directory.path)["network"])


def test_second_signal_ends_the_process_at_once():
    program = (
        "import os, signal\n"
        "from training.signals import StopSignals\n"
        "with StopSignals().noted():\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print('noted', flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print('not reached', flush=True)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(loop.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, "noted\n")


def test_signal_that_somebody_handles_is_left_to_them(tmp_path):
    """submitit passes over SIGTERM, which Slurm sends along with the SIGUSR2 on which the job goes into the queue."""
    heard = []

    def listen(number, frame):
        heard.append(number)

    before = {number: signal.signal(number, listen) for number in (signal.SIGTERM, signal.SIGUSR2)}

    def both():
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGUSR2)
        return 0

    try:
        with pytest.raises(Interrupted, match="SIGUSR2") as stopped:
            train(tmp_path / "run", splits=Splits(at_step={2: both}))
        stopped.value.handler(stopped.value.signal_number, None)
    finally:
        for number, handler in before.items():
            assert signal.signal(number, handler) is listen, "the handlers are put back"
    assert heard == [signal.SIGTERM, signal.SIGUSR2] and saved(tmp_path / "run")["step"] == 3


def assert_stopped_with_whole_numbers(run, step):
    """Checks that nothing of a run that diverged at a step is saved or logged, and that a lower rate goes on."""
    assert saved(run)["step"] < step
    for name in (checkpoint.NEWEST, checkpoint.BEST):
        if (run / name).exists():
            assert all(torch.isfinite(tensor).all() for tensor in saved(run, name)["network"].values())
    assert all(math.isfinite(value) for row in read_rows(run) for value in row.values())
    assert not any(row["step"] >= step for row in read_rows(run))
    trainer = train(run, learning_rate=constant(12, 0.001))
    assert trainer.state.step == 12 and math.isfinite(trainer.result["error"])


@pytest.mark.parametrize("what", ["loss", "gradient"])
@pytest.mark.parametrize("intervals", [{"log_every": 1}, {"log_every": 100, "checkpoint_every": 2, "steps": 7}])
def test_loss_or_gradient_that_is_not_finite(tmp_path, what, intervals):
    task = InfiniteGradient()
    splits = Splits(at_step={6: {"loss": lambda: math.nan, "gradient": task.begin}[what]})
    with pytest.raises(loop.NonFinite, match="not finite.*step 7.*-r and a lower learning rate"):
        train(tmp_path / "run", task=task, splits=splits, budget=intervals)
    assert_stopped_with_whole_numbers(tmp_path / "run", step=7)


@pytest.mark.parametrize("step", [5, 8, 12], ids=["at a checkpoint", "at a validation", "at the last step"])
def test_weights_that_are_not_finite(tmp_path, step):
    trainer = make_trainer(tmp_path / "run")

    def break_weights(*_):
        if trainer.state.step + 1 == step:
            trainer.parameters[0].data[0, 0] = math.nan

    trainer.optimizer.register_step_post_hook(break_weights)
    trainer.begin()
    with pytest.raises(loop.NonFinite, match=f"weight was not finite up to step {step}"):
        trainer.run()
    trainer.directory.close()
    assert_stopped_with_whole_numbers(tmp_path / "run", step)


def test_validation_that_is_not_a_number(tmp_path):
    with pytest.raises(loop.NonFinite, match="validation/error was not finite at step 8"):
        train(tmp_path / "run", task=Task(errors=[50.0, math.nan]))
    assert saved(tmp_path / "run", checkpoint.BEST)["step"] == 4
    assert_stopped_with_whole_numbers(tmp_path / "run", step=8)


def test_best_on_validation_is_kept_and_tested_once(tmp_path):
    task = Task(errors=[50.0, 20.0, 30.0, 20.0, 7.0])  # four validations, then the test
    weights, seen = {}, []
    trainer = make_trainer(tmp_path / "run", task, budget={"steps": 8, "validate_every": 2})
    trainer.optimizer.register_step_post_hook(
        lambda *_: weights.update({trainer.state.step + 1: task.network[0].weight.detach().clone()})
    )
    task.network.register_forward_hook(lambda network, *_: seen.append((network.training, network[0].weight.clone())))
    trainer.begin()
    assert trainer.run()["error"] == 7.0
    assert trainer.splits.evaluations == 5
    best = saved(tmp_path / "run", checkpoint.BEST)
    assert (best["step"], best["error"]) == (4, 20.0)  # the earlier of two that are equally good
    assert trainer.state.best == {"step": 4, "error": 20.0}
    for training, weight in seen[-2:]:
        assert not training and torch.equal(weight, weights[4]) and not torch.equal(weight, weights[8])


def test_best_of_a_future_that_is_discarded_is_forgotten(tmp_path, monkeypatch):
    """Killed between a new best and its checkpoint, and resumed with a rate at which that best is not reached again."""
    run, budget = tmp_path / "run", {"steps": 10, "validate_every": 2, "checkpoint_every": 100}
    with monkeypatch.context() as patch:
        save = checkpoint.save_checkpoint
        patch.setattr(
            checkpoint, "save_checkpoint", lambda to, state: kill() if state["step"] == 6 else save(to, state)
        )
        with pytest.raises(Killed):
            train(run, task=Task(errors=[50.0, 40.0, 20.0]), budget=budget)
    assert saved(run, checkpoint.BEST)["step"] == 6

    state = train(run, task=Task(errors=[60.0] * 3), budget=budget, learning_rate=constant(10, 0.1)).state
    best = saved(run, checkpoint.BEST)
    assert state.best == {"step": 4, "error": 40.0} == {key: best[key] for key in ("step", "error")}


def test_best_that_is_lost_is_found_anew(tmp_path, capsys):
    run = tmp_path / "run"
    train(run)
    for name in (checkpoint.BEST, checkpoint.PREVIOUS_BEST):
        (run / name).unlink(missing_ok=True)
    with pytest.raises(UserError, match="resume with -r and more steps"):
        train(run)
    trainer = train(run, budget={"steps": 13})
    assert capsys.readouterr().err.count("The best network") == 2
    assert trainer.state.best["step"] == saved(run, checkpoint.BEST)["step"] == 13


def test_gradient_clipping_bounds_the_update(tmp_path):
    updates, logged = {}, {}
    for clip in (None, 0.01):
        settings = {"gradient_clip": clip, "learning_rate": constant(4, 1.0), "budget": {"steps": 4, "log_every": 1}}
        trainer = make_trainer(tmp_path / f"{clip}", optimizer=PLAIN_SGD, **settings)
        weights = []
        for register in (trainer.optimizer.register_step_pre_hook, trainer.optimizer.register_step_post_hook):
            register(
                lambda *_, of=trainer, to=weights: to.append(nn.utils.parameters_to_vector(of.parameters).detach())
            )
        trainer.begin()
        trainer.run()
        updates[clip] = [(weights[i + 1] - weights[i]).norm().item() for i in range(0, 8, 2)]
        logged[clip] = [row["train/gradient_norm"] for row in read_rows(tmp_path / f"{clip}")]
    assert updates[0.01] == pytest.approx([0.01] * 4, rel=1e-3)
    assert min(updates[None]) > 0.02
    assert logged[None] == pytest.approx(updates[None], rel=1e-4)
    assert logged[0.01][0] == pytest.approx(logged[None][0])  # what is logged is the norm before clipping


def test_a_steep_gradient_is_clipped_too(tmp_path):
    settings = {"gradient_clip": 0.01, "learning_rate": constant(2, 1.0), "budget": {"steps": 2, "log_every": 1}}
    trainer = make_trainer(tmp_path, Steep(), optimizer=PLAIN_SGD, **settings)
    trainer.begin()
    before = nn.utils.parameters_to_vector(trainer.parameters).detach().clone()
    trainer.run()
    change = nn.utils.parameters_to_vector(trainer.parameters).detach() - before
    assert 0.005 < change.norm() <= 0.02
    assert all(1e20 < row["train/gradient_norm"] < math.inf for row in read_rows(tmp_path))


def test_learning_rate_follows_the_schedule(tmp_path):
    used = []
    trainer = make_trainer(tmp_path / "run", budget={"log_every": 1})
    trainer.optimizer.register_step_pre_hook(lambda optimizer, *_: used.append(optimizer.param_groups[0]["lr"]))
    trainer.begin()
    trainer.run()
    assert used == [trainer.learning_rate(step) for step in range(12)]
    assert [row["train/learning_rate"] for row in read_rows(tmp_path / "run")] == used


def test_rows_go_forward(whole):
    logged = read_rows(whole.directory.path)
    assert [row["step"] for row in logged] == [3, 4, 6, 8, 9, 12]
    assert ["validation/error" in row for row in logged] == [False, True, False, True, False, True]
    assert ["train/loss" in row for row in logged] == [True, False, True, False, True, True]
    for row in logged:
        assert row["epoch"] == row["step"] / STEPS_PER_EPOCH
        assert row["examples"] == row["step"] * BATCH_SIZE


def test_logged_loss_is_the_mean_since_the_last_row(tmp_path, whole):
    train(tmp_path / "each", budget={"log_every": 1})
    each = [row["train/loss"] for row in read_rows(tmp_path / "each")]
    third = [row["train/loss"] for row in read_rows(whole.directory.path) if "train/loss" in row]
    assert third == pytest.approx([sum(each[start : start + 3]) / 3 for start in range(0, 12, 3)])


@pytest.fixture
def run(whole, tmp_path):
    """A copy of the run of 12 steps."""
    return shutil.copytree(whole.directory.path, tmp_path / "run")


def of_a_wider_network(run):
    saved = torch.load(run / checkpoint.NEWEST, weights_only=True)
    saved["network"]["0.weight"] = torch.zeros(9, 2 * FEATURES)
    torch.save(saved, run / checkpoint.NEWEST)


@pytest.mark.parametrize(
    ("change", "steps", "words"),
    [
        (lambda run: None, 11, "has done 12 steps and steps is 11; resume with steps=12"),
        (of_a_wider_network, 13, "does not fit the network"),
    ],
)
def test_checkpoint_that_cannot_go_on_is_refused_and_nothing_changes(run, change, steps, words):
    change(run)
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    with pytest.raises(UserError, match=words):
        train(run, budget={"steps": steps})
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


@pytest.mark.parametrize(("compiled", "precision"), [(True, torch.bfloat16), (False, torch.float32)])
def test_compiled_and_in_the_precision_that_is_asked_for(tmp_path, compiled, precision):
    task = Observed()
    train(tmp_path / "run", task=task, compile_task=compiled, precision=precision)
    assert task.compiled == compiled and task.in_bfloat16 == {precision == torch.bfloat16}


def test_another_precision_is_said(run, capsys):
    train(run, precision=torch.bfloat16)
    assert "was in torch.float32 until now and is in torch.bfloat16" in capsys.readouterr().err


def test_another_number_of_threads_is_said(run, capsys):
    torch.set_num_threads(2)
    try:
        train(run)
    finally:
        torch.set_num_threads(1)
    assert "had 1 threads until now and has 2" in capsys.readouterr().err
    train(run, budget={"steps": 13})
    assert "had 1 threads until now" not in capsys.readouterr().err


def overwrite(path):
    path.write_bytes(path.read_bytes().replace(b"2", b"3"))


@pytest.mark.parametrize("damage", [Path.unlink, overwrite])
def test_metrics_that_are_not_those_of_the_checkpoint_are_refused(run, damage):
    damage(run / "metrics.jsonl")
    with pytest.raises(UserError, match=r"metrics\.jsonl is not what it was"):
        train(run)
