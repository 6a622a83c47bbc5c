"""Events of the application: whatever they hold is written or goes to the log, and is read again."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import decimal
import enum
import importlib
import json
import logging
import multiprocessing
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import psycopg2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pgprefect.events import EventBuffer, EventTable, json_value, log_flow_run, log_workflow_event, model, read_events

from tests.support.project import ROOT
from tests.support.waiting import wait_for

RUN = "0a39a8f2-5c6f-4a9c-9c8e-5f0d9a0c2b11"
Rows = list[tuple[Any, ...]]


@pytest.fixture
def application(trading_database: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The environment of a worker's flows, and a connection of the application's. There are no events yet."""
    for name, value in trading_database.items():
        monkeypatch.setenv(name, value)
    with contextlib.closing(psycopg2.connect("")) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("DELETE FROM public.system_logs")
        yield connection


def query(connection: Any, statement: str, *values: Any) -> Rows:
    with connection.cursor() as cursor:
        cursor.execute(statement, values or None)
        return cursor.fetchall() if cursor.description else []


def stored(connection: Any) -> list[str]:
    return [name for (name,) in query(connection, "SELECT event_type FROM public.system_logs ORDER BY id")]


def test_an_event_as_the_guide_writes_it(application: Any) -> None:
    assert log_workflow_event(
        event_type="batch_collection",
        workflow_name="data_collection",
        status="success",
        metadata={"symbols_processed": 100, "records_collected": 5000, "processing_time": 45.2},
    )
    [event] = read_events(application)
    assert abs(datetime.datetime.now(datetime.UTC) - event.pop("created_at")) < datetime.timedelta(minutes=1)
    assert event == {
        "event_type": "batch_collection",
        "workflow_name": "data_collection",
        "status": "success",
        "metadata": {"symbols_processed": 100, "records_collected": 5000, "processing_time": 45.2},
        "message": None,
        "level": "INFO",
        "flow_run_id": None,
    }


def test_events_are_read_by_workflow_and_time(application: Any) -> None:
    log_workflow_event("old", "a", status="Failed")
    since = datetime.datetime.now(datetime.UTC)
    log_workflow_event("one", "a", level="debug")
    log_workflow_event("two", "b")
    assert [event["event_type"] for event in read_events(application)] == ["two", "one", "old"]
    assert [event["event_type"] for event in read_events(application, limit=1)] == ["two"]
    assert [event["event_type"] for event in read_events(application, workflow="a")] == ["one", "old"]
    assert [event["event_type"] for event in read_events(application, workflow="a", since=since)] == ["one"]
    assert [event["level"] for event in read_events(application, workflow="a")] == ["DEBUG", "ERROR"]
    with pytest.raises(ValueError, match="limit is 0"):
        read_events(application, limit=0)


def test_an_event_is_part_of_the_callers_transaction(application: Any) -> None:
    application.autocommit = False
    with pytest.raises(ZeroDivisionError), application, application.cursor() as cursor:
        log_workflow_event("gone", cursor=cursor)
        raise ZeroDivisionError
    with application, application.cursor() as cursor:
        log_workflow_event("kept", cursor=cursor)
    assert stored(application) == ["kept"]


def test_a_refused_event_leaves_the_transaction_and_goes_to_the_log(
    application: Any, caplog: pytest.LogCaptureFixture
) -> None:
    table = EventTable(columns={"workflow_name": "no_such_column"})
    application.autocommit = False
    with application, application.cursor() as cursor:
        cursor.execute("INSERT INTO public.system_logs (event_type) VALUES ('before')")
        assert not log_workflow_event("lost", "w", metadata={"n": 1}, flow_run_id=RUN, cursor=cursor, table=table)
        cursor.execute("INSERT INTO public.system_logs (event_type) VALUES ('after')")
        with pytest.raises(psycopg2.errors.UndefinedColumn):
            log_workflow_event("strict", cursor=cursor, table=table, strict=True)
    assert stored(application) == ["before", "after"]
    [record] = caplog.records
    assert record.name.startswith("prefect.flow_runs.") and record.levelno == logging.ERROR
    assert "no_such_column" in record.getMessage()
    assert vars(record)["flow_run_id"] == RUN
    event = json.loads(record.getMessage().partition("The event: ")[2])
    assert (event["event_type"], event["metadata"]) == ("lost", {"n": 1})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"level": "LOUD"}, "level is 'LOUD'"),
        ({"event_type": ""}, "needs an event_type"),
        ({"metadata": [1]}, "must be a mapping"),
        ({"flow_run_id": "no uuid"}, "badly formed"),
    ],
)
def test_a_wrong_event_fails_nothing_unless_asked(
    application: Any, caplog: pytest.LogCaptureFixture, arguments: dict[str, Any], words: str
) -> None:
    event = {"event_type": "e", **arguments}
    assert not log_workflow_event(**event)
    with EventBuffer() as buffer:
        buffer.log(**event)
    assert [words in record.getMessage() for record in caplog.records] == [True, True]
    with pytest.raises(ValueError, match=words):
        log_workflow_event(**event, strict=True)
    with pytest.raises(ValueError, match=words), EventBuffer(strict=True) as buffer:
        buffer.log(**event)
    assert stored(application) == []


