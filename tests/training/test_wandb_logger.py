"""The W&B mirror, on real offline runs, read back by wandb's own `leet inspect`."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from training.wandb_logger import RUN_ID_FILE, WandbLogger, _repair_fragments

pytestmark = pytest.mark.usefixtures("restored_environment")
ROOT = Path(__file__).parents[2]
RUN = {
    "project": "hypernetworks",
    "entity": None,
    "name": "cifar10-wrn_40_1-static-s0",
    "group": "table2",
    "job_type": "train",
    "tags": ["cifar10", "static"],
    "config": {"main_net": {"name": "wide_resnet", "width": 1}, "seed": 0},
}


def row(step: int) -> dict[str, float]:
    metrics = {"train/loss": 1 / (step + 1)}
    if step % 10 == 9:
        metrics["validation/error"] = 0.5 / (step + 1)
    return {"step": step, "epoch": step / 100, "examples": 128 * step} | metrics


def row_of_last_session(step: int) -> dict[str, float]:
    """What is to be there after `test_killed_and_resumed_twice`: the row that was logged last."""
    return row(step) | {"train/learning_rate": max(checkpoint for checkpoint in (0, 300, 1500) if checkpoint <= step)}


def inspect(path: Path, *options: str) -> list[dict]:
    """What `wandb leet inspect --json` prints about a fragment, which must be whole."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", *options, str(path)]
    environment = os.environ | {"WANDB_MODE": "offline"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert not done.stderr
    return [json.loads(done.stdout)] if options else [json.loads(line) for line in done.stdout.splitlines()]


def history(records: list[dict]) -> list[dict]:
    return [record["history"]["item"] for record in records if record["type"] == "history"]


def fragments(directory: Path) -> list[Path]:
    return sorted((directory / "wandb").glob("offline-run-*"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    directory = tmp_path_factory.mktemp("run")
    logger = WandbLogger(directory, mode="offline", **RUN)
    kernels = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    for step in range(20):
        logger.log(row(step), {"kernels/generated": kernels} if step == 9 else {})
    logger.summary({"best_validation_error": 0.05, "test_error": 0.06, "parameters": 96602})
    logger.finish()
    return directory, kernels


def test_reads_back_as_logged(finished):
    directory, kernels = finished
    (fragment,) = fragments(directory)
    records = inspect(fragment)

    run = next(record["run"] for record in records if record["type"] == "run")
    assert run["run_id"] == (directory / RUN_ID_FILE).read_text()
    assert run["resume"], "wandb sync would replace the run by its last fragment"
    assert (run["project"], run["display_name"]) == (RUN["project"], RUN["name"])
    assert (run["run_group"], run["job_type"], run["tags"]) == ("table2", "train", RUN["tags"])
    assert {key: run["config"]["update"][key] for key in RUN["config"]} == RUN["config"]

    axes = {record["metric"].get("name"): record["metric"] for record in records if record["type"] == "metric"}
    assert {"step", "epoch", "examples"} <= axes.keys()
    assert axes[None]["glob_name"] == "*" and axes[None]["step_metric"] == "step"

    rows = history(records)
    assert [{key: each[key] for key in row(step)} for step, each in enumerate(rows)] == [
        row(step) for step in range(20)
    ]
    image = rows[9]["kernels/generated.path"]
    assert np.array_equal(np.round(imread(fragment / "files" / image) * 255), kernels)


def test_leet_summary(finished):
    (summary,) = inspect(fragments(finished[0])[0], "--summary")
    assert summary["run_id"] == (finished[0] / RUN_ID_FILE).read_text()
    assert (summary["state"], summary["exit_code"], summary["step"]) == ("finished", 0, 19)
    assert (summary["project"], summary["name"], summary["tags"]) == (
        RUN["project"],
        RUN["name"],
        RUN["tags"],
    )
    assert summary["config"]["main_net"] == RUN["config"]["main_net"]
    values = summary["summary"]
    assert (values["best_validation_error"], values["test_error"], values["parameters"]) == (
        0.05,
        0.06,
        96602,
    )
    assert values["train/loss"] == row(19)["train/loss"]


CHILD = """
import os, signal, socket, sys, time
from pathlib import Path

socket.getaddrinfo = lambda *arguments, **_: print("looked up", arguments)
from training.wandb_logger import WandbLogger

sys.path.insert(0, sys.argv[1])
from test_wandb_logger import RUN, row, row_of_last_session

checkpoint, last = int(sys.argv[3]), int(sys.argv[4])
logger = WandbLogger(Path(sys.argv[2]), mode="offline", last_kept_step=checkpoint - 1, **RUN)
for step in range(checkpoint):
    logger.log(row_of_last_session(step))  # metrics.jsonl, cut at the checkpoint
for step in range(checkpoint, last):
    logger.log(row(step) | {"train/learning_rate": checkpoint})  # each session has its rate
if sys.argv[5] == "killed":
    time.sleep(0.5)  # wandb's process writes what it has as full blocks
    os.kill(os.getpid(), signal.SIGKILL)
logger.summary({"test_error": 0.06})
logger.finish()
"""


def child(directory: Path, checkpoint: int, last: int, end: str) -> None:
    command = [
        sys.executable,
        "-c",
        CHILD,
        str(Path(__file__).parent),
        str(directory),
        str(checkpoint),
        str(last),
    ]
    shell = {
        "WANDB_MODE": "disabled",
        "WANDB_RUN_ID": "other",
        "WANDB_PROJECT": "other",
        "WANDB_RESUME": "never",
        "WANDB_DIR": str(directory / "elsewhere"),
    }
    done = subprocess.run([*command, end], capture_output=True, text=True, cwd=ROOT, env=os.environ | shell)
    assert done.returncode == (-signal.SIGKILL if end == "killed" else 0), done.stderr
    assert not done.stdout + done.stderr, "W&B is quiet and looks up no server"


def lose_tail(directory: Path) -> None:
    """Cuts the newest fragment as if wandb's process, which may write its last rows yet, had died as well."""
    (path,) = fragments(directory)[-1].glob("*.wandb")
    os.truncate(path, path.stat().st_size * 3 // 4)


def test_killed_and_resumed_twice(tmp_path):
    child(tmp_path, checkpoint=0, last=900, end="killed")
    lose_tail(tmp_path)
    child(tmp_path, checkpoint=300, last=1500, end="killed")  # W&B has rows past the checkpoint
    lose_tail(tmp_path)
    child(tmp_path, checkpoint=1500, last=1600, end="finished")  # rows before the checkpoint were lost

    parts = [inspect(fragment) for fragment in fragments(tmp_path)]
    assert len(parts) == 3
    runs = [record["run"] for part in parts for record in part if record["type"] == "run"]
    assert {run["run_id"] for run in runs} == {(tmp_path / RUN_ID_FILE).read_text()}

    steps = [[each["step"] for each in history(part)] for part in parts]
    assert steps[0] == list(range(300)), "rows past the checkpoint are cut off"
    assert steps[1][-1] < 1499, "some rows before the checkpoint were lost"
    assert sum(steps, []) == list(range(1600))
    rows = [each for part in parts for each in history(part)]
    expected = [row_of_last_session(step) for step in range(1600)]
    assert [{key: each[key] for key in expected[step]} for step, each in enumerate(rows)] == expected
    assert [each["_step"] for each in rows] == list(range(1600)), "wandb sync appends by wandb's own step"

    (summary,) = inspect(fragments(tmp_path)[-1], "--summary")
    assert (summary["state"], summary["step"], summary["summary"]["test_error"]) == ("finished", 1599, 0.06)


def test_half_a_record_and_empty_fragments(finished, tmp_path):
    shutil.copytree(finished[0] / "wandb", tmp_path / "wandb", symlinks=True)
    (path,) = (fragments(tmp_path)[0]).glob("*.wandb")
    whole = path.read_bytes()
    last_steps = []
    for length in range(len(whole), 0, -97):
        path.write_bytes(whole[:length])
        if (last := _repair_fragments(tmp_path / "wandb", last_kept_step=19)) < 0:
            break
        last_steps.append(last)
        assert len(path.read_bytes()) <= length
    assert last_steps[0] == 19 and last_steps[-1] == 0 and last_steps == sorted(last_steps, reverse=True)

    path.write_bytes(whole[: len(whole) * 2 // 3])
    empty = tmp_path / "wandb" / "offline-run-20990101_000000-empty"
    empty.mkdir()
    (empty / "run-empty.wandb").write_bytes(whole[:7])
    last = _repair_fragments(tmp_path / "wandb", last_kept_step=19)
    assert fragments(tmp_path) == [path.parent], "a fragment without a run stops wandb sync"
    assert [each["step"] for each in history(inspect(path))] == list(range(last + 1))


@pytest.mark.parametrize("sent", [None, "synced", "online"])
def test_rows_past_the_checkpoint_are_cut_off_unless_they_were_sent(finished, tmp_path, sent):
    shutil.copytree(finished[0] / "wandb", tmp_path / "wandb", ignore=shutil.ignore_patterns("latest-run"))
    (path,) = (fragments(tmp_path)[0]).glob("*.wandb")
    if sent == "synced":
        path.with_name(path.name + ".synced").touch()
    elif sent == "online":
        path = path.parent.rename(path.parent.with_name("run-20990101_000000-online")) / path.name
    kept = list(range(20 if sent else 8))
    assert _repair_fragments(tmp_path / "wandb", last_kept_step=7) == kept[-1]
    assert [each["step"] for each in history(inspect(path))] == kept


def test_page(tmp_path):
    logger = WandbLogger(tmp_path, mode="offline", **RUN)
    logger.log(row(0), {"text/row_scales": "<p>a é \N{RETURN SYMBOL}</p>"})
    logger.finish()
    (fragment,) = fragments(tmp_path)
    (logged,) = history(inspect(fragment))
    assert logged["text/row_scales._type"] == "html-file"
    page = fragment / "files" / logged["text/row_scales.path"]
    assert page.read_text(encoding="utf-8") == "<p>a é \N{RETURN SYMBOL}</p>", "without a style sheet from W&B"


def test_refusals(finished, tmp_path):
    with pytest.raises(ValueError, match="offline or online"):
        WandbLogger(tmp_path, mode="cloud", **RUN)
    logger = WandbLogger(tmp_path, mode="offline", **RUN)
    logger.log(row(3))
    with pytest.raises(ValueError, match="Step 3 cannot follow step 3"):
        logger.log(row(3))
    with pytest.raises(ValueError, match="uint8"):
        logger.log(row(4), {"kernels/z": np.zeros((4, 5), np.uint8)})
    logger.finish(exit_code=1)
    assert inspect(Path(logger.address), "--summary")[0]["state"] == "failed"


def start_online(directory: Path, **variables: str) -> subprocess.CompletedProcess:
    """Starts a logger online, in a process without credentials of the user's; prints why it did not start."""
    code = (
        "import sys; from pathlib import Path; from training.wandb_logger import WandbLogger\n"
        "try: WandbLogger(Path(sys.argv[1]), mode='online', project='p', entity=None, name='n', group=None,"
        " job_type='t', tags=[], config={})\n"
        "except ValueError as error: print(error)"
    )
    shell = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    shell |= {
        "NETRC": str(directory / "none"),
        "WANDB_CONFIG_DIR": str(directory),
        "WANDB_ERROR_REPORTING": "false",
    }
    command = [sys.executable, "-c", code, str(directory)]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=shell | variables, stdin=subprocess.DEVNULL
    )


def test_online_without_credentials_is_refused_at_once(tmp_path):
    started = time.perf_counter()
    done = start_online(tmp_path)
    assert done.stdout.startswith("W&B has no credentials") and done.stdout.count("\n") == 1, done.stderr
    assert time.perf_counter() - started < 20


def test_online_with_a_key_that_the_server_refuses(tmp_path):
    class Refuses(BaseHTTPRequestHandler):
        def respond(self):
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(401)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_POST = respond

    with ThreadingHTTPServer(("127.0.0.1", 0), Refuses) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        done = start_online(tmp_path, WANDB_BASE_URL=f"http://127.0.0.1:{server.server_port}", WANDB_API_KEY=40 * "0")
        server.shutdown()
    assert done.stdout.startswith("W&B did not start") and done.stdout.count("\n") == 1, done.stderr
    assert "401" in done.stdout and "`wandb login`" in done.stdout
