"""What a project may have, how fast a key may ask, and the SSH keys of a project."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from harness.wait import until

SHAPE = {"cpus": 0.25, "memory_mb": 256, "disk_mb": 1024}
SSH_KEYS = "/platform/v1/users/me/ssh-keys"
# 32 bytes of 1; nobody has the other half.
PUBLIC = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEB"
# Far more at once than the other tests ask.
BURST = 300
SERVER = {"config": {"quota": {"sandboxes": 50}, "rate_limit": {"requests_per_sec": 1, "burst": BURST}}}


def run(server, *arguments: str) -> str:
    done = server.command(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def project(server, request):
    """The name of a project of the test's own, and a key of it."""
    name = f"q-{request.node.name[:40]}"
    return name, run(server, "key", "create", "--project", name).strip()


def standing(server, name: str) -> tuple[int, int]:
    """How many sandboxes a project has and may have."""
    listed = json.loads(run(server, "project", "list", "--json"))["projects"]
    return next((found["sandboxes"], found["quota"]) for found in listed if found["name"] == name)


def test_of_many_creates_at_once_as_many_pass_as_there_are_places(server, project):
    name, key = project
    assert standing(server, name) == (0, 50), "the default of the configuration"
    assert run(server, "project", "quota", name, "--sandboxes", "2") == f"{name}: 0 sandboxes of 2\n"

    def create(_=None):
        return server.call("POST", "/sandboxes", {"resources": SHAPE, "wait": False}, key=key)

    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(create, range(8)))
    made = [reply.json()["sandbox_id"] for reply in replies if reply.status == 202]
    refused = [reply for reply in replies if reply.status != 202]
    assert len(made) == 2 and {(r.status, r.code) for r in refused} == {(429, "QUOTA_EXCEEDED")}, replies
    assert "2 are taken" in refused[0].json()["error"] and "retry-after" not in refused[0].headers
    try:
        assert standing(server, name) == (2, 2)
        status = lambda made: server.call("GET", f"/sandboxes/{made}", key=key).json()["status"]  # noqa: E731
        until(lambda: all(status(sandbox) == "running" for sandbox in made), 120, "both run")
        server.restart()
        assert standing(server, name) == (2, 2), "it was counted again"
        assert create().code == "QUOTA_EXCEEDED"
        assert server.call("DELETE", f"/sandboxes/{made[0]}", key=key).status == 200
        again = create()
        assert again.status == 202, "the place of an ended one is free at once"
        made.append(again.json()["sandbox_id"])
        assert create().code == "QUOTA_EXCEEDED"
        run(server, "project", "quota", name, "--sandboxes", "default")
        assert standing(server, name) == (2, 50)
    finally:
        for sandbox in made:
            server.call("DELETE", f"/sandboxes/{sandbox}", key=key)


def test_a_key_that_asks_too_much_is_told_when_to_go_on(server, project):
    name, key = project
    calls = (server.call("GET", "/sandboxes?limit=1", key=key) for _ in range(3 * BURST))
    refused = next(reply for reply in calls if reply.status != 200)
    assert (refused.status, refused.code) == (429, "RATE_LIMITED"), refused
    assert int(refused.headers["retry-after"]) >= 1
    other = run(server, "key", "create", "--project", name).strip()
    assert server.call("GET", "/sandboxes", key=other).status == 200, "another key has its own"
    until(lambda: server.call("GET", "/sandboxes", key=key).status == 200, 30, "its turn again")


def test_ssh_keys_are_kept_and_are_of_one_project(server, project):
    _, key = project

    def call(method, path=SSH_KEYS, body=None, key=key):
        return server.call(method, path, body, key=key)

    made = call("POST", body={"name": "laptop", "publicKey": f"{PUBLIC} me@home\n"})
    assert made.status == 200, made
    made = made.json()
    assert made["keyType"] == "ssh-ed25519" and made["fingerprint"].startswith("SHA256:"), made
    again = call("POST", body={"name": "other", "publicKey": PUBLIC})
    assert (again.status, again.code) == (409, "SSH_KEY_EXISTS"), again
    assert again.json()["message"] == again.json()["error"], "the key that `tl` shows"
    assert call("GET").json() == {"items": [made]}
    assert call("GET", key=server.key).json() == {"items": []}
    for bad in ("", "ssh-dss AAAA", PUBLIC[:-4], "-----BEGIN OPENSSH PRIVATE KEY-----"):
        reply = call("POST", body={"name": "x", "publicKey": bad})
        assert (reply.status, reply.code) == (400, "INVALID_REQUEST") and "publicKey: " in reply.json()["error"], reply
    path = f"{SSH_KEYS}/{made['id']}"
    assert call("DELETE", path, key=server.key).status == 404
    assert call("DELETE", path).status == 200 and call("DELETE", path).status == 404
