"""Code in git repositories: addresses, references and credentials. Nothing is said of what is in a repository."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pgprefect.objects import git

from .forms import Form, matching
from .suggestions import did_you_mean


def _url(value: Any) -> None:
    if fault := git.url_fault(str(value)):
        raise ValueError(fault)


def _ref(value: Any) -> None:
    if fault := git.ref_fault(str(value)):
        raise ValueError(fault)


# Somebody may have written a password into it.
URL = Form(f"the address of a repository, {git.URLS}, without a password", _url, secret=True)
REF = Form(git.REFS, _ref)
NAME = matching(
    r"[a-z0-9](?:[a-z0-9-]{0,48}[a-z0-9])?", "a name of at most 50 lower-case letters, digits and inner '-'"
)
KNOWN_HOST = matching(
    r"(?:@(?:cert-authority|revoked) )?[^\s#@]\S* [a-z][\w@.-]+ [A-Za-z0-9+/]+=*(?: .*)?",
    "a line as ssh-keyscan prints it, without comments",
)


def check_sources(tenants: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the credentials that are none, and the deployments whose repository they do not fit."""
    for number, tenant in enumerate(tenants):
        declared = {one["name"]: git.GitCredentials(**one) for one in tenant.get("git_credentials", ())}
        for index, credentials in enumerate(declared.values()):
            if fault := credentials.fault():
                path = f"prefect_tenants[{number}].git_credentials[{index}]"
                yield f"{path}: {credentials.name}: {fault}: correct them in the inventory."
        for index, deployment in enumerate(tenant.get("deployments", ())):
            if "source" in deployment:
                path = f"prefect_tenants[{number}].deployments[{index}].source"
                yield from _check_source(path, git.GitSource(**deployment["source"]), declared)


def _check_source(path: str, source: git.GitSource, declared: Mapping[str, git.GitCredentials]) -> Iterator[str]:
    name = source.credentials
    if name is not None and name not in declared:
        near = did_you_mean(name, declared) or ". Declare them there, or correct the name."
        yield f"{path}.credentials is {name!r}, but git_credentials of the tenant have no such name{near}"
    elif fault := git.fit_fault(source, declared[name] if name is not None else None):
        yield f"{path}: {source.address}: {fault}: correct git, or credentials, in the inventory."
