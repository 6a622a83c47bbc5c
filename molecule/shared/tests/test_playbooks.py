"""What the playbooks promise beside their result: truth in check mode, and no secret anywhere."""

from __future__ import annotations

import re
import shlex

from conftest import Playbook
from testinfra.host import Host


def changed(output: str) -> list[int]:
    """How many tasks of each host changed something."""
    return [int(count) for count in re.findall(r"changed=(\d+)", output)]


def test_check_mode_reports_nothing_on_a_finished_host(playbook: Playbook) -> None:
    result = playbook("site.yml", "--check", "--diff")
    assert result.returncode == 0, result.stdout
    assert changed(result.stdout) == [0], result.stdout


def test_check_mode_sees_what_a_run_would_mend(host: Host, playbook: Playbook) -> None:
    host.check_output(
        "runuser --user postgres -- psql --dbname mltrading --command %s", "GRANT CREATE ON SCHEMA public TO PUBLIC"
    )
    host.check_output("chmod 0644 /etc/prefect/prefect-server.env")
    would = playbook("site.yml", "--check", "--diff")
    assert would.returncode == 0, would.stdout
    assert "schema public: PUBLIC CREATE" in would.stdout
    did = playbook("site.yml", "--diff")
    assert did.returncode == 0, did.stdout
    assert host.file("/etc/prefect/prefect-server.env").mode == 0o640
    assert "schema public: PUBLIC CREATE" in did.stdout


def test_the_playbooks_beside_the_site(playbook: Playbook, completed_run: str) -> None:
    assert completed_run
    statistics = playbook("playbooks/statistics.yml")
    assert statistics.returncode == 0 and "collect-market-data: " in statistics.stdout, statistics.stdout
    for arguments in (["--check", "--diff"], ["--diff"]):
        cleanup = playbook("playbooks/cleanup.yml", *arguments)
        assert cleanup.returncode == 0 and changed(cleanup.stdout) == [0], cleanup.stdout
    refused = playbook("playbooks/cleanup.yml", "--extra-vars", '{"prefect_server_retention": {"days_to_keep": -1}}')
    assert refused.returncode != 0 and "days_to_keep: -1 must be from 0" in refused.stdout, refused.stdout


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
