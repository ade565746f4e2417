"""What the live page is told of a study, and who may ask."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from made_facts import model_facts
from made_plan import make_plan
from made_report import make_verdict

from rankscope.edges.study_folder import StudyFolder
from rankscope.records import ArmSetting, Plan, RunStatus, SettingsFile, StepRecord, VerdictFile
from rankscope.results.live_study import CURVE_POINTS, LiveStudy, curve, find_studies
from rankscope.study.problems import InputProblems

pytest.importorskip("starlette", reason="starlette is an extra: pip install 'rankscope[view]'")
uvicorn = pytest.importorskip("uvicorn", reason="uvicorn is an extra: pip install 'rankscope[view]'")

from rankscope.results.live_server import LiveServer, open_socket  # noqa: E402


def planned(folder: Path) -> tuple[StudyFolder, Plan]:
    store, plan = StudyFolder.open(folder), make_plan()
    store.claim(plan.study, "")
    store.write_study("", plan)
    return store, plan


def steps(count: int) -> list[StepRecord]:
    return [
        StepRecord(
            step=i, loss_nats_per_token=2.0 - i / count, learning_rate=1e-3, gradient_norm=1.0, completion_tokens=4,
            validation_loss_nats_per_token=1.5 if i == count - 1 else None,
        )
        for i in range(count)
    ]  # fmt: skip


def test_a_run_is_followed_from_step_to_step(tmp_path: Path) -> None:
    store, plan = planned(tmp_path)
    live, run_id = LiveStudy(store), plan.runs[0].run_id
    first = live.state()
    assert {run["state"] for run in first["runs"]} <= {"planned", "may run", "does not fit"}
    assert (first["worked_on"], first["seconds_left"], first["verdicts"]) == (False, None, [])
    store.write_steps(run_id, steps(2), whole=False)
    store.write_status(RunStatus(run_id=run_id, state="running", steps_done=2, steps_total=4, final_train_loss=1.5))
    run = next(run for run in live.state()["runs"] if run["id"] == run_id)
    assert (run["state"], run["steps_done"], run["steps_total"], run["loss"]) == ("running", 2, 4, 1.5)
    assert run["curve"] == {"train": [(0, 2.0), (1, 1.5)], "validation": [(1, 1.5)]}
    assert 0 < run["share"] < 1
    with store.lock():
        assert LiveStudy(store).state()["worked_on"] is True


def test_a_run_has_its_rate_and_dial_and_the_items_of_what_ended_last(tmp_path: Path) -> None:
    store, plan = planned(tmp_path)
    run = plan.runs[0]
    plan = plan.model_copy(update={"models": [model_facts().model_copy(update={"name": run.model})]})
    store.write_study("", plan)
    live = LiveStudy(store)
    assert live.state()["scored"] is None
    store.write_items(
        plan.base_ids[run.model],
        pd.DataFrame([{"suite": "s", "item_id": "1", "prompt": "Q: which?\nA:", "choices": []}]),
    )
    scored = {
        "suite": ["s", "t"],
        "item_id": ["1", "2"],
        "score": [0.4, None],
        "predicted": ["no", None],
        "answer": ["yes", None],
        "loss_nats": [None, 6.0],
        "scored_tokens": [None, 3],
    }
    store.write_predictions(run.run_id, pd.DataFrame(scored), {"s": "0"})
    store.write_status(RunStatus(run_id=run.run_id, state="done"))
    setting = ArmSetting(
        model=run.model,
        train_set=run.train_set,
        arm=run.arm.label,
        learning_rate=3e-3,
        dial=0.7,
        how="retention",
        rate_given=False,
    )
    store.write_settings(SettingsFile(settings=[setting]))
    state = live.state()
    shown = next(one for one in state["runs"] if one["id"] == run.run_id)
    assert (shown["rate"], shown["dial"]) == (run.arm.learning_rate, 0.7)
    assert state["scored"]["who"] == f"{run.arm.label}, seed {run.seed}"
    by_suite = {item["suite"]: item for item in state["scored"]["items"]}
    assert by_suite["s"] | {"question": ""} == {
        "suite": "s",
        "question": "",
        "said": "no",
        "answer": "yes",
        "right": False,
        "loss": None,
    }
    assert "which?" in by_suite["s"]["question"]
    assert (by_suite["t"]["right"], by_suite["t"]["loss"]) == (None, 2.0)


def test_a_verdict_comes_as_headline_and_sentence(tmp_path: Path) -> None:
    store, _ = planned(tmp_path)
    store.write_verdicts(VerdictFile(verdicts=[make_verdict()]))
    (found,) = LiveStudy(store).state()["verdicts"]
    assert (found["name"], found["tone"]) == ("bundled trained on medical", "good")
    assert found["answers"][0]["headline"] == "Recommended: lora-r16"
    assert found["answers"][0]["sentence"].startswith("Use lora-r16: it gains")


def test_a_long_curve_is_thinned_and_keeps_its_end_and_its_validation_losses() -> None:
    lines = [step.model_dump() for step in steps(10_000)]
    lines[77]["validation_loss_nats_per_token"] = 1.9
    found = curve(lines)
    assert len(found["train"]) <= CURVE_POINTS + 1
    assert found["train"][-1][0] == 9_999
    assert found["validation"] == [(77, 1.9), (9_999, 1.5)]
    assert curve([]) == {"train": [], "validation": []}


def test_studies_are_found_up_to_two_folders_below(tmp_path: Path) -> None:
    for place in ("b", "lab/a", "lab/deep/er"):
        planned(tmp_path / place)
    (tmp_path / "lab" / "notes").mkdir()
    planned(tmp_path / "damaged")
    (tmp_path / "damaged" / "plan.json").write_text("{")
    assert [one.key for one in find_studies(str(tmp_path))] == ["b", "lab/a"]
    assert [one.key for one in find_studies(str(tmp_path / "b"))] == ["."]
    assert find_studies(str(tmp_path / "lab" / "notes")) == []


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    planned(tmp_path / "study")
    opened = open_socket(0)
    made = LiveServer(str(tmp_path), opened.getsockname()[1], token="secret")
    running = uvicorn.Server(uvicorn.Config(made.app, log_level="error", lifespan="off", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [opened]}, daemon=True)
    thread.start()
    while not running.started:
        time.sleep(0.01)
    yield made
    running.should_exit = True
    thread.join(10)


def ask(server: LiveServer, path: str, method: str = "GET", **headers: str) -> http.client.HTTPResponse:
    host = server.address.split("/")[2]
    connection = http.client.HTTPConnection(host, timeout=10)
    connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    return connection.getresponse()


def test_only_who_has_the_address_on_this_machine_is_answered_and_nobody_writes(server: LiveServer) -> None:
    page = ask(server, "/secret/")
    assert page.status == 200
    assert page.headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'nonce-")
    assert (page.headers["Cache-Control"], page.headers["X-Frame-Options"]) == ("no-store", "DENY")
    assert page.headers["Access-Control-Allow-Origin"] is None
    for path in ("/", "/other/", "/secre/studies", "/secret/../etc/passwd", "/secret/events?study=../.."):
        assert ask(server, path).status == 404, path
    for host in ("evil.example", "127.0.0.1", "localhost:1"):
        assert ask(server, "/secret/studies", Host=host).status == 400, host
    assert ask(server, "/secret/studies", Sec_Fetch_Site="cross-site").status == 403
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert ask(server, "/secret/studies", method).status == 405, method


def test_a_page_gets_the_studies_and_the_first_state_at_once(server: LiveServer) -> None:
    assert json.loads(ask(server, "/secret/studies").read()) == [{"key": "study", "name": make_plan().study}]
    events = ask(server, "/secret/events?study=study")
    assert events.headers["Content-Type"].startswith("text/event-stream")
    line = events.readline().decode()
    assert line.startswith("data: ")
    state = json.loads(line.removeprefix("data: "))
    assert [run["id"] for run in state["runs"]] == [run.run_id for run in make_plan().runs]


def test_a_port_that_is_taken_is_one_line() -> None:
    with open_socket(0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(
            InputProblems, match=rf"view: --port: found {port}, address already in use, expected a port"
        ):
            open_socket(port)
