"""The alerts of a database of three hosts fire in a real Prometheus for real faults, and end with them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from pgprefect.health.thresholds import Thresholds
from pgprefect.metrics.alerts import rules
from testinfra.host import Host

from tests.support.hosts import problem_codes
from tests.support.scenario import PSQL
from tests.support.waiting import wait_for
from tests.support.watched import asked, running_prometheus, serving
from tests.support.watched_site import in_seconds


@contextlib.contextmanager
def stopped(unit: str, *hosts: Host) -> Iterator[None]:
    """Stop a unit on some hosts, and have them start it together: etcd is ready when others are, too."""
    for host in hosts:
        host.check_output(f"systemctl stop {unit}")
    try:
        yield
    finally:
        for host in hosts:
            host.check_output(f"systemctl start --no-block {unit}")


def test_alerts(members: dict[str, Host], primaries: Callable[[], list[str]], tmp_path: Path) -> None:
    (name,) = primaries()
    primary = members[name]
    standbys = [host for other, host in members.items() if other != name]

    def figures() -> str:
        return str(primary.run("pgprefect metrics").stdout)

    content = in_seconds(rules(Thresholds()))
    with serving(figures) as exporter, running_prometheus(exporter, tmp_path, content, "15s") as prometheus:

        def firing() -> set[str]:
            about = "PrefectPrimaryMissing|PrefectMemberAway|PrefectEtcdSilent"
            found = asked(prometheus, f'ALERTS{{alertname=~"{about}", alertstate="firing"}}')
            return {series["metric"]["alertname"] for series in found}

        def quiet() -> bool:
            (ready,) = asked(prometheus, "sum(pgprefect_cluster_member_ready)") or [{"value": (0, 0)}]
            return firing() == set() and int(ready["value"][1]) == len(members)

        wait_for(quiet, figures, seconds=120)
        with stopped("patroni", standbys[0]):
            wait_for(lambda: firing() == {"PrefectMemberAway"}, figures, seconds=120)
        wait_for(quiet, figures, seconds=180)
        # With etcd without a majority the primary goes on, as long as it reaches all members.
        with stopped("postgresql-etcd", *standbys):
            wait_for(lambda: "PrefectEtcdSilent" in firing(), figures, seconds=180)
            assert "etcd_silent" in problem_codes(primary)
            primary.check_output(PSQL, "CREATE TABLE public.without_etcd (a int); DROP TABLE public.without_etcd")
            assert primaries() == [name]
        wait_for(quiet, figures, seconds=180)
        with stopped("patroni", *standbys, primary):
            wait_for(lambda: "PrefectPrimaryMissing" in firing(), figures, seconds=120)
        wait_for(quiet, figures, seconds=180)
    assert len(primaries()) == 1
