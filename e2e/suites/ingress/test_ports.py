"""User ports through the ingress: who reaches which, by which address."""

import json
import pathlib
import uuid

import pytest
from harness import http
from harness.wait import until

PROGRAM = pathlib.Path(__file__).with_name("inside.py").read_bytes()


def serve(server, sandbox, bind, port):
    """Starts the web server inside and waits until it answers there."""
    assert server.sandbox_call(sandbox, "PUT", "/api/v1/files?path=/tmp/inside.py", PROGRAM).status == 204
    body = {"command": "python3", "args": ["/tmp/inside.py", bind, str(port)]}
    assert server.sandbox_call(sandbox, "POST", "/api/v1/processes", body).status == 201
    address = "127.0.0.1" if bind == "0.0.0.0" else bind
    until(lambda: server.run(sandbox, f"curl -sf http://{address}:{port}/").status == 0, what="the server inside")


@pytest.fixture(scope="module")
def web(server):
    """A private sandbox with servers on an outer and on a local address."""
    made = server.create(name=f"web-{uuid.uuid4().hex[:8]}", exposed_ports=[8000, 8001, 8002])
    serve(server, made, "0.0.0.0", 8000)
    serve(server, made, "127.0.0.1", 8001)
    return made


@pytest.fixture(scope="module")
def public(server):
    """A sandbox whose exposed port anybody may use."""
    made = server.create(exposed_ports=[8000], allow_unauthenticated_access=True)
    serve(server, made, "0.0.0.0", 8000)
    serve(server, made, "0.0.0.0", 8001)
    return made


def test_every_way_to_address_a_port(server, web):
    name = server.info(web)["name"]
    by_header = {"X-Tensorlake-Sandbox-Id": web, "X-Tensorlake-Sandbox-Port": "8000"}
    for host, headers in [
        (f"8000-{web}.localhost", {}),
        (f"8000-{web}.local", {}),
        (f"8000-{name}.localhost", {}),
        (f"8000-{web}.localhost:{server.ingress.rpartition(':')[2]}", {}),
        (f"{web}.local", {"X-Tensorlake-Sandbox-Port": "8000"}),
        ("whatever.example.com", by_header),
        (None, by_header),
    ]:
        host = host or server.ingress.removeprefix("http://")
        reply = server.sandbox_call(web, "GET", "/x/../y%20z?a=b+c&d", host=host, headers=headers)
        assert reply.status == 200, (host, headers, reply)
        assert reply.json()["path"] == "/x/../y%20z?a=b+c&d", "path and query are verbatim"


def test_a_port_on_the_loopback_inside_is_reached(server, web):
    reply = server.sandbox_call(web, "GET", "/", host=f"8001-{web}.localhost")
    assert reply.status == 200 and reply.json()["path"] == "/", reply


def test_the_program_sees_no_credential_of_ours(server, web):
    for headers in ({}, {"X-Tensorlake-Sandbox-Port": "8000", "X-Tensorlake-Sandbox-Id": web}):
        reply = server.sandbox_call(web, "POST", "/", b"x", host=f"8000-{web}.localhost", headers=headers)
        seen = json.dumps(reply.json()["headers"]).lower()
        assert server.key.lower() not in seen
        assert not [name for name in reply.json()["headers"] if "tensorlake-sandbox" in name]
        assert reply.json()["method"] == "POST"


def test_answers_of_the_program_pass_unchanged(server, web):
    for status in (404, 500, 502, 503, 204, 418):
        reply = server.sandbox_call(web, "GET", f"/status/{status}", host=f"8000-{web}.localhost")
        assert reply.status == status
        assert reply.body in (b'{"mine":true}', b"")


@pytest.mark.parametrize(
    ("port", "status", "code"),
    [
        ("9999", 403, "PORT_NOT_EXPOSED"),
        ("8002", 502, "CONNECTION_REFUSED"),
        ("0", 400, "INVALID_REQUEST"),
        ("65536", 400, "INVALID_REQUEST"),
        ("http", 400, "INVALID_REQUEST"),
    ],
)
def test_ports_that_do_not_go(server, web, port, status, code):
    reply = server.sandbox_call(web, "GET", "/", headers={"X-Tensorlake-Sandbox-Port": port})
    assert (reply.status, reply.code) == (status, code), reply


