"""From offline runs of train.py to the dashboard: what W&B's server, here a stub, gets of README's `wandb sync`."""

import copy
import gzip
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import reduce
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from training.run_directory import RunDirectory, read_rows
from training.tasks import CharacterModelling
from training.wandb_logger import RUN_ID_FILE, _records

pytestmark = pytest.mark.usefixtures("restored_environment")
ROOT = Path(__file__).parents[2]
ENTITY = "someone"
# What README tells people to type and to choose in the dashboard.
SYNC = "wandb sync runs/*/wandb"
SYNC_RECORDS = "wandb sync runs/recorded/*/wandb"
GROUP_BY = ("main_net.label", "hypernet.name")
GROUP_BY_TOO = "hypernet.embedding_size"  # which two rows of Table 3 differ in
PANELS = ("validation/error", "validation/loss", "train/loss", "train/gradient_norm", "train/learning_rate")
COLUMNS = ("test_error", "validation_error", "parameters")


@dataclass
class Received:
    """What the server has of one run."""

    fields: dict = field(default_factory=dict)  # name, group, tags, config and the like, the newest of each
    rows: dict[int, dict] = field(default_factory=dict)  # the history, by line
    summary: dict = field(default_factory=dict)
    exit_codes: list[int] = field(default_factory=list)
    files: set[str] = field(default_factory=set)

    def config(self, key: str):
        """A value of the configuration; a dot leads into a nested one, as in the dashboard."""
        first, *rest = key.split(".")
        return reduce(dict.__getitem__, rest, json.loads(self.fields["config"])[first]["value"])

    def resume_status(self) -> dict:
        """What the server tells who adds to a run that it has: above all, how many rows there are and the last one."""
        tail = [json.dumps(self.rows[max(self.rows)])] if self.rows else []
        return {
            **{key: self.fields.get(key) for key in ("name", "displayName", "config", "tags")},
            "id": "id",
            "summaryMetrics": json.dumps(self.summary),
            "historyLineCount": len(self.rows),
            "historyTail": json.dumps(tail),
            "eventsLineCount": 0,
            "eventsTail": "[]",
            "logLineCount": 0,
            "wandbConfig": json.dumps({"t": 1}),  # which only a run that has begun has
        }


class Server(ThreadingHTTPServer):
    """As much of W&B's server as `wandb sync` needs.

    Attributes:
        runs: what it has, by run id.
        asked: the requests, in short.
        problems: what went wrong in answering.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.runs: dict[str, Received] = {}
        self.asked: list[str] = []
        self.problems: list[str] = []
        self.lock = threading.Lock()

    def handle_error(self, request, client_address) -> None:
        """Say nothing of connections that wandb drops when it ends."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    def answer(self, method: str, path: str, body: bytes) -> dict:
        """The answer to a request; called for one at a time."""
        if path == "/graphql":
            request = json.loads(body)
            operation = re.search(r"(?:query|mutation)\s+(\w+)", request["query"])[1]
            self.asked.append(operation)
            return {"data": self.graphql(operation, request["variables"])}
        self.asked.append(f"{method} {path}")
        if stream := re.fullmatch(rf"/files/{ENTITY}/[^/]+/(\w+)/file_stream", path):
            return self.file_stream(self.runs[stream[1]], json.loads(body))
        if upload := re.fullmatch(r"/upload/(\w+)/(.+)", path):
            self.runs[upload[1]].files.add(upload[2])
            return {}
        raise ValueError(f"There is nothing at {path}.")

    def graphql(self, operation: str, variables: dict) -> dict:
        """The data that a GraphQL operation asks for; none if it is one that older servers do not know either."""
        if operation == "RunResumeStatus":
            run = self.runs.get(variables["name"])
            return {"model": {"bucket": run and run.resume_status()}}
        if operation == "UpsertBucket":
            is_new = variables["name"] not in self.runs
            run = self.runs.setdefault(variables["name"], Received())
            run.fields |= {key: value for key, value in variables.items() if value is not None}
            project = {"id": "id", "name": run.fields["project"], "entity": {"id": "id", "name": ENTITY}}
            bucket = {"id": "id", "name": variables["name"], "displayName": run.fields["displayName"]}
            return {"upsertBucket": {"bucket": bucket | {"project": project}, "inserted": is_new}}
        if operation == "CreateRunFiles":
            place = f"{self.url}/upload/{variables['run']}"
            files = [{"name": name, "uploadUrl": f"{place}/{name}"} for name in variables["files"]]
            return {"createRunFiles": {"runID": "id", "uploadHeaders": [], "files": files}}
        return {}

    def file_stream(self, run: Received, update: dict) -> dict:
        """Keep rows, summary and exit code."""
        files = update.get("files", {})
        history = files.get("wandb-history.jsonl", {"offset": 0, "content": []})
        for line, row in enumerate(history["content"], start=history["offset"]):
            assert line not in run.rows, "a line is replaced"
            run.rows[line] = json.loads(row)
        if "wandb-summary.json" in files:
            run.summary = json.loads(files["wandb-summary.json"]["content"][-1])
        if update.get("complete"):
            run.exit_codes.append(update["exitcode"])
        return {}


