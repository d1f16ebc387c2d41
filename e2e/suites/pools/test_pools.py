"""Every rule of pools over HTTP: filled, claimed from, at the maximum, changed, timed out, deleted."""

import concurrent.futures
import http.client
import json
import pathlib
import subprocess
import threading
import time

import pytest
from harness import env
from harness.wait import until
from suites.pools.pool import IMAGE, SHAPE, pool

PROGRAM = pathlib.Path(__file__).with_name("pools.mjs")
SECONDS = 25
WARM, CLAIMS = env.scale(3, 30), env.scale(5, 50)


def status(server, sandbox: str) -> str:
    return server.info(sandbox)["status"]


def test_claims_at_once_get_each_its_own(server):
    with pool(server, warm_containers=WARM) as of:
        warm, filled = of.idle(WARM), time.monotonic()
        claimed = of.claim_at_once(CLAIMS)
        assert len(set(claimed)) == CLAIMS
        answered = time.monotonic()
        of.idle(WARM)
        print(f"{CLAIMS} claims at once, {WARM} waited: all run after {answered - filled:.2f} s, ", end="")
        print(f"{WARM} wait again {time.monotonic() - answered:.2f} s later")
        running = of.containers("Running")
        assert len(running) == CLAIMS and warm <= running.keys(), "what waited was used first"
        marks = [server.run(sandbox, f"test ! -e /tmp/mark && echo {sandbox} | tee /tmp/mark").out for sandbox in claimed]
        assert marks == claimed, "none was used before"
        for sandbox in claimed:
            server.delete(sandbox)
        until(lambda: not of.containers("Running"), 60, "the end of all")
        of.idle(WARM)


def test_nobody_sees_what_waits(server):
    with pool(server, warm_containers=1, entrypoint=["sh", "-c", "echo printed"]) as of:
        (container,) = of.idle(1)
        hidden = container.removeprefix("container_")
        for method, path in (
            ("GET", ""),
            ("DELETE", ""),
            ("PATCH", ""),
            ("POST", "/suspend"),
            ("POST", "/resume"),
            ("POST", "/snapshot"),
            ("POST", "/copy"),
            ("GET", "/snapshots"),
            ("GET", "/processes"),
            ("GET", "/logs"),
        ):
            reply = server.call(method, f"/sandboxes/{hidden}{path}")
            assert (reply.status, reply.code) == (404, "SANDBOX_NOT_FOUND"), (method, path, reply)
        reply = server.sandbox_call(hidden, "GET", "/api/v1/health")
        assert (reply.status, reply.code) == (404, "SANDBOX_NOT_FOUND"), reply
        assert hidden not in {s["id"] for s in server.call("GET", "/sandboxes").json()["sandboxes"]}
        assert of.claim() == hidden
        assert server.run(hidden, "echo here").out == "here"


def test_a_claim_at_the_maximum_is_held_and_then_started(server):
    with pool(server, warm_containers=1, max_containers=1) as of:
        of.idle(1)
        first = of.claim()
        waits = of.ask(hold_ms=200).json()
        assert (waits["status"], waits["pending_reason"]) == ("pending", "pool_at_capacity"), waits
        assert server.info(waits["sandbox_id"])["pending_reason"] == "pool_at_capacity"
        assert list(of.containers("Running").values()) == [first]
        server.delete(first)
        until(lambda: status(server, waits["sandbox_id"]) == "running", 60, "its turn")
        with concurrent.futures.ThreadPoolExecutor(1) as held:
            asked = held.submit(of.claim, hold_ms=100_000)
            until(lambda: len(of.sandboxes()) == 2, what="the claim that is held")
            server.delete(waits["sandbox_id"])
            assert status(server, asked.result()) == "running"
        assert not of.containers("Idle")


