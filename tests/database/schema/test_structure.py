"""Whether verification knows each way in which Prefect's tables can differ from what its release makes of them."""

from __future__ import annotations

from collections.abc import Callable

import psycopg2
import pytest
from pgprefect.core.connection import Login
from pgprefect.schema.revision import head_of, installed_migrations
from pgprefect.schema.structure import as_text, known_structure
from pgprefect.schema.verify import Verification, verify

from requirements.structure import fresh_structure
from tests.support.ansible import Result
from tests.support.project import VIRTUALENV
from tests.support.site import PASSWORD, Site
from tests.support.verification import codes

HEAD = head_of(installed_migrations(str(VIRTUALENV)))


def look(site: Site) -> Verification:
    return verify(site.server.login, site.declaration, virtualenv=str(VIRTUALENV))


def test_what_is_known_of_this_release_is_true(prefect_template: Site) -> None:
    assert as_text(known_structure(HEAD) or {}) == fresh_structure(prefect_template), "run requirements/structure"
    report = look(prefect_template)
    assert (report.problems, report.not_checked) == ([], [])
    tenant = report.tenants["tenant0"]
    assert tenant.revision == tenant.head == HEAD


INVALID = "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'prefect.ix_log__level'::regclass"
FLOW_KEY = "ALTER TABLE prefect.flow_run DROP CONSTRAINT fk_flow_run__flow_id__flow"
FLOW_KEY_ADDED = f"{FLOW_KEY}, ADD CONSTRAINT fk_flow_run__flow_id__flow FOREIGN KEY (flow_id) REFERENCES prefect.flow"
DRIFT = [
    ({"index_missing"}, "DROP INDEX prefect.ix_flow_run__start_time"),
    ({"index_missing"}, "DROP INDEX prefect.trgm_ix_flow_name"),
    ({"index_missing"}, "DROP INDEX prefect.uq_flow_run__flow_id_idempotency_key"),
    ({"index_drift"}, "DROP INDEX prefect.ix_log__level; CREATE INDEX ix_log__level ON prefect.log (level DESC)"),
    ({"index_invalid"}, INVALID),
    ({"index_invalid"}, INVALID.replace("ix_log__level", "uq_flow__name")),
    ({"column_missing"}, "ALTER TABLE prefect.worker DROP COLUMN heartbeat_interval_seconds"),
    ({"column_missing", "index_missing"}, "ALTER TABLE prefect.log DROP COLUMN level"),
    ({"column_drift"}, "ALTER TABLE prefect.flow ALTER name TYPE text"),
    ({"column_drift"}, "ALTER TABLE prefect.flow ALTER name DROP NOT NULL"),
    ({"column_drift"}, "ALTER TABLE prefect.flow ALTER labels SET NOT NULL"),
    ({"column_drift"}, "ALTER TABLE prefect.flow ALTER id DROP DEFAULT, ALTER tags SET DEFAULT '{}'"),
    ({"column_drift"}, "ALTER TABLE prefect.flow ALTER name SET DEFAULT 'prefect.flow'"),
    ({"constraint_missing"}, FLOW_KEY),
    ({"constraint_missing"}, "ALTER TABLE prefect.flow DROP CONSTRAINT uq_flow__name"),
    ({"constraint_drift"}, FLOW_KEY_ADDED),
    ({"constraint_not_valid"}, f"{FLOW_KEY_ADDED} ON DELETE CASCADE NOT VALID"),
    ({"enum_drift", "column_drift"}, "ALTER TYPE prefect.worker_status RENAME VALUE 'OFFLINE' TO 'GONE'"),
]


@pytest.mark.parametrize(("expected", "statement"), DRIFT)
def test_drift_is_known_and_its_remedy_ends_it(prefect: Site, expected: set[str], statement: str) -> None:
    prefect.sql(statement)
    problems = verify(prefect.server.login, prefect.declaration).problems
    assert {problem.code for problem in problems} == expected
    assert {problem.severity for problem in problems} == {"error"}
    for problem in problems:
        for remedy in problem.remedy.partition("; and restore")[0].split(";"):  # CONCURRENTLY wants to be alone
            if remedy.strip():
                prefect.sql(remedy)
    left = codes(prefect)
    # A label that was renamed stays as one too many.
    assert left == ({"enum_drift"} if "enum_drift" in expected else set())


def test_what_is_there_besides(prefect: Site) -> None:
    prefect.sql(
        "ALTER TYPE prefect.worker_status ADD VALUE 'LOST'; ALTER TABLE prefect.flow ADD notes text;"
        "CREATE INDEX of_mine ON prefect.flow_run (end_time)"
    )
    report = look(prefect)
    assert report.verified
    assert {(problem.code, problem.severity) for problem in report.problems} == {
        ("column_extra", "warning"),
        ("enum_drift", "warning"),
        ("index_extra", "notice"),
    }


def test_an_index_whose_creation_failed(prefect: Site) -> None:
    prefect.sql("INSERT INTO prefect.flow (name) VALUES ('a'), ('b')")
    with pytest.raises(psycopg2.errors.UniqueViolation):
        prefect.sql("CREATE UNIQUE INDEX CONCURRENTLY of_mine ON prefect.flow (tags)")
    (problem,) = look(prefect).problems
    assert (problem.code, problem.remedy) == ("index_invalid", "DROP INDEX CONCURRENTLY prefect.of_mine;")
    prefect.sql(problem.remedy)
    assert codes(prefect) == set()


def test_a_release_that_is_not_known_raises_no_alarm(prefect: Site) -> None:
    prefect.sql(
        "UPDATE prefect.alembic_version SET version_num = 'fffffffffff1'; DROP INDEX prefect.ix_flow__updated;"
        f"{INVALID}"
    )
    report = verify(prefect.server.login, prefect.declaration)
    assert [problem.code for problem in report.problems] == ["index_invalid"]
    assert len(report.not_checked) == 1 and "fffffffffff1" in report.not_checked[0]


def test_the_revision_of_the_installed_prefect(run_module: Callable[..., Result], prefect: Site) -> None:
    def found(virtualenv: str = str(VIRTUALENV)) -> tuple[list[str], Result]:
        result = run_module("prefect_schema_verify", **prefect.arguments(), virtualenv=virtualenv)
        return [problem["code"] for problem in result["problems"]], result

    assert found()[0] == [] and found()[1]["prefect_schema"]["head"] == HEAD
    prefect.sql("UPDATE prefect.alembic_version SET version_num = 'c8d5f2a71b3e'")
    assert found()[0] == ["revision_behind"] and not found()[1]["verified"]
    prefect.sql("UPDATE prefect.alembic_version SET version_num = 'fffffffffff1'")
    assert found()[0] == ["revision_unknown"]
    codes, result = found("/nowhere")
    assert codes == [] and "/nowhere" in result["not_checked"][1] and result["prefect_schema"]["head"] is None


def test_what_a_login_can_not_read_is_said(prefect: Site) -> None:
    monitor = prefect.declaration.monitor
    prefect.sql(f"REVOKE SELECT ON prefect.alembic_version FROM {monitor}")
    report = verify(Login("127.0.0.1", prefect.server.port, monitor, PASSWORD), prefect.declaration)
    assert report.tenants["tenant0"].revision is None
    assert len(report.not_checked) == 1 and "alembic_version" in report.not_checked[0]
