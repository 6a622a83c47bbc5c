"""What Ansible sends to a host for a module of library/."""

from __future__ import annotations

import io
import zipfile
from datetime import UTC, datetime
from pathlib import Path

from ansible._internal._ansiballz import _builder
from ansible.executor.module_common import recursive_finder
from ansible.plugins.loader import init_plugin_loader, module_utils_loader
from ansible.utils.collection_loader._collection_config import AnsibleCollectionConfig

ROOT = Path(__file__).parents[2]
MODULE_UTILS = ROOT / "module_utils"


def payload(module: str) -> dict[str, int]:
    """Return the files of module_utils/ that Ansible packs with a module, and their bytes; its own do not count."""
    if not AnsibleCollectionConfig.collection_finder:
        init_plugin_loader()
    module_utils_loader.add_directory(str(MODULE_UTILS))
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as packed:
        recursive_finder(
            module,
            f"ansible.modules.{module}",
            (ROOT / "library" / f"{module}.py").read_bytes(),
            packed,
            datetime.now(UTC),
            _builder.ExtensionManager(),
        )
        sizes = {entry.filename.removeprefix("ansible/module_utils/"): entry.file_size for entry in packed.infolist()}
    return {name: size for name, size in sizes.items() if (MODULE_UTILS / name).is_file()}
