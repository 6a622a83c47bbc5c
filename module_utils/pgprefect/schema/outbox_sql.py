"""The SQL of an outbox: its table, and the functions by which triggers write into it."""

from __future__ import annotations

from collections.abc import Mapping

from ..core.sql import Names, quote, quote_literal
from .database_events import (
    FAILED,
    KEEP,
    MOST_VALUES,
    MOST_WAITING,
    REFUSED,
    TABLE,
    VERDICT,
    DatabaseEvent,
    Source,
)

# Whoever owns the schema executes these, with the schema as {outbox}. ``posted`` is when an event was given to Prefect
# and not yet found in its database; ``dead`` is when the relay gave a row up, for the reason in ``error``.
CREATE = f"""
CREATE TABLE {{outbox}}.{TABLE} (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id uuid NOT NULL DEFAULT gen_random_uuid() UNIQUE,
    name text NOT NULL,
    payload jsonb NOT NULL,
    rows bigint NOT NULL DEFAULT 1,
    occurred timestamptz NOT NULL DEFAULT clock_timestamp(),
    attempts integer NOT NULL DEFAULT 0,
    due timestamptz NOT NULL DEFAULT clock_timestamp(),
    posted timestamptz,
    sent timestamptz,
    dead timestamptz,
    run_id uuid,
    error text
);
CREATE INDEX event_waiting ON {{outbox}}.{TABLE} (seq) WHERE sent IS NULL;
CREATE INDEX event_sent ON {{outbox}}.{TABLE} (sent) WHERE sent IS NOT NULL;
CREATE SEQUENCE {{outbox}}.{REFUSED};
CREATE SEQUENCE {{outbox}}.{FAILED};
CREATE SEQUENCE {{outbox}}.{VERDICT} MINVALUE 0 START 0;
"""

# Whether the outbox is full is counted every other second at most; in a serializable transaction it is not, because
# what a transaction has read could make it fail.
_KEEP = """
DECLARE
    moment bigint := extract(epoch FROM clock_timestamp());
    known bigint;
    is_full boolean := false;
BEGIN
    SELECT last_value INTO known FROM {outbox}.{verdict};
    IF known / 2 BETWEEN moment - 2 AND moment THEN
        is_full := known % 2 = 1;
    ELSIF current_setting('transaction_isolation') <> 'serializable' THEN
        SELECT count(*) >= {most} INTO is_full
        FROM (SELECT FROM {outbox}.{table} WHERE sent IS NULL LIMIT {most}) AS waiting;
        PERFORM setval({verdict_name}, moment * 2 + is_full::int);
    END IF;
    IF is_full THEN
        PERFORM nextval({refused_name});
        RETURN;
    END IF;
    INSERT INTO {outbox}.{table} (name, payload, rows, error, dead)
    VALUES (event, content, many, fault, CASE WHEN fault IS NOT NULL THEN clock_timestamp() END);
    -- A transaction that has notified cannot be prepared for a two-phase commit.
    IF fault IS NULL AND current_setting('max_prepared_transactions') = '0' THEN
        PERFORM pg_notify({channel}, '');
    END IF;
END"""

# NEW and OLD are names of rows for a statement, too, where they are no variables.
_BEGIN = """
#variable_conflict use_column
DECLARE
    content jsonb := '{{}}';
    many bigint := 1;
    fault text;{declared}
BEGIN"""
# Nothing here may fail the statement that changed the row.
_END = """
    PERFORM {outbox}.{keep}({name}, content, many, fault);
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    fault := SQLERRM;
    BEGIN
        PERFORM {outbox}.{keep}({name}, content, many, fault);
    EXCEPTION WHEN OTHERS THEN
        RAISE WARNING 'The database event % is lost: % (%)', {name}, fault, SQLERRM;
    END;
    BEGIN
        PERFORM nextval({failed_name});
    EXCEPTION WHEN OTHERS THEN
        NULL;
    END;
    RETURN NULL;
END"""

# What waits, the age of the oldest row that is due, what is dead; what a full outbox refused, and what triggers lost.
STATUS = """
SELECT count(*) FILTER (WHERE dead IS NULL),
       coalesce(extract(epoch FROM clock_timestamp() - min(occurred) FILTER (WHERE dead IS NULL AND due <= now())), 0)
           ::float8,
       count(dead),
       (SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM {refused}),
       (SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM {failed})
FROM {event} WHERE sent IS NULL
"""


