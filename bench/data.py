"""Fill Prefect's tables with realistic data for the benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pgprefect.core.sql import Names, Statement

_RUNS = Path(__file__).with_suffix(".sql").read_text()
CHUNK = 2000  # runs in one statement: about 180,000 rows with everything that belongs to them

_FRAME = """
INSERT INTO work_pool (name, type) VALUES ('bench', 'process') ON CONFLICT DO NOTHING;
INSERT INTO work_queue (name, work_pool_id) SELECT 'default', id FROM work_pool WHERE name = 'bench'
ON CONFLICT DO NOTHING;
UPDATE work_pool SET default_queue_id = (SELECT id FROM work_queue WHERE work_pool_id = work_pool.id LIMIT 1)
WHERE name = 'bench';
INSERT INTO flow (id, name) SELECT md5('flow' || f)::uuid, 'flow-' || f FROM generate_series(0, 19) f
ON CONFLICT DO NOTHING;
INSERT INTO deployment (id, name, flow_id, work_queue_id, work_queue_name)
SELECT md5('deployment' || d)::uuid, 'deployment-' || d, md5('flow' || d % 20)::uuid, q.id, 'default'
FROM generate_series(0, 39) d, work_queue q JOIN work_pool p ON p.id = q.work_pool_id AND p.name = 'bench'
ON CONFLICT DO NOTHING
"""


_COLLECTIONS = """
INSERT INTO artifact_collection (created, updated, key, latest_id, task_run_id, flow_run_id, type, data)
SELECT DISTINCT ON (key) created, updated, key, id, task_run_id, flow_run_id, type, data FROM artifact
WHERE key IS NOT NULL ORDER BY key, created DESC
ON CONFLICT (key) DO UPDATE SET latest_id = excluded.latest_id
"""


def fill(connection: Any, schema: str, runs: int, days: float = 120, children: bool = True) -> None:
    """Write flow runs of the last ``days`` days into an empty schema of Prefect, and analyze it.

    With ``children`` each run has 4 states, 5 task runs with 4 states each, 20 logs, an artifact and 10 events with 3
    resources each: 92 rows, about 65 kB. The last ten runs are scheduled, the ten before them are running.
    """
    autocommit, connection.autocommit = connection.autocommit, True
    with connection.cursor() as cursor:
        Statement("SET search_path TO {}", (Names((schema, "extensions")),)).execute(cursor)
        cursor.execute(_FRAME)
        for first in range(1, runs + 1, CHUNK):
            last = min(first + CHUNK - 1, runs)
            cursor.execute(_RUNS, {"runs": runs, "days": days, "first": first, "last": last, "children": children})
        if children:
            cursor.execute(_COLLECTIONS)
        cursor.execute(
            "VACUUM ANALYZE flow_run, flow_run_state, task_run, task_run_state, log, artifact, events, event_resources"
        )
        cursor.execute("RESET search_path")
    connection.autocommit = autocommit
