"""The way from other hosts to the APIs: encrypted by a proxy of the site's or of the user's, or not at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

_OPEN = (
    "put the servers' hosts into the group prefect_proxy, set api_url of the tenants to https addresses of a proxy of "
    "your own, or set prefect_allow_plain_http to true for tests and closed networks."
)


def check_encryption(
    tenants: Sequence[Mapping[str, Any]], groups: Mapping[str, Sequence[str]], plain_http: bool
) -> Iterator[str]:
    """Yield a mistake where hosts without a server would send an API's password in clear."""
    servers = groups.get("prefect_server", ())
    remote = [host for host in groups.get("prefect_worker", ()) if host not in servers]
    if not remote or groups.get("prefect_proxy") or plain_http:
        return
    open_ones = [tenant["name"] for tenant in tenants if not _is_https(tenant.get("api_url", ""))]
    if open_ones:
        yield (
            f"prefect_tenants: workers on {', '.join(remote)} would send the password of the API of "
            f"{', '.join(open_ones)} over plain HTTP: {_OPEN}"
        )


def check_proxy(
    tenants: Sequence[Mapping[str, Any]],
    groups: Mapping[str, Sequence[str]],
    has_certificate: bool,
    ports: Mapping[int, str],
) -> Iterator[str]:
    """Yield the mistakes about a site's own proxy, of tenants whose defaults are filled in.

    ``ports`` are those that others have on the servers' hosts, with what has each.
    """
    proxies = groups.get("prefect_proxy", ())
    if not proxies:
        return
    if others := [host for host in proxies if host not in groups.get("prefect_server", ())]:
        yield (
            f"group prefect_proxy: {', '.join(others)} runs no server, and what goes there from a server's host is not "
            "encrypted: take hosts of prefect_server only."
        )
    if not has_certificate:
        yield (
            "prefect_proxy_certificate is missing, without which there is no TLS: set it to a file of the host with "
            "certificate, chain and key."
        )
    taken = {**ports, **{tenant["port"]: f"the API of {tenant['name']}" for tenant in tenants}}
    addresses: dict[tuple[str, int], str] = {}
    for number, tenant in enumerate(tenants):
        url = tenant["ui_url"]
        here = f"prefect_tenants[{number}]: its address behind the proxy is {url}, but"
        parts = urlsplit(url)
        port = parts.port or 443
        if not _is_https(url) or parts.path.strip("/"):
            yield f"{here} that must begin with https:// and have no path: set ui_url, or prefect_ui_url."
        elif other := addresses.get((parts.hostname or "", port)):
            yield f"{here} that is the one of {other}: set ui_url to a host name or a port of its own."
        elif who := taken.get(port):
            yield f"{here} {who} has the port {port} there: set ui_url to a host name or a port of its own."
        addresses[(parts.hostname or "", port)] = tenant["name"]


def check_api_urls(tenants: Sequence[Mapping[str, Any]], groups: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Yield the declared tenants that name a proxy of the user's, although the site has its own."""
    for number, tenant in enumerate(tenants if groups.get("prefect_proxy") else ()):
        if "api_url" in tenant:
            yield (
                f"prefect_tenants[{number}].api_url: the group prefect_proxy has hosts, so that workers use ui_url: "
                "remove api_url, or empty that group."
            )


def _is_https(url: str) -> bool:
    return urlsplit(str(url)).scheme == "https"
