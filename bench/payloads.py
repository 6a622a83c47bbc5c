"""The payload of each module of library/: the files of module_utils/ that it carries to a host, and their size."""

from __future__ import annotations

from tests.support.payloads import ROOT, payload


def main() -> None:
    print(f"{'module':<30} {'files':>5} {'KiB':>6}")
    for module in sorted(path.stem for path in (ROOT / "library").glob("*.py")):
        sizes = payload(module)
        print(f"{module:<30} {len(sizes):>5} {sum(sizes.values()) / 1024:>6.1f}")


if __name__ == "__main__":
    main()