class Handler(BaseHTTPRequestHandler):
    """Passes requests on to the `Server`."""

    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_) -> None:
        """Print nothing."""

    def respond(self) -> None:
        """Answer a request in JSON."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status = 200
        try:
            if self.headers["Content-Encoding"] == "gzip":
                body = gzip.decompress(body)
            with self.server.lock:
                answer = self.server.answer(self.command, self.path, body)
        except Exception as error:
            self.server.problems.append(f"{self.command} {self.path}: {error!r}")
            answer, status = {}, 400  # at which wandb gives up, rather than trying again for minutes
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = respond


def sync(server: Server, directory: Path, command: str = SYNC) -> str:
    """Run a command of README in `directory`, which holds `runs`; return what it prints."""
    shell = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    shell |= {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{shell['PATH']}",
        "HOME": str(directory),
        "XDG_CACHE_HOME": str(directory),
        "WANDB_BASE_URL": server.url,
        "WANDB_API_KEY": "0" * 40,
        "WANDB_ERROR_REPORTING": "false",
        "http_proxy": "http://127.0.0.1:9",  # no way out, as in conftest.py
        "https_proxy": "http://127.0.0.1:9",
        "no_proxy": "127.0.0.1",
    }
    process = subprocess.Popen(
        command,
        shell=True,
        cwd=directory,
        env=shell,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        printed, _ = process.communicate(timeout=240)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # the shell's children as well
    assert process.returncode == 0 and "ERROR" not in printed and not server.problems, (printed, server.problems)
    return printed


def stop_at(step: int, patch: pytest.MonkeyPatch) -> None:
    """Send SIGTERM to this process when that step is logged; the run ends with the step after it."""
    append = RunDirectory.append_metrics

    def append_and_stop(self, row):
        append(self, row)
        if row["step"] == step:
            signal.raise_signal(signal.SIGTERM)

    patch.setattr(RunDirectory, "append_metrics", append_and_stop)


def fragments(run: Path) -> list[Path]:
    return sorted(run.glob("wandb/offline-run-*/*.wandb"))


def wait_for_fragments(run: Path) -> None:
    """Wait until W&B's files of a run are whole; in a process that lives on, wandb may write to them a bit longer."""
    from wandb.proto.wandb_internal_pb2 import Record

    end = time.monotonic() + 60
    for path in fragments(run):
        while not any(Record.FromString(content).HasField("exit") for content, _ in _records(path.read_bytes())):
            assert time.monotonic() < end, f"{path} is not finished"
            time.sleep(0.01)


def id_of(run: Path) -> str:
    return (run / RUN_ID_FILE).read_text()


