"""Flows that say where they run, and what they have."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from pathlib import Path

import psycopg2
from prefect import flow, get_run_logger


@flow
def contained(seconds: float = 0, code: int = 0) -> None:
    """Say what the container has, stay for a while, and end with an exit code."""
    with contextlib.closing(psycopg2.connect("")) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT current_user")
        ((login,),) = cursor.fetchall()
    inside = Path("/.dockerenv").exists()
    letters = os.environ.get("POOL_LETTERS")
    get_run_logger().info(f"contained={inside} uid={os.getuid()} login={login} letters={letters}")
    time.sleep(seconds)
    if code:
        os._exit(code)


@flow
def reach_docker() -> None:
    """Try to use Docker, which would make this flow root of the host."""
    with socket.socket(socket.AF_UNIX) as engine:
        error = engine.connect_ex("/run/docker.sock")
    get_run_logger().info(f"docker={os.strerror(error)}")
