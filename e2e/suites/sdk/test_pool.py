"""Pools, as a user of the SDK has them."""

import pytest
from harness.sdk import value
from harness.wait import until
from tensorlake.sandbox import CLEAR_NETWORK_POLICY, NetworkConfig, PoolInUseError, PoolNotFoundError

IMAGE = "tensorlake/ubuntu-minimal"
SECONDS = 15


class Pools:
    """Makes pools and ends them with what was claimed from them."""

    def __init__(self, sdk) -> None:
        self.sdk, self.client, self.server = sdk, sdk.client, sdk.server
        self.made: list[str] = []

    def make(self, **options) -> str:
        made = value(self.client.create_pool(image=IMAGE, memory_mb=256, **options))
        assert made.namespace == "default"
        self.made.append(made.pool_id)
        return made.pool_id

    def update(self, pool: str, **options):
        return value(self.client.update_pool(pool, IMAGE, **{"memory_mb": 256, **options}))

    def containers(self, pool: str, state: str) -> dict[str, str | None]:
        found = value(self.client.get_pool(pool)).containers
        assert all(container.executor_id for container in found)
        return {container.id: container.sandbox_id for container in found if container.state == state}

    def idle(self, pool: str, count: int) -> set[str]:
        """The ids of those that wait, once there are so many."""
        until(lambda: len(self.containers(pool, "Idle")) == count, 60, f"{count} that wait")
        found = self.containers(pool, "Idle")
        assert set(found.values()) <= {None}
        return set(found)

    def claim(self, pool: str) -> str:
        claimed = value(self.client.claim(pool))
        assert claimed.status.value == "running" and claimed.sandbox_url, claimed
        return claimed.sandbox_id

    def listed(self) -> set[str]:
        return {item.sandbox_id for item in self.client.list() if item.status.value != "terminated"}

    def close(self) -> None:
        for sandbox in self.server.call("GET", "/sandboxes").json()["sandboxes"]:
            if sandbox.get("pool_id") in self.made:
                self.server.call("DELETE", f"/sandboxes/{sandbox['id']}")
        for pool in self.made:
            assert self.server.call("DELETE", f"/sandbox-pools/{pool}").status in (200, 404)


@pytest.fixture
def pools(sdk):
    made = Pools(sdk)
    yield made
    made.close()


def test_a_pool_is_filled_claimed_from_and_deleted(pools):
    pool = pools.make(warm_containers=2, max_containers=3, entrypoint=["sh", "-c", "echo begun > /tmp/begun"])
    idle = pools.idle(pool, 2)
    assert not pools.listed(), "what waits is nobody's"
    first = pools.claim(pool)
    assert pools.listed() == {first}
    until(lambda: len(pools.containers(pool, "Idle")) == 2, 60, "the replacement")
    (container,) = pools.containers(pool, "Running")
    assert container in idle and pools.containers(pool, "Running") == {container: first}
    box = pools.sdk.connect(first)
    until(lambda: box.run("cat", ["/tmp/begun"]).stdout.strip() == "begun", what="the entrypoint")
    info = value(pools.client.get(first))
    assert (info.pool_id, info.name, info.resources.memory_mb) == (pool, None, 256)
    # At the maximum there is no replacement.
    second = pools.claim(pool)
    pools.idle(pool, 1)
    assert len(pools.containers(pool, "Running")) == 2
    with pytest.raises(PoolInUseError):
        pools.client.delete_pool(pool)
    for sandbox in (first, second):
        pools.client.delete(sandbox)
    until(lambda: not pools.containers(pool, "Running"), what="their end")
    pools.idle(pool, 2)
    pools.client.delete_pool(pool)
    for gone in (pools.client.get_pool, pools.client.delete_pool):
        with pytest.raises(PoolNotFoundError):
            gone(pool)
    with pytest.raises(PoolNotFoundError):
        pools.update(pool)


def test_a_policy_goes_round_and_is_in_force(pools):
    closed = NetworkConfig(allow_internet_access=False, allow_out=["192.0.2.0/24"], deny_out=["192.0.2.7"])
    pool = pools.make(network=closed)
    shown = [value(pools.client.get_pool(pool)), *(p for p in pools.client.list_pools() if p.pool_id == pool)]
    assert [p.network_policy for p in shown] == [closed, closed]
    assert (shown[0].max_containers, shown[0].warm_containers, shown[0].timeout_secs) == (None, None, 0)
    assert shown[0].containers == [] and shown[1].containers is None
    # Left out it is kept, and nothing waits: a claim starts one.
    kept = pools.update(pool, timeout_secs=50, max_containers=2)
    assert (kept.network_policy, kept.timeout_secs, kept.max_containers) == (closed, 50, 2)
    claimed = pools.claim(pool)
    shown = pools.server.info(claimed)
    assert shown["network_policy"] == closed.model_dump() and shown["timeout_secs"] == 50
    assert shown["container_id"] in pools.containers(pool, "Running")
    assert pools.update(pool, network=CLEAR_NETWORK_POLICY).network_policy is None
    other = NetworkConfig(allow_internet_access=True, allow_out=[], deny_out=["192.0.2.9"])
    assert pools.update(pool, network=other).network_policy == other
    assert pools.server.info(claimed)["network_policy"] == closed.model_dump(), "it keeps what it has"


def test_sandbox_create_claims(pools):
    pool = pools.make(warm_containers=1)
    pools.idle(pool, 1)
    box = pools.sdk.create(pool_id=pool)
    assert box.run("echo", ["hello"]).stdout.strip() == "hello"
    assert value(pools.client.get(box.sandbox_id)).pool_id == pool