@pytest.fixture(scope="module")
def trained(tmp_path_factory, make_launcher):
    """A launcher, and two finished runs of it: a plain network's, stopped and resumed, and a hyper network's."""
    launcher = make_launcher(tmp_path_factory.mktemp("offline") / "runs")
    budget = ("budget.steps=6", "budget.log_every=1", "budget.validate_every=3")
    arguments = launcher.new("logger=wandb_offline", "table=table2", *budget)
    with pytest.MonkeyPatch.context() as patch:
        stop_at(3, patch)
        done = launcher.call(*arguments, "hypernet=none", "seed=1")
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    plain = launcher.only_run()
    wait_for_fragments(plain)
    for command in (["-r", str(plain)], [*arguments, "hypernet=static", "seed=2"]):
        done = launcher.call(*command)
        assert done.returncode == 0, done.stderr
    (hyper,) = (run for run in launcher.runs.iterdir() if run != plain)
    for run in (plain, hyper):
        wait_for_fragments(run)
    assert (len(fragments(plain)), len(fragments(hyper))) == (2, 1)
    return launcher, plain, hyper


@contextmanager
def serving() -> Iterator[Server]:
    """A server at work."""
    server = Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def server():
    with serving() as server:
        yield server


@pytest.fixture(scope="module")
def synced(trained, server):
    """(run directory, what the server has of it after one `wandb sync`) of both runs."""
    launcher, *runs = trained
    sync(server, launcher.runs.parent)
    assert server.runs.keys() == {id_of(run) for run in runs}, "a run is split, or is there twice"
    return [(run, copy.deepcopy(server.runs[id_of(run)])) for run in runs]


def test_readme_says_what_is_tried_here():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"    {SYNC} " in readme and f"    {SYNC_RECORDS} " in readme
    text = [f"{place}{CharacterModelling.metric}" for place in ("validation/", "validation_", "test_")]
    for name in (*GROUP_BY, GROUP_BY_TOO, *PANELS, *COLUMNS, *text, "seed"):
        assert f"`{name}`" in readme, f"README does not name {name}"


def test_a_group_is_one_row_of_a_table():
    experiments = ROOT / "configs" / "experiment"
    names = [path.relative_to(experiments).with_suffix("") for path in experiments.glob("*/*.yaml")]
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        runs = [compose("train", [f"experiment={name}", "budget=cpu"]) for name in names]
    groups = {tuple(OmegaConf.select(run, key) for key in ("table", *GROUP_BY, GROUP_BY_TOO)) for run in runs}
    assert len(groups) == len(names) > 0


def test_runs_can_be_filtered_and_grouped(synced):
    for (run, received), hypernet, seed in zip(synced, ("none", "static"), (1, 2), strict=True):
        fields = received.fields
        assert (fields["project"], fields["displayName"]) == ("hypernetworks", run.name)
        assert (fields["groupName"], fields["jobType"]) == ("table2", "train")
        assert fields["tags"] == ["cifar10_sample", "wrn_10_1", hypernet, "smoke"]
        assert [received.config(key) for key in GROUP_BY] == ["wrn_10_1", hypernet]
        assert (received.config("seed"), received.config("budget.steps")) == (seed, 6)
        assert received.exit_codes[-1] == 0, "shown as finished"


def test_every_step_is_a_row_once(synced):
    for run, received in synced:
        logged = read_rows(run)
        assert [row["step"] for row in logged] == list(range(1, 7))
        assert sorted(received.rows) == list(range(6))
        rows = [received.rows[line] for line in range(6)]
        assert [{key: row[key] for key in each} for row, each in zip(rows, logged, strict=True)] == logged
        # Whichever of the two W&B takes as the x axis, it is the optimizer step.
        assert [row["_step"] for row in rows] == [row["step"] for row in rows]
        panels = set.union(*map(set, rows))
        assert panels.issuperset((*PANELS, "epoch", "examples"))
        pictures = {row[key]["path"] for row in rows for key in row if key.startswith("kernels/")}
        assert len(pictures) == 6 and pictures <= received.files


def test_summary_columns(synced):
    for run, received in synced:
        result = json.loads((run / "result.json").read_text())
        assert {key: received.summary[key] for key in COLUMNS} == {key: result[key] for key in COLUMNS}


