"""Filters for a site's certificates: which it needs, which are due, and what of the user's files is wrong."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

Row = Mapping[str, Any]
_DNS_NAME = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,62}))*")
# A new certificate of the authority has the same key, so that what it has signed stays valid.
_AUTHORITY_DAYS = 400
# Where a service shows its certificate, and how it is asked for it.
_SHOWN = ("address", "protocol")
_CHECKED_ONLY = "It is made when this is run without --check.\n"


def certificate_names(values: Iterable[Any]) -> list[str]:
    """Return names and addresses as a certificate has them (``DNS:db``, ``IP:10.0.0.1``), each once.

    What is neither is left out, such as an inventory's name with a blank in it.
    """
    found = []
    for value in values:
        text = str(value or "").strip("[]").lower()
        with suppress(ValueError):
            text = f"IP:{ip_address(text)}"
        if text.startswith("IP:"):
            found.append(text)
        elif _DNS_NAME.fullmatch(text):
            found.append(f"DNS:{text}")
    return list(dict.fromkeys(found))


def certificate_sources(
    purposes: Sequence[Row], host: str, folder: str, given: Mapping[str, Row], issued: bool
) -> list[dict[str, Any]]:
    """Return the purposes of a host with the ``certificate`` and the ``key`` that each has on the controller.

    They are the user's (``given``) where those name both files; else the site's own in ``folder``, if it has an
    authority (``issued``), and else empty.
    """
    rows = []
    for purpose in purposes:
        path = f"{folder}/{host}.{purpose['name']}"
        own = {"certificate": f"{path}.pem", "key": f"{path}.key"}
        files = given.get(purpose["name"]) or (own if issued else {"certificate": "", "key": ""})
        names = certificate_names(purpose["names"])
        rows.append({**purpose, **files, "names": names, "given": purpose["name"] in given})
    return rows


def certificates_due(
    sources: Sequence[Row], contents: Mapping[str, str], authority: str, days: int
) -> list[dict[str, Any]]:
    """Return the certificates that the site has to sign, each with the ``reason``.

    ``contents`` has the texts of the files that there are. A certificate that ends within ``days`` is due.
    """
    found = []
    for source in sources:
        if source["given"] or not source["certificate"]:
            continue
        certificate, key = (contents.get(source[kind], "") for kind in ("certificate", "key"))
        reason = _due(certificate, key, source["names"], contents.get(authority, ""), days)
        if reason:
            found.append({**source, "reason": reason})
    return found


def _due(certificate: str, key: str, names: Sequence[str], authority: str, days: int) -> str:
    if not certificate or not key:
        return "it is not there yet"
    try:
        (present, *_), key_fault = _certificates(certificate), _key_fault(certificate, key)
    except ValueError:
        return "its file is no certificate"
    if key_fault:
        return key_fault
    if not authority or not _signed_by(present, _certificates(authority)):
        return "the site's authority has not signed it"
    if _ends_within(present, days):
        return f"it ends on {present.not_valid_after_utc:%Y-%m-%d}"
    if set(_names_of(present)) != set(names):
        return f"it is for {', '.join(_names_of(present))}, and must be for {', '.join(names)}"
    return ""


def authority_due(contents: Mapping[str, str], authority: str) -> str:
    """Return why the site's authority must get a certificate, or nothing."""
    text = contents.get(authority, "")
    if not text:
        return "it is not there yet"
    (present, *_) = _certificates(text)
    return f"it ends on {present.not_valid_after_utc:%Y-%m-%d}" if _ends_within(present, _AUTHORITY_DAYS) else ""


def certificate_mistakes(sources: Sequence[Row], contents: Mapping[str, str], trusted: str) -> list[str]:
    """Return what is wrong with the user's own files, each as a text; ``trusted`` is their authority's file."""
    mistakes = []
    for source in sources:
        where = f"site_tls_files.{source['name']}"
        if not source["certificate"]:
            mistakes.append(
                f"{where}: site_tls is files, but there are none for this host: name its certificate and its key."
            )
        elif source["given"] and not trusted:
            mistakes.append(f"{where}: clients need its authority to prove it: name its file in site_tls_ca_file.")
        elif source["given"]:
            certificate, key = (contents.get(source[kind], "") for kind in ("certificate", "key"))
            mistakes += [
                f"{where}.certificate is {source['certificate']}: {fault}."
                for fault in _faults(certificate, key, source, contents.get(trusted, ""))
            ]
    return mistakes


