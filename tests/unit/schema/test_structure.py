"""The text of a structure, without the names of schemas."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pgprefect.core.sql import quote, quote_literal
from pgprefect.schema.structure import Definition, Element, as_text, drift, known_structure, portable, recorded
from pgprefect.schema.structure_data import STRUCTURES


@pytest.mark.parametrize(
    ("definition", "expected"),
    [
        ("prefect.state_type NOT NULL", "$schema.state_type NOT NULL"),
        ("GIN (name extensions.gin_trgm_ops)", "GIN (name $extensions.gin_trgm_ops)"),
        ("'prefect.flow'::character varying", "'prefect.flow'::character varying"),
        ("'it''s prefect.'::prefect.state_type", "'it''s prefect.'::$schema.state_type"),
        ("my_prefect.x, prefect_x.y, a.prefect.z", "my_prefect.x, prefect_x.y, a.prefect.z"),
        ('"prefect.x", prefectural.y, éprefect.z', '"prefect.x", prefectural.y, éprefect.z'),
    ],
)
def test_only_the_names_of_the_schemas_are_replaced(definition: str, expected: str) -> None:
    assert portable(definition, "prefect", "extensions") == expected


@given(st.text(min_size=1).filter(lambda name: name != "extensions"), st.text())
def test_any_name_is_found_and_no_literal_is_touched(schema: str, literal: str) -> None:
    literal = quote_literal(literal)
    definition = f"a {quote(schema)}.state_type DEFAULT {literal}::{quote(schema)}.state_type"
    assert (
        portable(definition, quote(schema), "extensions")
        == f"a $schema.state_type DEFAULT {literal}::$schema.state_type"
    )


@pytest.mark.parametrize("revision", STRUCTURES)
def test_what_is_known_can_be_read(revision: str) -> None:
    structure = known_structure(revision)
    assert structure is not None
    assert {part.kind for part in structure} == {"column", "constraint", "enum", "index", "table"}
    assert len({part.table for part in structure}) > 30
    assert list(drift(structure, structure, "prefect", "extensions")) == []
    assert list(drift({}, structure, "prefect", "extensions")) == []  # tables that are missing are told elsewhere
    assert known_structure("no such") is None


def test_what_is_recorded_is_what_was_read() -> None:
    texts = {revision: as_text(known_structure(revision) or {}) for revision in STRUCTURES}
    assert len(set(texts.values())) == len(texts) > 1
    assert recorded(texts) == STRUCTURES


def test_remedies_have_the_names_of_the_schemas() -> None:
    part = Element("index", "flow", "i")
    wanted = {part: Definition("CREATE INDEX i ON $schema.flow USING gin (name $extensions.gin_trgm_ops)", True)}
    present = {Element("column", "flow", "name"): Definition("text", True)}
    (problem,) = drift(present, {**present, **wanted}, "My Schema", "Ext,s")
    assert problem.remedy == 'CREATE INDEX CONCURRENTLY i ON "My Schema".flow USING gin (name "Ext,s".gin_trgm_ops);'
