"""One etcd for all tests of this directory; each test has a prefix of its own."""

import itertools
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.cluster.etcd_process import EtcdMember, running_etcd
from tim_trio.cluster.etcd import EtcdClient, open_etcd

_numbers = itertools.count()


@pytest.fixture(scope="session")
def etcd() -> Iterator[EtcdMember]:
    with running_etcd() as members:
        yield members[0]


@pytest.fixture
async def client(etcd: EtcdMember) -> AsyncIterator[EtcdClient]:
    async with open_etcd([etcd.url]) as client:
        yield client


@pytest.fixture
def prefix() -> str:
    return f"test/{next(_numbers)}/"
