"""Keys of a service that Compose knows and Fallow cannot honour.

A key whose absence would surprise is an error with what to do instead; one that changes nothing one would miss is a
warning. Either may stand there empty or false.
"""

from collections.abc import Callable

from fallow.decide.compose.draft import Draft
from fallow.decide.compose.fields import Field

Handler = Callable[[Field, Draft], None]

_NODE = "give the nodes that can a label and choose them with x-fallow.selector"
_ENGINE = "set it in the node's container engine"
_NO_NAMESPACE = "a replica shares no namespace with its node or with other containers"

REFUSED: dict[str, str] = {
    "cgroup": _NO_NAMESPACE,
    "cgroup_parent": _NO_NAMESPACE,
    "configs": "put the configuration into the image or into `environment`",
    "cpu_count": "write `cpus`",
    "cpu_percent": "write `cpus`",
    "cpu_period": "write `cpus`",
    "cpu_quota": "write `cpus`",
    "cpu_rt_period": "real-time scheduling cannot be asked for",
    "cpu_rt_runtime": "real-time scheduling cannot be asked for",
    "cpuset": "write `cpus`; processors cannot be chosen by number",
    "credential_spec": "only Linux containers are supported",
    "device_cgroup_rules": f"replicas get no devices; {_NODE}",
    "devices": f"replicas get no devices; {_NODE}",
    "dns": _ENGINE,
    "dns_opt": _ENGINE,
    "dns_search": _ENGINE,
    "extends": "write the service out, or use a YAML anchor and `<<`",
    "external_links": "reach other services through their routes",
    "extra_hosts": "reach other services through their routes or by DNS",
    "gpus": f"replicas get no devices; {_NODE}",
    "group_add": "write the group in `user`, such as 1000:1000",
    "ipc": _NO_NAMESPACE,
    "label_file": "write `labels`",
    "links": "reach other services through their routes",
    "models": "name the model's address in `environment`",
    "pid": _NO_NAMESPACE,
    "post_start": "run it in the image's entrypoint",
    "pre_stop": "handle the stop signal in the container",
    "privileged": "name what is needed under `cap_add`",
    "profiles": "keep the services of each profile in a file of its own",
    "provider": "run it where the file is deployed from",
    "runtime": _ENGINE,
    "secrets": "pass them in `environment` from variables, or fetch them from the container",
    "shm_size": "write `tmpfs: /dev/shm:size=64m`",
    "storage_opt": _ENGINE,
    "sysctls": "set them on the nodes",
    "ulimits": _ENGINE,
    "use_api_socket": "replicas may not reach the container engine",
    "userns_mode": _ENGINE,
    "uts": _NO_NAMESPACE,
    "volumes_from": "replicas keep no data",
}

IGNORED: dict[str, str] = {
    "annotations": "write `labels`",
    "attach": "read logs with `fallow logs`",
    "blkio_config": "disk bandwidth is not divided",
    "container_name": "replicas are named by Fallow, since there may be several",
    "cpu_shares": "reserve with deploy.resources.reservations.cpus",
    "develop": "it is for development on one machine",
    "domainname": "write `hostname`",
    "isolation": "only Linux containers are supported",
    "logging": "logs are kept by the node's container engine",
    "mac_address": "addresses are given by the node's container engine",
    "mem_swappiness": "it is the node's setting",
    "memswap_limit": "swap is the node's setting",
    "networks": "replicas are reached through routes and published ports",
    "oom_kill_disable": "a container that exceeds its memory is restarted",
    "oom_score_adj": "it is the node's setting",
    "pull_policy": "an image is pulled to a node that lacks it",
    "pull_refresh_after": "an image is pulled to a node that lacks it",
    "stdin_open": "nobody is attached to a replica",
    "tty": "nobody is attached to a replica",
}


def _refuse(text: str) -> Handler:
    def handle(field: Field, _draft: Draft) -> None:
        if not field.is_empty:
            raise field.refusal(f"is not supported: {text}")

    return handle


def _ignore(text: str) -> Handler:
    def handle(field: Field, _draft: Draft) -> None:
        if not field.is_empty:
            field.warn(f"is ignored: {text}")

    return handle


def _build(field: Field, draft: Draft) -> None:
    """Remember `build`; whether it matters depends on `image`."""
    draft.build = field


def _depends_on(field: Field, _draft: Draft) -> None:
    """Warn that the order of starting is not kept; refuse conditions that wait for more than a start."""
    for name, entry in field.entries() if field.is_mapping else ():
        conditions = [value for key, value in entry.entries() if key == "condition"]
        if any(value.text() != "service_started" for value in conditions):
            raise entry.refusal(f"waiting for {name} is not supported: services must try again until they reach it")
    if not field.is_empty:
        field.warn("is ignored: all services start at once")


def _network_mode(field: Field, _draft: Draft) -> None:
    if field.text() not in ("bridge", "default"):
        raise field.refusal(f"is not supported: {_NO_NAMESPACE}; publish ports with `mode: host` instead")


def _security_opt(field: Field, _draft: Draft) -> None:
    """Accept `no-new-privileges`, which always holds; refuse the rest."""
    for item in field.items():
        name, _, value = item.text().replace("=", ":").partition(":")
        if name != "no-new-privileges" or value not in ("", "true"):
            raise item.refusal("is not supported: replicas have the engine's profile and never gain privileges")


UNSUPPORTED: dict[str, Handler] = {
    **{key: _refuse(text) for key, text in REFUSED.items()},
    **{key: _ignore(text) for key, text in IGNORED.items()},
    "build": _build,
    "depends_on": _depends_on,
    "network_mode": _network_mode,
    "security_opt": _security_opt,
}
