"""Every route of the daemon × every answer of the specification, in a real sandbox through the ingress."""

import json
import re
import urllib.parse
import uuid

import pytest
from harness import http
from harness.wait import until
from suites.daemon import table

P, T = table.P, table.T


class Objects:
    """Makes what the placeholders of the table stand for, fresh for each request that names one."""

    def __init__(self, server, sandbox: str) -> None:
        self.server, self.sandbox = server, sandbox
        self._kept = self._port = ""

    def fill(self, text: str, made: dict[str, str], encode=str) -> str:
        """Replaces the placeholders; one that stands twice in a request is the same object."""

        def replacement(match) -> str:
            name = match[1]
            if name not in made:
                getattr(self, name)(made)
            return encode(made[name])

        return re.sub(r"\{([a-z]+)\}", replacement, text)

    def call(self, method, path, body=None, **options):
        return self.server.sandbox_call(self.sandbox, method, path, body, **options)

    def start(self, **fields) -> dict:
        reply = self.call("POST", P, fields)
        assert reply.status == 201, reply
        return reply.json()

    def sleeper(self, made):
        made["sleeper"] = str(self.start(command="sleep", args=["600"])["pid"])

    def piped(self, made):
        made["piped"] = str(self.start(command="cat", stdin_mode="pipe")["pid"])

    def done(self, made):
        pid = self.start(command="sh", args=["-c", "echo out; echo err >&2; exit 3"])["pid"]
        until(lambda: self.call("GET", f"{P}/{pid}").json()["status"] == "exited", what="its end")
        made["done"] = str(pid)

    def fresh(self, made):
        made["fresh"] = f"n-{uuid.uuid4().hex[:8]}"

    def managed(self, made):
        self.fresh(made)
        made["managed"] = self.start(command="sleep", args=["600"], name=made["fresh"])["managed"]["id"]

    def kept(self, made):
        """One for the whole table, with a name that must be encoded."""
        if not self._kept:
            self._kept = self.start(command="sleep", args=["6000"], name="kept one")["managed"]["name"]
        made["kept"] = self._kept

    def terminal(self, made):
        reply = self.call("POST", T, {"command": "sh"})
        assert reply.status == 201, reply
        made["terminal"], made["token"] = reply.json()["session_id"], reply.json()["token"]

    def token(self, made):
        self.terminal(made)

    def dir(self, made):
        made["dir"] = f"/tmp/{uuid.uuid4().hex}"
        assert self.server.run(self.sandbox, f"mkdir {made['dir']}").exit["exit_code"] == 0

    def file(self, made):
        made["file"] = f"/tmp/{uuid.uuid4().hex}"
        assert self.server.run(self.sandbox, f"echo content > {made['file']}").exit["exit_code"] == 0

    def port(self, made):
        if not self._port:
            self._port = "8123"
            self.start(command="python3", args=["-m", "http.server", "--bind", "127.0.0.1", self._port])
            probe = f"exec 3<>/dev/tcp/127.0.0.1/{self._port}"
            body = {"command": "bash", "args": ["-c", probe]}
            until(lambda: b'"exit_code":0' in self.call("POST", f"{P}/run", body).body, what="the server inside")
        made["port"] = self._port


@pytest.fixture(scope="module")
def objects(server):
    made = Objects(server, server.create())
    yield made
    server.delete(made.sandbox)


def send(objects, case) -> http.Reply:
    """Sends the request of a case."""
    made: dict[str, str] = {}
    body = case.body
    if isinstance(body, (dict, list)):
        body = json.dumps(body)
    if isinstance(body, str):
        body = objects.fill(body, made)
    headers = {name: objects.fill(value, made) for name, value in case.headers.items()}
    path = objects.fill(case.path, made, urllib.parse.quote)
    return objects.call(case.method, path, body, headers=headers)


def matches(value, shape) -> bool:
    """Whether a value has the shape: a type, a value, or a dictionary of shapes."""
    if isinstance(shape, dict):
        return isinstance(value, dict) and all(k in value and matches(value[k], s) for k, s in shape.items())
    if isinstance(shape, type):
        return type(value) is shape
    return value == shape


@pytest.mark.parametrize("case", table.CASES, ids=lambda case: f"{case.route} {case.status} {case.code or 'ok'}")
def test_answer(objects, case):
    reply = send(objects, case)
    assert (reply.status, reply.code) == (case.status, case.code), reply
    if case.code:
        assert reply.headers["content-type"].startswith("application/json"), reply.headers
        assert set(reply.json()) == {"error", "code"}, "an error is its text and its code"
    elif case.shape:
        assert reply.headers["content-type"].startswith("application/json"), reply.headers
        assert matches(reply.json(), case.shape), reply
    elif case.status == 204:
        assert reply.body == b""


