"""Whether Redis, which several processes of a server share, takes what they write."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..core.problems import ERROR, Problem
from ..site.configuration import Tenant
from ..site.environment import parse
from .probes import Finding
from .thresholds import Thresholds

ENVIRONMENT = "/etc/prefect/{}-server.env"
_URL = "PREFECT_REDIS_MESSAGING_URL"
_KEY = "pgprefect:health"
_KEY_SECONDS = 60


def redis(part: Tenant, limits: Thresholds, timeout: float) -> Finding:
    """Check that a tenant's Redis takes writes, and how full it is.

    Prefect's own answer to "ready" says nothing of it, and without it no run changes its state.
    """
    file = ENVIRONMENT.format(part.name)
    try:
        url = parse(Path(file).read_text(encoding="utf-8"))[_URL]
    except (OSError, KeyError) as error:
        reason = "it cannot be read" if isinstance(error, OSError) else f"it has no {_URL}"
        remedy = "Run this as root; else run site.yml, which writes it."
        return [Problem("check_not_permitted", file, f"Redis is named in {file}, but {reason}.", remedy)], {}
    parts = urlsplit(url)
    local = parts.scheme == "unix"
    where = parts.path if local else f"{parts.hostname}:{parts.port}"
    try:
        # Only hosts that use it have it.
        from redis import Redis, RedisError
        from redis.backoff import NoBackoff
        from redis.retry import Retry
    except ImportError:
        message = f"This Python has no client of Redis, so nobody asked {where}."
        return [Problem("driver_missing", f"redis {where}", message, "apt install python3-redis")], {}
    once = Retry(NoBackoff(), 0)
    # Debian 12's client takes no second timeout for a socket of this host.
    waits = {} if local else {"socket_connect_timeout": timeout}
    client: Any = Redis.from_url(url, socket_timeout=timeout, retry=once, **waits)
    try:
        memory = client.info("memory")
        client.set(_KEY, "1", ex=_KEY_SECONDS)
    except (RedisError, OSError) as error:
        message = (
            f"Redis of tenant {part.name} at {where} takes no writes ({error}), so that no run changes its state, "
            "although the API says that it is ready."
        )
        unit = f"prefect-redis@{part.name}"
        remedy = (
            f"On its host: systemctl status {unit}; journalctl -u {unit}; where it is full: prefect_redis_memory_mb"
        )
        return [Problem("redis_refuses", f"redis {where}", message, remedy, ERROR)], {}
    finally:
        client.close()
    used, allowed = memory["used_memory"], memory["maxmemory"]
    percent = 100 * used / allowed if allowed else 0.0
    problems = []
    severity = limits.redis_memory_percent.severity(percent)
    if severity:
        message = (
            f"Redis of tenant {part.name} at {where} uses {percent:.0f} % of its memory; full, it takes no writes."
        )
        remedy = (
            "See that the background services run, which take the events out (systemctl status 'prefect-services@*'); "
            "else raise prefect_redis_memory_mb."
        )
        problems.append(Problem("redis_nearly_full", f"redis {where}", message, remedy, severity))
    details = {
        "address": where,
        "used_bytes": used,
        "allowed_bytes": allowed or None,
        "used_percent": round(percent, 1),
    }
    return problems, details
