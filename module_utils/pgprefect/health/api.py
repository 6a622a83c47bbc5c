"""Whether a Prefect server answers and reaches its database."""

from __future__ import annotations

import http.client
import json

from ..core.http import get
from ..core.listeners import SERVER_USER, foreign_listener
from ..core.problems import Problem
from ..core.users import user_number
from ..site.configuration import Tenant
from .probes import Finding


def api(part: Tenant, timeout: float) -> Finding:
    """Check that a server is ready, and that it is Prefect's user who answers."""
    user = user_number(SERVER_USER)
    taken = None if user is None else foreign_listener(part.api_url, user)
    if taken:
        return [taken], {"url": part.api_url}
    problems = []
    for path, remedy in (
        ("/health", f"systemctl status prefect-server@{part.name}, and its journal"),
        ("/ready", f"The server runs but does not reach its database: journalctl -u prefect-server@{part.name}"),
    ):
        url = part.api_url + path
        try:
            json.loads(get(url, timeout, part.api_ca_file))
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            problems.append(Problem("api_not_ready", f"api {url}", f"{url} does not answer well: {reason}.", remedy))
            break
    return problems, {"url": part.api_url}
