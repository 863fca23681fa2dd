"""From runs to the dashboard: what W&B's server, here a stub, has after `wandb sync` as docs/wandb.md describes it."""

import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SYNC, SYNC_RECORDS = "wandb sync runs/*/wandb", "wandb sync runs/recorded/*/wandb"
LOGGER = {"kind": "wandb", "project": "hypernetworks", "entity": None, "group": "table2", "tags": ["a"]}
SETTINGS = {"main_net": {"name": "wrn_40_1"}, "seed": 3}
TRAIN = """
import json, os, signal, socket, sys
from pathlib import Path
from PIL import Image
from training.logger import open_logger

run, settings, checkpoint, last, is_killed = Path(sys.argv[1]), *map(json.loads, sys.argv[2:])
socket.getaddrinfo = lambda *arguments, **_: print("looked up", arguments)
run.mkdir(parents=True, exist_ok=True)
metrics = run / "metrics.jsonl"
rows = [json.loads(line) for line in metrics.read_text().splitlines()] if checkpoint else []
rows = [row for row in rows if row["step"] < checkpoint]
metrics.write_text("".join(json.dumps(row) + "\\n" for row in rows))
logger = open_logger(settings, run, rows)
for step in range(checkpoint, last, 2):
    row = {"step": step, "epoch": step / 9, "examples": 8 * step, "train/loss": 1 / (step + 1), "resumed": checkpoint}
    with metrics.open("a") as file:
        print(json.dumps(row), file=file)
    pictures = {}
    if step % 100 == 50:
        pictures = {"kernels/first": run / f"{step}.png", "text/page": run / "newest.html"}
        Image.new("RGB", (2, 3)).save(pictures["kernels/first"])
        pictures["text/page"].write_text("<p>text</p>")
    logger.log(row, pictures)
if is_killed:
    os.kill(os.getpid(), signal.SIGKILL)
logger.summary({"test_error": checkpoint})
logger.finish()
"""
SWEEP = """
import json, sys
from pathlib import Path
from training.logger import open_logger

for step, name in enumerate(("failed", "two", "three")):
    Path("runs", name).mkdir(parents=True)
    logger = open_logger(json.loads(sys.argv[1]), Path("runs", name), [])
    logger.log({"step": step})
    if name != "failed":
        logger.finish()
"""


