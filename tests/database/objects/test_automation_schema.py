"""The keys of triggers and actions are those of each Prefect that has a lock."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from pgprefect.objects.automation_schema import ACTIONS, TRIGGERS, reference_of

from tests.support.project import RELEASES, virtualenv_of

# What Prefect's own classes have, without what the declaration says by other keys.
KEYS = """
import json
from typing import get_args
from prefect.server.events.actions import ServerActionTypes
from prefect.server.events.schemas.automations import EventTrigger, ServerTriggerTypes

def keys(kind):
    fields = {name: field.is_required() for name, field in kind.model_fields.items()}
    return {name: required for name, required in fields.items() if name not in ("id", "type")}

kinds = {kind.model_fields["type"].default: keys(kind) for union in (ServerTriggerTypes, ServerActionTypes)
         for kind in get_args(union)}
print(json.dumps(kinds))
"""


@pytest.mark.parametrize("release", RELEASES)
def test_the_keys_are_those_of_prefect(release: str, tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PREFECT_HOME": str(tmp_path)}
    python = virtualenv_of(release) / "bin/python"
    said = subprocess.run([python, "-c", KEYS], env=environment, capture_output=True, text=True, check=True)
    theirs = json.loads(said.stdout)
    ours: dict[str, dict[str, bool]] = {}
    for kind, keys in {**TRIGGERS, **ACTIONS}.items():
        ours[kind] = {name: key.required for name, key in keys.items()}
        if reference := reference_of({"type": kind}):
            ours[kind][reference.field] = not reference.may_be_inferred
            ours[kind] |= {"source": False} if reference.may_be_inferred else {}
    for kind in ("compound", "sequence"):
        ours[kind]["within"] = True  # null is sent where it is not given
    assert ours == theirs
