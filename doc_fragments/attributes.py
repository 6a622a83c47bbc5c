"""Documentation of what modules support: ``reads`` for those that change nothing, ``changes`` for the others."""

from __future__ import annotations


class ModuleDocFragment:
    READS = r"""
attributes:
  check_mode: {support: full, description: The module only reads.}
  diff_mode: {support: none, description: There is nothing to change.}
  idempotent: {support: full, description: The module only reads.}
"""

    CHANGES = r"""
attributes:
  check_mode: {support: full, description: Reports the same changes and makes none.}
  diff_mode: {support: full, description: Shows what is, or would be, changed.}
  idempotent: {support: full, description: A second run changes nothing.}
"""
