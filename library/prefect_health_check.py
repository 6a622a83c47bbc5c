#!/usr/bin/python
"""Check the health of the database, of Prefect's schemas, the API and the workers."""

from __future__ import annotations

DOCUMENTATION = r"""
module: prefect_health_check
short_description: Check the health of the database, of Prefect's schemas, the API and the workers
description:
  - Changes nothing and does not fail on a problem; the caller decides what it means.
  - All checks run at the same time and take no longer than O(timeout) together, even if the database is stopped, the
    API hangs or the network drops packets.
version_added: "1.0.0"
author: The ansible-prefect authors
extends_documentation_fragment: [attributes.reads, login]
options:
  database: {description: The database., type: str, required: true}
  tenants:
    description:
      - One dictionary for each Prefect server with C(name), C(schema), C(api_url) and C(workers), the last being the
        number that should be online (0 when left out). C(pool_workers), a dictionary of numbers by work pool, asks for
        them pool by pool. C(scaled_pools) are work pools that may have no worker while nothing is due. With C(redis)
        its Redis is asked too, by the address in C(/etc/prefect/NAME-server.env). Other keys are ignored.
    type: list
    elements: dict
    required: true
  thresholds:
    description:
      - The limits at which a check becomes degraded (C(warning)) or unhealthy (C(critical)), as a dictionary of both by
        name. What is left out keeps its default, and V(null) switches it off.
      - The names are C(latency_ms), C(connections_percent), C(transaction_s), C(idle_in_transaction_s),
        C(lock_wait_s), C(xid_age), C(dead_percent), C(disk_used_percent), C(late_s), C(scheduler_lag_s),
        C(late_mark_lag_s), C(events_lag_s), C(redis_memory_percent), C(backlog), C(running_s), C(pending_s),
        C(cancelling_s), C(silence_s), C(standby_lag_bytes), C(archive_lag_s), C(backup_age_s), C(copy_age_s),
        C(drill_age_s), C(pitr_age_s), C(cleanup_age_s) and C(certificate_days). Of the last one a smaller value is
        worse, of all others a larger one. C(module_utils/pgprefect/health/thresholds.py) has their meanings and
        defaults.
    type: dict
    default: {}
  disk_paths:
    description:
      - Paths on this host whose file systems must not be full. Without any, it is that of the data directory if the
        login is over the unix socket, and none otherwise.
    type: list
    elements: path
    default: []
  jobs:
    description:
      - The scheduled jobs of this host, each with C(name), which is V(backup), V(copy), V(drill), V(pitr) or
        V(cleanup), C(schedule), the file of cron that starts it, C(tenant) unless it is the whole site's, and
        C(folder), which holds the record of its last run. Each has a check of its name, of its last run and of the
        time since it succeeded.
    type: list
    elements: dict
    default: []
  certificates:
    description:
      - Certificates of this host, each with C(file), in PEM, and where a service shows it also C(address) as
        C(HOST:PORT), and C(protocol), which is V(tls) or V(postgresql). The check C(certificates) names each one that
        ends soon, and a service that shows another one than the installed.
    type: list
    elements: dict
    default: []
  patroni:
    description:
      - This host's part of a cluster of several, with C(url) of its Patroni, C(ca_file) of that, C(etcd_url) at
        which its etcd says how it is, and the names of all C(members). The check C(patroni) names members that cannot
        take over, and an etcd that has no majority.
    type: dict
  backup_directory:
    description: Where this host keeps its backup sets. What killed backups and restores left there is named.
    type: path
  drill_directory:
    description: Where this host restores sets for drills. What killed drills left there is named.
    type: path
  timeout: {description: Seconds that all checks together may take., type: float, default: 4}
  login_user: {description: A role that may read the tenants' schemas., type: str, default: prefect_monitor}
"""

EXAMPLES = r"""
- name: Check the health
  prefect_health_check:
    database: mltrading
    login_host: 127.0.0.1
    login_password: "{{ lookup('ansible.builtin.password', inventory_dir ~ '/.secrets/prefect_monitor') }}"
    tenants:
      - {name: prefect, schema: prefect, api_url: "http://127.0.0.1:4200/api", workers: 1}
  register: health

- name: Check it on the database's own host, and be stricter about late runs
  prefect_health_check:
    database: mltrading
    login_user: postgres
    thresholds:
      late_s: {warning: 60, critical: 600}
      running_s: {warning: null}
    disk_paths: [/var/lib/postgresql, /var/backups]
    tenants:
      - name: prefect
        schema: prefect
        api_url: "http://127.0.0.1:4200/api"
        pool_workers: {trading: 2, reports: 1}
"""

