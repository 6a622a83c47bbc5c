"""Certificates and keys that must be on a host before a service is told to use them."""

from __future__ import annotations

import grp
import os
import ssl
import stat
from collections.abc import Iterator

from ansible.module_utils.pgprefect.core.problems import Problem
from ansible.module_utils.pgprefect.core.users import user_name

# Debian's own, which come with the package ssl-cert.
_SELF_SIGNED = "/ssl-cert-snakeoil."
_REMEDY = "Put the file there first, or correct the variable."
# The site's own, which a role installs.
_INSTALLED = "/etc/prefect/tls/"


def certificate_problems(
    path: str, variable: str, key: str, key_variable: str, private: bool = False
) -> Iterator[Problem]:
    """Yield what is wrong with a certificate's file, and with the private key that belongs to it, if there is one.

    A ``private`` file has the key, too.
    """
    missing = [
        problem
        for file, name in ((path, variable), (key, key_variable))
        if file and _SELF_SIGNED not in file and not os.path.isfile(file)
        for problem in [_problem("file_missing", name, file, "there is no such file on this host")]
    ]
    if missing or _SELF_SIGNED in path:
        yield from missing
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(path)
    except (OSError, ssl.SSLError) as error:
        yield _problem("certificate_unreadable", variable, path, f"it cannot be read as a certificate ({error})")
        return
    if private:
        yield from _private_problems(path, variable)
    elif key:
        yield from _key_problems(path, key, key_variable)
    elif not _everybody_reads(path):
        yield _problem("certificate_unreadable", variable, path, "the users of the services cannot read it")


def _key_problems(path: str, key: str, variable: str) -> Iterator[Problem]:
    try:
        # An encrypted key is refused instead of asking for its passphrase.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(path, key, password="")
    except (OSError, ssl.SSLError) as error:
        yield _problem("key_unfit", variable, key, f"it is no unencrypted key of the certificate {path} ({error})")
        return
    status = os.stat(key)
    mode, group = stat.S_IMODE(status.st_mode), _group(status.st_gid)
    owner = user_name(status.st_uid) or str(status.st_uid)
    # As PostgreSQL checks it when it starts.
    if not (
        (owner == "postgres" and not mode & 0o077)
        or (owner == "root" and not mode & 0o037 and mode & 0o040 and group in ("ssl-cert", "postgres"))
    ):
        reason = f"PostgreSQL does not take a key of {owner}:{group} with the mode {mode:04o}"
        remedy = (
            f"Let its group read it, and nobody else: apt install ssl-cert; chown root:ssl-cert {key}; chmod 0640 {key}"
        )
        yield _problem("key_unfit", variable, key, reason, remedy)


def _private_problems(path: str, variable: str) -> Iterator[Problem]:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(path, password="")
    except (OSError, ssl.SSLError) as error:
        remedy = "Put the certificate, the chain, and its unencrypted key into this one file."
        yield _problem("key_unfit", variable, path, f"it has no key of its certificate ({error})", remedy)
        return
    if os.stat(path).st_mode & stat.S_IROTH:
        yield _problem(
            "key_unfit", variable, path, "everybody can read the key in it", f"Let root alone: chmod 0600 {path}"
        )


def _problem(code: str, variable: str, path: str, reason: str, remedy: str = _REMEDY) -> Problem:
    if path.startswith(_INSTALLED):
        variable, remedy = "site_tls", f"Run playbooks/certificates.yml, which installs {path}."
    return Problem(code, object=f"path {path}", message=f"{variable} is {path}: {reason}.", remedy=remedy)


def _everybody_reads(path: str) -> bool:
    real = os.path.realpath(path)
    folders = []
    folder = os.path.dirname(real)
    while folder not in folders:
        folders.append(folder)
        folder = os.path.dirname(folder)
    return bool(os.stat(real).st_mode & stat.S_IROTH) and all(os.stat(f).st_mode & stat.S_IXOTH for f in folders)


def _group(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)