def test_contradicting_ports_are_refused(server, web):
    headers = {"X-Tensorlake-Sandbox-Port": "8001"}
    reply = server.sandbox_call(web, "GET", "/", host=f"8000-{web}.localhost", headers=headers)
    assert (reply.status, reply.code) == (400, "INVALID_REQUEST"), reply


def test_the_header_wins_over_the_host(server, web, public):
    headers = {"X-Tensorlake-Sandbox-Id": web}
    body = {"command": "hostname"}
    reply = server.sandbox_call("nobody", "POST", "/api/v1/processes/run", body, headers=headers)
    assert reply.status == 200, reply


def test_no_sandbox_at_all(server):
    reply = http.request(server.ingress + "/", headers={"Authorization": f"Bearer {server.key}"})
    assert (reply.status, reply.code) == (400, "MISSING_SANDBOX_ID"), reply
    reply = server.sandbox_call("0123456789abcdefghij0", "GET", "/api/v1/health")
    assert (reply.status, reply.code) == (404, "SANDBOX_NOT_FOUND"), reply


def anonymous(server, host, path="/", method="GET", **headers):
    return http.request(server.ingress + path, method, host=host, headers=headers)


def test_a_private_port_needs_a_key(server, web):
    for host in (f"8000-{web}.localhost", f"{web}.local"):
        reply = anonymous(server, host)
        assert (reply.status, reply.code) == (401, "UNAUTHENTICATED"), reply


def test_a_public_port_needs_none(server, public):
    assert anonymous(server, f"8000-{public}.localhost").status == 200
    assert anonymous(server, f"8000-{public}.localhost", Authorization="Bearer the-app-s-own").json()["headers"][
        "authorization"
    ] == "Bearer the-app-s-own", "another's credential belongs to the program"


def test_public_opens_nothing_else(server, public):
    reply = anonymous(server, f"8001-{public}.localhost")
    assert reply.status in (401, 403) and reply.code in ("UNAUTHENTICATED", "PORT_NOT_EXPOSED"), reply
    for host in (f"{public}.local", f"9501-{public}.localhost"):
        reply = anonymous(server, host, "/api/v1/health")
        assert (reply.status, reply.code) == (401, "UNAUTHENTICATED"), reply


def test_public_by_name_needs_a_key(server):
    name = f"pub-{uuid.uuid4().hex[:8]}"
    made = server.create(name=name, exposed_ports=[8000], allow_unauthenticated_access=True)
    reply = anonymous(server, f"8000-{name}.localhost")
    assert (reply.status, reply.code) == (401, "UNAUTHENTICATED"), reply
    server.delete(made)


def test_changes_of_access_take_effect_at_once(server, web):
    made = server.create()
    serve(server, made, "0.0.0.0", 8000)
    host = f"8000-{made}.localhost"
    patch = lambda **fields: server.call("PATCH", f"/sandboxes/{made}", fields)  # noqa: E731
    assert server.sandbox_call(made, "GET", "/", host=host).code == "PORT_NOT_EXPOSED"
    assert patch(exposed_ports=[8000]).status == 200
    assert server.sandbox_call(made, "GET", "/", host=host).status == 200
    assert anonymous(server, host).status == 401
    assert patch(allow_unauthenticated_access=True).status == 200
    assert anonymous(server, host).status == 200
    assert patch(allow_unauthenticated_access=False, exposed_ports=[]).status == 200
    assert anonymous(server, host).status in (401, 403)
    assert server.sandbox_call(made, "GET", "/", host=host).code == "PORT_NOT_EXPOSED"
    server.delete(made)
    gone = server.sandbox_call(made, "GET", "/", host=f"{made}.local")
    assert (gone.status, gone.code) == (503, "SANDBOX_NOT_RUNNING"), gone


def test_cors_is_ours_at_the_daemon_and_the_program_s_at_its_ports(server, public):
    ask = {"Origin": "http://app.example", "Access-Control-Request-Method": "POST"}
    ours = anonymous(server, f"{public}.local", "/api/v1/health", "OPTIONS", **ask)
    assert ours.status == 200 and ours.headers["access-control-allow-origin"] == "http://app.example"
    assert ours.headers["access-control-allow-credentials"] == "true"
    theirs = anonymous(server, f"8000-{public}.localhost", "/", "OPTIONS", **ask)
    assert theirs.json()["method"] == "OPTIONS"
