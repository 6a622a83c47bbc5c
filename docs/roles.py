"""Write each role's README from its argument specs and defaults; with --check only say which are out of date."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent


def rows(options: dict[str, Any], defaults: dict[str, Any], prefix: str = "") -> list[str]:
    """Return one table row for each option, those of list elements and mappings below their parent."""
    lines = []
    for name, option in options.items():
        kind = option["type"] + (f" of {option['elements']}" if "elements" in option else "")
        value = defaults.get(name, option.get("default"))
        if option.get("required"):
            default = "required"
        elif isinstance(value, (dict, list)) and value:
            default = "`" + yaml.safe_dump(value, default_flow_style=True, width=1000).strip() + "`"
        else:
            default = "" if value is None else f"`{value!r}`" if value == "" else f"`{value}`"
        description = option["description"]
        text = description if isinstance(description, str) else " ".join(description)
        if "choices" in option:
            text += f" One of {', '.join(map(str, option['choices']))}."
        cell = default.replace("|", "\\|")
        lines.append(f"| `{prefix}{name}` | {kind} | {cell} | {text.replace('|', chr(92) + '|')} |")
        lines += rows(option.get("options", {}), {}, f"{prefix}{name}[].")
    return lines


def readme(role: Path) -> str:
    """Return the text of a role's README."""
    # All entry points of a role have the same options.
    spec = next(iter(yaml.safe_load((role / "meta/argument_specs.yml").read_text())["argument_specs"].values()))
    defaults = yaml.safe_load((role / "defaults/main.yml").read_text()) or {}
    description = spec["description"]
    paragraphs = [description] if isinstance(description, str) else description
    return "\n".join(
        [
            f"# {role.name}",
            "",
            f"{spec['short_description']}.",
            "",
            *(
                textwrap.fill(paragraph, 120, break_long_words=False, break_on_hyphens=False)
                for paragraph in paragraphs
            ),
            "",
            "| variable | type | default | meaning |",
            "|---|---|---|---|",
            *rows(spec["options"], defaults),
            "",
            "Made from `meta/argument_specs.yml` and `defaults/main.yml` by `make doc`.",
            "",
        ]
    )


def main() -> int:
    """Write or check, and return the exit status."""
    stale = []
    for specs in sorted((ROOT / "roles").glob("*/meta/argument_specs.yml")):
        role = specs.parent.parent
        path, text = role / "README.md", readme(role)
        if not path.exists() or path.read_text() != text:
            stale.append(str(path.relative_to(ROOT)))
            if "--check" not in sys.argv:
                path.write_text(text)
    if stale and "--check" in sys.argv:
        print(f"Out of date: {', '.join(stale)}. Run `make doc`.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
