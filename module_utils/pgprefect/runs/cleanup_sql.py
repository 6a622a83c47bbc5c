"""The SQL of cleanups. ``x`` is the table that loses rows, ``r`` a flow run, ``c`` an artifact collection.

Parameters are the policy's values as ``session`` computes them, and those of one statement.
"""

from __future__ import annotations

from ..core.prefect import TERMINAL_STATES_SQL

# Every table that loses rows, in the order in which people think of them.
CLEANED_TABLES = (
    "flow_run",
    "flow_run_state",
    "flow_run_input",
    "task_run",
    "task_run_state",
    "task_run_state_cache",
    "log",
    "artifact",
    "artifact_collection",
    "events",
    "event_resources",
)

_ENDED = f"r.state_type IN {TERMINAL_STATES_SQL}"
OLD_ENOUGH = f"""
    {_ENDED} AND coalesce(r.end_time, r.state_timestamp, r.updated) < CASE r.state_type
        WHEN 'COMPLETED' THEN %(COMPLETED)s::timestamptz WHEN 'FAILED' THEN %(FAILED)s::timestamptz
        WHEN 'CRASHED' THEN %(CRASHED)s::timestamptz ELSE %(CANCELLED)s::timestamptz END
    AND NOT r.tags ?| %(protected)s::text[] AND r.id <> ALL (%(kept)s::uuid[])"""
KEPT_RUNS = f"""
    SELECT r.id FROM deployment d CROSS JOIN LATERAL (
        SELECT r.id FROM flow_run r WHERE r.deployment_id = d.id AND {_ENDED}
        ORDER BY r.end_time DESC NULLS LAST, r.id LIMIT %(keep_newest)s) r"""
# One page of trees, in the order of their root's end, or of its id where it has no end: each member with its depth,
# whether it is old enough, and about how many rows go with it.
TREES = f"""
    WITH RECURSIVE root AS (
        SELECT r.id, r.end_time FROM flow_run r
        WHERE {{page}} AND {OLD_ENOUGH} AND NOT EXISTS (
            SELECT FROM task_run t WHERE t.id = r.parent_task_run_id AND t.flow_run_id IS NOT NULL)
        ORDER BY r.end_time, r.id LIMIT %(batch_size)s
    ), member AS (
        SELECT id AS root, id, 0 AS depth, true AS old FROM root
        UNION ALL
        SELECT m.root, r.id, m.depth + 1, {OLD_ENOUGH}
        FROM member m JOIN task_run t ON t.flow_run_id = m.id JOIN flow_run r ON r.parent_task_run_id = t.id
    )
    SELECT m.root, root.end_time, m.id, m.depth, m.old,
           (SELECT count(*) FROM log WHERE flow_run_id = m.id)
           + 5 * (SELECT count(*) FROM task_run WHERE flow_run_id = m.id) + 8
    FROM member m JOIN root ON root.id = m.root ORDER BY root.end_time, m.root, m.depth DESC"""
# The conditions on the roots of the next page, for those with an end and for those without.
PAGES = (
    """r.end_time >= %(end)s::timestamptz AND (r.end_time, r.id) > (%(end)s::timestamptz, %(after)s::uuid)
       AND r.end_time < %(newest)s::timestamptz""",
    "r.end_time IS NULL AND r.id > %(after)s::uuid",
)
NO_ID = "00000000-0000-0000-0000-000000000000"

# The rows that are deleted with flow runs, by foreign keys or by clean_up.
_TASKS = "SELECT id FROM task_run WHERE flow_run_id = ANY (%(ids)s::uuid[])"
BELONGING_TO_RUNS = {
    "flow_run": "x.id = ANY (%(ids)s::uuid[])",
    "flow_run_state": "x.flow_run_id = ANY (%(ids)s::uuid[])",
    "flow_run_input": "x.flow_run_id = ANY (%(ids)s::uuid[])",
    "task_run": "x.flow_run_id = ANY (%(ids)s::uuid[])",
    "task_run_state": f"x.task_run_id IN ({_TASKS})",
    "task_run_state_cache": f"x.task_run_state_id IN (SELECT id FROM task_run_state WHERE task_run_id IN ({_TASKS}))",
    "log": "x.flow_run_id = ANY (%(ids)s::uuid[])",
    "artifact": "x.flow_run_id = ANY (%(ids)s::uuid[])",
}
# The rows that are deleted by their own age: the column of the age, and the condition.
_OF_A_RUN_THAT_MAY_LOSE_THEM = f"""NOT EXISTS (
    SELECT FROM flow_run r WHERE r.id = x.flow_run_id
    AND (r.state_type IS NULL OR NOT {_ENDED} OR r.tags ?| %(protected)s::text[]))"""
