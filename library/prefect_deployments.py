#!/usr/bin/python
"""Keep a Prefect server's deployments and their schedules as declared."""

from __future__ import annotations

DOCUMENTATION = r"""
module: prefect_deployments
short_description: Keep a Prefect server's deployments and their schedules as declared
description:
  - Creates the declared deployments that are missing, and changes only those fields of existing ones that differ, so
    that identifiers, schedules and scheduled runs survive a run that changes nothing.
  - Deployments that are not declared are left alone.
  - An option with a default is always brought to its value. An option without one that is not given is left as it is.
  - The flow's code is a file on this host. Its digest, together with that of the local modules that it imports, is the
    deployment's version. Only if it differs from the server's, the flow is loaded, without running it, to learn its
    description and its parameters' schema.
  - Or it is in a git repository, as C(source) says. The reference is resolved to a commit, which is the deployment's
    version; all workers run that very commit. A branch that has moved is a change. The commit is cloned into a
    temporary folder to load the flow. This host and the workers need git, and ssh where a key is used.
version_added: "1.0.0"
author: The ansible-prefect authors
attributes:
  check_mode:
    support: full
    description: >-
      Reports the same changes and makes none. An API that cannot be reached is taken for a server without deployments,
      with a warning, so that the plan for a host on which nothing is installed yet can be shown.
extends_documentation_fragment: [attributes.changes, api, record]
options:
  flows_directory:
    description: Folder of the flows' code, the same on this host and on the workers'.
    type: path
    required: true
  virtualenv:
    description: The environment of Prefect in which the flows are loaded.
    type: path
    required: true
  pool_virtualenvs:
    description: >-
      Environments in which the flows of work pools with libraries of their own are loaded, by pool. Where one is not
      there yet, C(virtualenv) is taken.
    type: dict
    default: {}
  user:
    description: The account that loads the flows and runs git, if the module itself runs as root.
    type: str
  git_credentials:
    description: What logs in to private repositories.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Their name, which the sources give.
        type: str
        required: true
      token:
        description: >-
          A token for repositories over https. It is kept in the Secret block C(git-NAME), which Prefect encrypts, and
          which the workers read.
        type: str
      username:
        description: The user's name beside a token.
        type: str
        default: git
      key:
        description: >-
          A private key for repositories over ssh, without a passphrase. The workers have it in C(git_keys_directory)
          as C(NAME), and its known hosts as C(NAME.known_hosts).
        type: str
      known_hosts:
        description: Lines with the keys of the hosts, as C(ssh-keyscan) prints them. A key needs them.
        type: list
        elements: str
        default: []
  git_keys_directory:
    description: Folder on the workers with the keys.
    type: path
    default: /etc/prefect/git
  git_environment:
    description: Environment variables of git on this host, as C(GIT_SSL_CAINFO) and those of a proxy.
    type: dict
    default: {}
  deployments:
    description: The deployments.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the deployment, unique for its flow.
        type: str
        required: true
      flow:
        description: Name of the flow in its code.
        type: str
        required: true
      entrypoint:
        description: >-
          The flow's file in C(flows_directory), or in the repository, and its function, as in
          C(collect.py:collect_prices).
        type: str
        required: true
      source:
        description: The git repository of its code. If not given, the code is in C(flows_directory).
        type: dict
        suboptions:
          git:
            description: >-
              Address of the repository, C(https://HOST/PATH), C(ssh://USER@HOST/PATH) or C(USER@HOST:PATH), without a
              password.
            type: str
            required: true
          ref:
            description: A branch, a tag, or all 40 digits of a commit.
            type: str
            required: true
          credentials:
            description: Name of the C(git_credentials) with which it is read; a repository over ssh needs some.
            type: str
      work_pool:
        description: The work pool whose workers run it.
        type: str
        required: true
      work_queue:
        description: The pool's queue.
        type: str
        default: default
      description:
        description: What it is for. If not given, a deployment gets its flow's description whenever the code changes.
        type: str
      parameters:
        description: Values for the flow's parameters. Everyone who may use the API can read them; no place for secrets.
        type: dict
        default: {}
      tags:
        description: Its tags, in any order.
        type: list
        elements: str
        default: []
      job_variables:
        description: Values for the variables of the work pool's job template. No place for secrets either.
        type: dict
        default: {}
      enforce_parameter_schema:
        description: Whether the server refuses runs whose parameters do not fit the flow.
        type: bool
        default: true
      concurrency_limit:
        description: How many of its runs may run at once; C(-1) takes a limit away.
        type: int
      paused:
        description: Whether its schedules make no runs.
        type: bool
      on_lost:
        description:
          - What a run becomes that was going on when its process was lost. C(crash) ends it as Crashed, C(reschedule)
            starts it again, up to three times in all.
          - The tag C(on_lost:reschedule) says so to Prefect; its runs have it too.
        type: str
        default: crash
      schedules:
        description:
          - When it runs, each with exactly one of C(cron), C(interval) and C(rrule).
          - A schedule of the server whose slug is not declared is removed. One without a slug was made by hand, and
            stays.
        type: list
        elements: dict
        default: []
        suboptions:
          slug:
            description: Its name, unique for the deployment.
            type: str
            required: true
          cron:
            description: Five fields of cron.
            type: str
          interval:
            description: Seconds between two runs.
            type: int
          rrule:
            description: A recurrence rule of RFC 5545.
            type: str
          timezone:
            description: Time zone of the schedule.
            type: str
            default: UTC
          active:
            description: Whether it makes runs. A new schedule does unless told otherwise.
            type: bool
          parameters:
            description: Values that override the deployment's parameters.
            type: dict
            default: {}
"""

