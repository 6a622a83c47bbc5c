"""A filter for kubeconfigs, by which workers reach their clusters."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

import yaml


def plain_kubeconfig(text: str, namespace: str) -> dict[str, Any]:
    """Return what a kubeconfig's current context needs, and no more, with a namespace.

    It must be complete in itself: no file of another machine, no command that a client would run.
    Raises ValueError with a reason, without anything of its content but names.
    """
    try:
        given = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ValueError("it is no YAML") from None
    if not isinstance(given, Mapping):
        raise ValueError("it is no kubeconfig")
    context = _entry(given, "contexts", "context", given.get("current-context"))
    cluster = _entry(given, "clusters", "cluster", context.get("cluster"))
    user = _entry(given, "users", "user", context.get("user"))
    if not str(cluster.get("server", "")).startswith("https://"):
        raise ValueError("the server of its cluster does not begin with https://")
    if "certificate-authority" in cluster or cluster.get("insecure-skip-tls-verify"):
        raise ValueError("its cluster must have certificate-authority-data, or a certificate that the system trusts")
    if not isinstance(user.get("token"), str) or not user["token"].isascii() or not user["token"].isprintable():
        raise ValueError("its user has no token: take that of the service account prefect-worker, docs/kubernetes.md")
    plain = {key: cluster[key] for key in ("server", "certificate-authority-data") if key in cluster}
    if "certificate-authority-data" in plain:
        _check_authority(plain["certificate-authority-data"])
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "prefect",
        "clusters": [{"name": "prefect", "cluster": plain}],
        "users": [{"name": "prefect", "user": {"token": user["token"]}}],
        "contexts": [{"name": "prefect", "context": {"cluster": "prefect", "user": "prefect", "namespace": namespace}}],
    }


def _entry(given: Mapping[str, Any], kind: str, key: str, name: Any) -> Mapping[str, Any]:
    listed = given.get(kind)
    entries = listed if isinstance(listed, Sequence) and not isinstance(listed, str) else []
    for entry in entries:
        if isinstance(entry, Mapping) and entry.get("name") == name and isinstance(entry.get(key), Mapping):
            found: Mapping[str, Any] = entry[key]
            return found
    raise ValueError(f"it has no current-context, or among its {kind} not the one that this needs")


def _check_authority(data: Any) -> None:
    try:
        certificate = base64.b64decode(str(data), validate=True)
    except binascii.Error:
        certificate = b""
    if b"-----BEGIN CERTIFICATE-----" not in certificate:
        raise ValueError("certificate-authority-data is no certificate in base64")


class FilterModule:
    """The filter that Ansible loads."""

    def filters(self) -> dict[str, Any]:
        """Return the filter by its name."""
        return {"plain_kubeconfig": plain_kubeconfig}