def test_another_definition_replaces_what_waits(server):
    with pool(server, warm_containers=2) as of:
        before = of.idle(2)
        claimed = of.claim()
        of.idle(2)
        closed = {"allow_internet_access": False, "allow_out": [], "deny_out": []}
        changed = of.replace(network=closed, entrypoint=["sh", "-c", "echo new > /tmp/new"])
        assert changed.status == 200 and changed.json()["network_policy"] == closed
        until(lambda: len(after := of.containers("Idle")) == 2 and not before & after.keys(), 60, "others in their place")
        other = of.claim()
        until(lambda: server.run(other, "cat /tmp/new").out == "new", what="the new entrypoint")
        assert server.info(other)["network_policy"] == closed
        assert server.run(claimed, "test ! -e /tmp/new").status == 0
        assert server.info(claimed)["network_policy"] is None, "it keeps what it has"
        # Lower numbers shrink what waits, and nothing else.
        assert of.replace(warm_containers=0).status == 200
        of.idle(0)
        assert set(of.sandboxes()) == {claimed, other}


def test_the_clock_starts_at_the_claim_and_suspends(server):
    limit = 3
    # It does its work before the claim: after it there may be no time left.
    entrypoint = ["sh", "-c", "echo kept > /tmp/kept; exec sleep 3600"]
    with pool(server, warm_containers=1, timeout_secs=limit, max_containers=1, entrypoint=entrypoint) as of:
        of.idle(1)
        claimed = of.claim()
        until(lambda: status(server, claimed) == "suspended", 60, "its limit")
        info = server.info(claimed)
        assert (info["outcome"], info["timeout_secs"], info.get("container_id")) == (None, limit, None)
        # It holds no container, and its pool goes on without it.
        of.idle(1)
        assert not of.containers("Running")
        assert server.call("DELETE", f"/sandbox-pools/{of.id}").code == "POOL_IN_USE"
        # Traffic does not wake it; the API does, in the place of what waits.
        reply = server.sandbox_call(claimed, "GET", "/api/v1/health")
        assert (reply.status, reply.code) == (503, "SANDBOX_NOT_RUNNING"), reply
        resumed = server.call("POST", f"/sandboxes/{claimed}/resume?wait_ms=60000", timeout=90)
        assert resumed.status == 200, resumed
        # With a name it is one like any other: whatever its clock has done meanwhile, traffic wakes it.
        assert server.call("PATCH", f"/sandboxes/{claimed}", {"name": "kept"}).status == 200
        until(lambda: server.run(claimed, "cat /tmp/kept").out == "kept", 60, "what it had")


def test_a_pool_of_another_project_is_not_there(server):
    other = server.command("key", "create", "--project", "pools-other").stdout.strip()
    with pool(server) as of:
        for method, path, body in (
            ("GET", "", None),
            ("PUT", "", {"image": IMAGE}),
            ("DELETE", "", None),
            ("POST", "/sandboxes", None),
        ):
            for key, whose in ((other, of.id), (None, "pool_0000000000000000"), (None, "nothing")):
                reply = server.call(method, f"/sandbox-pools/{whose}{path}", body, key=key)
                assert (reply.status, reply.code) == (404, "POOL_NOT_FOUND"), (method, path, reply)
        assert server.call("GET", "/sandbox-pools", key=other).json() == {"pools": []}
        assert [p["pool_id"] for p in server.call("GET", "/sandbox-pools").json()["pools"]] == [of.id]


BAD = [
    ({}, "INVALID_REQUEST", "image"),
    ({"image": "no-such-image"}, "IMAGE_NOT_FOUND", "no-such-image"),
    ({"image": IMAGE, "warm_containers": 3, "max_containers": 2}, "INVALID_REQUEST", "warm_containers"),
    ({"image": IMAGE, "max_containers": 0}, "INVALID_REQUEST", "max_containers"),
    ({"image": IMAGE, "warm_containers": -1}, "INVALID_REQUEST", "warm_containers"),
    ({"image": IMAGE, "warm_containers": "2"}, "INVALID_REQUEST", "warm_containers"),
    ({"image": IMAGE, "resources": {"disk_mb": 1}}, "LIMIT_EXCEEDED", "resources.disk_mb"),
    ({"image": IMAGE, "resources": {"disk_mb": 2048, "ephemeral_disk_mb": 1024}}, "INVALID_REQUEST", "resources.disk_mb"),
    ({"image": IMAGE, "resources": {"gpus": [{"count": 1, "model": "H100"}]}}, "NO_SUCH_GPU", "H100"),
    ({"image": IMAGE, "timeout_secs": 1.5}, "INVALID_REQUEST", "timeout_secs"),
    ({"image": IMAGE, "network": {"allow_everything": True}}, "INVALID_REQUEST", "network.allow_everything"),
]