def test_syncing_again_sends_what_is_new(synced, trained, server):
    (plain, _), (hyper, before) = synced
    launcher, directory = trained[0], trained[0].runs.parent
    server.asked.clear()
    assert "No runs to sync" in sync(server, directory)
    assert not server.asked

    done = launcher.call("-r", str(plain), "budget.steps=8")
    assert done.returncode == 0, done.stderr
    wait_for_fragments(plain)
    sync(server, directory)
    longer = server.runs[id_of(plain)]
    assert [longer.rows[line]["step"] for line in sorted(longer.rows)] == list(range(1, 9))
    assert [row["_step"] for row in longer.rows.values()] == [row["step"] for row in longer.rows.values()]
    assert longer.config("budget.steps") == 8
    result = json.loads((plain / "result.json").read_text())
    assert {key: longer.summary[key] for key in COLUMNS} == {key: result[key] for key in COLUMNS}
    assert server.runs[id_of(hyper)] == before and len(server.runs) == 2


def test_our_records_can_be_compared_in_the_dashboard(tmp_path, run_in_process):
    paths = [next((ROOT / "results" / "runs").glob(f"{name}-*.json")) for name in ("cifar10-wrn_40_1", "wiki_6mb")]
    directory = tmp_path / "runs" / "recorded"
    for _ in range(2):  # what is there already stays as it is
        done = run_in_process(ROOT / "scripts" / "records_to_wandb.py", *map(str, paths), "--to", str(directory))
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == [str(directory / path.stem) for path in paths]
    assert [len(fragments(directory / path.stem)) for path in paths] == [1, 1]
    assert len(list(directory.iterdir())) == 2, "something unfinished is left"
    for path in paths:
        wait_for_fragments(directory / path.stem)
    with serving() as server:
        sync(server, tmp_path, SYNC_RECORDS)
        assert len(server.runs) == 2
        for path in paths:
            record, received = json.loads(path.read_text()), server.runs[id_of(directory / path.stem)]
            assert (received.fields["displayName"], received.fields["jobType"]) == (record["name"], "record")
            assert received.fields["groupName"] == record["table"]
            assert received.config("record.commit") == record["commit"]
            assert received.config("main_net.label") == record["settings"]["main_net"]["label"]
            rows = [received.rows[line] for line in sorted(received.rows)]
            assert [{key: row[key] for key in each} for row, each in zip(rows, record["curve"], strict=True)] == record[
                "curve"
            ]
            figures = [key for key in record if key.startswith(("test_", "validation_"))]
            assert len(figures) >= 2
            assert {key: received.summary[key] for key in (*figures, "parameters")} == {
                key: record[key] for key in (*figures, "parameters")
            }


def test_record_of_a_run_without_wandb_files(tmp_path, run_in_process):
    path = tmp_path / "one.json"
    record = json.loads(next((ROOT / "results" / "runs").glob("mnist-*.json")).read_text())
    path.write_text(json.dumps(record | {"name": "one", "settings": record["settings"] | {"logger": {"name": "none"}}}))
    arguments = (str(path), "--to", str(tmp_path / "recorded"))
    done = run_in_process(ROOT / "scripts" / "records_to_wandb.py", *arguments)
    assert done.returncode == 0, done.stderr
    assert len(fragments(tmp_path / "recorded" / "one")) == 1


def test_what_is_no_record_makes_no_run(tmp_path, run_in_process):
    (tmp_path / "other.json").write_text('{"name": "other", "settings": {}, "curve": []}')
    ours = json.loads(next((ROOT / "results" / "runs").glob("cifar10-*.json")).read_text())
    (tmp_path / "elsewhere.json").write_text(json.dumps(ours | {"name": "/../kept"}))
    (tmp_path / "kept").mkdir()
    for name in ("other.json", "missing.json", "elsewhere.json"):
        arguments = (str(tmp_path / name), "--to", str(tmp_path / "recorded"))
        done = run_in_process(ROOT / "scripts" / "records_to_wandb.py", *arguments)
        assert done.returncode not in (0, None) and done.stderr.count("\n") == 1, done.stderr
        assert "is not a record" in done.stderr and name in done.stderr
    assert not (tmp_path / "recorded").exists() and (tmp_path / "kept").exists()
