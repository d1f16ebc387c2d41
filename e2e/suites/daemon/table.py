"""Every route of the daemon (spec 05), what it may answer, and a request for each of those answers.

Placeholders in paths and bodies are objects made for the request: `{sleeper}` the pid of a running
process, `{piped}` one with a pipe for input, `{done}` of one that has ended, `{managed}` the name of a
managed one and `{kept}` another that nobody ends, `{terminal}` a terminal's session and `{token}` its
token, `{file}` a file and `{dir}` a directory of the default user, `{port}` a port that is listened on.
"""

from dataclasses import dataclass, field

P, F, T = "/api/v1/processes", "/api/v1/files", "/api/v1/pty"
UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}

BAD = (400, "INVALID_REQUEST")
NO_START = (400, "PROCESS_START_FAILED")
NOT_RUNNING = (400, "PROCESS_NOT_RUNNING")
NOT_MANAGED = (400, "PROCESS_NOT_MANAGED")
NAME_TAKEN = (409, "PROCESS_NAME_TAKEN")
NO_PROCESS = (404, "PROCESS_NOT_FOUND")
NO_STDIN = (400, "STDIN_NOT_WRITABLE")
MISSING = (404, "NOT_FOUND")
IS_DIR = (400, "IS_DIRECTORY")
NO_DIR = (400, "NOT_A_DIRECTORY")
DOTS = (403, "PATH_TRAVERSAL")
REFUSED = (500, "INTERNAL_ERROR")
TOO_LARGE = (413, "PAYLOAD_TOO_LARGE")
BAD_TOKEN = (403, "INVALID_TOKEN")
NO_SESSION = (404, "SESSION_NOT_FOUND")
NOBODY_LISTENS = (502, "CONNECTION_REFUSED")
LATER = (400, "NOT_SUPPORTED")

# What the specification lets each route answer: the status of success, then the errors.
DOCUMENTED = {
    "GET /health": (200, []),
    "GET /info": (200, []),
    "POST /processes": (201, [BAD, NO_START, NAME_TAKEN, TOO_LARGE]),
    "GET /processes": (200, []),
    "POST /processes/run": (200, [BAD, NO_START, TOO_LARGE]),
    "GET /processes/{p}": (200, [NO_PROCESS]),
    "DELETE /processes/{p}": (204, [NO_PROCESS]),
    "POST /processes/{p}/restart": (200, [NO_PROCESS, NOT_MANAGED]),
    "POST /processes/{p}/signal": (200, [NO_PROCESS, BAD, NOT_RUNNING]),
    "POST /processes/{p}/stdin": (204, [NO_PROCESS, NO_STDIN]),
    "POST /processes/{p}/stdin/close": (204, [NO_PROCESS, NO_STDIN]),
    "GET /processes/{p}/stdout": (200, [NO_PROCESS]),
    "GET /processes/{p}/stderr": (200, [NO_PROCESS]),
    "GET /processes/{p}/output": (200, [NO_PROCESS]),
    "GET /processes/{p}/stdout/follow": (200, [NO_PROCESS]),
    "GET /processes/{p}/stderr/follow": (200, [NO_PROCESS]),
    "GET /processes/{p}/output/follow": (200, [NO_PROCESS]),
    "GET /files": (200, [BAD, MISSING, IS_DIR, DOTS]),
    "PUT /files": (204, [BAD, DOTS, REFUSED, IS_DIR]),
    "DELETE /files": (204, [BAD, MISSING, IS_DIR, DOTS]),
    "GET /files/list": (200, [BAD, MISSING, NO_DIR, DOTS]),
    "POST /pty": (201, [BAD, NO_START, TOO_LARGE]),
    "GET /pty": (200, []),
    "GET /pty/{id}": (200, [MISSING]),
    "DELETE /pty/{id}": (204, [MISSING]),
    "POST /pty/{id}/resize": (204, [MISSING, BAD]),
    "GET /pty/{id}/ws": (101, [BAD_TOKEN, NO_SESSION, BAD]),
    "GET /tunnels/tcp": (101, [BAD, NOBODY_LISTENS]),
    # Not there in this release, and said so.
    "POST /ssh/enable": (None, [LATER]),
    "GET /ssh/status": (None, [LATER]),
}


@dataclass
class Case:
    """One request and the answer that it must get."""

    route: str
    path: str
    status: int
    code: str | None = None
    body: object = None
    headers: dict = field(default_factory=dict)
    # What a successful JSON answer must have: key → type, or a value.
    shape: dict = field(default_factory=dict)

    @property
    def method(self) -> str:
        return self.route.split(" ")[0]


