"""Restores of the whole cluster to a point in time: in place, side by side with the running one, and back again.

A restore in place keeps the previous data directory until somebody removes it. Where the restore fails, the previous
data directory is put back and started.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime

from ..core.connection import Login
from ..core.lock import exclusive_lock
from ..core.problems import Problem
from .programs import POSTGRES_USER, RecoveryError, is_active, run_program, run_systemctl
from .repository import Cluster, RecoveryPlan, Repository, blocked, refuse_during_backup, set_restore_point
from .service import Service, SystemdService, recover

SIDE_BY_SIDE = "beside"  # the name of a cluster that is restored side by side with the running one
# The copying has a unit of its own, because it outlives a restore that was killed, and must be stopped before the
# previous data directory is put back.
_COPYING_UNIT = "pgprefect-restore.service"
_FAILURES = (RecoveryError, OSError, LookupError)
_AGAIN = "Choose another target (pgprefect pitr list), or fix the cause and try again."
_HEADROOM = 1.1  # the WAL since the base backup needs space too
_log = logging.getLogger(__name__)


@contextlib.contextmanager
def restore_lock(cluster: Cluster) -> Iterator[None]:
    """Hold the lock of restores of the cluster. Raises RecoveryError where another process holds it."""
    folder = cluster.data.parent
    remedy = f"Wait until it has ended; as root `lslocks | grep {folder}` names its process."
    with exclusive_lock(os.open(folder, os.O_RDONLY), blocked("Another restore is running", remedy)):
        yield


def check_obstacles(cluster: Cluster, repository: Repository, side_by_side: bool) -> None:
    """Raise RecoveryError where something blocks a restore: a backup, an earlier restore, or tablespaces."""
    refuse_during_backup(repository)
    if is_active(_COPYING_UNIT):
        raise blocked("A restore that was killed still copies", f"End it: systemctl stop {_COPYING_UNIT}")
    copy = _copy_of(cluster)
    if side_by_side and (left := _left_of(copy)):
        known = (copy.settings / "postgresql.conf").exists()  # else Debian's tools say that there is no such cluster
        command = f"pg_dropcluster --stop {copy.version} {copy.name}" if known else shlex.join(["rm", "-r", *left])
        remedy = f"Remove it if nobody needs it any more: {command}"
        raise blocked(f"{left[0]} is there, of a restore before this one", remedy)
    if not side_by_side and cluster.previous.exists():
        remedy = "Remove it if nobody needs it any more, or make it the database's again: pgprefect pitr undo --yes"
        raise blocked(f"{cluster.previous} is there, of a restore before this one", remedy)
    tablespaces = cluster.data / "pg_tblspc"
    if tablespaces.is_dir() and any(tablespaces.iterdir()):
        message = f"{tablespaces} has tablespaces, which this does not restore"
        raise blocked(message, "Restore by hand, with pgbackrest restore.")


def check_free_space(cluster: Cluster, plan: RecoveryPlan) -> None:
    """Raise RecoveryError where the file system is too small for a second data directory."""
    free, needed = shutil.disk_usage(cluster.data.parent).free, plan.base_backup.bytes * _HEADROOM
    _log.info("%s has %s bytes free; the copy needs %s.", cluster.data.parent, f"{free:,}", f"{needed:,.0f}")
    if free < needed:
        message = f"{cluster.data.parent} has {free:,} bytes free, and the copy needs {needed:,.0f}"
        remedy = "Free space: the present data directory stays until the restore has succeeded."
        raise blocked(message, remedy)


def restore_in_place(login: Login, cluster: Cluster, service: Service, plan: RecoveryPlan) -> None:
    """Replace the cluster. Where that fails, the previous data directory is put back and started.

    Raises RecoveryError.
    """
    _log.info("Restore %s to %s, from the base backup %s.", cluster.data, plan.target, plan.base_backup.label)
    try:
        service.stop()
        cluster.data.rename(cluster.previous)
        _copy_data(cluster, cluster, plan)
        recover(login, service)
        service.end_recovery()
    except BaseException as error:
        _log.info("The restore failed, so the previous data directory is put back.")
        try:
            _put_back(cluster, service)
        except RecoveryError as worse:  # it may have been broken before
            raise _restore_failed(plan, error, worse.problem.message, worse.problem.remedy) from error
        if isinstance(error, _FAILURES):
            raise _restore_failed(plan, error, "The database is as it was, and was started again.") from error
        raise
    service.let_others_follow(rebuild=True)


def undo_restore(login: Login, cluster: Cluster, service: Service, now: datetime) -> None:
    """Take back a restore in place that had succeeded. Raises RecoveryError.

    Its restore point records that the cluster is on its previous timeline again.
    """
    _put_back(cluster, service)
    set_restore_point(login, cluster, "undone", now)


def _put_back(cluster: Cluster, service: Service) -> None:
    """Put the previous data directory back and start PostgreSQL on it.

    Raises RecoveryError, which says where that directory is then, and what to do.
    """
    try:
        _stop_copying()
        service.stop()
        if cluster.previous.exists():
            if cluster.data.exists():
                shutil.rmtree(cluster.data)
            cluster.previous.rename(cluster.data)
            _log.info("Moved %s back to %s.", cluster.previous, cluster.data)
        service.start_previous()
        service.let_others_follow(rebuild=False)
    except _FAILURES as error:
        message = f"The previous data directory is in its place, {cluster.data}, but not all is well: {_reason(error)}"
        remedy = error.problem.remedy if isinstance(error, RecoveryError) else "Fix the cause, and start PostgreSQL."
        if cluster.previous.exists():
            message = (
                f"The previous data directory is still at {cluster.previous}, and was not put back: {_reason(error)}"
            )
            remedy = "Fix the cause, then put it back: pgprefect pitr undo --yes"
        raise RecoveryError(Problem("pitr_failed", "cluster", message, remedy)) from error


def restore_side_by_side(login: Login, cluster: Cluster, plan: RecoveryPlan) -> tuple[Cluster, Login]:
    """Restore into a cluster of its own, which listens on the unix socket only and archives nothing.

    Returns that cluster and its login. Raises RecoveryError, which says whether anything of the cluster is left.
    """
    copy = _copy_of(cluster)
    _log.info("Restore into %s to %s, from the base backup %s.", copy.data, plan.target, plan.base_backup.label)
    try:
        port = _unused_port(login.port)
        _copy_data(cluster, copy, plan, "--archive-mode=off")
        _register(cluster, copy, port)
        copy_login = replace(login, port=port)
        recover(copy_login, SystemdService(copy))
    except BaseException as error:
        with contextlib.suppress(RecoveryError):
            _stop_copying()
            if copy.settings.exists():
                run_program(["pg_dropcluster", "--stop", copy.version, copy.name])
            shutil.rmtree(copy.data, ignore_errors=True)
        if isinstance(error, _FAILURES):
            left = _left_of(copy)
            state = f"Left behind is {' and '.join(left)}." if left else "Nothing of it was left behind."
            raise _restore_failed(plan, error, state) from error
        raise
    return copy, copy_login


def _copy_of(cluster: Cluster) -> Cluster:
    return replace(cluster, data=cluster.data.with_name(SIDE_BY_SIDE))


def _left_of(copy: Cluster) -> list[str]:
    return [str(path) for path in (copy.data, copy.settings) if path.exists()]


def _unused_port(port: int) -> int:
    taken = {int(line.split()[2]) for line in run_program(["pg_lsclusters", "--no-header"]).splitlines()}
    return next(number for number in range(port + 1, port + 1000) if number not in taken)


def _register(cluster: Cluster, copy: Cluster, port: int) -> None:
    """Make the copy known to Debian's tools, with the settings of the original where recovery asks for them."""
    written = cluster.settings / "postgresql.conf"
    base = written.with_name("postgresql.base.conf")  # where the other one is Patroni's, which includes it
    for name in ("postgresql.conf", "pg_hba.conf", "pg_ident.conf"):
        source = base if name == written.name and base.exists() else cluster.settings / name
        shutil.copy2(source, copy.data / name)
        shutil.chown(copy.data / name, POSTGRES_USER, POSTGRES_USER)
    run_program(["pg_createcluster", "--start-conf=manual", f"--port={port}", copy.version, copy.name])
    own = {"port": port, "listen_addresses": "", "archive_mode": "off", "shared_buffers": "128MB"}
    log = {"logging_collector": "off", "log_destination": "stderr"}  # the audit trail is the original's
    # In the one file that pg_dropcluster removes again; the last setting wins.
    with open(copy.settings / "postgresql.conf", "a", encoding="utf-8") as file:
        for path in sorted((cluster.settings / "conf.d").glob("*.conf")):
            file.write(path.read_text(encoding="utf-8"))
        if base.exists():  # recovery asks for as many of these as the primary had
            file.writelines(re.findall(r"^max_.*\n", written.read_text(encoding="utf-8"), re.MULTILINE))
        file.writelines(f"{name} = '{value}'\n" for name, value in {**own, **log}.items())


