"""The main path with nothing but curl, under both families of paths, and what lists and answers hold."""

import json
import socket
import subprocess

import pytest
from harness import http
from harness.wait import until


def curl(server, method, path, *arguments, url=None):
    command = ["curl", "-sS", "-X", method, (url or server.api) + path]
    command += ["-H", f"Authorization: Bearer {server.key}", "-w", "\\n%{http_code}", *arguments]
    run = subprocess.run(command, capture_output=True, timeout=60, check=True)
    body, _, status = run.stdout.rpartition(b"\n")
    return int(status), body


@pytest.mark.parametrize("prefix", ["", "/v1/namespaces/default", "//v1/namespaces/default"])
def test_main_path(server, prefix):
    status, body = curl(server, "POST", f"{prefix}/sandboxes", "-d", "{}", "-H", "Content-Type: application/json")
    made = json.loads(body)
    assert (status, made["status"], made["sandbox_url"]) == (200, "running", server.ingress)
    inside = ["-H", f"Host: {made['sandbox_id']}.local"]
    run = '{"command":"echo","args":["hi"]}'
    status, stream = curl(server, "POST", "/api/v1/processes/run", "-d", run, *inside, url=server.ingress)
    assert status == 200 and b'"line":"hi"' in stream and stream.endswith(b"\n\n")
    status, _ = curl(server, "PUT", "/api/v1/files?path=/tmp/a%20b", "--data-binary", "x y", *inside, url=server.ingress)
    assert status == 204
    status, back = curl(server, "GET", "/api/v1/files?path=/tmp/a+b", *inside, url=server.ingress)
    assert (status, back) == (200, b"x y")
    assert curl(server, "DELETE", f"{prefix}/sandboxes/{made['sandbox_id']}")[0] == 200
    assert server.info(made["sandbox_id"])["status"] == "terminated"


def test_create_without_a_body(server):
    status, body = curl(server, "POST", "/sandboxes")
    assert status == 200 and json.loads(body)["status"] == "running", body
    server.delete(json.loads(body)["sandbox_id"])


def test_wait_false_answers_202(server):
    reply = server.call("POST", "/sandboxes", {"wait": False})
    assert reply.status == 202 and reply.json()["status"] == "pending", reply
    made = reply.json()["sandbox_id"]
    info = until(lambda: (i := server.info(made))["status"] == "running" and i, what="running")
    assert info["sandbox_url"]
    server.delete(made)


def test_a_client_that_hangs_up_loses_nothing(server):
    """An accepted request finishes even if nobody waits for its answer."""
    name = "hung-up"
    host, _, port = server.api.removeprefix("http://").partition(":")
    body = json.dumps({"name": name})
    head = f"POST /sandboxes HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {server.key}\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall((head + body).encode())
        until(lambda: server.call("GET", f"/sandboxes/{name}").status == 200, what="the accepted request")
    made = until(
        lambda: (i := server.call("GET", f"/sandboxes/{name}").json())["status"] == "running" and i,
        what="the sandbox of the client that went away",
    )["id"]
    assert server.run(made, "echo here").out == "here"
    server.delete(made)


def test_pages(server):
    made = [server.create() for _ in range(3)]
    everything = [s["id"] for s in server.call("GET", "/sandboxes").json()["sandboxes"]]
    assert everything[:3] == made[::-1], "newest first"
    walked, cursor = [], None
    while True:
        page = server.call("GET", "/sandboxes?limit=2" + (f"&cursor={cursor}" if cursor else "")).json()
        assert len(page["sandboxes"]) <= 2
        walked += [s["id"] for s in page["sandboxes"]]
        cursor = page["next_cursor"]
        if not cursor:
            break
    assert walked == everything
    for sandbox in made:
        server.delete(sandbox)
    assert not server.running() & set(made)


def test_metrics_and_the_api_document(server):
    metrics = server.call("GET", "/metrics")
    assert metrics.status == 200 and b"# TYPE" in metrics.body
    documents = [http.request(server.api + p) for p in ("/openapi.json", "/tarn/v1/openapi.json")]
    found = [d.json() for d in documents if d.status == 200]
    assert found, "the OpenAPI document is served"
    assert any(path.endswith("/sandboxes/{sandbox_id}") or path.endswith("/sandboxes/{sid}") for path in found[0]["paths"])