EXAMPLES = r"""
- name: Collect market data after the markets have closed
  prefect_deployments:
    api_url: http://127.0.0.1:4200/api
    api_auth_string: "admin:{{ lookup('ansible.builtin.password', inventory_dir ~ '/.secrets/prefect_api') }}"
    flows_directory: /opt/prefect/flows
    virtualenv: /opt/prefect/3.9.1
    deployments:
      - name: daily
        flow: collect-market-data
        entrypoint: collect_market_data.py:collect_market_data
        work_pool: default
        parameters:
          source: yahoo
          symbols: [MSFT, AAPL]
        schedules:
          - slug: after-close
            cron: "30 22 * * 1-5"
            timezone: Europe/Berlin

- name: Run what the branch main of a private repository is now
  prefect_deployments:
    api_url: http://127.0.0.1:4200/api
    api_auth_string: "admin:{{ lookup('ansible.builtin.password', inventory_dir ~ '/.secrets/prefect_api') }}"
    flows_directory: /opt/prefect/flows
    virtualenv: /opt/prefect/3.9.1
    git_credentials:
      - name: research
        token: "{{ vault_research_token }}"
    deployments:
      - name: daily
        flow: rank-stocks
        source:
          git: https://git.example.com/research/flows.git
          ref: main
          credentials: research
        entrypoint: flows/rank.py:rank_stocks
        work_pool: default
"""

RETURN = r"""
actions:
  description: What was done, or would be done in check mode, one line each.
  type: list
  elements: str
  returned: success
  sample: ["create deployment collect-prices/daily", "update schedule collect-prices/weekly sunday: schedule"]
ids:
  description: Identifiers of the declared deployments, by flow and name; without those that check mode did not create.
  type: dict
  returned: success
  sample: {"collect-prices/daily": "1f0b4a0e-3f1c-4b44-a2a5-52f0bd8c5b39"}
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
from ansible.module_utils.pgprefect.objects import deployments
from ansible.module_utils.pgprefect.objects.flows import FlowCode
from ansible.module_utils.pgprefect.objects.git import GitCredentials, Repositories


def main() -> None:
    options = options_of(deployments.Deployment)
    module = AnsibleModule(
        argument_spec={
            **OBJECT_ARGUMENTS,
            "flows_directory": {"type": "path", "required": True},
            "virtualenv": {"type": "path", "required": True},
            "pool_virtualenvs": {"type": "dict", "default": {}},
            "user": {"type": "str"},
            "git_credentials": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": options_of(GitCredentials),
            },
            "git_keys_directory": {"type": "path", "default": "/etc/prefect/git"},
            "git_environment": {"type": "dict", "default": {}, "no_log": True},
            "deployments": {"type": "list", "elements": "dict", "required": True, "options": options},
        },
        supports_check_mode=True,
    )
    api = PrefectApi.from_arguments(module.params)
    code = FlowCode(
        module.params["flows_directory"],
        module.params["virtualenv"],
        module.params["user"],
        module.params["pool_virtualenvs"],
    )
    declared = [from_options(deployments.Deployment, item) for item in module.params["deployments"]]
    credentials = [from_options(GitCredentials, item) for item in module.params["git_credentials"]]
    repositories = Repositories(
        {one.name: one for one in credentials},
        code.user,
        {name: str(value) for name, value in module.params["git_environment"].items()},
        module.params["git_keys_directory"],
    )
    with failures(module) as done:
        outcome = deployments.apply(api, declared, code, module.check_mode, done, repositories)
        finish(module, outcome, "deployments")


if __name__ == "__main__":
    main()