@pytest.mark.usefixtures("application")
def test_without_a_database_events_go_to_the_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPORT", "1")
    assert not log_workflow_event("first", metadata={"text": "a\0b"})
    with EventBuffer() as buffer:
        buffer.log("second")
        buffer.log("third")
    assert [json.loads(record.getMessage().partition("The event: ")[2])["event_type"] for record in caplog.records] == [
        "first",
        "second",
        "third",
    ]
    with pytest.raises(psycopg2.OperationalError):
        log_workflow_event("fourth", strict=True)
    buffer = EventBuffer(strict=True)
    buffer.log("fifth")
    with pytest.raises(psycopg2.OperationalError):
        buffer.close()


TEXTS = st.text(st.characters(), max_size=20)  # with NUL and lone surrogates
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | TEXTS
    | st.binary(max_size=9)
    | st.decimals()
    | st.uuids()
    | st.datetimes(timezones=st.none() | st.just(datetime.UTC))
    | st.dates()
    | st.timedeltas()
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS | st.integers(), inner, max_size=4),
    max_leaves=12,
)


def same(found: Any, wanted: Any) -> bool:
    """Equal, but that jsonb gives a whole float back as an int."""
    if isinstance(wanted, dict):
        return found.keys() == wanted.keys() and all(same(found[key], value) for key, value in wanted.items())
    if isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(same, found, wanted))
    return bool(float(found) == wanted) if isinstance(wanted, float) else bool(found == wanted)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(TEXTS, VALUES, max_size=4), TEXTS)
def test_any_metadata_is_stored_as_it_is_shown(application: Any, metadata: dict[str, Any], text: str) -> None:
    with application.cursor() as cursor:
        cursor.execute("BEGIN")
        assert log_workflow_event("any", text, text, metadata, message=text, cursor=cursor, strict=True)
        cursor.execute("SELECT metadata, workflow_name, message FROM public.system_logs")
        found, name, message = cursor.fetchone()
        cursor.execute("ROLLBACK")
    wanted = json_value(metadata)
    assert same(found, wanted) and len(found) == len(metadata)
    assert name == message == json_value(text)
    if not any(character == "\0" or "\ud800" <= character <= "\udfff" for character in text):
        assert name == text


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: float


class Odd:
    def __repr__(self) -> str:
        raise RuntimeError


class Broken(dict[str, Any]):
    def items(self) -> Any:
        raise RuntimeError


def nested(depth: int) -> Any:
    return [nested(depth - 1)] if depth else "end"


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("a\0b\ud800c", "a\\u0000b\\ud800c"),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        (decimal.Decimal("1.10"), "1.10"),
        (uuid.UUID(RUN), RUN),
        (datetime.timedelta(minutes=1), 60.0),
        (datetime.time(9, 30), "09:30:00"),
        (b"\x00\xff", "AP8="),
        (Colour.RED, "red"),
        (Point(1.5), {"x": 1.5}),
        ({1: "a", "1": "b", None: "c"}, {"1": "a", "1 (2)": "b", "None": "c"}),
        ((1, [2]), [1, [2]]),
        (Odd(), "<Odd, which raised RuntimeError>"),
        (Broken(), "<Broken, which raised RuntimeError>"),
        (range(3), "range(0, 3)"),
    ],
)
def test_what_json_can_not_say_becomes_a_text(value: Any, wanted: Any) -> None:
    assert json_value(value) == wanted


def test_a_number_of_more_digits_than_python_writes_is_kept() -> None:
    assert json_value(10**5000) == hex(10**5000)