def _copy_data(cluster: Cluster, copy: Cluster, plan: RecoveryPlan, *options: str) -> None:
    """Let pgBackRest fill a new data directory. Raises RecoveryError."""
    _log.info("Copy %s bytes to %s.", f"{plan.base_backup.bytes:,}", copy.data)
    copy.data.mkdir(mode=0o700)
    shutil.chown(copy.data, POSTGRES_USER, POSTGRES_USER)
    run_program([
        "systemd-run", "--quiet", "--wait", "--pipe", "--collect", f"--unit={_COPYING_UNIT}", f"--uid={POSTGRES_USER}",
        "pgbackrest", f"--stanza={cluster.stanza}", "restore", f"--pg1-path={copy.data}", *plan.arguments, *options,
    ])  # fmt: skip


def _stop_copying() -> None:
    if is_active(_COPYING_UNIT):
        run_systemctl("stop", _COPYING_UNIT)


def _restore_failed(plan: RecoveryPlan, error: BaseException, state: str, remedy: str = _AGAIN) -> RecoveryError:
    message = f"The restore to {plan.target} failed: {_reason(error)} {state}"
    return RecoveryError(Problem("pitr_restore_failed", "restore", message, remedy))


def _reason(error: BaseException) -> str:
    return error.problem.message if isinstance(error, RecoveryError) else f"{error or type(error).__name__}."
