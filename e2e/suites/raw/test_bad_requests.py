"""Every bad request gets its status and its code, with a text; none loses anything."""

import json
import uuid

import pytest
from suites.raw import table


@pytest.fixture(scope="module")
def objects(server):
    """What the placeholders of the table stand for."""
    name, dead_name = f"n-{uuid.uuid4().hex[:8]}", f"d-{uuid.uuid4().hex[:8]}"
    dead = server.create(name=dead_name)
    server.delete(dead)
    made = server.create()
    server.create(name=name)
    reply = server.sandbox_call(made, "POST", "/api/v1/processes", {"command": "sleep", "args": ["3000"]})
    assert reply.status == 201, reply
    scope = server.call("POST", "/platform/v1/keys/introspect").json()
    return {
        "id": made,
        "named": name,
        "dead": dead,
        "deadname": dead_name,
        "pid": str(reply.json()["pid"]),
        "o": scope["organizationId"],
        "p": scope["projectId"],
    }


def fill(thing, objects):
    """Puts real ids in the place of the placeholders."""
    if isinstance(thing, bytes) or thing is None:
        return thing
    text = thing if isinstance(thing, str) else json.dumps(thing)
    for key, what in objects.items():
        text = text.replace(f"{{{key}}}", what)
    return text


def check(reply, status, code):
    assert (reply.status, reply.code) == (status, code), reply
    assert reply.headers["content-type"].startswith("application/json")


@pytest.mark.parametrize("what", table.CREATE)
def test_create(server, objects, what):
    method, path, body, status, code = table.CREATE[what]
    before = server.running()
    check(server.call(method, path, fill(body, objects)), status, code)
    assert server.running() == before, "a refused create makes nothing"


@pytest.mark.parametrize("what", table.OBJECT)
def test_object(server, objects, what):
    method, path, body, status, code = table.OBJECT[what]
    check(server.call(method, fill(path, objects), fill(body, objects)), status, code)


@pytest.mark.parametrize(("method", "path"), table.NOT_BUILT)
def test_what_is_not_built_says_so(server, objects, method, path):
    for prefix in ("", table.NS):
        if prefix and path.startswith(("/platform", "/images", "/artifact", table.NS)):
            continue
        check(server.call(method, prefix + fill(path, objects)), 400, "NOT_SUPPORTED")


@pytest.mark.parametrize("what", table.DAEMON)
def test_daemon(server, objects, what):
    method, path, body, status, code = table.DAEMON[what]
    check(server.sandbox_call(objects["id"], method, fill(path, objects), fill(body, objects)), status, code)


def test_the_text_names_the_field(server):
    for body, words in [
        ({"resources": {"memory_mb": "1"}}, ["resources.memory_mb"]),
        ({"resources": {"gpus": [{"count": "x", "model": "A10"}]}}, ["resources.gpus[0].count"]),
        ({"resources": {"memory_mb": 1}}, ["resources.memory_mb", "1", "128"]),
        ({"snapshot_id": "abc"}, ["snapshot_id"]),
        ({"network": {"allow_out": ["a", "a b"]}}, ["network.allow_out[1]", "a b"]),
        ({"exposed_ports": [1, 70000]}, ["exposed_ports[1]"]),
    ]:
        text = server.call("POST", "/sandboxes", body).json()["error"]
        assert all(word in text for word in words), text


def test_harmless_extras_pass(server):
    """Unknown keys, nulls and defaults of later features are no errors (spec 00 §5, issue point 5)."""
    made = server.create(
        unknown_key=1, name=None, resources=None, file_systems=[], auto_resume=True, secret_names=[], network={}, wait=True
    )
    server.delete(made)
    alias = server.create(allow_unauthenticated_proxy_access=True, resources={"ephemeral_disk_mb": 2048})
    info = server.info(alias)
    assert info["allow_unauthenticated_access"] is True
    assert info["resources"]["disk_mb"] == info["resources"]["ephemeral_disk_mb"] == 2048
    assert "sandbox_id" not in info and "gpu_configs" not in info["resources"]
    server.delete(alias)


def test_nothing_is_lost(server, objects):
    """After all of the above the server creates, runs and ends as before."""
    made = server.create()
    assert server.run(made, "echo fine").out == "fine"
    assert server.run(objects["id"], "head -n 1 /etc/passwd").out.startswith("root:x:0:0")
    assert server.call("GET", "/healthz").status == 200
    server.delete(made)
