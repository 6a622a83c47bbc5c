"""The jobs of Docker work pools: what an inventory says of their containers, and the job template that follows.

A worker of the site takes most of it from its own host, see docker_worker.py of the role prefect_worker: the template
says it to Prefect and to people, and lets a deployment choose what is left.
"""
# Annotations are not postponed here: options_of reads them.

import re
from dataclasses import dataclass, field
from typing import Optional

from .changes import Fields
from .secret_blocks import REGISTRY

IMAGES = "REPOSITORY@sha256:... with the image's digest, or sha256:... with the identifier of an image of the host"
# What a job variable of a deployment may set.
VARIABLES = ("command", "env", "image", "labels", "name")
_IMAGE_ID = re.compile(r"sha256:[0-9a-f]{64}")
_PART = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_HOST = r"(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\])(?::\d{1,5})?"
_PINNED = re.compile(rf"(?:{_HOST}/)?{_PART}(?:/{_PART})*@sha256:[0-9a-f]{{64}}")


@dataclass(frozen=True)
class DockerJob:
    """The containers of a pool. ``registry`` names the credentials by which the image is pulled."""

    image: str
    network_mode: Optional[str] = None  # bridge, if there are no networks
    networks: list[str] = field(default_factory=list)
    volumes: list[str] = field(default_factory=list)
    memory: str = "1G"
    registry: Optional[str] = None
    database_login: bool = False


@dataclass(frozen=True)
class DockerRegistry:
    """A registry of images with a login."""

    name: str
    address: str
    username: str
    password: str = field(metadata={"no_log": True})

    @property
    def block(self) -> str:
        """The name of its block."""
        return f"registry-{self.name}"

    @property
    def data(self) -> dict[str, str]:
        """The block's fields."""
        return {"registry_url": self.address, "username": self.username, "password": self.password}


def image_fault(image: str) -> str:
    """Return why an image is not pinned, or nothing."""
    if _IMAGE_ID.fullmatch(image) or _PINNED.fullmatch(image):
        return ""
    if re.fullmatch(r"[^@\s]+:[\w.-]+@sha256:[0-9a-f]{64}", image.rpartition("/")[2]):
        return "it has a tag besides the digest: leave the tag out"
    if "@" not in image:
        return (
            "a tag moves: `docker image inspect --format '{{.RepoDigests}} {{.Id}}' IMAGE` prints digest and identifier"
        )
    return "that is no digest of an image"


def job_template(job: DockerJob) -> Fields:
    """Return the base job template of a pool. What is no variable in it no deployment can change."""
    configuration: Fields = {name: "{{ " + name + " }}" for name in VARIABLES}
    configuration.update(
        image_pull_policy="Never" if _IMAGE_ID.fullmatch(job.image) else "IfNotPresent",
        networks=job.networks,
        volumes=job.volumes,
        mem_limit=job.memory,
        memswap_limit=job.memory,
        # A container that removes itself takes its exit code with it.
        auto_remove=False,
        privileged=False,
        stream_output=True,
    )
    if not job.networks:
        configuration["network_mode"] = job.network_mode or "bridge"
    properties = job_variables(job.image, IMAGES)
    if job.registry:
        # The server takes a block's name as the default of a variable, and nowhere else.
        configuration["registry_credentials"] = "{{ registry_credentials }}"
        properties["registry_credentials"] = {
            "title": "Registry credentials",
            "default": f"{{{{ prefect.blocks.{REGISTRY}.registry-{job.registry} }}}}",
        }
    return {"job_configuration": configuration, "variables": {"type": "object", "properties": properties}}


def job_variables(image: str, images: str) -> dict[str, Fields]:
    """Return the schema of VARIABLES: ``image`` is the pool's, and ``images`` says what another may be."""
    mapping = {"type": "object", "additionalProperties": {"type": "string"}}
    return {
        "command": {"type": "string", "title": "Command", "description": "Instead of Prefect's own command."},
        "env": {**mapping, "title": "Environment", "description": "Environment variables; no place for secrets."},
        "image": {"type": "string", "title": "Image", "description": f"The image, as {images}.", "default": image},
        "labels": {**mapping, "title": "Labels", "description": "Further labels of the container."},
        "name": {"type": "string", "title": "Name", "description": "The container's name, if not the run's."},
    }
