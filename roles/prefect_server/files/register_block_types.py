"""Register Prefect's own types of blocks in a new schema, as a server does when it starts.

Several processes that did it at the same time would each insert the same rows, and all but one end.
"""

from __future__ import annotations

import asyncio

from prefect.server.database import provide_database_interface
from prefect.server.models.block_registration import run_block_auto_registration


async def register() -> None:
    """Register them by the database that the environment names."""
    async with await provide_database_interface().session() as session:
        await run_block_auto_registration(session=session)


asyncio.run(register())