def test_every_documented_answer_is_in_the_table():
    tested = {(case.route, case.status, case.code) for case in table.CASES}
    for route, (success, errors) in table.DOCUMENTED.items():
        if success:
            assert (route, success, None) in tested, f"{route}: no success"
        for status, code in errors:
            assert (route, status, code) in tested, f"{route}: no {status} {code}"


def test_no_case_is_of_an_undocumented_answer():
    for case in table.CASES:
        success, errors = table.DOCUMENTED[case.route]
        assert case.status == success or (case.status, case.code) in errors, case


def test_streams_end_as_the_clients_need(objects):
    """The exit frame of a run and the `eof` of a follow are each ended by a blank line."""
    body = {"command": "sh", "args": ["-c", "echo a; printf b; exit 7"]}
    run = objects.call("POST", f"{P}/run", body, headers=table.RUN)
    assert run.headers["content-type"].startswith("text/event-stream")
    frames = run.body.decode().split("\n\n")
    assert frames[-1] == "" and json.loads(frames[-2].removeprefix("data: ")) == {"exit_code": 7, "reason": "exited"}
    started = json.loads(frames[0].removeprefix("data: "))
    assert set(started) == {"handle", "pid", "started_at"}
    lines = [json.loads(frame.removeprefix("data: ")) for frame in frames[1:-2]]
    assert [(line["line"], line["stream"]) for line in lines] == [("a", "stdout"), ("b", "stdout")]
    for stream, tagged in (("stdout", False), ("output", True)):
        follow = objects.call("GET", f"{P}/{started['pid']}/{stream}/follow")
        events = follow.body.decode().split("\n\n")
        assert events[-2:] == ["event: eof\ndata: {}", ""]
        assert all(event.startswith("event: output\ndata: {") for event in events[:-2]) and len(events) == 4
        payloads = [json.loads(event.split("data: ", 1)[1]) for event in events[:-2]]
        assert all(p["timestamp"] > 0 and ("stream" in p) == tagged for p in payloads)


INSIDE = """
import http.client, json, sys
answers = {}
for method, path in json.loads(sys.argv[1]):
    connection = http.client.HTTPConnection("127.0.0.1", 9501, timeout=10)
    headers = {"X-Tarn-Token": "0" * 64} if path.startswith("/api") else {}
    connection.request(method, path, body=b"{}", headers=headers)
    answer = connection.getresponse()
    answers[f"{method} {path}"] = [answer.status, json.loads(answer.read()).get("code")]
print(json.dumps(answers))
"""


def test_nobody_inside_gets_an_answer_without_the_token(server, objects):
    """The daemon's port is open to the sandbox's own programs, and of no use to them."""
    routes = [route.split(" ") for route in table.DOCUMENTED]
    asked = [[method, "/api/v1" + path.replace("{p}", "1").replace("{id}", "x")] for method, path in routes]
    asked += [["GET", "/"], ["GET", "/api/v1/nothing"]]
    reply = objects.call("POST", f"{P}/run", {"command": "python3", "args": ["-c", INSIDE, json.dumps(asked)]})
    line = next(line for line in reply.body.decode().splitlines() if '"line"' in line)
    answers = json.loads(json.loads(line.removeprefix("data: "))["line"])
    assert len(answers) == len(asked)
    assert set(map(tuple, answers.values())) == {(401, "UNAUTHENTICATED")}, answers
    private = ["init", "seal", "unseal", "stats", "shutdown", "memory-pressure"]
    asked = [["POST", f"/internal/v1/{name}"] for name in private]
    reply = objects.call("POST", f"{P}/run", {"command": "python3", "args": ["-c", INSIDE, json.dumps(asked)]})
    line = next(line for line in reply.body.decode().splitlines() if '"line"' in line)
    answers = json.loads(json.loads(line.removeprefix("data: "))["line"])
    assert set(map(tuple, answers.values())) == {(403, "FORBIDDEN")}, answers


def test_the_daemon_is_whole_after_all_that(server, objects):
    assert server.run(objects.sandbox, "echo fine").out == "fine"
    info = objects.call("GET", "/api/v1/info").json()
    assert info["total_processes"] > 30 and info["version"]
