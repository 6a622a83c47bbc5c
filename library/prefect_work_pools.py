#!/usr/bin/python
"""Keep a Prefect server's work pools and queues as declared."""

from __future__ import annotations

DOCUMENTATION = r"""
module: prefect_work_pools
short_description: Keep a Prefect server's work pools and queues as declared
description:
  - Creates the declared work pools and queues that are missing, and changes only those fields of existing ones that
    differ.
  - Pools and queues that are not declared are left alone, and nothing is ever deleted.
  - An option without a default that is not given is left as it is on the server.
version_added: "1.0.0"
author: The ansible-prefect authors
attributes:
  check_mode:
    support: full
    description: >-
      Reports the same changes and makes none. An API that cannot be reached is taken for a server without pools, with
      a warning, so that the plan for a host on which nothing is installed yet can be shown.
extends_documentation_fragment: [attributes.changes, api, record]
options:
  pools:
    description: The work pools.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the pool. Names that begin with C(prefect) are reserved by the server.
        type: str
        required: true
      type:
        description:
          - What runs the flows, for instance C(process).
          - It cannot be changed later; a pool of another type is refused.
        type: str
        default: process
      description:
        description: What the pool is for.
        type: str
      concurrency_limit:
        description: How many flow runs may run at once; C(-1) takes a limit away.
        type: int
      paused:
        description: Whether the pool hands out no work.
        type: bool
      base_job_template:
        description: The template of its jobs. If the pool has none, its first worker stores the default of its type.
        type: dict
      docker:
        description: The containers of a pool of the type C(docker), from which its job template is made.
        type: dict
        suboptions:
          image:
            description:
              - The image, as C(REPOSITORY@sha256:...) with its digest, or C(sha256:...) with the identifier of an image
                that the host has. A tag is refused, because it moves.
            type: str
            required: true
          network_mode:
            description: C(host), or C(bridge), which it is unless there are C(networks).
            type: str
          networks:
            description: Networks of the engine.
            type: list
            elements: str
            default: []
          volumes:
            description: Volumes, as C(SOURCE:TARGET:ro).
            type: list
            elements: str
            default: []
          memory:
            description: Memory of a container, without more by swapping.
            type: str
            default: 1G
          registry:
            description: Name of one of C(registries), by whose credentials the image is pulled.
            type: str
          database_login:
            description: Whether the containers get the login of the application's database, by the role prefect_worker.
            type: bool
            default: false
      kubernetes:
        description: The pods of a pool of the type C(kubernetes), from which its job template is made.
        type: dict
        suboptions:
          image:
            description: The image, as C(REPOSITORY@sha256:...) with its digest. A tag is refused, because it moves.
            type: str
            required: true
          namespace:
            description: Namespace of the Jobs and their pods.
            type: str
            required: true
          memory:
            description: Memory of a pod, requested and the most.
            type: str
            default: 1G
          cpu:
            description: CPUs of a pod, requested and the most; C(500m) is half of one.
            type: str
            default: "1"
          service_account:
            description: Service account of the pods; without one they get no token of the cluster.
            type: str
          image_pull_secret:
            description: Secret with the login of the image's registry.
            type: str
          environment_secret:
            description: Secret whose keys are environment variables of the pods.
            type: str
      queues:
        description: Queues of the pool. Every pool has a queue C(default).
        type: list
        elements: dict
        default: []
        suboptions:
          name:
            description: Name of the queue.
            type: str
            required: true
          description:
            description: What the queue is for.
            type: str
          priority:
            description: Its rank among the pool's queues, C(1) is served first.
            type: int
          concurrency_limit:
            description: How many flow runs of the queue may run at once; C(-1) takes a limit away.
            type: int
          paused:
            description: Whether the queue hands out no work.
            type: bool
  registries:
    description: Registries of images with a login, which Prefect keeps in blocks C(registry-NAME).
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the registry here.
        type: str
        required: true
      address:
        description: Host and port of the registry.
        type: str
        required: true
      username:
        description: The user's name.
        type: str
        required: true
      password:
        description: Its password.
        type: str
        required: true
"""

EXAMPLES = r"""
- name: Create two pools, one with a queue for urgent runs
  prefect_work_pools:
    api_url: http://127.0.0.1:4200/api
    api_auth_string: "admin:{{ lookup('ansible.builtin.password', inventory_dir ~ '/.secrets/prefect_api') }}"
    pools:
      - name: default
        concurrency_limit: 4
      - name: market-hours
        description: Runs that must not wait
        queues:
          - name: urgent
            priority: 1
            concurrency_limit: 2
"""

RETURN = r"""
actions:
  description: What was done, or would be done in check mode, one line each.
  type: list
  elements: str
  returned: success
  sample: ["create work pool default", "create queue default/urgent", "update queue priorities default: urgent"]
ids:
  description: The identifier of each declared pool, by name; without those that check mode did not create.
  type: dict
  returned: success
  sample: {"default": "8f4d9d4e-6d8f-4f3c-9d1c-0d8f5c1c9a53"}
problems:
  description: Why it failed, each with C(code), C(severity), C(object), C(message) and C(remedy).
  type: list
  elements: dict
  returned: failure
changes:
  description: What had been done before it failed, in order.
  type: list
  elements: str
  returned: failure
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.module_support.failures import failures
from ansible.module_utils.module_support.objects import OBJECT_ARGUMENTS, finish
from ansible.module_utils.pgprefect.core.http import PrefectApi
from ansible.module_utils.pgprefect.core.options import from_options, options_of
from ansible.module_utils.pgprefect.objects import work_pools
from ansible.module_utils.pgprefect.objects.docker_jobs import DockerRegistry


def main() -> None:
    options = options_of(work_pools.WorkPool)
    module = AnsibleModule(
        argument_spec={
            **OBJECT_ARGUMENTS,
            "pools": {"type": "list", "elements": "dict", "required": True, "options": options},
            "registries": {"type": "list", "elements": "dict", "default": [], "options": options_of(DockerRegistry)},
        },
        supports_check_mode=True,
    )
    pools = [from_options(work_pools.WorkPool, pool) for pool in module.params["pools"]]
    registries = [from_options(DockerRegistry, registry) for registry in module.params["registries"]]
    api = PrefectApi.from_arguments(module.params)
    with failures(module) as done:
        outcome = work_pools.apply(api, pools, module.check_mode, done, registries)
        finish(module, outcome, "work pools")


if __name__ == "__main__":
    main()