def test_what_a_pool_cannot_be_is_named(server):
    with pool(server, warm_containers=0, max_containers=7, timeout_secs=33) as of:
        before = of.info()
        for method, path in (("POST", "/sandbox-pools"), ("PUT", f"/sandbox-pools/{of.id}")):
            for body, code, text in BAD:
                reply = server.call(method, path, body)
                assert reply.code == code and text in reply.json()["error"], (method, body, reply)
        assert of.info() == before
        reply = of.ask(body={"file_systems": [{"mount_path": "/data"}]})
        assert (reply.status, reply.code) == (400, "NOT_SUPPORTED"), reply
        assert not of.sandboxes()


def test_the_old_spelling_of_the_disk_and_a_bad_entrypoint(server):
    shape = {"cpus": 1, "memory_mb": SHAPE["memory_mb"], "ephemeral_disk_mb": 2048}
    with pool(server, resources=shape, entrypoint=["/no/such"]) as of:
        assert of.info()["resources"] == {**shape, "disk_mb": 2048, "gpus": []}
        reply = of.ask().json()
        assert (reply["status"], reply["termination_reason"]) == ("terminated", "ConfigurationError"), reply
        assert "/no/such" in reply["error_details"]["message"]


@pytest.mark.parametrize("kill", [False, True] if env.FULL else [True])
def test_a_pool_outlives_the_server(server, kill):
    with pool(server, warm_containers=2, max_containers=3) as of:
        of.idle(2)
        claimed = of.claim()
        idle = of.idle(2)
        server.restart(kill=kill)
        assert of.idle(2) == idle, "the same ones"
        assert list(of.containers("Running").values()) == [claimed]
        assert server.run(claimed, "echo on").out == "on"


def test_killed_amid_claims(server):
    """Whatever a claim was told is so, and none was handed out twice."""
    with pool(server, warm_containers=WARM) as of:
        of.idle(WARM)
        for turn in range(env.scale(1, 10)):
            told: list[str] = []
            first = threading.Event()

            def ask(told=told, first=first):
                try:
                    reply = of.ask(hold_ms=0)
                except (OSError, http.client.HTTPException):
                    return  # Its server is dead.
                finally:
                    first.set()
                told.append(reply.json()["sandbox_id"])

            asking = [threading.Thread(target=ask) for _ in range(CLAIMS)]
            for one in asking:
                one.start()
            first.wait(60)
            server.kill()
            for one in asking:
                one.join()
            server.start()
            assert len(set(told)) == len(told)
            there = of.sandboxes()
            assert set(told) <= set(there) and len(there) <= CLAIMS, "an answer lost is no claim lost"
            for sandbox in there:
                until(lambda sandbox=sandbox: status(server, sandbox) == "running", 60, "a claimed one runs")
            marks = [server.run(sandbox, f"test ! -e /tmp/mark && echo {sandbox} | tee /tmp/mark").out for sandbox in there]
            assert marks == there
            print(f"kill {turn + 1}: {len(told)} of {CLAIMS} claims were answered, {len(there)} are there, each once")
            for sandbox in there:
                server.delete(sandbox)
            of.idle(WARM)


def test_npm(server):
    variables = {
        "TENSORLAKE_API_URL": server.api,
        "TENSORLAKE_API_KEY": server.key,
        "TARN_NODE_MODULES": env.NODE_MODULES,
        "PATH": "/usr/bin:/bin",
    }
    run = subprocess.run([env.NODE, str(PROGRAM)], env=variables, capture_output=True, text=True, timeout=240)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout.splitlines()[-1]) == {
        "idle": ["string", "string", None],
        "ran": "hello",
        "claimed": [True, True],
        "info": [True],
        "list": [[True, "tensorlake/ubuntu-minimal", 256, 1024]],
        "updated": [True, 0, 2, 200],
        "cold": "running",
        "inUse": "PoolInUseError",
        "gone": "PoolNotFoundError",
    }
