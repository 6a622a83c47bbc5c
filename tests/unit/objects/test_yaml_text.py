"""What is written as YAML is read as the same data, by YAML and by Ansible."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from pgprefect.objects.yaml_text import Template, to_yaml


class Loader(yaml.SafeLoader):
    """Reads Ansible's tag for texts that are no templates."""


Loader.add_constructor("!unsafe", lambda _, node: ("unsafe", node.value))

VALUES: list[Any] = [
    *(
        "",
        " ",
        "x",
        "a b",
        "a  b",
        "-",
        "- a",
        "a: b",
        "a #b",
        "#",
        "*a",
        "&a",
        "!a",
        "@",
        "%",
        "'",
        '"',
        "\\",
        "|",
        ">",
    ),
    *(
        "null",
        "Null",
        "~",
        "true",
        "Yes",
        "off",
        "y",
        "1",
        "1.5",
        "1e3",
        "0x1",
        "0o7",
        "1_000",
        "2026-01-01",
        "12:30:45",
    ),
    *("ä, ö", "日本", "🙂", "a\nb", "a\tb", "a\rb", "\x00", "\x7f", "\x85", "\u2028", "\ufeff", "e\u0301", "=", "<<"),
    *(0, -1, 1.5, 1e22, 1e-7, 1.5e300, True, False, None, 10**30),
    *(
        [],
        {},
        [[]],
        [{}],
        {"a": {}},
        [[1, [2]], {"a": [1]}],
        {"a": [{"b": 1, "c": [None]}]},
        {"1": 1, "yes": 2, "a b": 3},
    ),
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_the_same_data_is_read(value: Any) -> None:
    for whole in (value, {"key": value}, [value, value], [{"a": value, "b": [value]}]):
        read = yaml.load(to_yaml(whole), Loader)
        assert read == whole and repr(read) == repr(whole)


def test_templates_of_prefect_are_none_of_ansible() -> None:
    text = to_yaml({"a": "{{ flow_run.name }}", "b": ["{% raw %}"], "c": Template("{{ vault_x }}")})
    assert text == 'a: !unsafe "{{ flow_run.name }}"\nb:\n  - !unsafe "{% raw %}"\nc: "{{ vault_x }}"\n'
    assert yaml.load(text, Loader)["a"] == ("unsafe", "{{ flow_run.name }}")
