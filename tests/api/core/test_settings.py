"""Prefect reads no setting that the site sets by a name that an inventory may give."""

from __future__ import annotations

import json
import subprocess

from plugin_utils.inventory_checks.environment import REPLACES, own_variables
from tests.support.project import VIRTUALENV

NAMES = """
import json
from prefect.settings.models.root import Settings

def names(model):
    for field, info in model.model_fields.items():
        if hasattr(info.annotation, "model_fields"):
            yield from names(info.annotation)
        else:
            own = (model.model_config.get("env_prefix", "") + field).upper()
            choices = getattr(info.validation_alias, "choices", ())
            yield own, [name.upper() for name in choices if isinstance(name, str)]

print(json.dumps(dict(names(Settings))))
"""


def test_each_other_name_of_what_the_site_sets_is_refused() -> None:
    names = json.loads(subprocess.check_output([VIRTUALENV / "bin/python", "-c", NAMES], text=True))
    own = (own_variables("prefect_server").keys() | own_variables("prefect_worker").keys()) & names.keys()
    assert {"PREFECT_SERVER_DATABASE_HOST", "PREFECT_API_AUTH_STRING", "PREFECT_FLOWS_HEARTBEAT_FREQUENCY"} <= own
    others = {other: name for name in own for other in names[name] if other in own or other.startswith("PREFECT_")}
    assert {other for other, name in others.items() if other != name and REPLACES.get(other) != name} == set()
