"""No secret leaves its file, however hard it is to quote."""

from __future__ import annotations

import shlex

from testinfra.host import Host

from tests.support.hosts import changed
from tests.support.scenario import Playbook


def test_no_secret_leaves_its_file(host: Host, playbook: Playbook, secrets: dict[str, str]) -> None:
    # Make every task that carries a secret do its work once more, as loudly as it can.
    host.check_output("rm -r /etc/prefect/*.env /etc/prefect/worker/*.env")
    for role in ("mltrading_app", "prefect_server", "prefect_migrator", "prefect_monitor"):
        host.check_output("runuser --user postgres -- psql --command %s", f"ALTER ROLE {role} PASSWORD NULL")
    result = playbook("site.yml", "--diff", "-vvv")
    assert result.returncode == 0, result.stdout[-4000:]
    assert changed(result.stdout)[0] >= 4

    # What JSON, YAML and shells make of a value, besides the value itself.
    forms = {form for value in secrets.values() for form in (value, value.replace('"', '\\"'), shlex.quote(value))}
    assert not [name for name, value in secrets.items() if value in result.stdout]
    assert not [form for form in forms if form in result.stdout]

    patterns = "\n".join(sorted({form for value in secrets.values() for form in (value, value[:20])}))
    host.check_output("install -m 0600 /dev/stdin /root/patterns <<'END'\n" + patterns.replace("%", "%%") + "\nEND")
    readable = "find / -xdev -type f -perm -o=r -size -2M -not -path '/proc/*' -not -path '/sys/*' -print0"
    search = "grep --fixed-strings --file /root/patterns"
    found = host.run(f"{readable} | xargs -0 {search} --files-with-matches").stdout
    assert found == "", found
    processes = host.run(f"cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | {search} --count").stdout.strip()
    assert processes == "0"
    assert host.run(f"journalctl --no-pager | {search} --count").stdout.strip() == "0"
    assert host.run(f"{search} --recursive --files-with-matches /etc/systemd /var/log").stdout == ""
    host.check_output("rm /root/patterns")