def _faults(certificate: str, key: str, source: Row, trusted: str) -> list[str]:
    try:
        chain = _certificates(certificate)
        fault = _key_fault(certificate, key)
    except ValueError as error:
        return [f"it cannot be read as a certificate ({error})"]
    faults = [f"{fault} ({source['key']})"] if fault else []
    present = chain[0]
    if _ends_within(present, 0):
        faults.append(f"it ended on {present.not_valid_after_utc:%Y-%m-%d}")
    missing = [name for name in certificate_names(source["clients"]) if not _covers(_names_of(present), name)]
    if missing:
        named = ", ".join(_names_of(present)) or "nobody"
        faults.append(f"clients reach this host by {', '.join(missing)}, and it is for {named}")
    if not _signed_by(chain[-1], _certificates(trusted)):
        faults.append("no authority in site_tls_ca_file has signed it, or the last certificate of its file")
    return faults


def _covers(names: Sequence[str], wanted: str) -> bool:
    wildcard = re.sub(r"^DNS:[^.]+\.", "DNS:*.", wanted)
    return wanted in names or wildcard in names


def certificate_folders(
    sources: Sequence[Row], contents: Mapping[str, str], home: str, authorities: Sequence[str]
) -> list[dict[str, Any]]:
    """Return a host's files as file_tree takes them. A text that is missing in check mode has another one instead."""
    public = {"ca.pem": "".join(_text(contents, path) for path in authorities)}
    folders = [{"path": home, "files": public}]
    for source in sources:
        name, certificate, key = source["name"], *(_text(contents, source[kind]) for kind in ("certificate", "key"))
        public[f"{name}.pem"] = certificate
        rights = {"group": source["group"], "mode": "0640"} if source.get("group") else {"mode": "0600"}
        private = {f"{name}.key": key}
        if source.get("combined"):
            private[f"{name}-combined.pem"] = certificate + key
        folders.append({"path": home, "files": private, **rights})
    return folders


def certificate_stamps(sources: Sequence[Row], contents: Mapping[str, str], home: str) -> list[dict[str, Any]]:
    """Return the files, as file_tree takes them, that say which certificates the services have loaded."""
    files = {
        f".loaded-{source['name']}": hashlib.sha256(_text(contents, source["certificate"]).encode()).hexdigest() + "\n"
        for source in sources
    }
    return [{"path": home, "files": files}]


def certificates_watched(purposes: Sequence[Row], home: str) -> list[dict[str, Any]]:
    """Return the certificates of a host as the check of its health takes them."""
    services = [
        {"file": f"{home}/{purpose['name']}.pem", **{key: purpose[key] for key in _SHOWN if key in purpose}}
        for purpose in purposes
    ]
    return [{"file": f"{home}/ca.pem"}, *services]


def _text(contents: Mapping[str, str], path: str) -> str:
    text = contents.get(path, _CHECKED_ONLY)
    return text if text.endswith("\n") else f"{text}\n"


def _certificates(text: str) -> list[Certificate]:
    """Read a file of certificates. Raises ValueError."""
    from cryptography.x509 import load_pem_x509_certificates

    return load_pem_x509_certificates(text.encode())


def _key_fault(certificate: str, key: str) -> str:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        private = load_pem_private_key(key.encode(), password=None)
    except TypeError:
        return "its key has a passphrase, which no service could ask for"
    except ValueError:
        return "its key cannot be read"
    fits = private.public_key() == _certificates(certificate)[0].public_key()
    return "" if fits else "its key is another one's"


def _signed_by(certificate: Certificate, authorities: Iterable[Certificate]) -> bool:
    from cryptography.exceptions import InvalidSignature

    for authority in authorities:
        with suppress(ValueError, TypeError, InvalidSignature):
            certificate.verify_directly_issued_by(authority)
            return True
    return False


def _ends_within(certificate: Certificate, days: int) -> bool:
    return certificate.not_valid_after_utc <= datetime.now(UTC) + timedelta(days=int(days))


def _names_of(certificate: Certificate) -> list[str]:
    from cryptography.x509 import DNSName, ExtensionNotFound, IPAddress, SubjectAlternativeName

    try:
        names = certificate.extensions.get_extension_for_class(SubjectAlternativeName).value
    except ExtensionNotFound:
        return []
    found = [f"DNS:{name.lower()}" for name in names.get_values_for_type(DNSName)]
    return found + [f"IP:{address}" for address in names.get_values_for_type(IPAddress)]


class FilterModule:
    """The filters that Ansible loads."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by the names that playbooks use."""
        return {
            "certificate_sources": certificate_sources,
            "certificates_due": certificates_due,
            "authority_due": authority_due,
            "certificate_mistakes": certificate_mistakes,
            "certificate_folders": certificate_folders,
            "certificate_stamps": certificate_stamps,
            "certificates_watched": certificates_watched,
        }
