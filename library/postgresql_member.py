#!/usr/bin/python
"""Look at one of the two hosts of a database with a standby, or make it the primary or the standby."""

from __future__ import annotations

DOCUMENTATION = r"""
module: postgresql_member
short_description: Look at one of the two hosts of a database with a standby, or make it the primary or the standby
description:
  - Replication is PostgreSQL's own. The module promotes, copies the primary's data by C(pg_basebackup), takes the data
    of a former primary back by C(pg_rewind), and keeps a replication slot for the standby.
  - It starts and stops no server, and never empties a data directory.
version_added: "1.0.0"
author: The ansible-prefect authors
attributes:
  check_mode: {support: full, description: Plans the same steps and takes none.}
  diff_mode: {support: none, description: The result names the steps.}
extends_documentation_fragment: [attributes.changes]
options:
  version: {description: PostgreSQL's major version., type: str, required: true}
  cluster: {description: Name of the cluster., type: str, default: main}
  state:
    description:
      - V(seen) only looks. V(primary) gives the primary a replication slot of each name in O(slots), and no other one
        of the site; a standby makes the module fail. V(promoted) makes a standby the primary first.
      - V(standby) gives a host without data that of the primary. Data of its own makes the module fail.
      - V(demoted) marks the data of a primary that was stopped cleanly, which starts as a standby then.
      - V(rewound) takes the data of a stopped former primary back, and marks it. What it has that the primary has not
        is lost.
    type: str
    choices: [seen, primary, promoted, standby, demoted, rewound]
    default: seen
  slots: {description: The replication slots that a primary has., type: list, elements: str, default: []}
  slot: {description: The primary's replication slot for this host., type: str, default: ""}
  source: {description: Connection string of libpq by which this host reaches the primary., type: str, default: ""}
"""

EXAMPLES = r"""
- name: See what this host is now
  postgresql_member:
    version: "15"
  register: seen
"""

RETURN = r"""
member:
  description: The host as it was found before the steps, by the names of the module's Python class.
  returned: success
  type: dict
steps:
  description: What was done (in check mode would be), in order.
  returned: success
  type: list
  elements: str
  sample: [promote the standby, create the replication slot prefect_standby_db1]
problems:
  description: Why it failed, each with C(code), C(severity), C(object), C(message) and C(remedy).
  returned: failure
  type: list
  elements: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.hosts import postgresql_member
from ansible.module_utils.hosts.postgresql_member import Place, Step, look
from ansible.module_utils.module_support.failures import failures


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "version": {"type": "str", "required": True},
            "cluster": {"type": "str", "default": "main"},
            "state": {
                "type": "str",
                "choices": ["seen", "primary", "promoted", "standby", "demoted", "rewound"],
                "default": "seen",
            },
            "slots": {"type": "list", "elements": "str", "default": []},
            "slot": {"type": "str", "default": ""},
            "source": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    given = module.params
    place = Place(given["version"], given["cluster"])
    with failures(module) as done:
        seen = look(place)
        steps: list[Step] = []
        if given["state"] == "primary":
            steps = list(postgresql_member.primary(place, seen, given["slots"]))
        elif given["state"] == "promoted":
            steps = list(postgresql_member.promoted(place, seen, given["slots"]))
        elif given["state"] == "standby":
            steps = list(postgresql_member.standby(place, seen, given["source"], given["slot"]))
        elif given["state"] == "demoted":
            steps = list(postgresql_member.demoted(place, seen))
        elif given["state"] == "rewound":
            steps = list(postgresql_member.rewound(place, seen, given["source"]))
        for step in [] if module.check_mode else steps:
            step.act()
            done.append(step.words)
        module.exit_json(changed=bool(steps), steps=[step.words for step in steps], member=seen.as_dict())


if __name__ == "__main__":
    main()
