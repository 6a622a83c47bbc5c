"""The certificates of a host: when they end, and whether the services show those that are installed.

They are read without a library, because a database's host has none for them.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from typing import Any

from ..core.problems import WARNING, Problem
from ..site.configuration import Certificate
from .thresholds import Thresholds

_PEM = re.compile("-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
# A file with more is a system's bundle, whose authorities come and go with the system's updates.
_MOST = 10
_DAY = 86400
_TIMES = {0x17: "%y%m%d%H%M%SZ", 0x18: "%Y%m%d%H%M%SZ"}  # UTCTime and GeneralizedTime
_VERSION = 0xA0
_SECONDS = 1.0  # that a service may take to show its certificate
_SSL_REQUEST = (8).to_bytes(4, "big") + (80877103).to_bytes(4, "big")  # of PostgreSQL's protocol
_REMEDY = (
    "On the controller, run playbooks/certificates.yml, which renews what the site signs; "
    "replace your own files, which site_tls_files names, before."
)


def certificates(limits: Thresholds, watched: Sequence[Certificate]) -> tuple[list[Problem], dict[str, Any]]:
    """Judge how long some certificates are still valid, and ask their services whether they show them."""
    problems: list[Problem] = []
    found: list[dict[str, Any]] = []
    for certificate in watched:
        blocks, unknown = _look(certificate.file)
        problems += unknown
        for moment in ends_of(blocks):
            found.append({"file": certificate.file, "ends": moment.isoformat(), "days": _days_until(moment)})
            problems += _end_problem(limits, f"path {certificate.file}", f"The certificate {certificate.file}", moment)
        if blocks and certificate.address:
            problems += _shown_problem(limits, certificate, blocks[0])
    return problems, {"certificates": found}


def _look(path: str) -> tuple[list[bytes], list[Problem]]:
    """Return a file's certificates, or why they are not known."""
    try:
        blocks = certificates_in(path)
        for block in blocks:
            end_of(block)
        return blocks, []
    except FileNotFoundError:
        message = f"The certificate {path} is declared, and is not on this host."
        return [], [Problem("certificate_missing", f"path {path}", message, _REMEDY)]
    except PermissionError as error:
        message = f"This user may not read the certificate {path}, so its end is not known: {error.strerror}."
        return [], [Problem("check_not_permitted", f"path {path}", message, "Ask as root on this host.")]
    except (OSError, ValueError, IndexError) as error:
        message = f"{path} cannot be read as a certificate, so its end is not known: {error}."
        return [], [Problem("certificate_unreadable", f"path {path}", message, _REMEDY)]


def _days_until(moment: datetime) -> float:
    return round((moment - datetime.now(timezone.utc)).total_seconds() / _DAY, 1)


def _end_problem(limits: Thresholds, where: str, what: str, moment: datetime) -> Iterator[Problem]:
    days = _days_until(moment)
    severity = limits.certificate_days.severity(days)
    if severity:
        when = f"ends on {moment:%Y-%m-%d}, in {days:.0f} days" if days > 0 else f"ended on {moment:%Y-%m-%d %H:%M} UTC"
        yield Problem("certificate_ends", where, f"{what} {when}.", _REMEDY, severity)


def _shown_problem(limits: Thresholds, certificate: Certificate, installed: bytes) -> Iterator[Problem]:
    where = f"address {certificate.address}"
    try:
        shown = shown_at(certificate.address, certificate.protocol)
    except OSError as error:
        message = f"It is not known which certificate is shown at {certificate.address}: {error}."
        yield Problem("certificate_not_shown", where, message, "Start the service, or look into its log.")
        return
    if shown != installed:
        message = f"At {certificate.address} another certificate is shown than the installed {certificate.file}."
        remedy = "Reload the service that listens there (systemctl reload), and see in its log why it does not load it."
        yield Problem("certificate_not_loaded", where, message, remedy, WARNING)
        yield from _end_problem(limits, where, f"The certificate shown at {certificate.address}", end_of(shown))


def shown_at(address: str, protocol: str) -> bytes:
    """Return the certificate that a service shows. Raises OSError."""
    host, _, port = address.rpartition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # It is compared with the installed one, not believed.
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection((host.strip("[]"), int(port)), timeout=_SECONDS) as plain:
        if protocol == "postgresql":
            plain.sendall(_SSL_REQUEST)
            if plain.recv(1) != b"S":
                raise OSError("it offers no TLS")
        with context.wrap_socket(plain) as encrypted:
            return encrypted.getpeercert(binary_form=True) or b""


def certificates_in(path: str) -> list[bytes]:
    """Return the certificates of a file. Raises OSError, and ValueError for another file."""
    with open(path, encoding="utf-8") as file:
        blocks = _PEM.findall(file.read())
    if not blocks:
        raise ValueError("there is no certificate in it")
    return [ssl.PEM_cert_to_DER_cert(block) for block in blocks]


def ends_of(blocks: Sequence[bytes]) -> list[datetime]:
    """Return when the certificates of a file end; nothing for a system's bundle."""
    return [end_of(block) for block in blocks] if len(blocks) <= _MOST else []


def end_of(der: bytes) -> datetime:
    """Return when a certificate ends, of RFC 5280's structure. Raises ValueError and IndexError for other bytes."""
    _, certificate, _ = _element(der, 0)
    _, at, _ = _element(der, certificate)
    tag, _, after = _element(der, at)
    # An optional version, the number, the algorithm, the issuer; then the validity: from when, until when.
    for _ in range(3 if tag == _VERSION else 2):
        _, _, after = _element(der, after)
    _, validity, _ = _element(der, after)
    _, _, after = _element(der, validity)
    tag, start, stop = _element(der, after)
    if tag not in _TIMES:
        raise ValueError("its end has no known form")
    return datetime.strptime(der[start:stop].decode("ascii"), _TIMES[tag]).replace(tzinfo=timezone.utc)


def _element(der: bytes, at: int) -> tuple[int, int, int]:
    """Return an element's tag, and where its content begins and ends."""
    tag, length, start = der[at], der[at + 1], at + 2
    if length & 0x80:
        count = length & 0x7F
        length = int.from_bytes(der[start : start + count], "big")
        start += count
    return tag, start, start + length
