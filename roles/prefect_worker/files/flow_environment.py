"""What flow runs in containers and pods get of their worker's environment, and of which images they are."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from prefect.settings import get_current_settings

# An image by its digest.
REPOSITORY = re.compile(r"[^\s@:/][^\s@]*@sha256:[0-9a-f]{64}")
# Settings of the worker itself, and files of its host, which mean nothing to a flow elsewhere.
_OWN = ("PREFECT_HOME", "PREFECT_SERVER_", "PREFECT_WORKER_", "PREFECT_API_DATABASE_", "PREFECT_API_SSL_CERT_FILE")
# The flow gets it in another way, because whoever may look at a container or a Job sees the environment.
_SECRET = ("PREFECT_API_AUTH_STRING", "PREFECT_API_KEY")


def not_pinned(image: str) -> ValueError:
    """Return the error by which an image is refused."""
    return ValueError(
        f"the image {image!r} is not pinned by its digest, as registry.example.com/flows@sha256:...: a tag moves"
    )


def flow_environment(asked: Mapping[str, Any], declared: Mapping[str, Any]) -> dict[str, Any]:
    """Return the environment of a run, for which Prefect asks that of the deployment with all of the worker's settings.

    Of ``declared``, ``variables`` names those of the worker's own environment that runs get too, and ``env`` wins.
    """
    settings = get_current_settings().to_environment_variables(exclude_unset=True)
    own = {name for name in settings if name.startswith((*_OWN, *_SECRET)) and asked.get(name) == settings[name]}
    handed_on = {name: os.environ[name] for name in declared["variables"] if name in os.environ}
    return {**handed_on, **{name: value for name, value in asked.items() if name not in own}, **declared["env"]}
