"""Code in git repositories: which commit a branch or a tag is, and the files of that commit.

git runs as an unprivileged account, with a login of its own that nothing else sees, and only over https and ssh.
"""
# Annotations are not postponed here: options_of reads them.

import contextlib
import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional

from ..core.errors import ProblemError
from ..core.problems import Problem
from .flows import temporary_home
from .pull_steps import login_environment, ssh_command

_SECONDS = 300
_SHOWN = 300  # characters of what git says
_HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])"
_USER = r"[A-Za-z_][\w.-]*"
_PATH = r"(?:[\w.~+@-]|%[2-9A-Fa-f][0-9A-Fa-f])+"
_HTTPS = re.compile(rf"https://{_HOST}(?::\d{{1,5}})?(?:/{_PATH})+/?", re.ASCII)
_SSH = re.compile(
    rf"ssh://(?:{_USER}@)?{_HOST}(?::\d{{1,5}})?(?:/{_PATH})+/?"  # a whole address
    rf"|{_USER}@{_HOST}:(?!-)/?{_PATH}(?:/{_PATH})*/?",  # ssh's own short form, as git@example.com:team/flows.git
    re.ASCII,
)
_REF = re.compile(r"(?!.*(?:\.\.|//|@\{|/\.|\.lock(?:/|$)))\w(?:[\w.+#@/-]{0,248}[\w+#@-])?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
URLS = "https://HOST/PATH, ssh://USER@HOST/PATH or USER@HOST:PATH"
REFS = "a branch, a tag, or all 40 digits of a commit"

# What git says where something is missing that the user can set right; the first that fits counts.
_CAUSES = (
    (
        "Host key verification failed|host key is known|HOST IDENTIFICATION HAS CHANGED",
        "the host's key is not one of known_hosts",
        "Compare what `ssh-keyscan HOST` prints with what the operator publishes, and put it into known_hosts.",
    ),
    (
        "certificate",
        "the server's certificate is not trusted",
        "Set GIT_SSL_CAINFO in prefect_worker_environment to the file of a private authority, on all Prefect hosts.",
    ),
    (
        "Authentication failed|could not read Username|could not read Password|error: 403|Permission denied|denied to",
        "the server does not let these credentials read it, or has no such repository",
        "Check the URL, and the token or the key of its credentials: it must be allowed to read this repository.",
    ),
    (
        "not found|not appear to be a git repository|error: 404|no such path",
        "the server has no such repository",
        "Correct the URL; some servers say so, too, where the credentials may not read it.",
    ),
    (
        "Could not resolve|onnect to|Connection|timed out|unreachable|No route",
        "the server does not answer",
        "Check the URL, and that this host and the workers reach it; a proxy is set in prefect_worker_environment.",
    ),
)
# The steps by which a worker gets the code.
WORKING_DIRECTORY = "prefect.deployments.steps.set_working_directory"
_CLONE = "prefect.deployments.steps.git_clone"
_LOG_IN = "pgprefect.objects.pull_steps.log_in_to_git"
_LOG_OUT = "pgprefect.objects.pull_steps.log_out_of_git"
_UNKNOWN_COMMIT = "not our ref|couldn't find remote ref|unadvertised object|bad object"


class GitError(ProblemError):
    """A repository cannot be read, or has no such reference."""


class GitMissing(GitError):
    """This host has no git."""


@dataclass(frozen=True)
class GitSource:
    """Where a deployment's code is: a repository's address, and a branch, a tag or a commit of it."""

    git: str
    ref: str
    credentials: Optional[str] = None  # the name of those with which it is read

    @property
    def address(self) -> str:
        """The address as it may be shown."""
        return without_password(self.git)

    def __str__(self) -> str:
        return f"{self.address} at {self.ref}"


@dataclass(frozen=True)
class GitCredentials:
    """What logs in to repositories: a token over https, or a private key over ssh to a host whose key is known."""

    name: str
    token: Optional[str] = field(default=None, metadata={"no_log": True})
    username: str = "git"  # most servers take any with a token
    key: Optional[str] = field(default=None, metadata={"no_log": True})
    known_hosts: list[str] = field(default_factory=list)

    @property
    def block(self) -> str:
        """The name of the Secret block with the token."""
        return f"git-{self.name}"

    def fault(self) -> str:
        """Return why these are no credentials, or nothing."""
        if bool(self.token) == bool(self.key):
            return "they need exactly one of token (for https) and key (for ssh)"
        if self.key and not self.known_hosts:
            return "a key needs known_hosts, the lines of `ssh-keyscan HOST`, by which the host is recognised"
        return ""


def without_password(url: str) -> str:
    """Return an address without what may be a secret: a user with a password, and a query."""
    return url if _SSH.fullmatch(url) else re.sub(r"\?.*", "?***", re.sub(r"^(\w+://)?[^/]*@", r"\1***@", url))


def url_fault(url: str) -> str:
    """Return why an address is not one of a repository, or nothing. The reason does not repeat the address."""
    if _HTTPS.fullmatch(url) or _SSH.fullmatch(url):
        return ""
    if re.match(r"\w+://[^/]*@", url):
        return "a user or a password does not belong into it; name credentials instead"
    if re.match(r"(?!https:|ssh:)[\w+]+::?//", url):
        return "the code travels over https or ssh"
    return f"it does not read {URLS}"


def ref_fault(ref: str) -> str:
    """Return why a text is not the name of a branch or a tag and no commit, or nothing."""
    return "" if _REF.fullmatch(ref) else f"it is not {REFS}"


def fit_fault(source: GitSource, credentials: Optional[GitCredentials]) -> str:
    """Return why an address cannot be read with these credentials, or nothing."""
    if _SSH.fullmatch(source.git):
        if credentials is None or not credentials.key:
            return "ssh needs credentials with a key"
    elif credentials is not None and credentials.key:
        return "https needs credentials with a token; a key is for ssh"
    return ""


@dataclass(frozen=True)
class Repositories:
    """The repositories of deployments, read as ``user`` where this process is root.

    ``environment`` is what git needs besides, as proxies; ``keys_directory`` is where the workers have the keys.
    """

    credentials: Mapping[str, GitCredentials] = field(default_factory=dict)
    user: Optional[str] = None
    environment: Mapping[str, str] = field(default_factory=dict)
    keys_directory: str = "/etc/prefect/git"

    def faults(self, source: GitSource) -> Iterator[str]:
        """Yield what is wrong with a source and its credentials, without asking a server."""
        if fault := url_fault(source.git):
            yield f"the address {source.address!r} is wrong: {fault}."
            return
        if fault := ref_fault(source.ref):
            yield f"the ref {source.ref!r} is wrong: {fault}."
        if source.credentials is not None and source.credentials not in self.credentials:
            yield f"there are no git_credentials {source.credentials!r}: declare them, or correct the name."
            return
        credentials = self._credentials_of(source)
        fault = (credentials.fault() if credentials else "") or fit_fault(source, credentials)
        if fault:
            yield f"{source} cannot be read: {fault}."

    def tokens(self, sources: Sequence[GitSource]) -> dict[str, str]:
        """Return the tokens with which workers read these sources, by the names of their blocks."""
        used = [self._credentials_of(source) for source in sources]
        return {one.block: one.token for one in used if one and one.token}

    def pull_steps(self, source: GitSource, commit: str) -> list[dict[str, Any]]:
        """Return the steps by which a worker gets the files of a commit."""
        fields = {"repository": source.git, "commit_sha": commit, "clone_directory_name": "repository"}
        clone = {_CLONE: fields}
        credentials = self._credentials_of(source)
        if credentials is None:
            return [clone]
        login = {"repository": source.git}
        if credentials.token:
            block = "{{ prefect.blocks.secret." + credentials.block + " }}"
            login.update(username=credentials.username, access_token=block)
        else:
            key = os.path.join(self.keys_directory, credentials.name)
            login.update(key_file=key, known_hosts_file=f"{key}.known_hosts")
        return [{_LOG_IN: login}, clone, {_LOG_OUT: {}}]

    def resolve(self, source: GitSource) -> str:
        """Return the commit that a source's reference is. Raises GitError."""
        if _COMMIT.fullmatch(source.ref):
            return source.ref
        full = source.ref.startswith("refs/")
        names = [source.ref] if full else [f"refs/heads/{source.ref}", f"refs/tags/{source.ref}"]
        # A tag with a message is an object of its own, behind which is the commit.
        wanted = [*names, *(f"{name}^{{}}" for name in names)]
        with self._login(source) as git:
            answer = git("ls-remote", "--", source.git, *wanted)
        lines = (line.split("\t") for line in answer.splitlines() if "\t" in line)
        found = {name: commit for commit, name in lines}
        commits = {found.get(f"{name}^{{}}", found[name]) for name in names if name in found}
        if not commits:
            message = f"{source}: the repository has no such branch or tag."
            raise GitError(_unknown(source, message, f"Correct the ref: it must be {REFS}."))
        if len(commits) > 1:
            message = f"{source}: a branch and a tag of that name are different commits."
            raise GitError(_unknown(source, message, f"Set the ref to {names[0]} or {names[1]}."))
        return commits.pop()

    @contextlib.contextmanager
    def checkout(self, source: GitSource, commit: str) -> Iterator[str]:
        """Give a folder with the files of a commit, which is removed at the end. Raises GitError."""
        with temporary_home(self.user) as (folder, _identity):
            with self._login(source) as git:
                git("init", "--quiet", "--template=", folder)
                git("-C", folder, "fetch", "--quiet", "--depth=1", "--no-tags", "--", source.git, commit)
                git("-C", folder, "checkout", "--quiet", "--detach", "FETCH_HEAD")
            # Nothing is left of the login while the code is run.
            yield folder

    def _credentials_of(self, source: GitSource) -> Optional[GitCredentials]:
        return self.credentials.get(source.credentials) if source.credentials is not None else None

    @contextlib.contextmanager
    def _login(self, source: GitSource) -> Iterator["_Git"]:
        """Give a git that is logged in to a source's server until the end."""
        credentials = self._credentials_of(source)
        with temporary_home(self.user) as (home, identity):
            environment = {
                "PATH": "/usr/bin:/bin",
                "LC_ALL": "C.UTF-8",
                **self.environment,
                "HOME": home,
                "GIT_ALLOW_PROTOCOL": "https:ssh",
                "GIT_TERMINAL_PROMPT": "0",
                "GIT_SSH_COMMAND": "false",
            }
            if credentials and credentials.token:
                login = {"username": credentials.username, "access_token": credentials.token}
                environment.update(login_environment(source.git, environment, **login))
            elif credentials and credentials.key:
                key, known = os.path.join(home, "key"), os.path.join(home, "known_hosts")
                _write(key, credentials.key.strip(), identity)
                _write(known, "\n".join(credentials.known_hosts), identity)
                environment["GIT_SSH_COMMAND"] = ssh_command(key, known)
            yield _Git(source, environment, identity, home)


def source_of(steps: Sequence[Mapping[str, Any]]) -> Optional[dict[str, str]]:
    """Return the source that pull steps clone, as a deployment declares it, or None for other steps.

    The steps are ours, or Prefect's own git_clone of a branch or a commit without a login.
    """
    named = [(name, dict(values or {})) for step in steps for name, values in step.items()]
    clones = [values for name, values in named if name == _CLONE]
    logins = [values for name, values in named if name == _LOG_IN]
    if len(clones) != 1 or len(logins) > 1 or any(name not in (_CLONE, _LOG_IN, _LOG_OUT) for name, _ in named):
        return None
    clone, login = clones[0], logins[0] if logins else {}
    ref = clone.get("commit_sha") or clone.get("branch")
    if not ref or not set(clone) <= {"repository", "branch", "commit_sha", "clone_directory_name"}:
        return None
    source = {"git": str(clone["repository"]), "ref": str(ref)}
    secret = re.fullmatch(r"\{\{ prefect\.blocks\.secret\.git-(.+) \}\}", str(login.get("access_token", "")))
    name = secret[1] if secret else os.path.basename(str(login.get("key_file", "")))
    return {**source, "credentials": name} if name else source


@dataclass(frozen=True)
class _Git:
    """Runs git for one source; calling it returns what it prints. Raises GitError."""

    source: GitSource
    environment: Mapping[str, str]
    identity: Mapping[str, Any]
    home: str

    def __call__(self, *arguments: str) -> str:
        try:
            done = subprocess.run(
                # A server that sends nothing any more is given up, also by what git started.
                ["git", "-c", "http.lowSpeedLimit=1", "-c", "http.lowSpeedTime=60", *arguments],
                env=self.environment,
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=_SECONDS,
                check=False,
                **self.identity,
            )
        except FileNotFoundError as error:
            remedy = "Run playbooks/prefect.yml, which installs it."
            raise GitMissing(_unreadable(self.source, f"{self.source}: this host has no git.", remedy)) from error
        except subprocess.TimeoutExpired as error:
            raise self._failure(f"Connection timed out after {_SECONDS} seconds") from error
        if done.returncode:
            raise self._failure(done.stderr)
        return str(done.stdout)

    def _failure(self, said: str) -> GitError:
        """Return the error for what git said, with the cause that it has as far as we know."""
        token = self.environment.get("PGPREFECT_GIT_TOKEN")
        quoted = " ".join((said.replace(token, "***") if token else said).split())[-_SHOWN:]
        said = re.sub("'[^']*'", "", said)  # addresses may have any words
        if re.search(_UNKNOWN_COMMIT, said):
            message = f"{self.source}: the repository has no such commit."
            return GitError(_unknown(self.source, message, f"Correct the ref: it must be {REFS}."))
        for pattern, cause, remedy in _CAUSES:
            if re.search(pattern, said):
                message = f"{self.source}: {cause} (git says: {quoted})."
                return GitError(_unreadable(self.source, message, remedy))
        message = f"{self.source}: git failed ({quoted})."
        return GitError(_unreadable(self.source, message, "Try it by hand: git ls-remote URL"))


def _unreadable(source: GitSource, message: str, remedy: str) -> Problem:
    return Problem("git_unreadable", object=f"repository {source.address}", message=message, remedy=remedy)


def _unknown(source: GitSource, message: str, remedy: str) -> Problem:
    return Problem("git_ref_unknown", object=f"repository {source.address}", message=message, remedy=remedy)


def _write(path: str, text: str, identity: Mapping[str, Any]) -> None:
    """Write a file that only the account of the identity reads."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(f"{text}\n")
        if identity:
            os.fchown(handle, identity["user"], identity["group"])
