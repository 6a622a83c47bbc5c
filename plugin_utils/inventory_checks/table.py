"""The one table of forms: what each variable that an inventory may set, and each key inside it, must look like.

A test demands a row for each option of the roles' argument specs, which say the types.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from pgprefect.health.thresholds import Thresholds
from pgprefect.runs.retention import Policy
from pgprefect.schema.database_events import KEEP, NAME, OPERATIONS, TABLE
from pgprefect.schema.event_table import FIELDS

from . import docker, environment, forms, git, kubernetes, objects
from .age import AGE_RECIPIENT
from .forms import Entries, Form, identifier, matching, number, one_of, whole
from .libraries import LIBRARIES
from .suggestions import did_you_mean

REQUIREMENTS = Path(__file__).resolve().parents[2] / "requirements"
_SCHEMA_BYTES = 63 - len("_migrator")  # of the longest name of its roles
_SECONDS = whole(1, 604_800)
_MEGABYTES = whole(0, 999_999_999)
_PORT = whole(1, 65_535)
_LIMIT = whole(-1, 2**31 - 1)
_COUNT = whole(0, 100_000)
_ROLE = identifier("role")
# A secret's file on the controller is named after its role.
_LOGIN = identifier("role", "/")
_SET = matching(r"\d{8}T\d{6}Z(-safety)?", "the name of a backup set, as 20260131T020000Z").or_empty()
TENANT = matching(r"[a-z][a-z0-9_]{0,23}", "1 to 24 lower-case letters, digits and '_', a letter first")
_PLAIN_PATH = matching(
    r"(?!.*/\.{1,2}/)/[A-Za-z0-9._/-]*[A-Za-z0-9_-]", "an absolute path of letters, digits and . _ - /"
)
_MAIL = matching(r"[A-Za-z0-9._+-]{1,64}@[A-Za-z0-9][A-Za-z0-9.-]{0,252}", "an address as on-call@example.com")
ENTRYPOINT = matching(
    r"[\w-]+(?:/[\w-]+)*\.py:[A-Za-z_]\w*",
    "file.py:function, with the file's path in the folder of the flows, or in the repository",
)


@dataclass(frozen=True)
class Settings(Form):
    """A mapping whose keys are the fields of a class that hosts use too."""

    kind: Any = Policy

    def faults(self, path: str, value: Any) -> Iterator[str]:
        """Yield the faults of each key, and without any, those that several keys have together."""
        known = [field.name for field in fields(self.kind)]
        if not isinstance(value, Mapping):
            yield forms.refusal(path, value, f"a mapping. Known keys: {', '.join(known)}")
            return
        faults = [fault for name, entry in value.items() for fault in self._faults_of(path, str(name), entry, known)]
        yield from faults or self._parse(path, value)

    def _faults_of(self, path: str, name: str, value: Any, known: list[str]) -> Iterator[str]:
        if name not in known:
            yield f"{path}.{name}: unknown key" + (did_you_mean(name, known) or f". Known keys: {', '.join(known)}.")
            return
        try:
            forms.refuse_control_characters(value)
            if rule := self.kind.__dataclass_fields__[name].metadata.get("rule"):
                rule(name, value)
            else:
                self.kind.from_arguments({name: value})
        except ValueError as error:
            yield f"{path}.{name}: {error}: correct it in the inventory."

    def _parse(self, path: str, value: Any) -> Iterator[str]:
        try:
            self.kind.from_arguments(value)
        except ValueError as error:
            yield f"{path}: {error}"


@dataclass(frozen=True)
class Workers(Form):
    """A number of workers, or the least and the most of them."""

    def faults(self, path: str, value: Any) -> Iterator[str]:
        """Yield why a value is neither."""
        if not isinstance(value, Mapping):
            yield from replace(whole(0, 100), allowed=self.allowed).faults(path, value)
            return
        known = {"min": whole(0, 100), "max": whole(1, 100)}
        for key in value:
            if key not in known:
                yield f"{path}.{key if str(key).isprintable() else repr(key)}: unknown key. Known keys: min, max."
        found = [key for key in known if key in value]
        faults = [fault for key in found for fault in known[key].faults(f"{path}.{key}", value[key])]
        yield from faults
        if "max" not in value:
            yield f"{path}.max is missing, but it must be {known['max'].allowed}: set it in the inventory."
        elif not faults and int(value.get("min", 0)) > int(value["max"]):
            yield f"{path}.min is {value['min']}, but it must be at most {value['max']}, its max, in the inventory."


def _release(value: Any) -> None:
    text = str(value)
    if not text.replace(".", "").isdecimal() or not (REQUIREMENTS / f"prefect-{text}.txt").is_file():
        raise ValueError(f"make another by `requirements/lock prefect {text}`, and test it")


def _releases() -> str:
    return ", ".join(sorted(path.stem.removeprefix("prefect-") for path in REQUIREMENTS.glob("prefect-*.txt")))


def _tables(value: Any) -> None:
    schema, dot, table = str(value).partition(".")
    if not (schema and dot and table):
        raise ValueError("it has no schema and table")


_BOOLEAN = forms.BOOLEAN
# Names of settings by the variable that sets them: two of one setting would be read in the order of the file.
_OWN_SETTINGS = {
    "listen_addresses": "it follows from the inventory's groups",
    "port": "set database_port",
    "max_connections": "it follows from prefect_tenants",
    "ssl_cert_file": "set postgresql_tls_certificate",
    "ssl_key_file": "set postgresql_tls_key",
    "log_min_duration_statement": "set postgresql_log_min_duration_ms",
    **dict.fromkeys(
        ("config_file", "data_directory", "external_pid_file", "hba_file", "ident_file", "ssl", "password_encryption"),
        "the site depends on it",
    ),
    **dict.fromkeys(("pgaudit.log", "pgaudit.log_catalog", "pgaudit.log_parameter"), "set postgresql_audit"),
    **dict.fromkeys(("include", "include_dir", "include_if_exists"), "it is no setting"),
}


def _host_and_port(example: str) -> Form:
    return matching(r"[A-Za-z0-9][A-Za-z0-9.-]{0,252}:\d{1,5}", f"a host and a port, as {example}")


def _setting(value: Any) -> None:
    name = str(value).lower()
    if name in _OWN_SETTINGS:
        raise ValueError(_OWN_SETTINGS[name])
    matching(r"[a-z_][a-z0-9_]*(\.[a-z_][a-z0-9_]*)*", "").check(name)


def _tenant_schema(value: Any) -> None:
    identifier("schema", "/,=").check(value)
    if len(str(value).encode()) > _SCHEMA_BYTES:
        raise ValueError("its roles have longer names")
    if value in ("public", "extensions"):
        raise ValueError("that is another one's")


def _event_column(value: Any) -> None:
    if value != "":
        identifier("column").check(value)


def _event_source(value: Any) -> None:
    for column in value if isinstance(value, list) and value else [value]:
        identifier("column").check(column)


FORMS: dict[str, Form] = {
    # --- The site
    "app_database": identifier("database"),
    "app_owner": _ROLE,
    "app_login": _LOGIN,
    "app_schema": one_of("none", "trading"),
    "app_schemas": identifier("schema"),
    "app_events_table": identifier("table").or_empty(),
    "app_events_columns": Entries(
        "a mapping of fields and columns", key=one_of(*FIELDS), value=Form("a column's name, or empty", _event_column)
    ),
    "app_database_exclusive": _BOOLEAN,
    "app_networks": forms.NETWORK,
    "database_host": forms.HOST,
    "database_port": whole(1024, 65_535),
    "database_cluster": matching(r"[a-z][a-z0-9_]{0,30}", "a name of 1 to 31 lower-case letters, digits and '_'"),
    "database_version": whole(15, 17),
    "database_administrator.name": _ROLE,
    "database_administrator.password": forms.SECRET,
    "database_ca_file": forms.SERVICE_FILE.or_empty(),
    "site_tls": one_of("none", "private_ca", "files"),
    "site_tls_files.postgresql.certificate": forms.CONTROLLER_FILE,
    "site_tls_files.postgresql.key": forms.CONTROLLER_FILE,
    "site_tls_files.proxy.certificate": forms.CONTROLLER_FILE,
    "site_tls_files.proxy.key": forms.CONTROLLER_FILE,
    "site_tls_ca_file": forms.CONTROLLER_FILE,
    "site_tls_names": forms.HOST,
    "prefect_certificates_days": whole(1, 3650),
    "prefect_certificates_renew_days": whole(1, 3650),
    "backup_directory": forms.OWN_DIRECTORY,
    "private_address": forms.ADDRESS,
    "prefect_worker_weight": whole(1, 1000),
    "prefect_version": Form(f"a release of Prefect that has a lock in requirements/, as {_releases()}", _release),
    "prefect_ui_url": forms.SITE_URL.or_empty(),
    "prefect_api_ca_file": forms.SERVICE_FILE.or_empty(),
    "prefect_allow_plain_http": _BOOLEAN,
    "prefect_trusted_proxies": forms.ADDRESS,
    "prefect_bind_address": forms.BIND_ADDRESS,
    "prefect_secrets": Entries(
        "a mapping of names and secrets", secret=True, key=Form("the name of a secret", forms.text), value=forms.SECRET
    ),
    "prefect_recover_runs": _BOOLEAN,
    "prefect_no_proxy": matching(
        r"\.?[A-Za-z0-9][A-Za-z0-9.:/-]{0,252}", "a host, a domain as .example.com, or an address"
    ),
    "prefect_flows_modules": matching(r"[A-Za-z_]\w{0,99}", "the name of a module"),
    "site_other_variables": matching(r"[A-Za-z_]\w{0,99}", "the name of a variable"),
    "site_explicit_inventory": _BOOLEAN,
    "site_own_postgresql": _BOOLEAN,
    "site_one_postgresql": _BOOLEAN,
    # --- Tenants
    "prefect_tenants[].name": TENANT,
    "prefect_tenants[].port": whole(1024, 65_535),
    "prefect_tenants[].schema": Form(
        f"a name of PostgreSQL's for a schema, of 1 to {_SCHEMA_BYTES} bytes without / , = and no other's",
        _tenant_schema,
    ),
    "prefect_tenants[].ui_url": forms.URL.or_empty(),
    "prefect_tenants[].api_url": forms.API_URL,
    "prefect_tenants[].event_retention": forms.DURATION,
    "prefect_tenants[].database_events[].name": matching(
        rf"(?!({TABLE}|{KEEP})\Z){NAME.pattern}", f"1 to 24 lower-case letters, digits and '_', not {TABLE} or {KEEP}"
    ),
    "prefect_tenants[].database_events[].table": identifier("table"),
    "prefect_tenants[].database_events[].operations": one_of(*OPERATIONS),
    "prefect_tenants[].database_events[].for_each": one_of("row", "statement"),
    "prefect_tenants[].database_events[].columns": identifier("column"),
    "prefect_tenants[].database_events[].condition": forms.TEXT,
    "prefect_tenants[].database_events[].values": Entries(
        "a mapping of names and columns",
        key=Form("a name", forms.text),
        value=Form("a column's name, or a list of them", _event_source),
    ),
    "prefect_tenants[].database_events[].deployment": matching(
        "[^/]{1,200}/[^/]{1,200}", "FLOW/DEPLOYMENT, each a name of at most 200 characters"
    ),
    "prefect_tenants[].database_events[].event": matching(
        r"(?!prefect\.)[a-z0-9][a-z0-9._-]{0,199}", "lower-case letters, digits, '.', '_' and '-', as orders.filled"
    ),
    "prefect_tenants[].environment": environment.TENANT,
    "prefect_tenants[].git_credentials[].name": git.NAME,
    "prefect_tenants[].git_credentials[].token": forms.ASCII_SECRET,
    "prefect_tenants[].git_credentials[].username": matching(r"[A-Za-z0-9][\w.+@-]{0,99}", "a user's name"),
    "prefect_tenants[].git_credentials[].key": forms.PRIVATE_KEY,
    "prefect_tenants[].git_credentials[].known_hosts": git.KNOWN_HOST,
    "prefect_tenants[].docker_registries[].name": git.NAME,
    "prefect_tenants[].docker_registries[].address": docker.ADDRESS,
    "prefect_tenants[].docker_registries[].username": matching(r"[A-Za-z0-9_][\w.+@$-]{0,199}", "a user's name"),
    "prefect_tenants[].docker_registries[].password": forms.SECRET,
    "prefect_tenants[].variables[].name": objects.VARIABLE,
    "prefect_tenants[].variables[].value": objects.VALUE,
    "prefect_tenants[].variables[].tags": forms.TEXT,
    "prefect_tenants[].concurrency_limits[].name": objects.LIMIT,
    "prefect_tenants[].concurrency_limits[].limit": whole(0, 2**31 - 1),
    "prefect_tenants[].concurrency_limits[].active": _BOOLEAN,
    "prefect_tenants[].concurrency_limits[].slot_decay_per_second": objects.RATE,
    "prefect_tenants[].blocks[].name": objects.SLUG,
    "prefect_tenants[].blocks[].type": objects.SLUG,
    "prefect_tenants[].blocks[].data": forms.DATA,
    "prefect_tenants[].blocks[].secrets": replace(forms.DATA, secret=True),
    "prefect_tenants[].work_pools[].name": forms.POOL_NAME,
    "prefect_tenants[].work_pools[].type": matching(r"[a-z][a-z0-9-]{0,99}", "a type of Prefect's, as process"),
    "prefect_tenants[].work_pools[].description": forms.PROSE,
    "prefect_tenants[].work_pools[].concurrency_limit": _LIMIT,
    "prefect_tenants[].work_pools[].paused": _BOOLEAN,
    "prefect_tenants[].work_pools[].base_job_template": forms.DATA,
    "prefect_tenants[].work_pools[].docker.image": docker.IMAGE,
    "prefect_tenants[].work_pools[].docker.network_mode": one_of("bridge", "host"),
    "prefect_tenants[].work_pools[].docker.networks": docker.NETWORK,
    "prefect_tenants[].work_pools[].docker.volumes": docker.VOLUME,
    "prefect_tenants[].work_pools[].docker.memory": docker.MEMORY,
    "prefect_tenants[].work_pools[].docker.registry": git.NAME,
    "prefect_tenants[].work_pools[].docker.database_login": _BOOLEAN,
    "prefect_tenants[].work_pools[].kubernetes.image": kubernetes.IMAGE,
    "prefect_tenants[].work_pools[].kubernetes.namespace": kubernetes.NAMESPACE,
    "prefect_tenants[].work_pools[].kubernetes.kubeconfig": kubernetes.KUBECONFIG,
    "prefect_tenants[].work_pools[].kubernetes.memory": docker.MEMORY,
    "prefect_tenants[].work_pools[].kubernetes.cpu": kubernetes.CPU,
    "prefect_tenants[].work_pools[].kubernetes.service_account": kubernetes.NAME,
    "prefect_tenants[].work_pools[].kubernetes.image_pull_secret": kubernetes.NAME,
    "prefect_tenants[].work_pools[].kubernetes.environment_secret": kubernetes.NAME,
    "prefect_tenants[].work_pools[].workers": Workers("a whole number from 0 to 100, or as {min: 0, max: 8}"),
    "prefect_tenants[].work_pools[].hosts": matching(r"[A-Za-z_][\w.-]{0,99}", "the name of a group of the inventory"),
    "prefect_tenants[].work_pools[].memory_max": forms.SIZE,
    "prefect_tenants[].work_pools[].cpu_weight": whole(1, 10_000),
    "prefect_tenants[].work_pools[].limit": whole(1, 10_000),
    "prefect_tenants[].work_pools[].libraries": LIBRARIES,
    "prefect_tenants[].work_pools[].environment": environment.WORKER,
    "prefect_tenants[].work_pools[].queues[].name": forms.PREFECT_NAME,
    "prefect_tenants[].work_pools[].queues[].description": forms.PROSE,
    "prefect_tenants[].work_pools[].queues[].priority": whole(1, 2**31 - 1),
    "prefect_tenants[].work_pools[].queues[].concurrency_limit": _LIMIT,
    "prefect_tenants[].work_pools[].queues[].paused": _BOOLEAN,
    "prefect_tenants[].deployments[].name": forms.PREFECT_NAME,
    "prefect_tenants[].deployments[].flow": forms.PREFECT_NAME,
    "prefect_tenants[].deployments[].entrypoint": ENTRYPOINT,
    "prefect_tenants[].deployments[].source.git": git.URL,
    "prefect_tenants[].deployments[].source.ref": git.REF,
    "prefect_tenants[].deployments[].source.credentials": git.NAME,
    "prefect_tenants[].deployments[].work_pool": forms.PREFECT_NAME,
    "prefect_tenants[].deployments[].work_queue": forms.PREFECT_NAME,
    "prefect_tenants[].deployments[].description": forms.PROSE,
    "prefect_tenants[].deployments[].parameters": forms.DATA,
    "prefect_tenants[].deployments[].tags": forms.TEXT,
    "prefect_tenants[].deployments[].job_variables": forms.DATA,
    "prefect_tenants[].deployments[].environment": environment.WORKER,
    "prefect_tenants[].deployments[].enforce_parameter_schema": _BOOLEAN,
    "prefect_tenants[].deployments[].concurrency_limit": Form(
        f"a whole number from 1 to {2**31 - 1}, or -1 for no limit",
        lambda value: whole(1, 2**31 - 1).check(value) if str(value) != "-1" else None,
    ),
    "prefect_tenants[].deployments[].paused": _BOOLEAN,
    "prefect_tenants[].deployments[].on_lost": one_of("crash", "reschedule"),
    "prefect_tenants[].deployments[].schedules[].slug": matching(
        r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}", "a name of at most 100 letters, digits, '_' and '-'"
    ),
    "prefect_tenants[].deployments[].schedules[].cron": forms.PREFECT_CRON,
    "prefect_tenants[].deployments[].schedules[].interval": whole(1, 315_360_000),
    "prefect_tenants[].deployments[].schedules[].rrule": forms.RRULE,
    "prefect_tenants[].deployments[].schedules[].timezone": forms.TIMEZONE,
    "prefect_tenants[].deployments[].schedules[].active": _BOOLEAN,
    "prefect_tenants[].deployments[].schedules[].parameters": forms.DATA,
    "prefect_tenants[].deployments_from": forms.CONTROLLER_FILE,
    "prefect_tenants[].automations[].name": forms.NAME_OF_ANY_KIND,
    "prefect_tenants[].automations[].description": forms.PROSE,
    "prefect_tenants[].automations[].enabled": _BOOLEAN,
    "prefect_tenants[].automations[].tags": forms.TEXT,
    "prefect_tenants[].automations[].trigger": objects.TRIGGER,
    "prefect_tenants[].automations[].actions": objects.ACTION,
    "prefect_tenants[].automations[].actions_on_trigger": objects.ACTION,
    "prefect_tenants[].automations[].actions_on_resolve": objects.ACTION,
    # --- PostgreSQL
    "postgresql_memory_mb": whole(64, 16_777_216),
    "postgresql_minimum_memory_mb": _MEGABYTES,
    "postgresql_minimum_disk_mb": _MEGABYTES,
    "postgresql_upgrade_others_confirmed": _BOOLEAN,
    "postgresql_tls_certificate": forms.FILE,
    "postgresql_tls_key": forms.FILE,
    "postgresql_log_min_duration_ms": whole(-1, 2**31 - 1),
    "postgresql_audit": _BOOLEAN,
    "postgresql_patroni": _BOOLEAN,
    "postgresql_patroni_synchronous": _BOOLEAN,
    "postgresql_replica": _BOOLEAN,
    "postgresql_replica_confirmed": _BOOLEAN,
    "postgresql_replica_host_is_off": _BOOLEAN,
    "postgresql_audit_tables": matching(
        r"[A-Za-z_][A-Za-z0-9_$]{0,62}\.[A-Za-z_][A-Za-z0-9_$]{0,62}", "a table with its schema, as public.orders"
    ),
    "postgresql_audit_copy_to": _host_and_port("logs.example.com:514").or_empty(),
    "postgresql_settings": Entries(
        "a mapping of PostgreSQL's settings and their values",
        key=Form("a setting of PostgreSQL's that no other variable sets", _setting),
        value=forms.SCALAR,
    ),
    "postgresql_hba_extra_rules[].type": one_of("local", "host", "hostssl"),
    "postgresql_hba_extra_rules[].databases": identifier("database"),
    "postgresql_hba_extra_rules[].users": identifier("role"),
    "postgresql_hba_extra_rules[].address": forms.NETWORK,
    "postgresql_hba_extra_rules[].method": one_of("scram-sha-256", "peer", "peer map=pgprefect", "cert"),
    "postgresql_hba_other_rules": one_of("keep", "refuse"),
    # --- The database
    "prefect_database_extensions_schema": identifier("schema"),
    "prefect_database_extensions": identifier("extension"),
    "prefect_database_connection_limits": Entries(
        "a mapping of roles and their numbers of connections", key=_ROLE, value=whole(1, 100_000)
    ),
    "prefect_database_login_host": forms.HOST.or_empty(),
    "prefect_database_login_user": _ROLE,
    "prefect_database_login_password": forms.SECRET.or_empty(),
    # --- Prefect
    "prefect_flows": forms.FLOWS_FOLDER,
    "prefect_flows_removal_confirmed": _BOOLEAN,
    "prefect_minimum_disk_mb": _MEGABYTES,
    "prefect_virtualenv_seconds": _SECONDS,
    "prefect_objects_flows_directory": forms.DIRECTORY,
    "prefect_objects_prune": _BOOLEAN,
    "prefect_server_extensions_schema": identifier("schema"),
    "prefect_server_processes": whole(1, 64),
    "prefect_server_pool_size": whole(1, 200),
    "prefect_server_migrate": _BOOLEAN,
    "prefect_server_import_file": matching(
        r"/(?:[^\x00-\x1f\x7f]*[^\x00-\x1f\x7f/])", "the absolute path of a file, as /root/.prefect/prefect.db"
    ).or_empty(),
    "prefect_server_import_tenant": TENANT.or_empty(),
    "prefect_server_import_confirmed": _BOOLEAN,
    "prefect_server_import_leave_out_orphans": _BOOLEAN,
    "prefect_server_import_let_expire": _BOOLEAN,
    "prefect_server_environment": environment.SERVER,
    "prefect_server_memory_max": forms.SIZE,
    "prefect_server_tasks_max": whole(64, 4_194_304),
    "prefect_server_ready_seconds": _SECONDS,
    # --- Redis
    "prefect_redis_program": one_of("redis", "valkey"),
    "prefect_redis_memory_mb": whole(32, 1_000_000),
    # --- The proxy
    "prefect_proxy_certificate": _PLAIN_PATH.or_empty(),
    "prefect_proxy_bind_address": forms.BIND_ADDRESS,
    "prefect_proxy_http_port": whole(0, 65_535),
    "prefect_proxy_login_failures": whole(1, 1_000_000),
    "prefect_proxy_hsts_seconds": whole(0, 2**31 - 1),
    "prefect_proxy_image_sources": matching(
        r"https://(\*\.)?[A-Za-z0-9][A-Za-z0-9.-]{0,252}(:\d{1,5})?", "an address as https://images.example.com"
    ),
    "prefect_proxy_people": Entries(
        "a mapping of names and hashes of passwords",
        secret=True,
        key=matching(r"(?!admin$)[A-Za-z0-9][A-Za-z0-9._@-]{0,31}", "a name of letters, digits and . _ @ -, not admin"),
        value=replace(
            matching(r"\$[56]\$[./A-Za-z0-9$=]{20,200}", "a hash of a password as `openssl passwd -6` makes it"),
            secret=True,
        ),
    ),
    "prefect_worker_drain_seconds": _SECONDS,
    "prefect_worker_environment": environment.WORKER,
    "prefect_worker_memory_max": forms.SIZE,
    "prefect_worker_cpu_weight": whole(1, 10_000),
    "prefect_worker_limit": whole(0, 10_000),
    "prefect_worker_tasks_max": whole(64, 4_194_304),
    "prefect_worker_scale_seconds": whole(1, 3600),
    "prefect_worker_quiet_looks": whole(1, 10_000),
    "prefect_worker_healthy_seconds": _SECONDS,
    # --- Firewall
    "prefect_firewall_enabled": _BOOLEAN,
    "prefect_firewall_open[].port": _PORT,
    "prefect_firewall_open[].protocol": one_of("tcp", "udp"),
    "prefect_firewall_open[].networks": forms.NETWORK,
    "prefect_firewall_closed": _PORT,
    "prefect_firewall_ssh_networks": forms.NETWORK,
    # --- Backups
    "prefect_backup_enabled": _BOOLEAN,
    "prefect_backup_kinds": one_of("app", "workflow", "full"),
    "prefect_backup_keep.last": _COUNT,
    "prefect_backup_keep.daily": _COUNT,
    "prefect_backup_keep.weekly": _COUNT,
    "prefect_backup_keep.monthly": _COUNT,
    "prefect_backup_schedule": forms.CRONTAB,
    "prefect_backup_drill_schedule": forms.CRONTAB,
    "prefect_backup_drill_directory": forms.OWN_DIRECTORY,
    "prefect_backup_copy.tool": one_of("rsync", "rclone"),
    "prefect_backup_copy.target": matching(
        r"[^-/:\s][^/:\s]*:(?!:|//)\S+",
        "without blanks, as backup@vault.example.org:/srv/prefect for rsync or store:bucket/prefect for rclone",
    ),
    "prefect_backup_copy.port": _PORT,
    "prefect_backup_copy_secret": forms.CREDENTIALS.or_empty(),
    "prefect_backup_copy_known_hosts": forms.TEXT,
    "prefect_backup_age_recipient": AGE_RECIPIENT.or_empty(),
    "prefect_backup_fetch": forms.CONTROLLER_PATH.or_empty(),
    "prefect_backup_fetch_set": _SET,
    "prefect_backup_restore_upload": forms.CONTROLLER_PATH.or_empty(),
    "prefect_backup_restore_confirmed": _BOOLEAN,
    "prefect_backup_restore_set": _SET,
    "prefect_backup_restore_kinds": one_of("app", "workflow"),
    "prefect_backup_restore_tenant": TENANT.or_empty(),
    "prefect_backup_restore_table": Form("SCHEMA.TABLE", _tables).or_empty(),
    # --- Point-in-time recovery
    "pgbackrest_enabled": _BOOLEAN,
    "pgbackrest_repository.type": one_of("path", "s3", "sftp"),
    "pgbackrest_repository.path": forms.DIRECTORY,
    "pgbackrest_repository.bucket": matching(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", "the name of a bucket"),
    "pgbackrest_repository.endpoint": forms.HOST,
    "pgbackrest_repository.port": _PORT,
    "pgbackrest_repository.region": matching(r"[A-Za-z0-9][A-Za-z0-9-]{0,62}", "the name of a region, as eu-central-1"),
    "pgbackrest_repository.uri_style": one_of("host", "path"),
    "pgbackrest_repository.ca_file": forms.SERVICE_FILE,
    "pgbackrest_repository.host": forms.HOST,
    "pgbackrest_repository.user": matching(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}", "a user's name"),
    "pgbackrest_repository.known_hosts": forms.TEXT,
    "pgbackrest_s3_key": forms.ASCII_SECRET.or_empty(),
    "pgbackrest_s3_key_secret": forms.ASCII_SECRET.or_empty(),
    "pgbackrest_sftp_key": forms.PRIVATE_KEY.or_empty(),
    "pgbackrest_keep_full": whole(1, 1000),
    "pgbackrest_full_schedule": forms.CRONTAB,
    "pgbackrest_incremental_schedule": forms.CRONTAB,
    "pgbackrest_archive_timeout_s": whole(1, 3600),
    "pgbackrest_restore_time": forms.MOMENT.or_empty(),
    "pgbackrest_restore_point": replace(forms.TEXT, allowed="the name of a restore point").or_empty(),
    "pgbackrest_restore_end": _BOOLEAN,
    "pgbackrest_restore_beside": _BOOLEAN,
    "pgbackrest_restore_confirmed": _BOOLEAN,
    # --- Database events
    "prefect_events_rate": whole(1, 10_000),
    "prefect_events_keep_days": whole(1, 3650),
    # --- Retention and monitoring
    "prefect_retention_policy": Settings("a policy", kind=Policy),
    "prefect_retention_enabled": _BOOLEAN,
    "prefect_retention_hour": whole(0, 23),
    "prefect_retention_minute": whole(0, 59),
    "prefect_retention_stagger_minutes": whole(1, 1440),
    "prefect_monitoring_thresholds": Settings("limits by name", kind=Thresholds),
    "prefect_monitoring_statistics_days": number(0, 36_500),
    "site_monitoring": _BOOLEAN,
    "prefect_metrics_directory": _PLAIN_PATH.or_empty(),
    "prefect_metrics_seconds": whole(5, 120),
    "prefect_metrics_port": _PORT,
    "prefect_prometheus_retention": matching(r"[1-9]\d{0,4}[hdwy]", "a number with h, d, w or y behind it, as 30d"),
    "prefect_prometheus_retention_size": matching(r"[1-9]\d{0,4}[MGT]B", "a size in MB, GB or TB, as 5GB"),
    "prefect_prometheus_bind_address": forms.BIND_ADDRESS,
    "prefect_prometheus_port": _PORT,
    "prefect_prometheus_alertmanager_port": _PORT,
    "prefect_prometheus_webhooks": replace(
        matching(r"https?://[A-Za-z0-9\[][!-~]{0,2000}", "an address as https://alerts.example.com/hook"), secret=True
    ),
    "prefect_prometheus_mail[].to": _MAIL,
    "prefect_prometheus_mail[].from": _MAIL,
    "prefect_prometheus_mail[].smarthost": _host_and_port("mail.example.com:587"),
    "prefect_prometheus_mail[].username": forms.TEXT,
    "prefect_prometheus_mail[].password": forms.SECRET,
    "prefect_prometheus_mail[].require_tls": _BOOLEAN,
}

# Lists that need an entry, and those in which one may stand twice.
NEED_AN_ENTRY = (
    *("prefect_tenants", "prefect_backup_kinds", "prefect_backup_restore_kinds"),
    "prefect_tenants[].automations[].actions",
)
MAY_REPEAT = ("prefect_backup_copy_known_hosts", "pgbackrest_repository.known_hosts")
# What must differ among the entries of a list, besides the whole entry.
UNIQUE: dict[str, tuple[tuple[str, ...], ...]] = {
    "prefect_tenants": (("name",), ("port",), ("schema",)),
    "prefect_tenants[].database_events": (("name",),),
    "prefect_tenants[].git_credentials": (("name",),),
    "prefect_tenants[].docker_registries": (("name",),),
    "prefect_tenants[].variables": (("name",),),
    "prefect_tenants[].concurrency_limits": (("name",),),
    "prefect_tenants[].blocks": (("type", "name"),),
    "prefect_tenants[].automations": (("name",),),
    "prefect_tenants[].work_pools": (("name",),),
    "prefect_tenants[].work_pools[].queues": (("name",), ("priority",)),
    "prefect_tenants[].deployments": (("flow", "name"),),
    "prefect_tenants[].deployments[].schedules": (("slug",),),
}
