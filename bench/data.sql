-- Flow runs with everything that belongs to them. The foreign keys of flow_run, its states and its tasks form a cycle, and
-- PostgreSQL checks them at the end of the statement, so all are inserted by one. data.py runs it with parameters.
WITH numbers AS (
    SELECT n, hashint4(n) & 1023 AS dice, now() - make_interval(secs => (%(runs)s - n)::float8 / %(runs)s * %(days)s * 86400) AS due
    FROM generate_series(%(first)s, %(last)s) n
), runs AS (
    SELECT n, dice, due, md5('run' || n)::uuid AS id,
           CASE WHEN n > %(runs)s - 10 THEN 'SCHEDULED' WHEN n > %(runs)s - 20 THEN 'RUNNING' WHEN dice < 920 THEN 'COMPLETED'
                WHEN dice < 980 THEN 'FAILED' WHEN dice < 1000 THEN 'CRASHED' ELSE 'CANCELLED' END AS state,
           due + make_interval(secs => 1 + (dice %% 50) ^ 2 / 100.0) AS began,
           make_interval(secs => 2 + exp((hashint4(n + 7) & 1023) / 128.0)) AS took
    FROM numbers
), new_runs AS (
    INSERT INTO flow_run (id, created, updated, name, flow_id, deployment_id, state_id, state_type, state_name, run_count,
                          expected_start_time, start_time, end_time, total_run_time, tags, parent_task_run_id,
                          state_timestamp, auto_scheduled, work_queue_name, parameters)
    SELECT id, due, began + took, 'run-' || n, md5('flow' || n %% 20)::uuid,
           CASE WHEN n %% 20 <> 0 THEN md5('deployment' || n %% 40)::uuid END,
           CASE WHEN %(children)s THEN md5('run-state' || n || '-3')::uuid END,
           state::state_type, initcap(state), 1 + (dice %% 17 = 0)::int, due,
           CASE WHEN state <> 'SCHEDULED' THEN began END,
           CASE WHEN state NOT IN ('SCHEDULED', 'RUNNING') THEN began + took END,
           CASE WHEN state NOT IN ('SCHEDULED', 'RUNNING') THEN took ELSE interval '0' END,
           CASE WHEN dice %% 10 = 0 THEN '["trading", "daily"]' ELSE '[]' END::jsonb,
           -- One in twenty is a subflow of the run before it.
           CASE WHEN n %% 20 = 0 AND n > 1 AND %(children)s THEN md5('task' || n - 1 || '-1')::uuid END,
           due, true, 'default', '{"source": "sample"}'
    FROM runs
), new_states AS (
    INSERT INTO flow_run_state (id, created, updated, type, timestamp, name, flow_run_id, message)
    SELECT md5('run-state' || n || '-' || s)::uuid, due, due,
           (CASE s WHEN 0 THEN 'SCHEDULED' WHEN 1 THEN 'PENDING' WHEN 2 THEN 'RUNNING' ELSE state END)::state_type,
           due + make_interval(secs => s), CASE s WHEN 0 THEN 'Scheduled' WHEN 1 THEN 'Pending' WHEN 2 THEN 'Running' ELSE initcap(state) END,
           id, 'the message of a state'
    FROM runs, generate_series(0, 3) s WHERE %(children)s
), new_tasks AS (
    INSERT INTO task_run (id, created, updated, name, task_key, dynamic_key, flow_run_id, state_id, state_type, state_name,
                          run_count, expected_start_time, start_time, end_time, total_run_time)
    SELECT md5('task' || n || '-' || t)::uuid, due, due, 'task-' || t || '-' || (dice & 7), 'task-' || t, n::text, id,
           md5('task-state' || n || '-' || t || '-3')::uuid, 'COMPLETED', 'Completed', 1, due, began, began + took / 5, took / 5
    FROM runs, generate_series(1, 5) t WHERE %(children)s
), new_task_states AS (
    INSERT INTO task_run_state (id, created, updated, type, timestamp, name, task_run_id, message)
    SELECT md5('task-state' || n || '-' || t || '-' || s)::uuid, due, due,
           (CASE s WHEN 0 THEN 'PENDING' WHEN 1 THEN 'PENDING' WHEN 2 THEN 'RUNNING' ELSE 'COMPLETED' END)::state_type,
           due + make_interval(secs => s), CASE s WHEN 2 THEN 'Running' WHEN 3 THEN 'Completed' ELSE 'Pending' END,
           md5('task' || n || '-' || t)::uuid, 'the message of a state'
    FROM runs, generate_series(1, 5) t, generate_series(0, 3) s WHERE %(children)s
), new_logs AS (
    INSERT INTO log (created, updated, name, level, flow_run_id, task_run_id, message, timestamp)
    SELECT due, due, 'prefect.flow_runs', 20, id, CASE WHEN l %% 2 = 0 THEN md5('task' || n || '-' || l / 4 + 1)::uuid END,
           'Line ' || l || ' of what the run ' || n || ' says about its work: ' || md5(n::text || l), due + make_interval(secs => l)
    FROM runs, generate_series(0, 19) l WHERE %(children)s
), new_artifacts AS (
    INSERT INTO artifact (id, created, updated, key, type, data, task_run_id, flow_run_id)
    SELECT md5('artifact' || n)::uuid, due, due, 'report-' || n %% 100, 'markdown', to_json('# Report ' || n), md5('task' || n || '-1')::uuid, id
    FROM runs WHERE %(children)s
), new_events AS (
    INSERT INTO events (id, created, updated, occurred, event, resource_id, resource, payload, received, recorded)
    SELECT md5('event' || n || '-' || e)::uuid, due, due, due + make_interval(secs => e), 'prefect.flow-run.' || initcap(state),
           'prefect.flow-run.' || id, jsonb_build_object('prefect.resource.id', 'prefect.flow-run.' || id), '{"intended": {}}',
           due + make_interval(secs => e), due + make_interval(secs => e)
    FROM runs, generate_series(0, 9) e WHERE %(children)s
)
INSERT INTO event_resources (created, updated, occurred, resource_id, resource_role, resource, event_id)
SELECT due, due, due + make_interval(secs => e), 'prefect.resource.' || r || '.' || id, CASE r WHEN 0 THEN '' ELSE 'related' END, '{}',
       md5('event' || n || '-' || e)::uuid
FROM runs, generate_series(0, 9) e, generate_series(0, 2) r WHERE %(children)s