def test_numbers_of_numpy_are_numbers() -> None:
    array = type("ndarray", (), {"__module__": "numpy", "tolist": lambda _self: [1.5, 2.5]})
    assert json_value({"prices": array()}) == {"prices": [1.5, 2.5]}


def test_what_nests_too_deep_or_in_a_circle_is_kept_as_a_text(application: Any) -> None:
    circle: list[Any] = []
    circle.append(circle)
    assert log_workflow_event("deep", metadata={"deep": nested(60), "circle": circle}, strict=True)
    assert "end" in json.dumps(read_events(application)[0]["metadata"]["deep"])
    assert "[...]" in json.dumps(read_events(application)[0]["metadata"]["circle"])


def test_a_buffer_writes_when_it_is_full_old_or_closed(application: Any) -> None:
    with EventBuffer(size=2, age=60) as buffer:
        buffer.log("a")
        assert stored(application) == []
        buffer.log("b")
        assert stored(application) == ["a", "b"]
        buffer.log("c")
    assert stored(application) == ["a", "b", "c"]
    with EventBuffer(age=0.05) as buffer:
        buffer.log("d")
        wait_for(lambda: stored(application)[-1] == "d")
    buffer.close()  # twice is once
    with pytest.raises(ValueError, match="size is 0"):
        EventBuffer(size=0)


def test_a_closed_buffer_loses_nothing_silently(application: Any, caplog: pytest.LogCaptureFixture) -> None:
    buffer = EventBuffer()
    buffer.close()
    buffer.log("late")
    assert stored(application) == []
    assert '"late"' in caplog.text


def test_the_metadata_is_taken_when_it_is_logged(application: Any) -> None:
    metadata = {"n": 1}
    with EventBuffer() as buffer:
        buffer.log("e", metadata=metadata)
        metadata["n"] = 2
    assert read_events(application)[0]["metadata"] == {"n": 1}