class Handler(BaseHTTPRequestHandler):
    """A stub of W&B's server, as far as these tests need it; `server.runs` holds the rows of each run by its id."""

    protocol_version = "HTTP/1.1"

    def respond(self) -> None:
        body, status, answer = self.rfile.read(int(self.headers.get("Content-Length", 0))), self.server.status, {}
        try:
            with self.server.lock:
                answer = self.answer(gzip.decompress(body) if self.headers["Content-Encoding"] == "gzip" else body)
        except Exception as error:
            self.server.problems.append(f"{self.path}: {error!r}")
            status = 400  # at which wandb gives up
        data = json.dumps(answer).encode()
        self.send_response_only(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = respond

    def answer(self, body: bytes) -> dict:
        self.server.requests.append(self.path)
        if self.path == "/graphql":
            request = json.loads(body)
            operation = re.search(r"(?:query|mutation)\s+(\w+)", request["query"])[1]
            return {"data": self.graphql(operation, request["variables"])}
        _, place, *_, run_id, name = self.path.split("/", 5 if self.path.startswith("/files/") else 3)
        run = self.server.runs[run_id]
        if place == "upload":
            run["files"].add(name)
            return {}
        update = json.loads(body)
        files = update.get("files", {})
        if history := files.get("wandb-history.jsonl"):
            assert history["offset"] == len(run["rows"]), "rows are replaced or left out"
            run["rows"] += map(json.loads, history["content"])
        if summary := files.get("wandb-summary.json"):
            run["summary"] = json.loads(summary["content"][-1])
        if update.get("complete"):
            run["exit_codes"].append(update["exitcode"])
        return {}

    def graphql(self, operation: str, variables: dict) -> dict:
        runs, run_id = self.server.runs, variables.get("name")
        if operation == "RunResumeStatus" and run_id in runs:
            rows, fields = runs[run_id]["rows"], runs[run_id]["fields"]
            bucket = {key: fields.get(key) for key in ("name", "displayName", "config", "tags")}
            bucket |= {"id": "id", "wandbConfig": json.dumps({"t": 1}), "summaryMetrics": "{}"}
            bucket |= {"historyLineCount": len(rows), "historyTail": json.dumps([json.dumps(row) for row in rows[-1:]])}
            return {"model": {"bucket": bucket | {"eventsLineCount": 0, "logLineCount": 0, "eventsTail": "[]"}}}
        if operation == "UpsertBucket":
            new = {"fields": {}, "rows": [], "summary": {}, "exit_codes": [], "files": set()}
            is_new, run = run_id not in runs, runs.setdefault(run_id, new)
            run["fields"] |= {key: value for key, value in variables.items() if value is not None}
            project = {"id": "id", "name": "hypernetworks", "entity": {"id": "id", "name": "someone"}}
            bucket = {"id": "id", "name": run_id, "project": project, "historyLineCount": len(run["rows"])}
            return {"upsertBucket": {"bucket": bucket, "inserted": is_new}}
        if operation == "CreateRunFiles":
            place = f"http://{self.headers['Host']}/upload/{variables['run']}"
            files = [{"name": name, "uploadUrl": f"{place}/{name}"} for name in variables["files"]]
            return {"createRunFiles": {"runID": "id", "uploadHeaders": [], "files": files}}
        return {}  # of a run that it does not have, or what older servers do not know either


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads, server.handle_error = True, lambda *_: None  # wandb drops connections when it ends
        server.runs, server.requests, server.problems, server.status, server.lock = {}, [], [], 200, threading.Lock()
        address = f"http://127.0.0.1:{server.server_port}"
        server.access = {"WANDB_BASE_URL": address, "WANDB_API_KEY": 40 * "0", "WANDB_ERROR_REPORTING": "false"}
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def run_program(command: list[str] | str, directory: Path, **variables: str) -> subprocess.CompletedProcess:
    """Run a command, or a line of the shell, with nothing of the user's settings and without a network."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    variables |= {"PATH": path, "PYTHONPATH": str(ROOT), "HOME": str(directory), "OMP_NUM_THREADS": "1"}
    variables |= {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "no_proxy": "127.0.0.1"}
    options = {"cwd": directory, "env": variables, "stdin": subprocess.DEVNULL, "timeout": 240}
    return subprocess.run(command, shell=isinstance(command, str), capture_output=True, text=True, **options)


def train(run: Path, checkpoint: int, last: int, is_killed: bool = False, mode: str = "offline", **variables: str):
    """Log every other step from `checkpoint` to `last`, in a process that goes on there, in a shell of other runs."""
    other = {"WANDB_MODE": "disabled", "WANDB_RUN_ID": "other", "WANDB_PROJECT": "other", "WANDB_RESUME": "never"}
    settings = SETTINGS | {"logger": LOGGER | {"mode": mode}, "last": last}
    arguments = [str(run), *map(json.dumps, (settings, checkpoint, last, is_killed))]
    done = run_program([sys.executable, "-c", TRAIN, *arguments], run.parents[1], **other, **variables)
    if mode == "offline" and not variables:
        assert done.returncode == (-signal.SIGKILL if is_killed else 0), done.stderr
        assert not done.stdout + done.stderr, "W&B is quiet and looks up no server"
    return done


def sync(server: ThreadingHTTPServer, directory: Path, command: str = SYNC) -> list[str]:
    """Run a command of docs/wandb.md beside the folder `runs`; return what the server was asked."""
    server.requests.clear()
    done = run_program(command, directory, **server.access)
    assert done.returncode == 0 and "ERROR" not in done.stderr and not server.problems, (done.stderr, server.problems)
    return server.requests


def assert_rows(received: dict, logged: list[dict]) -> None:
    """Check that the server has one row per step, those that were logged."""
    assert [{key: row.get(key) for key in each} for row, each in zip(received["rows"], logged, strict=True)] == logged
    assert [row["_step"] for row in received["rows"]] == [row["step"] for row in logged], "the other possible x axis"


def rows_of(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_one_point_per_step_after_kills_and_syncs(server, tmp_path):
    run = tmp_path / "runs" / "one"
    train(run, 0, 600, is_killed=True)
    train(run, 200, 900)
    train(run, 800, 1000)
    sync(server, tmp_path)
    (received,) = server.runs.values()
    assert_rows(received, rows_of(run))
    names = ("project", "displayName", "groupName", "jobType", "tags")
    assert [received["fields"][name] for name in names] == ["hypernetworks", "one", "table2", "train", ["a"]]
    config = {key: setting["value"] for key, setting in json.loads(received["fields"]["config"]).items()}
    assert SETTINGS.items() <= config.items()
    (axis,) = (metric for metric in config["_wandb"]["m"] if metric.get("2") == "*")
    assert config["_wandb"]["m"][axis["5"] - 1]["1"] == "step", "the x axis of all panels"
    assert (received["summary"]["test_error"], received["exit_codes"]) == (800, [0])
    pictures = {row["kernels/first"]["path"]: row["step"] for row in received["rows"] if "kernels/first" in row}
    assert sorted(pictures.values()) == list(range(50, 1000, 100)) and pictures.keys() <= received["files"]
    assert [row["step"] for row in received["rows"] if "text/page" in row] == [850, 950], "the newest file of its name"

    train(run, 1000, 1100, is_killed=True)
    assert not sync(server, tmp_path), "a killed run waits for its resume"
    train(run, 1050, 1200)
    sync(server, tmp_path)
    assert_rows(received, rows_of(run))
    shutil.rmtree(run / "wandb")  # as `wandb clean` does with what was synced
    train(run, 1200, 1210)
    sync(server, tmp_path)
    assert_rows(received, rows_of(run))
    assert len(server.runs) == 1 and received["summary"]["test_error"] == 1200
    assert json.loads(received["fields"]["config"])["last"]["value"] == 1210


def test_a_run_of_train_py_arrives(server, tmp_path, launcher):
    sizes = ["main_net.depth=10", f"dataset.path={launcher.images}", "dataset.batch_size=16", "device=cpu"]
    length = ["steps=4", "log_every=1", "validate_every=2", "runs=runs", "run=one"]
    done = run_program([sys.executable, str(ROOT / "train.py"), *sizes, *length], tmp_path)
    assert done.returncode == 0, done.stderr
    sync(server, tmp_path)
    (received,) = server.runs.values()
    run = tmp_path / "runs" / "one"
    assert_rows(received, rows_of(run))
    result = json.loads((run / "result.json").read_text())
    assert received["summary"]["test_error"] == result["test_error"] and received["exit_codes"] == [0]
    assert any(key.startswith("kernels/") for row in received["rows"] for key in row)

    (run / "wandb.json").unlink()  # to start over
    shutil.rmtree(run / "wandb")
    done = run_program([sys.executable, str(ROOT / "train.py"), *sizes, *length], tmp_path)
    assert done.returncode == 0 and "is finished" in done.stdout, done.stderr
    sync(server, tmp_path)
    _, again = server.runs.values()
    assert_rows(again, rows_of(run))
    assert again["summary"]["test_error"] == result["test_error"]

    for change in (["steps=6", "logger=none"], ["logger=wandb_offline"]):  # the second logs what the first did not
        done = run_program([sys.executable, str(ROOT / "train.py"), "-r", "runs/one", *change], tmp_path)
        assert done.returncode == 0, done.stderr
    sync(server, tmp_path)
    assert_rows(again, rows_of(run))
    assert again["rows"][-1]["step"] == 6
    assert again["summary"]["test_error"] == json.loads((run / "result.json").read_text())["test_error"]


def test_a_run_that_wandb_refuses_leaves_nothing_behind(tmp_path, launcher):
    sizes = ["main_net.depth=10", f"dataset.path={launcher.images}", "dataset.batch_size=16", "device=cpu"]
    command = [sys.executable, str(ROOT / "train.py"), *sizes, "steps=4", "runs=runs", "run=one", "logger=wandb_online"]
    refused = run_program(command, tmp_path)
    assert refused.returncode == 1 and "W&B has no credentials" in refused.stderr
    assert not (tmp_path / "runs").exists()


def test_online_the_server_knows_the_last_step(server, tmp_path):
    run = tmp_path / "runs" / "one"
    assert "UserError: W&B has no credentials" in train(run, 0, 1, mode="online").stderr
    server.status = 401
    refused = train(run, 0, 1, mode="online", **server.access).stderr
    assert "UserError: W&B did not start" in refused and "401" in refused
    server.status = 200
    train(run, 0, 9, is_killed=True, mode="online", **server.access)
    train(run, 8, 15, mode="online", **server.access)
    (received,) = server.runs.values()
    assert not server.problems and received["rows"][-1]["resumed"] == 8
    assert [row["step"] for row in received["rows"]] == list(range(0, 15, 2))
    refused = train(run, 15, 16, **server.access).stderr
    assert "UserError" in refused and "was logged online" in refused


def test_a_sweep_in_one_process(server, tmp_path):
    settings = SETTINGS | {"logger": LOGGER | {"mode": "offline"}}
    done = run_program([sys.executable, "-c", SWEEP, json.dumps(settings)], tmp_path)
    assert not done.returncode and not done.stdout + done.stderr
    sync(server, tmp_path)
    steps = {run["fields"]["displayName"]: [row["step"] for row in run["rows"]] for run in server.runs.values()}
    assert steps == {"two": [1], "three": [2]}


def test_our_records_in_the_dashboard(server, tmp_path):
    path = sorted((ROOT / "results" / "runs").glob("*.json"))[0]
    record = json.loads(path.read_text())
    command = [sys.executable, "-m", "scripts.records_to_wandb", str(path), "--to", "runs/recorded"]
    for _ in range(2):  # the second time, nothing changes
        done = run_program(command, tmp_path)
        assert done.stdout == f"runs/recorded/{record['name']}\n", done.stderr
        assert len(list(tmp_path.glob("runs/recorded/*/wandb/offline-run-*"))) == 1
    sync(server, tmp_path, SYNC_RECORDS)
    (received,) = server.runs.values()
    names = {"displayName": record["name"], "groupName": record["table"], "jobType": "record"}
    assert names.items() <= received["fields"].items()
    assert json.loads(received["fields"]["config"])["main_net"]["value"] == record["settings"]["main_net"]
    assert_rows(received, record["curve"])
    figures = {key: value for key, value in record.items() if key.startswith(("validation_", "test_", "parameters"))}
    assert figures.items() <= received["summary"].items()


def test_the_page_for_users_has_these_commands():
    page = (ROOT / "docs" / "wandb.md").read_text()
    assert all(f"\n    {command} " in page for command in (SYNC, SYNC_RECORDS))
