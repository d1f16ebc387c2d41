"""Who may: keys, projects, both front doors."""

import pytest
from harness import http

WRONG = ["", "tl_apiKey_wrong", "x" * 5000, "\u00fc"]


@pytest.mark.parametrize("key", WRONG)
@pytest.mark.parametrize("path", ["/sandboxes", "/v1/namespaces/default/sandboxes", "/platform/v1/keys/introspect"])
def test_a_bad_key_is_401_at_the_api(server, key, path):
    method = "POST" if "introspect" in path else "GET"
    reply = server.call(method, path, key=key.encode("utf-8").decode("latin-1"))
    assert (reply.status, reply.code) == (401, "UNAUTHENTICATED"), reply


@pytest.mark.parametrize("scheme", [None, "Basic dTpw", "Bearer"])
def test_no_bearer_is_401(server, sandbox, scheme):
    headers = {"Authorization": scheme} if scheme else {}
    for url, host in [(server.api + "/sandboxes", None), (server.ingress + "/api/v1/health", f"{sandbox}.local")]:
        reply = http.request(url, host=host, headers=headers)
        assert (reply.status, reply.code) == (401, "UNAUTHENTICATED"), reply


@pytest.mark.parametrize("key", WRONG[:3])
def test_a_bad_key_is_401_at_the_ingress(server, sandbox, key):
    reply = server.sandbox_call(sandbox, "GET", "/api/v1/health", key=key)
    assert (reply.status, reply.code) == (401, "UNAUTHENTICATED"), reply


def test_health_needs_no_key(server):
    for path in ("/healthz", "/readyz"):
        assert http.request(server.api + path).status == 200


def test_introspect_names_the_project(server):
    reply = server.call("POST", "/platform/v1/keys/introspect")
    assert reply.status == 200 and {"id", "organizationId", "projectId"} <= set(reply.json())
    assert all(isinstance(text, str) and text for text in reply.json().values())


@pytest.fixture(scope="module")
def other_key(server):
    """A key of another project, from the command line."""
    made = server.command("key", "create", "--project", "other")
    assert made.returncode == 0, made.stderr
    key = made.stdout.strip()
    assert key.startswith("tl_apiKey_") and "\n" not in key, "stdout is the key alone"
    return key


def test_another_project_sees_nothing(server, sandbox, other_key):
    assert server.call("GET", "/sandboxes", key=other_key).json()["sandboxes"] == []
    for method, path, body in [
        ("GET", "", None),
        ("DELETE", "", None),
        ("PATCH", "", {"exposed_ports": [80]}),
    ]:
        reply = server.call(method, f"/sandboxes/{sandbox}{path}", body, key=other_key)
        assert (reply.status, reply.code) == (404, "SANDBOX_NOT_FOUND"), reply
    reply = server.sandbox_call(sandbox, "GET", "/api/v1/health", key=other_key)
    assert (reply.status, reply.code) == (404, "SANDBOX_NOT_FOUND"), reply
    assert server.info(sandbox)["status"] == "running"


def test_names_are_per_project(server, other_key):
    mine = server.create(name="same-name")
    reply = server.call("POST", "/sandboxes", {"name": "same-name"}, key=other_key)
    assert reply.status == 200 and reply.json()["sandbox_id"] != mine
    theirs = reply.json()["sandbox_id"]
    body = {"command": "echo", "args": ["hi"]}
    for key, who in ((server.key, mine), (other_key, theirs)):
        assert server.call("GET", "/sandboxes/same-name", key=key).json()["id"] == who
        assert server.sandbox_call("same-name", "POST", "/api/v1/processes/run", body, key=key).status == 200
    assert server.call("DELETE", "/sandboxes/same-name", key=other_key).status == 200
    assert server.info(mine)["status"] == "running"
    server.delete(mine)


def test_a_revoked_key_is_refused_at_both_doors(server, sandbox):
    key = server.command("key", "create").stdout.strip()
    assert server.call("GET", f"/sandboxes/{sandbox}", key=key).status == 200
    assert server.sandbox_call(sandbox, "GET", "/api/v1/health", key=key).status == 200
    listed = server.command("key", "list").stdout
    assert key not in listed, "a key is shown once"
    identity = server.call("POST", "/platform/v1/keys/introspect", key=key).json()["id"]
    assert identity in listed
    revoked = server.command("key", "revoke", identity)
    assert revoked.returncode == 0, revoked.stderr
    assert server.call("GET", f"/sandboxes/{sandbox}", key=key).status == 401
    assert server.sandbox_call(sandbox, "GET", "/api/v1/health", key=key).status == 401


def test_keys_are_stored_as_hashes(server):
    key = server.command("key", "create").stdout.strip()
    secret = key.removeprefix("tl_apiKey_").encode()
    for path in (server.data / "store").rglob("*"):
        assert path.is_dir() or secret not in path.read_bytes(), path
    assert (server.data / "default.key").stat().st_mode & 0o777 == 0o600
    assert secret.decode() not in server.log_text() and server.key not in server.log_text()