def ok(route, path, body=None, shape=None, headers=None):
    return Case(route, path, DOCUMENTED[route][0], None, body, headers or {}, shape or {})


def no(route, path, answer, body=None, headers=None):
    return Case(route, path, *answer, body, headers or {})


INFO = {"pid": int, "status": str, "stdin_writable": bool, "command": str, "args": list, "started_at": int, "handle": int}
OUTPUT = {"pid": int, "lines": list, "line_count": int}
SESSION = {"session_id": str, "pid": int, "command": str, "args": list, "rows": int, "cols": int, "created_at": int}
BIG = b'{"command":"' + b"a" * (5 << 20) + b'"}'
RUN = {"Accept": "text/event-stream"}


def _process_reads():
    for stream in ("stdout", "stderr", "output"):
        yield ok(f"GET /processes/{{p}}/{stream}", f"{P}/{{sleeper}}/{stream}", shape=OUTPUT)
        yield ok(f"GET /processes/{{p}}/{stream}", f"{P}/{{done}}/{stream}", shape=OUTPUT)
        yield ok(f"GET /processes/{{p}}/{stream}", f"{P}/{{kept}}/{stream}", shape=OUTPUT)
        yield no(f"GET /processes/{{p}}/{stream}", f"{P}/999999/{stream}", NO_PROCESS)
        yield ok(f"GET /processes/{{p}}/{stream}/follow", f"{P}/{{done}}/{stream}/follow")
        yield no(f"GET /processes/{{p}}/{stream}/follow", f"{P}/nobody/{stream}/follow", NO_PROCESS)


def _refused_starts():
    """Bodies that neither start nor run nor a terminal accepts."""
    for route, path in (("POST /processes", P), ("POST /processes/run", f"{P}/run"), ("POST /pty", T)):
        for body in (
            "{",
            "[]",
            {},
            {"command": 1},
            {"command": ""},
            {"command": None},
            {"command": "ls", "args": "-l"},
            {"command": "ls", "args": [1]},
            {"command": "ls", "env": {"A": 1}},
            {"command": "ls", "env": {"A=B": "x"}},
            '{"command":"l\\u0000s"}',
            '{"command":"ls"} x',
        ):
            yield no(route, path, BAD, body)
        yield no(route, path, NO_START, {"command": "frobnicate"})
        yield no(route, path, NO_START, {"command": "/etc/passwd"})
        yield no(route, path, NO_START, {"command": "ls", "working_dir": "/no/such"})
        yield no(route, path, TOO_LARGE, BIG)


MANAGED = {**INFO, "managed": {"id": str, "name": str, "status": str, "restart_count": int, "restart": dict}}

