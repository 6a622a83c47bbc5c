"""The commands that the roles install: what they say to somebody without rights, and what the shell completes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.ansible import run_tasks
from tests.support.project import ROOT


def render(folder: Path, role: str, template: str, **variables: Any) -> Path:
    """Render a template of a role, and return the file."""
    path = folder / template.removesuffix(".j2")
    task = {
        "ansible.builtin.template": {"src": str(ROOT / "roles" / role / "templates" / template), "dest": str(path)},
        "vars": {"role_path": str(ROOT / "roles" / role)},
    }
    done = run_tasks(folder, {"ansible_managed": "Managed", **variables}, task)
    assert done.returncode == 0, done.stdout
    return path


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can lay its rights down")
def test_prefect_says_who_may_run_it(tmp_path: Path) -> None:
    tenants = [{"name": "prefect"}, {"name": "research"}]
    script = render(
        tmp_path,
        "prefect_server",
        "prefect.sh.j2",
        prefect_server_tenants=tenants,
        prefect_server_virtualenv="/nowhere",
    )
    text = script.read_text().replace("/etc/prefect", str(tmp_path))
    (tmp_path / "prefect.env").touch(mode=0o600)
    os.chown(tmp_path / "prefect.env", 65534, 65534)

    def run(**environment: str) -> str:
        # Root without the rights by which it reads the files of others.
        command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "sh", "-c", text]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 1 and not done.stdout
        return done.stderr

    assert "this user cannot read it: run this as root (sudo prefect ...)." in run()
    # What the variable names is read by a shell, as root.
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/evil.env").write_text("echo trapped; exit 1\n")
    for name in ("nobody", "../elsewhere/evil", f"/..{tmp_path}/elsewhere/evil", "*"):
        missing = run(PREFECT_TENANT=name)
        assert f"there is no tenant {name} on this host: set PREFECT_TENANT to one of prefect, research." in missing


def test_the_shell_completes_commands_and_options(tmp_path: Path) -> None:
    """A stand-in for argcomplete shows what the shell hands over, and that only what is for people is offered."""
    (tmp_path / "pgprefect").symlink_to(ROOT / "module_utils/pgprefect")
    (tmp_path / "argcomplete.py").write_text(
        "import os\n"
        "def autocomplete(parser, exclude):\n"
        "    words = os.environ['COMP_LINE'].split()[1:]\n"
        "    parts = [parser.parse_args([*words, 'list']).action, *exclude]\n"
        "    with os.fdopen(8, 'w') as answer:\n"
        "        answer.write(os.environ['_ARGCOMPLETE_IFS'].join(parts))\n"
        "    os._exit(0)\n"
    )
    script = render(tmp_path, "pgprefect", "completion.bash.j2", __pgprefect_lib=str(tmp_path))
    program = f"""
        . {script}
        complete -p pgprefect
        COMP_LINE='pgprefect backup'
        _pgprefect
        printf '[%s]' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == (
        "complete -o default -o nospace -F _pgprefect pgprefect\n[list]"
        "[revision][revoke-secrets][migrate][hand-over][take-up][relay][wait][drill-unpack][drill-prove][drill-mark]"
        "[import-copy][import-examine][import-rows]"
    ), done.stderr
