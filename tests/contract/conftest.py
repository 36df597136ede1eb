"""Ends what the back-ends under test share."""

import pytest
from store_backends import shared_etcd


@pytest.fixture(scope="session", autouse=True)
def _end_shared_cluster():
    yield
    if shared_etcd.cache_info().currsize:
        shared_etcd().close()
        shared_etcd.cache_clear()