def names(outbox: str) -> dict[str, Names]:
    """Return the table of an outbox, and its counters, as arguments of a statement."""
    return {name: Names(((outbox, name),)) for name in (TABLE, REFUSED, FAILED)}


def keep_body(outbox: str, most: int = MOST_WAITING) -> str:
    """Return the body of the function that writes a row into an outbox, unless it is full."""
    return _KEEP.format(
        outbox=quote(outbox),
        table=TABLE,
        verdict=VERDICT,
        verdict_name=_sequence(outbox, VERDICT),
        refused_name=_sequence(outbox, REFUSED),
        channel=quote_literal(outbox),
        most=most,
    )


def trigger_body(event: DatabaseEvent, outbox: str) -> str:
    """Return the body of the function of an event's triggers."""
    middle = _row_body(event) if event.by_row else _statement_body(event)
    end = _END.format(
        outbox=quote(outbox), keep=KEEP, name=quote_literal(event.name), failed_name=_sequence(outbox, FAILED)
    )
    return _BEGIN.format(declared="\n    found jsonb;\n    former jsonb;" if event.by_row else "") + middle + end


def _sequence(outbox: str, name: str) -> str:
    return quote_literal(f"{quote(outbox)}.{name}")


def _row_body(event: DatabaseEvent) -> str:
    lines = []
    if event.condition:
        lines += [f"IF ({event.condition}) IS NOT TRUE THEN", "    RETURN NULL;", "END IF;"]
    lines.append("found := CASE WHEN TG_OP = 'DELETE' THEN to_jsonb(OLD) ELSE to_jsonb(NEW) END;")
    if event.columns:
        same = " AND ".join(
            f"found -> {name} IS NOT DISTINCT FROM former -> {name}" for name in map(quote_literal, event.columns)
        )
        lines += ["former := to_jsonb(OLD);", f"IF {same} THEN", "    RETURN NULL;", "END IF;"]
    if event.used_columns:
        wanted = ", ".join(map(quote_literal, event.used_columns))
        lines += [
            f"IF NOT found ?& ARRAY[{wanted}] THEN",
            "    content := found;",
            "    fault := format('%s has no column %s any more', TG_RELID::regclass, (SELECT string_agg(c, ', ')",
            f"        FROM unnest(ARRAY[{wanted}]) AS c WHERE NOT found ? c));",
            "END IF;",
        ]
    pairs = ", ".join(f"{quote_literal(name)}, {_picked(source)}" for name, source in event.values.items())
    lines += ["IF fault IS NULL THEN", f"    content := jsonb_build_object({pairs});", "END IF;"]
    return "".join(f"\n    {line}" for line in lines)


def _picked(source: Source) -> str:
    if isinstance(source, str):
        return f"found -> {quote_literal(source)}"
    return f"jsonb_build_array({', '.join(map(_picked, source))})"


def _statement_body(event: DatabaseEvent) -> str:
    lines = []
    sides = {"new": [name for name in event.operations if name != "delete"], "old": ["delete"]}
    for side, operations in sides.items():
        used = [name.upper() for name in operations if name in event.operations]
        if not used:
            continue
        rows = f"{side}_rows AS {side}" + (f" WHERE ({event.condition})" if event.condition else "")
        lines += [
            f"IF TG_OP IN ({', '.join(map(quote_literal, used))}) THEN",
            f"    SELECT count(*) INTO many FROM {rows};",
            "    IF many = 0 THEN",
            "        RETURN NULL;",
            "    END IF;",
            *_distinct(event.values, side, rows),
            "END IF;",
        ]
    return "".join(f"\n    {line}" for line in lines)


def _distinct(values: Mapping[str, Source], side: str, rows: str) -> list[str]:
    lines = []
    for name, column in values.items():
        found = f"SELECT DISTINCT {side}.{quote(str(column))} AS v FROM {rows} LIMIT {MOST_VALUES + 1}"
        lines += [
            f"    content := content || jsonb_build_object({quote_literal(name)}, (",
            f"        SELECT CASE WHEN count(*) <= {MOST_VALUES} THEN jsonb_agg(v ORDER BY v) END",
            f"        FROM ({found}) AS found));",
        ]
    return lines
