"""Documentation of the argument by which modules remember what they made."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  record:
    description:
      - File of this host that keeps the names and identifiers of what this module creates. C(pgprefect objects prune)
        deletes nothing else.
    type: path
"""