CASES = [
    ok("GET /health", "/api/v1/health", shape={"healthy": True}),
    ok("GET /info", "/api/v1/info", shape={"version": str, "uptime_secs": int, "running_processes": int, "total_processes": int}),
    # --- starting ---
    *_refused_starts(),
    ok("POST /processes", P, {"command": "true"}, INFO),
    ok("POST /processes", P, {"command": "true", "user": "root", "working_dir": "/tmp", "env": {"A": "b"}, "args": ["x"]}, INFO),
    ok("POST /processes", P, {"command": "true", "user": {"uid": 1000, "gid": 1000}, "stdout_mode": "discard"}, INFO),
    ok("POST /processes", P, {"command": "true", "args": None, "env": None, "user": None, "name": None, "restart": None}, INFO),
    ok("POST /processes", P, {"command": "sleep", "args": ["600"], "name": "{fresh}", "restart": {"policy": "always"}}, MANAGED),
    ok("POST /processes", P, {"command": "sleep", "args": ["600"], "restart": {"policy": "never"}}, {"managed": {"id": str}}),
    ok("POST /processes", P, {"command": "sleep", "args": ["9"], "health_check": {"type": "tcp", "port": 9}}, {"managed": {"id": str}}),
    no("POST /processes", P, NO_START, {"command": "ls", "user": "nobody-here"}),
    no("POST /processes", P, NAME_TAKEN, {"command": "true", "name": "{kept}"}),
    *(no("POST /processes", P, BAD, {"command": "true", "name": name}) for name in ("", "a/b", "123")),
    no("POST /processes", P, BAD, {"command": "true", "user": 5}),
    no("POST /processes", P, BAD, {"command": "true", "stdin_mode": "maybe"}),
    no("POST /processes", P, BAD, {"command": "true", "name": 5}),
    no("POST /processes", P, BAD, {"command": "true", "name": "x1", "restart": {"policy": "sometimes"}}),
    no("POST /processes", P, BAD, {"command": "true", "name": "x2", "restart": {"max_restarts": -1}}),
    no("POST /processes", P, BAD, {"command": "true", "name": "x3", "health_check": {"type": "tcp"}}),
    no("POST /processes", P, BAD, {"command": "true", "name": "x4", "health_check": {"type": "tcp", "port": 0}}),
    no("POST /processes", P, BAD, {"command": "true", "name": "x5", "health_check": {"type": "grpc", "port": 1}}),
    ok("POST /processes/run", f"{P}/run", {"command": "echo", "args": ["hi"], "timeout": 5}, headers=RUN),
    ok("POST /processes/run", f"{P}/run", {"command": "true", "timeout_secs": 2.5, "stdin_mode": "pipe"}, headers=RUN),
    no("POST /processes/run", f"{P}/run", BAD, {"command": "true", "timeout": -1}, RUN),
    no("POST /processes/run", f"{P}/run", BAD, {"command": "true", "timeout": "5"}, RUN),
    no("POST /processes/run", f"{P}/run", NO_START, {"command": "ls", "user": "nobody-here"}, RUN),
    # --- looking ---
    ok("GET /processes", P, shape={"processes": list}),
    ok("GET /processes/{p}", f"{P}/{{sleeper}}", shape={**INFO, "status": "running"}),
    ok("GET /processes/{p}", f"{P}/{{done}}", shape={**INFO, "status": "exited", "exit_code": 3, "ended_at": int}),
    ok("GET /processes/{p}", f"{P}/{{kept}}", shape=MANAGED),
    *(no("GET /processes/{p}", f"{P}/{key}", NO_PROCESS) for key in ("999999", "nobody", "99999999999999999999", "%ff")),
    *_process_reads(),
    # --- ending, signalling, feeding ---
    ok("DELETE /processes/{p}", f"{P}/{{sleeper}}"),
    ok("DELETE /processes/{p}", f"{P}/{{done}}"),
    ok("DELETE /processes/{p}", f"{P}/{{managed}}"),
    no("DELETE /processes/{p}", f"{P}/999999", NO_PROCESS),
    ok("POST /processes/{p}/restart", f"{P}/{{managed}}/restart", b"", MANAGED),
    no("POST /processes/{p}/restart", f"{P}/{{sleeper}}/restart", NOT_MANAGED, b""),
    no("POST /processes/{p}/restart", f"{P}/nobody/restart", NO_PROCESS, b""),
    ok("POST /processes/{p}/signal", f"{P}/{{sleeper}}/signal", {"signal": 15}, {"success": True}),
    ok("POST /processes/{p}/signal", f"{P}/{{managed}}/signal", {"signal": 18}, {"success": True}),
    no("POST /processes/{p}/signal", f"{P}/{{done}}/signal", NOT_RUNNING, {"signal": 15}),
    *(no("POST /processes/{p}/signal", f"{P}/{{sleeper}}/signal", BAD, {"signal": s}) for s in (0, 65, -9, "KILL", None, 1.5)),
    no("POST /processes/{p}/signal", f"{P}/999999/signal", NO_PROCESS, {"signal": 15}),
    ok("POST /processes/{p}/stdin", f"{P}/{{piped}}/stdin", b"text\n"),
    no("POST /processes/{p}/stdin", f"{P}/{{sleeper}}/stdin", NO_STDIN, b"x"),
    no("POST /processes/{p}/stdin", f"{P}/{{done}}/stdin", NO_STDIN, b"x"),
    no("POST /processes/{p}/stdin", f"{P}/999999/stdin", NO_PROCESS, b"x"),
    ok("POST /processes/{p}/stdin/close", f"{P}/{{piped}}/stdin/close", b""),
    no("POST /processes/{p}/stdin/close", f"{P}/{{sleeper}}/stdin/close", NO_STDIN, b""),
    no("POST /processes/{p}/stdin/close", f"{P}/999999/stdin/close", NO_PROCESS, b""),
    # --- files ---
    ok("GET /files", f"{F}?path={{file}}"),
    ok("GET /files", f"{F}?path=/proc/self/status"),
    *(no("GET /files", F + query, BAD) for query in ("", "?path=", "?path=/tmp/a%00b", "?other=/tmp", "?path=/dev/null")),
    no("GET /files", f"{F}?path=/no/such", MISSING),
    no("GET /files", f"{F}?path={{file}}/below", MISSING),
    no("GET /files", f"{F}?path={{dir}}", IS_DIR),
    no("GET /files", f"{F}?path={{dir}}/../x", DOTS),
    no("GET /files", f"{F}?path=%2e%2e%2fetc", DOTS),
    ok("PUT /files", f"{F}?path={{dir}}/new/below/it", b"x" * 100_000),
    ok("PUT /files", f"{F}?path={{file}}", b""),
    no("PUT /files", F, BAD, b"x"),
    no("PUT /files", f"{F}?path={{dir}}/{'n' * 300}", BAD, b"x"),
    no("PUT /files", f"{F}?path=/tmp/../x", DOTS, b"x"),
    no("PUT /files", f"{F}?path=/etc/passwd", REFUSED, b"x"),
    no("PUT /files", f"{F}?path={{dir}}", IS_DIR, b"x"),
    ok("DELETE /files", f"{F}?path={{file}}"),
    no("DELETE /files", F, BAD),
    no("DELETE /files", f"{F}?path=/no/such", MISSING),
    no("DELETE /files", f"{F}?path={{dir}}", IS_DIR),
    no("DELETE /files", f"{F}?path={{dir}}/..", DOTS),
    ok("GET /files/list", f"{F}/list?path={{dir}}", shape={"path": str, "entries": list}),
    no("GET /files/list", f"{F}/list", BAD),
    no("GET /files/list", f"{F}/list?path=/no/such", MISSING),
    no("GET /files/list", f"{F}/list?path={{file}}", NO_DIR),
    no("GET /files/list", f"{F}/list?path=/..", DOTS),
    # --- terminals ---
    ok("POST /pty", T, {"command": "sh"}, {"session_id": str, "token": str}),
    ok("POST /pty", T, {"command": "sh", "args": ["-l"], "env": {"TERM": "vt100"}, "rows": 9999, "cols": 0}, {"token": str}),
    no("POST /pty", T, BAD, {"command": "sh", "rows": "24"}),
    ok("POST /pty", T, {"command": "sh", "rows": -1, "cols": None}, {"token": str}),
    no("POST /pty", T, BAD, {"command": "sh", "cols": 1.5}),
    ok("GET /pty", T, shape={"sessions": list}),
    ok("GET /pty/{id}", f"{T}/{{terminal}}", shape={**SESSION, "is_alive": True, "rows": 24, "cols": 80}),
    no("GET /pty/{id}", f"{T}/none", MISSING),
    ok("DELETE /pty/{id}", f"{T}/{{terminal}}"),
    no("DELETE /pty/{id}", f"{T}/none", MISSING),
    ok("POST /pty/{id}/resize", f"{T}/{{terminal}}/resize", {"rows": 50, "cols": 100}),
    no("POST /pty/{id}/resize", f"{T}/none/resize", MISSING, {"rows": 50, "cols": 100}),
    no("POST /pty/{id}/resize", f"{T}/{{terminal}}/resize", BAD, {"rows": "50"}),
    ok("GET /pty/{id}/ws", f"{T}/{{terminal}}/ws", headers={**UPGRADE, "X-PTY-Token": "{token}"}),
    ok("GET /pty/{id}/ws", f"{T}/{{terminal}}/ws?token={{token}}", headers=UPGRADE),
    no("GET /pty/{id}/ws", f"{T}/{{terminal}}/ws", BAD_TOKEN, headers=UPGRADE),
    no("GET /pty/{id}/ws", f"{T}/{{terminal}}/ws?token=0000", BAD_TOKEN, headers=UPGRADE),
    no("GET /pty/{id}/ws", f"{T}/none/ws?token=0000", NO_SESSION, headers=UPGRADE),
    no("GET /pty/{id}/ws", f"{T}/{{terminal}}/ws?token={{token}}", BAD),
    # --- tunnels ---
    ok("GET /tunnels/tcp", "/api/v1/tunnels/tcp?port={port}", headers=UPGRADE),
    *(no("GET /tunnels/tcp", f"/api/v1/tunnels/tcp{q}", BAD, headers=UPGRADE) for q in ("", "?port=", "?port=0", "?port=65536", "?port=x")),
    no("GET /tunnels/tcp", "/api/v1/tunnels/tcp?port={port}", BAD),
    no("GET /tunnels/tcp", "/api/v1/tunnels/tcp?port=1", NOBODY_LISTENS, headers=UPGRADE),
    # --- not there ---
    no("POST /ssh/enable", "/api/v1/ssh/enable", LATER, {"proxy_pubkey": "x"}),
    no("GET /ssh/status", "/api/v1/ssh/status", LATER),
]
