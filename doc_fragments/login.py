"""Documentation of the arguments in ``pgprefect.core.connection.LOGIN_ARGUMENTS``."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
requirements: ["psycopg2 on the host (Debian's python3-psycopg2)"]
notes:
  - As root over the unix socket, a module logs in as the operating system's user O(login_user).
options:
  login_host: {description: The server's host; empty for the unix socket., type: str, default: ""}
  login_port: {description: The server's port., type: int, default: 5432}
  login_user: {description: A superuser., type: str, default: postgres}
  login_password: {description: Its password. Not needed over the unix socket., type: str}
  login_ssl_mode:
    description: Whether and how the connection is protected by TLS, as libpq's C(sslmode).
    type: str
    default: prefer
    choices: [disable, allow, prefer, require, verify-ca, verify-full]
  login_ca_file: {description: The certificate authority that signed the server's certificate., type: path}
"""
