"""Documentation of the arguments in ``pgprefect.core.http.API_ARGUMENTS``."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  api_url: {description: Address of the server's REST API, with its path C(/api)., type: str, required: true}
  api_auth_string:
    description: The C(user:password) that the server was started with, empty if it asks for none.
    type: str
    default: ""
  api_timeout: {description: Seconds to wait for each answer., type: int, default: 30}
"""