_UNATTACHED = "x.flow_run_id IS NULL AND x.task_run_id IS NULL"
AGED_ROWS = {
    "log": (
        "timestamp",
        f"""(x.timestamp < %(logs_days)s::timestamptz AND NOT ({_UNATTACHED}) AND {_OF_A_RUN_THAT_MAY_LOSE_THEM}
             OR x.timestamp < %(unattached_days)s::timestamptz AND {_UNATTACHED})""",
    ),
    "artifact": (
        "updated",
        f"""(x.updated < %(artifacts_days)s::timestamptz AND NOT ({_UNATTACHED}) AND {_OF_A_RUN_THAT_MAY_LOSE_THEM}
             OR x.updated < %(unattached_days)s::timestamptz AND {_UNATTACHED})""",
    ),
    # The resources come first. What is left of either after an interruption is found by its own age.
    "event_resources": ("occurred", "x.occurred < %(events_days)s::timestamptz"),
    "events": ("occurred", "x.occurred < %(events_days)s::timestamptz"),
}
# The values that say up to which time, by table.
CUTOFFS = {
    "log": ("logs_days", "unattached_days"),
    "artifact": ("artifacts_days", "unattached_days"),
    "event_resources": ("events_days",),
    "events": ("events_days",),
}
ORPHANED_ROWS = """(%(orphans)s AND x.flow_run_id IS NOT NULL
    AND NOT EXISTS (SELECT FROM flow_run r WHERE r.id = x.flow_run_id))"""
STALE_CACHE = """(%(expired_cache)s AND (x.cache_expiration < %(now)s::timestamptz
    OR NOT EXISTS (SELECT FROM task_run_state s WHERE s.id = x.task_run_state_id)))"""
# The rows that are deleted for reasons of their own, whatever becomes of their flow run.
DELETED_ALONE = {
    **{table: condition for table, (_, condition) in AGED_ROWS.items()},
    "log": f"{AGED_ROWS['log'][1]} OR {ORPHANED_ROWS}",
    "artifact": f"{AGED_ROWS['artifact'][1]} OR {ORPHANED_ROWS}",
    "task_run_state_cache": STALE_CACHE,
}
# The next 1000 flow runs that a table refers to, by stepping through its index, and whether they exist.
REFERENCED_RUNS = """
    WITH RECURSIVE named AS (
        (SELECT flow_run_id AS id FROM {table} WHERE flow_run_id > %(after)s::uuid ORDER BY 1 LIMIT 1)
        UNION ALL
        SELECT (SELECT flow_run_id FROM {table} WHERE flow_run_id > named.id ORDER BY 1 LIMIT 1) FROM named
        WHERE named.id IS NOT NULL
    ), page AS (SELECT id FROM named WHERE id IS NOT NULL LIMIT 1000)
    SELECT id, EXISTS (SELECT FROM flow_run r WHERE r.id = page.id) FROM page ORDER BY id"""
_COPIED = ("data", "description", "type", "created", "updated", "flow_run_id", "task_run_id", "metadata_")
_WITHOUT_LATEST = """NOT EXISTS (SELECT FROM artifact a WHERE a.id = c.latest_id)
    AND (%(keys)s::text[] IS NULL OR c.key = ANY (%(keys)s::text[]))"""
REPOINT_COLLECTIONS = f"""
    UPDATE artifact_collection c SET latest_id = n.id, {", ".join(f"{name} = n.{name}" for name in _COPIED)}
    FROM (SELECT DISTINCT ON (a.key) a.* FROM artifact a JOIN artifact_collection c USING (key) WHERE {_WITHOUT_LATEST}
          ORDER BY a.key, a.created DESC) n
    WHERE n.key = c.key AND {_WITHOUT_LATEST}"""
DELETE_EMPTY_COLLECTIONS = f"""
    DELETE FROM artifact_collection c
    WHERE {_WITHOUT_LATEST} AND NOT EXISTS (SELECT FROM artifact a WHERE a.key = c.key)"""
# A sign of life is a log, a change of a task run, or an event of the run itself, as Prefect's heartbeats are.
ZOMBIES = """
    SELECT r.id, r.name, r.state_type, to_char(since AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
           extract(epoch FROM %(now)s::timestamptz - since)::float8 / 3600
    FROM flow_run r, coalesce(r.state_timestamp, r.start_time, r.updated) AS since
    WHERE r.state_type IN ('PENDING', 'RUNNING', 'CANCELLING') AND since < %(zombies)s::timestamptz
    AND NOT EXISTS (SELECT FROM log x WHERE x.flow_run_id = r.id AND x.timestamp >= %(zombies)s::timestamptz)
    AND NOT EXISTS (SELECT FROM task_run x WHERE x.flow_run_id = r.id AND x.updated >= %(zombies)s::timestamptz)
    AND NOT EXISTS (SELECT FROM event_resources x WHERE x.resource_id = 'prefect.flow-run.' || r.id
                    AND x.occurred >= %(zombies)s::timestamptz)
    ORDER BY since"""
CRASH_RUNS = """
    WITH gone AS (
        SELECT r.id, gen_random_uuid() AS state FROM flow_run r
        WHERE r.id = ANY (%(ids)s::uuid[]) AND r.state_type IN ('PENDING', 'RUNNING', 'CANCELLING')
        FOR UPDATE SKIP LOCKED
    ), states AS (
        INSERT INTO flow_run_state (id, type, name, timestamp, message, flow_run_id)
        SELECT state, 'CRASHED', 'Crashed', now(), 'No sign of life for long; set by the cleanup.', id FROM gone
    )
    UPDATE flow_run r SET state_id = gone.state, state_type = 'CRASHED', state_name = 'Crashed',
        state_timestamp = now(), end_time = now(), updated = now(),
        total_run_time = r.total_run_time + CASE WHEN r.state_type = 'RUNNING'
        THEN greatest(now() - r.state_timestamp, interval '0') ELSE interval '0' END
    FROM gone WHERE gone.id = r.id"""
