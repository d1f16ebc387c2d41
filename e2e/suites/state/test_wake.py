"""Traffic wakes a sleeping sandbox, once, and every request is answered once."""

import concurrent.futures
import time

import pytest
from suites.state import box

SERVER = box.SERVER
CROWD = 50


@pytest.fixture(scope="module")
def witness(server):
    sandbox = box.with_witness(server, mib=8)
    yield sandbox
    box.gone(server, [sandbox])


@pytest.fixture(scope="module")
def deaf(server):
    """A request to a sleeping sandbox at a port where nothing listens; it is tried for a while."""
    sandbox = server.create(name=box.fresh_name(), exposed_ports=[8001], timeout_secs=0)
    box.suspend(server, sandbox)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        begun = time.monotonic()
        asked = pool.submit(server.sandbox_call, sandbox, "GET", "/", host=f"8001-{sandbox}.local")
        took = pool.submit(lambda: time.monotonic() - begun)
        yield asked, took
    box.gone(server, [sandbox])


@pytest.mark.parametrize("how", ["warm", "cold"])
def test_the_first_byte_after_a_sleep(server, witness, how):
    before, seen = box.ask(server, witness), box.resumes(server, witness)
    box.suspend(server, witness)
    if how == "cold":
        server.restart()
    begun = time.monotonic()
    assert box.ask(server, witness) == before
    took = time.monotonic() - begun
    print(f"first byte of a user port after {took * 1000:.0f} ms, {how}")
    assert took < 10 and box.status(server, witness) == "running"
    assert box.resumes(server, witness) == [*seen, how]


def test_the_daemon_s_port_wakes_too(server, witness, deaf):
    box.suspend(server, witness)
    assert server.run(witness, "echo awake").out == "awake"


def test_its_name_wakes_too(server, witness):
    box.suspend(server, witness)
    assert server.run(server.info(witness)["name"], "echo awake").out == "awake"


def test_many_at_once(server, witness):
    hits = box.ask(server, witness, "/counts")["hits"]
    for port in ("user", "daemon"):
        box.suspend(server, witness)
        seen = box.resumes(server, witness)

        def one(n, port=port):
            if port == "user":
                return box.ask(server, witness, "/hit", timeout=60)["hit"]
            return server.run(witness, f"echo {n}").out

        with concurrent.futures.ThreadPoolExecutor(CROWD) as pool:
            answers = list(pool.map(one, range(CROWD)))
        if port == "user":
            assert sorted(answers) == list(range(hits + 1, hits + CROWD + 1)), "each ran once"
        else:
            assert answers == [str(n) for n in range(CROWD)]
        assert box.resumes(server, witness) == [*seen, "warm"], "one resume for all"
    assert box.ask(server, witness, "/counts")["hits"] == hits + CROWD


def test_a_request_during_the_suspend(server, witness):
    box.post(server, witness, "suspend")
    ran = server.run(witness, "echo awake")
    assert ran.out == "awake", ran
    assert box.status(server, witness) == "running"


def test_who_may_not_come_in_wakes_nobody(server, witness):
    box.suspend(server, witness)
    for options in ({"key": "tl_apiKey_wrong"}, {"host": f"8001-{witness}.local"}):
        assert server.sandbox_call(witness, "GET", "/api/v1/health", **options).status in (401, 403)
    preflight = {"Origin": "http://page", "Access-Control-Request-Method": "GET"}
    assert server.sandbox_call(witness, "OPTIONS", "/api/v1/health", headers=preflight).status == 200
    assert box.status(server, witness) == "suspended"
    box.resume(server, witness)


def test_where_traffic_must_not_wake(server, witness):
    assert server.call("PATCH", f"/sandboxes/{witness}", {"auto_resume": False}).status == 200
    box.suspend(server, witness)
    for host in (f"{witness}.local", f"8000-{witness}.local"):
        reply = server.sandbox_call(witness, "GET", "/", host=host)
        assert (reply.status, reply.code) == (503, "SANDBOX_NOT_RUNNING"), reply
    assert box.status(server, witness) == "suspended"
    assert server.call("PATCH", f"/sandboxes/{witness}", {"auto_resume": True}).status == 200
    assert box.ask(server, witness, "/counts")["thread"] > 0


def test_public_ports_wake_without_a_key(server, witness):
    access = {"exposed_ports": [box.PORT], "allow_unauthenticated_access": True}
    assert server.call("PATCH", f"/sandboxes/{witness}", access).status == 200
    box.suspend(server, witness)
    assert box.ask(server, witness, "/counts", key="")["thread"] > 0


def test_a_port_where_nothing_listens_is_refused_soon(deaf):
    asked, took = deaf
    reply = asked.result()
    assert (reply.status, reply.code) == (502, "CONNECTION_REFUSED"), reply
    assert took.result() < 20
