"""Values as files, SQL and people read them."""

from __future__ import annotations

import subprocess

import pytest
from ansible.errors import AnsibleFilterError
from hypothesis import given, settings
from hypothesis import strategies as st

from filter_plugins.text import created_tables, env_lines, env_quote, pgpass_lines, search_path, step_times


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.text(st.characters(exclude_categories=("C", "Z")) | st.sampled_from("\"'$`\\ #%!"), max_size=20), max_size=20
    )
)
def test_a_shell_reads_back_what_was_quoted(values: list[str]) -> None:
    script = "".join(f"x={env_quote(value)}\nprintf '%s\\0' \"$x\"\n" for value in values)
    output = subprocess.run(["sh"], input=script.encode(), check=True, capture_output=True).stdout
    assert output.decode().split("\0")[:-1] == values


def test_a_line_break_cannot_add_a_variable() -> None:
    with pytest.raises(AnsibleFilterError, match="line break"):
        env_quote("a\nLD_PRELOAD=x")


def test_variables_are_lines_in_the_order_of_their_names() -> None:
    assert env_lines({"B": 2, "A": "a$b"}) == 'A="a\\$b"\nB="2"'
    assert env_lines({}) == ""


def test_search_path_quotes_only_what_needs_it() -> None:
    assert search_path(["prefect", "extensions"]) == "prefect, extensions"
    assert search_path(["Research-2", 'a"b']) == '"Research-2", "a""b"'


def test_a_password_file_is_quoted() -> None:
    assert pgpass_lines({"b": "p:a\\ss", "a:c": "x"}) == "*:*:*:a\\:c:x\n*:*:*:b:p\\:a\\\\ss\n"


def test_tables_of_a_script() -> None:
    script = (
        "CREATE TABLE IF NOT EXISTS one (\n);\n-- CREATE TABLE IF NOT EXISTS no (\nCREATE TABLE IF NOT EXISTS two ("
    )
    assert created_tables(script) == ["one", "two"]


def test_each_step_has_its_time() -> None:
    assert step_times([("begin", 10.0), ("checks", 12.4), ("trial runs", 80.1)]) == "checks 2 s, trial runs 68 s"
    assert step_times([]) == ""
