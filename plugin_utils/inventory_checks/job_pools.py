"""Work pools whose runs are jobs apart from their worker, which the pool declares: containers, or pods of a cluster."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from pgprefect.objects.docker_jobs import VARIABLES

from .forms import Form


@dataclass(frozen=True)
class JobPools:
    """The pools of a type, which is also the key under which a pool declares its jobs.

    ``jobs`` is what they are called, ``least`` what must be declared of them, ``image`` the form of their images, and
    ``traps`` has the reasons why a deployment cannot choose something.
    """

    type: str
    jobs: str
    least: str
    image: Form
    traps: Mapping[str, str] = field(default_factory=dict)

    def check_pool(self, path: str, pool: Mapping[str, Any]) -> Iterator[str]:
        """Yield what of a pool does not fit to its type."""
        is_one = pool.get("type", "process") == self.type
        if self.type not in pool:
            if is_one and pool.get("workers", 1) != 0:
                what = f"which says what its {self.jobs} get: set it, at least {self.least}."
                yield f"{path}.{self.type} is missing, {what}"
            return
        if not is_one:
            remedy = f"set type: {self.type}, or remove it."
            yield f"{path}.{self.type}: it belongs to a pool of the type {self.type}: {remedy}"
        if "base_job_template" in pool:
            yield f"{path}.base_job_template: {self.type} makes the template: remove one of the two."

    def check_deployments(self, path: str, tenant: Mapping[str, Any]) -> Iterator[str]:
        """Yield what deployments on a tenant's pools of the type cannot have; ``path`` is the tenant's."""
        pools = {pool["name"] for pool in tenant.get("work_pools", ()) if self.type in pool}
        for index, deployment in enumerate(tenant.get("deployments", ())):
            if deployment["work_pool"] in pools:
                yield from self._check_deployment(f"{path}.deployments[{index}]", deployment)

    def _check_deployment(self, path: str, deployment: Mapping[str, Any]) -> Iterator[str]:
        for name, value in deployment.get("job_variables", {}).items():
            here = f"{path}.job_variables.{name}"
            if name in self.traps:
                yield f"{here}: {self.traps[name]}: remove it."
            elif name.partition(".")[0] not in VARIABLES:
                yield (
                    f"{here}: the pool decides this for all of its {self.jobs}, in {self.type} of the pool. A "
                    f"deployment may set {', '.join(VARIABLES)}: remove it."
                )
            elif name == "image":
                yield from self.image.faults(here, value)
        if deployment.get("source", {}).get("credentials"):
            yield (
                f"{path}.source.credentials: {self.jobs} get no credentials of git: put the code into the image, take "
                "a repository that needs none, or another pool."
            )


def is_loopback(address: str) -> bool:
    """Return whether only the host itself reaches an address."""
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"