RETURN = r"""
overall_status:
  description: >-
    The worst status of all checks, V(healthy), V(degraded), V(unknown) where the login was refused or the driver is
    missing, or V(unhealthy).
  returned: success
  type: str
checks:
  description: >-
    The status of C(app_database), C(prefect_schema), C(schema_separation), C(connections), C(transactions), C(locks),
    C(storage), C(archiving), C(disk) if it can be checked, C(workers), C(work_pools), C(services), C(runs),
    C(dead_runs), C(api), C(database_hosts) where the login names several, C(leftovers) of killed jobs where their
    folders are given, C(certificates) where their files are given, and of the jobs. For each tenant
    after the first, C(prefect_schema) and those of the server are there again with C(:NAME) appended.
  returned: success
  type: dict
  sample: {api: healthy, app_database: healthy, prefect_schema: healthy, schema_separation: healthy, workers: healthy}
problems:
  description: >-
    What is wrong, each with C(code), C(severity), C(object), C(message) and C(remedy). The severity V(error) makes a
    check unhealthy and V(warning) degraded; V(notice) is only worth knowing, such as what this login may not see.
  returned: always
  type: list
  elements: dict
details:
  description: What each check found, with its latency.
  returned: success
  type: dict
  sample: {workers: {expected: 1, known: 1, latency_ms: 7.9, online: 1, youngest_heartbeat_s: 12.3}}
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.module_support.failures import failures
from ansible.module_utils.pgprefect.core.connection import LOGIN_ARGUMENTS, Login
from ansible.module_utils.pgprefect.core.jobs import Job
from ansible.module_utils.pgprefect.health.check import check_health
from ansible.module_utils.pgprefect.health.leftovers import places
from ansible.module_utils.pgprefect.health.thresholds import Thresholds
from ansible.module_utils.pgprefect.site.configuration import Certificate, Patroni, Tenant


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **LOGIN_ARGUMENTS,
            "login_user": {"type": "str", "default": "prefect_monitor"},
            "database": {"type": "str", "required": True},
            "tenants": {"type": "list", "elements": "dict", "required": True},
            "thresholds": {"type": "dict", "default": {}},
            "disk_paths": {"type": "list", "elements": "path", "default": []},
            "jobs": {"type": "list", "elements": "dict", "default": []},
            "certificates": {"type": "list", "elements": "dict", "default": []},
            "patroni": {"type": "dict"},
            "backup_directory": {"type": "path"},
            "drill_directory": {"type": "path"},
            "timeout": {"type": "float", "default": 4},
        },
        supports_check_mode=True,
    )
    try:
        tenants = [Tenant.from_arguments(tenant) for tenant in module.params["tenants"]]
    except (KeyError, ValueError, AttributeError) as error:
        module.fail_json(msg=f"Each of tenants needs name, schema and api_url, and workers as a number: {error}.")
    try:
        jobs = [Job(**job) for job in module.params["jobs"]]
    except TypeError as error:
        module.fail_json(msg=f"Each of jobs needs name and schedule: {error}.")
    try:
        watched = [Certificate(**certificate) for certificate in module.params["certificates"]]
    except TypeError as error:
        module.fail_json(msg=f"Each of certificates needs file, and may have address and protocol: {error}.")
    try:
        cluster = Patroni.from_arguments(module.params["patroni"]) if module.params["patroni"] else None
    except KeyError as error:
        module.fail_json(msg=f"patroni needs url, ca_file, etcd_url and members; {error} is missing.")
    with failures(module):
        health = check_health(
            Login.from_arguments(module.params),
            module.params["database"],
            tenants,
            timeout=module.params["timeout"],
            thresholds=Thresholds.from_arguments(module.params["thresholds"]),
            disk_paths=module.params["disk_paths"],
            jobs=jobs,
            watched=watched,
            cluster=cluster,
            work=places(module.params["backup_directory"] or "", module.params["drill_directory"] or ""),
        )
        module.exit_json(changed=False, **health.as_dict())


if __name__ == "__main__":
    main()
