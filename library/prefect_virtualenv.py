#!/usr/bin/python
"""Keep a virtualenv exactly at a set of locks."""

from __future__ import annotations

DOCUMENTATION = r"""
module: prefect_virtualenv
short_description: Keep a virtualenv exactly at a set of locks
description:
  - Creates a virtualenv with uv and makes its packages those of the given locks, no more and no less, each checked by
    its hash. Files in it that belong to no package stay.
  - Uses the host's own certificate store and its Python; downloads no interpreter.
  - An unchanged virtualenv is recognized without the network.
version_added: "1.0.0"
author: The ansible-prefect authors
requirements: ["uv on the host"]
attributes:
  check_mode:
    support: full
    description: Also where uv, the locks or the virtualenv are still missing.
  diff_mode:
    support: full
    description: Shows the packages with their versions.
  idempotent:
    support: full
    description: A second run changes nothing.
options:
  path: {description: The virtualenv's folder., type: path, required: true}
  requirements:
    description: Lock files on the host, as C(uv pip compile --generate-hashes) writes them.
    type: list
    elements: path
    required: true
  python: {description: The Python that the virtualenv is made of., type: path, default: /usr/bin/python3}
  uv: {description: The uv executable., type: path, default: /usr/local/bin/uv}
"""

EXAMPLES = r"""
- name: Install Prefect
  prefect_virtualenv:
    path: /opt/prefect/3.8.8
    requirements: [/opt/prefect/prefect-3.8.8.txt]
"""

RETURN = r"""
installed:
  description: Packages that were added (in check mode would be), as C(name==version).
  returned: success
  type: list
  elements: str
removed:
  description: Packages that were removed, as C(name==version).
  returned: success
  type: list
  elements: str
"""

import glob
import os
import re
import shutil
import tempfile
from typing import Any

from ansible.module_utils.basic import AnsibleModule

# Newer and older name of the same setting: the host's own certificate store.
ENVIRONMENT = {
    "UV_SYSTEM_CERTS": "1",
    "UV_NATIVE_TLS": "1",
    "UV_PYTHON_DOWNLOADS": "never",
    "UV_NO_PROGRESS": "1",
    "UV_LINK_MODE": "copy",
    "VIRTUAL_ENV": "",
}


def changed_packages(output: str) -> tuple[list[str], list[str]]:
    """Take from uv's report the packages that it adds (+, or ~ when it installs one again) and removes (-)."""
    lines = re.findall(r"^ ([-+~]) (\S+==\S+)", output, re.MULTILINE)
    return [name for sign, name in lines if sign in "+~"], [name for sign, name in lines if sign == "-"]


def locked_packages(text: str) -> list[str]:
    """Take from a lock the packages without a condition."""
    return re.findall(r"^([A-Za-z0-9][\w.-]*==[^\s;\\]+)(?!\s*;)(?=\s)", text, re.MULTILINE)


class Virtualenv:
    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.path: str = module.params["path"]
        self.python: str = module.params["python"]
        self.uv: str = module.params["uv"]
        self.requirements: list[str] = module.params["requirements"]

    def run(self, *arguments: str, check_rc: bool = True) -> tuple[int, str]:
        environment = {**ENVIRONMENT, "UV_CACHE_DIR": self.cache}
        # uv reads settings from the folder in which it runs, and this may be another user's.
        code, out, err = self.module.run_command([self.uv, *arguments], environ_update=environment, cwd="/")
        if code and check_rc:
            self.module.fail_json(msg=f"uv {' '.join(arguments[:2])} failed: {err.strip()}", rc=code)
        return code, out + err

    def sync(self, path: str, *options: str, check_rc: bool = True) -> tuple[int, str]:
        python = os.path.join(path, "bin", "python")
        return self.run(
            "pip", "sync", "--require-hashes", "--python", python, *options, *self.requirements, check_rc=check_rc
        )

    def works(self) -> bool:
        """Whether the virtualenv is there and its Python still is (an upgrade of the system may have taken it away)."""
        python = os.path.join(self.path, "bin", "python")
        if not os.path.exists(os.path.join(self.path, "pyvenv.cfg")):
            if os.path.isdir(self.path) and os.listdir(self.path):
                self.module.fail_json(
                    msg=f"{self.path} is not empty and no virtualenv. Name another path, or remove the folder."
                )
            return False
        return os.access(python, os.X_OK) and self.module.run_command([python, "-c", ""])[0] == 0

    def is_current(self) -> bool:
        code, output = self.sync(self.path, "--dry-run", "--offline", check_rc=False)
        return code == 0 and changed_packages(output) == ([], [])

    def plan(self, exists: bool) -> str:
        """Ask uv what it would do; a virtualenv that is not there yet is tried as an empty one."""
        if exists:
            return self.sync(self.path, "--dry-run")[1]
        trial = os.path.join(self.cache, "trial")
        self.run("venv", "--no-project", "--python", self.python, trial)
        return self.sync(trial, "--dry-run")[1]

    def make(self, exists: bool) -> str:
        if not exists:
            shutil.rmtree(self.path, ignore_errors=True)
            self.run("venv", "--no-project", "--python", self.python, self.path)
        output = self.sync(self.path)[1]
        # Who uses it may not write into it, so without this every start would compile the sources again. Packages' own
        # tests, a fifth of all, are never imported. A source of another Python that some package ships is no failure.
        python = os.path.join(self.path, "bin", "python")
        library = glob.glob(os.path.join(self.path, "lib", "python3*", "site-packages"))
        self.module.run_command([python, "-I", "-m", "compileall", "-q", "-j", "0", "-x", "/tests?/", *library])
        return output

    def update(self) -> dict[str, Any]:
        exists = self.works()
        missing = [name for name in (self.uv, *self.requirements) if not os.path.exists(name)]
        if missing and not self.module.check_mode:
            self.module.fail_json(msg=f"Not on this host: {', '.join(missing)}. Install or copy it before this task.")
        with tempfile.TemporaryDirectory(dir=self.module.tmpdir) as self.cache:
            installed: list[str] = []
            removed: list[str] = []
            if missing:
                installed = self.locked()
            elif not (exists and self.is_current()):
                report = self.plan(exists) if self.module.check_mode else self.make(exists)
                installed, removed = changed_packages(report)
        before = "".join(f"{name}\n" for name in sorted(removed))
        after = "".join(f"{name}\n" for name in sorted(installed))
        if not exists:
            after = f"virtualenv {self.path} of {self.python}\n{after}"
        return {
            "changed": bool(before or after or missing),
            "installed": installed,
            "removed": removed,
            "diff": {"before": before, "after": after},
        }

    def locked(self) -> list[str]:
        """What the locks name, where uv is not there to ask."""
        packages: list[str] = []
        for name in self.requirements:
            if os.path.exists(name):
                with open(name, encoding="utf-8") as lock:
                    packages += locked_packages(lock.read())
        return packages


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "requirements": {"type": "list", "elements": "path", "required": True},
            "python": {"type": "path", "default": "/usr/bin/python3"},
            "uv": {"type": "path", "default": "/usr/local/bin/uv"},
        },
        supports_check_mode=True,
    )
    os.umask(0o022)  # everybody on the host may use it
    os.nice(15)  # it may be made while other packages are installed, which are waited for first
    module.exit_json(**Virtualenv(module).update())


if __name__ == "__main__":
    main()
