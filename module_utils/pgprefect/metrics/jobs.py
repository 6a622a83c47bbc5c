"""Metrics of what a host does by itself: its jobs, its backup sets and its certificates."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from ..backup import sets
from ..core.jobs import Job, last
from ..health.certificates import certificates_in, ends_of
from ..site.configuration import Backups, Certificate, Site
from .exposition import Metric, Sample

SCHEDULED = Metric("pgprefect_job_scheduled_timestamp_seconds", "When the schedule of a job was written.")
STARTED = Metric("pgprefect_job_last_start_timestamp_seconds", "When the last run of a scheduled job began.")
SUCCEEDED = Metric("pgprefect_job_last_success_timestamp_seconds", "When a run of a scheduled job succeeded last.")
FAILED = Metric("pgprefect_job_failed", "1 where the last run of a scheduled job failed or was killed.")
RUNNING = Metric("pgprefect_job_running", "1 where a scheduled job runs now.")
BACKUP = Metric("pgprefect_backup_set_timestamp_seconds", "From when the newest backup set is.")
VERIFIED = Metric("pgprefect_backup_verified_timestamp_seconds", "From when the newest set is that passed a drill.")
COPIED = Metric("pgprefect_backup_copied_timestamp_seconds", "From when the newest set is that was copied elsewhere.")
CERTIFICATE = Metric("pgprefect_certificate_end_timestamp_seconds", "When the first certificate of a file ends.")


def questions(site: Site) -> dict[str, Callable[[], Iterator[Sample]]]:
    """Return the questions about this host by their names; none where it has nothing of the kind."""
    found: dict[str, Callable[[], Iterator[Sample]]] = {job.title: partial(result, job) for job in site.jobs}
    if site.backups:
        found["backup sets"] = partial(backup_sets, site.backups)
    found.update({one.file: partial(certificate, one) for one in site.certificates})
    return found


def result(job: Job) -> Iterator[Sample]:
    """Say since when a job is scheduled, and how its last run went, if it has run. Raises RecordBroken."""
    labels = {"tenant": job.tenant, "name": job.name}
    with contextlib.suppress(FileNotFoundError):
        yield from SCHEDULED(os.stat(job.schedule).st_mtime, **labels)
    record = last(job)
    if record:
        yield from STARTED(record.started, **labels)
        yield from SUCCEEDED(record.succeeded, **labels)
        yield from FAILED(record.ok is False or (record.ended is None and not record.running), **labels)
        yield from RUNNING(record.running, **labels)


def backup_sets(backups: Backups) -> Iterator[Sample]:
    """Say from when the newest sets are; a safety set is none of them. Raises OSError and BackupError."""
    paths = [path for path in sets.list_sets(Path(backups.directory)) if not sets.is_safety(path.name)]
    target = backups.copy.name if backups.copy else None
    for metric, among in (
        (BACKUP, paths),
        (VERIFIED, [path for path in paths if sets.is_verified(path)]),
        (COPIED, [path for path in paths if target and sets.copied_to(path) == target]),
    ):
        yield from metric(sets.time_of(among[-1].name) if among else None)


def certificate(watched: Certificate) -> Iterator[Sample]:
    """Say when a file's first certificate ends. Raises OSError, ValueError and IndexError."""
    yield from CERTIFICATE(min(ends_of(certificates_in(watched.file)), default=None), file=watched.file)