def test_a_buffer_of_many_threads(application: Any) -> None:
    with EventBuffer(size=7) as buffer:

        def work(name: str) -> None:
            for number in range(50):
                buffer.log("e", name, metadata={"n": number})

        threads = [threading.Thread(target=work, args=(f"t{number}",)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert query(
        application,
        "SELECT workflow_name, count(DISTINCT metadata), array_agg(metadata->>'n' ORDER BY id)"
        " = array_agg(metadata->>'n' ORDER BY (metadata->>'n')::int) FROM public.system_logs GROUP BY 1 ORDER BY 1",
    ) == [(f"t{number}", 50, True) for number in range(4)]


def test_one_refused_event_does_not_take_the_others_with_it(
    application: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "LEVELS", (*model.LEVELS, "LOUD"))  # which the table refuses
    with EventBuffer() as buffer:
        for name, level in (("a", "INFO"), ("b", "LOUD"), ("c", "INFO")):
            buffer.log(name, level=level)
    assert stored(application) == ["a", "c"]
    [record] = caplog.records
    assert '"b"' in record.getMessage()
    buffer = EventBuffer(strict=True)
    buffer.log("d", level="LOUD")
    buffer.log("e")
    with pytest.raises(psycopg2.errors.CheckViolation):
        buffer.flush()
    buffer.close()
    assert stored(application) == ["a", "c", "e"]


def test_a_buffer_takes_connections_from_a_pool(application: Any) -> None:
    used = []

    @contextlib.contextmanager
    def connect() -> Iterator[Any]:
        used.append(application)
        yield application

    with EventBuffer(connect) as buffer:
        buffer.log("e")
    assert used == [application] and not application.closed
    assert stored(application) == ["e"]


def log_in_child(buffer: EventBuffer) -> None:
    buffer.flush()
    buffer.log("child")
    buffer.close()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # of a fork beside the timer's thread
def test_a_forked_process_writes_its_own_events_only(application: Any) -> None:
    with EventBuffer(age=60) as buffer:
        buffer.log("parent")
        child = multiprocessing.get_context("fork").Process(target=log_in_child, args=(buffer,))
        child.start()
        child.join()
        assert child.exitcode == 0
        assert stored(application) == ["child"]
    assert stored(application) == ["child", "parent"]


def test_what_is_pending_is_written_at_the_end_of_the_program(application: Any) -> None:
    program = "from pgprefect.events import EventBuffer; EventBuffer(age=60).log('last', 'w')"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT / "module_utils", check=True)
    assert stored(application) == ["last"]


def test_where_events_are_stored(application: Any) -> None:
    assert EventTable.from_environment({}) == EventTable()
    columns = {"level": "severity", "workflow_name": "", "status": None}
    table = EventTable.from_environment(
        {"PGPREFECT_EVENTS_TABLE": "app_log", "PGPREFECT_EVENTS_COLUMNS": json.dumps(columns)}
    )
    assert table.name == ("public", "app_log")
    assert "workflow_name" not in table.stored and table.stored["level"] == "severity"
    with pytest.raises(ValueError, match="An event has no colour"):
        EventTable(columns={"colour": "c"})
    for name, words in (("workflow_name", "workflow_name"), ("created_at", "no order")):
        with pytest.raises(ValueError, match=words):
            read_events(application, EventTable(columns={name: ""}), workflow="w")


def run_hook(kind: str) -> None:
    flow = SimpleNamespace(name="collect")
    run = SimpleNamespace(id=uuid.UUID(RUN), name="clever-crow", deployment_id=None, run_count=2, tags=["a"])
    state = SimpleNamespace(type=SimpleNamespace(value=kind), name=kind.title(), message="because")
    log_flow_run(flow, run, state)


@pytest.mark.parametrize(
    ("kind", "level"), [("COMPLETED", "INFO"), ("FAILED", "ERROR"), ("CRASHED", "ERROR"), ("CANCELLED", "WARNING")]
)
def test_the_hook_logs_the_state_of_a_run(application: Any, kind: str, level: str) -> None:
    run_hook(kind)
    [event] = read_events(application)
    assert (event["event_type"], event["workflow_name"], event["status"]) == ("flow_run", "collect", kind.lower())
    assert (event["level"], event["message"], event["flow_run_id"]) == (level, "because", RUN)
    assert event["metadata"]["flow_run_name"] == "clever-crow" and event["metadata"]["run_count"] == 2


def context(flow: Any = None, task: Any = None) -> ModuleType:
    """What is looked at of prefect.context; tests/api has the real one."""
    module = ModuleType("prefect.context")
    vars(module)["FlowRunContext"] = SimpleNamespace(get=lambda: flow)
    vars(module)["TaskRunContext"] = SimpleNamespace(get=lambda: task)
    return module


def test_inside_a_flow_run_flow_and_run_are_known(application: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    flow = SimpleNamespace(flow_run=SimpleNamespace(id=uuid.UUID(RUN)), flow=SimpleNamespace(name="collect"))
    monkeypatch.setitem(sys.modules, "prefect.context", context(flow))
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", str(uuid.UUID(int=1)))  # a subflow's parent
    log_workflow_event("known")
    [event] = read_events(application)
    assert (event["workflow_name"], event["flow_run_id"]) == ("collect", RUN)


@pytest.mark.parametrize("task", [None, SimpleNamespace(task_run=SimpleNamespace(flow_run_id=uuid.UUID(RUN)))])
def test_outside_of_prefects_context_the_api_is_asked_once(
    application: Any, monkeypatch: pytest.MonkeyPatch, task: Any
) -> None:
    asked = []

    def runtime(name: str) -> Any:
        asked.append(name)
        return SimpleNamespace(flow_name="collect")

    model._flow_name.cache_clear()
    monkeypatch.setitem(sys.modules, "prefect", ModuleType("prefect"))
    monkeypatch.setitem(sys.modules, "prefect.context", context(task=task))
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", str(uuid.UUID(int=1)) if task else RUN)
    monkeypatch.setattr(importlib, "import_module", runtime)
    for _ in range(3):
        log_workflow_event("e")
    assert {(event["workflow_name"], event["flow_run_id"]) for event in read_events(application)} == {("collect", RUN)}
    assert len(asked) == 1


def test_an_api_that_does_not_answer_keeps_no_event_out(application: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(_name: str) -> None:
        raise TimeoutError

    model._flow_name.cache_clear()
    monkeypatch.setitem(sys.modules, "prefect", ModuleType("prefect"))
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", RUN)
    monkeypatch.setattr(importlib, "import_module", silent)
    assert log_workflow_event("e")
    [event] = read_events(application)
    assert (event["workflow_name"], event["flow_run_id"]) == (None, RUN)
