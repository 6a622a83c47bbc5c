#!/usr/bin/python
"""Wait for a job that Ansible began on this host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: job_wait
short_description: Wait for a job that Ansible began on this host
description:
  - Returns what the module returned that was begun with C(async) and C(poll=0), and fails if it failed.
  - Waits in one call, while M(ansible.builtin.async_status) needs one for each look and reports each as a failure.
version_added: "1.0.0"
author: The ansible-prefect authors
extends_documentation_fragment: [attributes.reads]
options:
  job: {description: The job, as C(ansible_job_id) names it., type: str, required: true}
  folder: {description: The folder of the jobs' results., type: path, default: ~/.ansible_async}
  timeout: {description: Seconds to wait at most., type: int, required: true}
"""

EXAMPLES = r"""
- name: Begin something long
  prefect_virtualenv:
    path: /opt/prefect/3.9.1
    requirements: [/opt/prefect/prefect-3.9.1.txt]
  async: 1800
  poll: 0
  register: begun

- name: Wait until it has ended
  job_wait:
    job: "{{ begun.ansible_job_id }}"
    timeout: 1800
"""

RETURN = r"""
changed:
  description: Whether the job changed something, beside everything else that it returned.
  returned: always
  type: bool
"""

import json
import os
import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule

_PAUSE = 0.5  # seconds between two looks


def wait(path: str, seconds: float) -> dict[str, Any]:
    """Return what a job has returned, after it has ended. Raises FileNotFoundError and TimeoutError."""
    deadline = time.monotonic() + seconds
    while True:
        with open(path, encoding="utf-8") as file:
            content: dict[str, Any] = json.load(file)
        # Until then the file has nothing but how it was started.
        if content.get("finished") or "started" not in content:
            return content
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(_PAUSE)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "job": {"type": "str", "required": True},
            "folder": {"type": "path", "default": "~/.ansible_async"},
            "timeout": {"type": "int", "required": True},
        },
        supports_check_mode=True,
    )
    path = os.path.join(module.params["folder"], module.params["job"])
    try:
        found = wait(path, module.params["timeout"])
    except FileNotFoundError:
        module.fail_json(msg=f"There is no job {path}: the host may have started again. Run the playbook again.")
    except TimeoutError:
        module.fail_json(msg=f"The job has not ended within {module.params['timeout']} s. It goes on: see {path}.")
    if found.get("failed"):
        module.fail_json(**{"msg": "The job failed and says no more.", **found})
    module.exit_json(**{"changed": False, **found})


if __name__ == "__main__":
    main()
