"""What the back-ends under test share: the engines of the engine contract, and the end of a common etcd."""

from collections.abc import Iterator

import pytest
from engine_backends import Backend, fake_backend, real_backend
from store_backends import shared_etcd

from testbed.engines import EngineNode

EngineNode.with_dpkg = False


@pytest.fixture(scope="session", autouse=True)
def _end_shared_cluster():
    yield
    if shared_etcd.cache_info().currsize:
        shared_etcd().close()
        shared_etcd.cache_clear()


@pytest.fixture(
    scope="module",
    params=["fake", pytest.param("podman", marks=pytest.mark.real), pytest.param("docker", marks=pytest.mark.real)],
)
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """Each engine of the contract in turn."""
    if request.param == "fake":
        yield fake_backend()
    else:
        with real_backend(request.param) as real:
            yield real


@pytest.fixture
def real(backend: Backend) -> Backend:
    """The engine, if there is a machine behind it."""
    if not backend.real:
        pytest.skip("a fake has neither kernel nor network")
    return backend
