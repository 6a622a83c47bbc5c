"""What is foreign in a release of Prefect that makes more than tables."""

from __future__ import annotations

from pgprefect.schema.foreign import foreign
from pgprefect.schema.structure import Definition, Element

FUNCTION = Element("function", "", "$schema.f(integer)")
TABLE = Element("table", "", "flow")


def test_a_function_of_the_release_may_be_neither_changed_nor_missing() -> None:
    wanted = {TABLE: Definition("TABLE", True), FUNCTION: Definition("one", True)}
    assert list(foreign(wanted, wanted, "prefect")) == []
    (changed,) = foreign({**wanted, FUNCTION: Definition("two", True)}, wanted, "prefect")
    assert (changed.code, changed.object) == ("object_changed", "function prefect.f(integer)")
    (missing,) = foreign({TABLE: wanted[TABLE]}, wanted, "prefect")
    assert (missing.code, missing.object) == ("object_missing", "function prefect.f(integer)")


def test_of_an_empty_schema_nothing_is_said() -> None:
    assert list(foreign({}, {TABLE: Definition("TABLE", True)}, "prefect")) == []
