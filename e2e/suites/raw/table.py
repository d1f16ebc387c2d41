"""Bad requests and the answer each one must get: (what, method, path, body, status, code).

`{id}` is a running sandbox, `{named}` the name of one, `{dead}` a terminated one and `{deadname}` its
name, `{pid}` a process in `{id}`, `{o}` and `{p}` the key's organization and project.
"""

UNKNOWN = "0123456789abcdefghij0"
NS = "/v1/namespaces/default"
S = "/sandboxes"
BAD = (400, "INVALID_REQUEST")
LIMIT = (400, "LIMIT_EXCEEDED")
LATER = (400, "NOT_SUPPORTED")
MISSING = (404, "SANDBOX_NOT_FOUND")


def _create(body, answer):
    return ("POST", S, body, *answer)


CREATE = {
    # --- JSON that is none, or not an object ---
    "no JSON": _create("{", BAD),
    "trailing text": _create('{"name":"a"} x', BAD),
    "empty string": _create('""', BAD),
    "an array": _create("[]", BAD),
    "a number": _create("1", BAD),
    "not UTF-8": _create(b'{"name":"\xff\xfe"}', BAD),
    "deep nesting": _create('{"resources":' + "[" * 5000 + "]" * 5000 + "}", BAD),
    "too large": _create(b'{"name":"' + b"a" * (1 << 20) + b'"}', (413, "PAYLOAD_TOO_LARGE")),
    # --- wrong types ---
    "name as number": _create({"name": 5}, BAD),
    "image as object": _create({"image": {}}, BAD),
    "resources as text": _create({"resources": "big"}, BAD),
    "cpus as text": _create({"resources": {"cpus": "1"}}, BAD),
    "memory with a fraction": _create({"resources": {"memory_mb": 1024.5}}, BAD),
    "memory negative": _create({"resources": {"memory_mb": -1}}, BAD),
    "cpus negative": _create({"resources": {"cpus": -1}}, BAD),
    "cpus beyond a double": _create('{"resources":{"cpus":1e999}}', BAD),
    "timeout negative": _create({"timeout_secs": -1}, BAD),
    "timeout as float": _create({"timeout_secs": 1.5}, BAD),
    "timeout beyond 64 bits": _create('{"timeout_secs":99999999999999999999999}', BAD),
    "entrypoint as text": _create({"entrypoint": "sleep 1"}, BAD),
    "entrypoint of numbers": _create({"entrypoint": [1, 2]}, BAD),
    "wait as text": _create({"wait": "no"}, BAD),
    "auto_resume as number": _create({"auto_resume": 1, "name": "abc"}, BAD),
    "max_pending negative": _create({"max_pending_secs": -5}, BAD),
    "access as text": _create({"allow_unauthenticated_access": "true"}, BAD),
    "gpus as number": _create({"resources": {"gpus": 1}}, BAD),
    "gpu count zero": _create({"resources": {"gpus": [{"count": 0, "model": "A10"}]}}, BAD),
    "gpu without model": _create({"resources": {"gpus": [{"count": 1}]}}, BAD),
    "two gpu models": _create({"resources": {"gpus": [{"count": 1, "model": "A10"}, {"count": 1, "model": "T4"}]}}, BAD),
    "two disk sizes": _create({"resources": {"disk_mb": 2048, "ephemeral_disk_mb": 4096}}, BAD),
    "network as text": _create({"network": "off"}, BAD),
    "unknown network key": _create({"network": {"allow_internet_acces": False}}, BAD),
    "network flag as text": _create({"network": {"allow_internet_access": "false"}}, BAD),
    # --- names ---
    "name empty": _create({"name": ""}, BAD),
    "name in capitals": _create({"name": "Abc"}, BAD),
    "name starts with a digit": _create({"name": "1abc"}, BAD),
    "name ends in a dash": _create({"name": "abc-"}, BAD),
    "name with a dot": _create({"name": "a.b"}, BAD),
    "name with a slash": _create({"name": "../etc"}, BAD),
    "name of 64": _create({"name": "a" * 64}, BAD),
    "name like an id": _create({"name": "a" * 21}, BAD),
    "name with a null byte": _create('{"name":"a\\u0000b"}', BAD),
    "name not ASCII": _create({"name": "bär"}, BAD),
    # --- ports ---
    "port 0": _create({"exposed_ports": [0]}, BAD),
    "port 65536": _create({"exposed_ports": [65536]}, BAD),
    "port negative": _create({"exposed_ports": [-1]}, BAD),
    "port as text": _create({"exposed_ports": ["80"]}, BAD),
    "port 9501": _create({"exposed_ports": [9501]}, BAD),
    # --- limits and things that are not there ---
    "too little memory": _create({"resources": {"memory_mb": 1}}, LIMIT),
    "too much memory": _create({"resources": {"memory_mb": 1 << 40}}, LIMIT),
    "too little cpu": _create({"resources": {"cpus": 0.01}}, LIMIT),
    "too much cpu": _create({"resources": {"cpus": 100000}}, LIMIT),
    "too little disk": _create({"resources": {"disk_mb": 10}}, LIMIT),
    "too much disk": _create({"resources": {"disk_mb": 1 << 40}}, LIMIT),
    "unknown image": _create({"image": "no/such"}, (404, "IMAGE_NOT_FOUND")),
    "unknown gpu": _create({"resources": {"gpus": [{"count": 1, "model": "A10"}]}}, (400, "NO_SUCH_GPU")),
    "auto_resume without name": _create({"auto_resume": False}, (400, "SANDBOX_EPHEMERAL")),
    "a name in use": _create({"name": "{named}"}, (409, "SANDBOX_NAME_TAKEN")),
    "a wrong address in allow_out": _create({"network": {"allow_out": ["1.1.1.1", "1.1.1.256"]}}, BAD),
    "a wildcard in deny_out": _create({"network": {"deny_out": ["*.example.com"]}}, BAD),
    "too many in deny_out": _create({"network": {"deny_out": ["1.1.1.1"] * 257}}, LIMIT),
    # --- fields of later slices ---
    "snapshot": _create({"snapshot_id": "abc"}, (404, "SNAPSHOT_NOT_FOUND")),
    "snapshot as number": _create({"snapshot_id": 5}, BAD),
    "file systems": _create({"file_systems": [{"file_system_id": "a", "mount_path": "/m"}]}, LATER),
    "a secret of nobody": _create({"secret_names": ["A"]}, (400, "SECRET_NOT_FOUND")),
    "a secret that cannot be": _create({"secret_names": ["A-B"]}, (400, "SECRET_NOT_FOUND")),
    "secrets as text": _create({"secret_names": "A"}, BAD),
    "template": _create({"template_id": "abc"}, LATER),
}

OBJECT = {
    # --- unknown and odd ids ---
    "get unknown id": ("GET", f"{S}/{UNKNOWN}", None, *MISSING),
    "get unknown id, other paths": ("GET", f"{NS}{S}/{UNKNOWN}", None, *MISSING),
    "get unknown name": ("GET", f"{S}/nobody", None, *MISSING),
    "get impossible name": ("GET", f"{S}/%00%ff", None, *MISSING),
    "get dots": ("GET", f"{S}/..%2f..%2fetc", None, *MISSING),
    "get very long": ("GET", f"{S}/{'a' * 4000}", None, *MISSING),
    "delete unknown": ("DELETE", f"{S}/{UNKNOWN}", None, *MISSING),
    "patch unknown": ("PATCH", f"{S}/{UNKNOWN}", {"name": "abc"}, *MISSING),
    "get a dead one by name": ("GET", f"{S}/{{deadname}}", None, *MISSING),
    # --- patch ---
    "patch no JSON": ("PATCH", f"{S}/{{id}}", "x", *BAD),
    "patch name null": ("PATCH", f"{S}/{{id}}", {"name": None}, *BAD),
    "patch name bad": ("PATCH", f"{S}/{{id}}", {"name": "-"}, *BAD),
    "patch name taken": ("PATCH", f"{S}/{{id}}", {"name": "{named}"}, 409, "SANDBOX_NAME_TAKEN"),
    "patch ports bad": ("PATCH", f"{S}/{{id}}", {"exposed_ports": [99999]}, *BAD),
    "patch network typo": ("PATCH", f"{S}/{{id}}", {"network": {"allow": True}}, *BAD),
    "patch dead": ("PATCH", f"{S}/{{dead}}", {"name": "abc"}, 409, "SANDBOX_TERMINATED"),
    "patch auto_resume": ("PATCH", f"{S}/{{id}}", {"auto_resume": False}, 400, "SANDBOX_EPHEMERAL"),
    "patch resources with name": ("PATCH", f"{S}/{{id}}", {"resources": {"cpus": 2}, "name": "abc"}, *BAD),
    "patch resources": ("PATCH", f"{S}/{{id}}", {"resources": {"cpus": 2}}, *LATER),
    # --- list ---
    "limit zero": ("GET", f"{S}?limit=0", None, *BAD),
    "limit text": ("GET", f"{S}?limit=many", None, *BAD),
    "cursor garbage": ("GET", f"{S}?cursor=%21%21", None, *BAD),
    "direction sideways": ("GET", f"{S}?direction=sideways", None, *BAD),
    "status unknown": ("GET", f"{S}?status=sleeping", None, *BAD),
    # --- persisted logs ---
    "logs of an unknown id": ("GET", f"{S}/{'0' * 21}/logs", None, 404, "SANDBOX_NOT_FOUND"),
    "logs of an unknown name": ("GET", f"{S}/nobody/logs", None, 404, "SANDBOX_NOT_FOUND"),
    "processes of an unknown id": ("GET", f"{S}/{'0' * 21}/processes", None, 404, "SANDBOX_NOT_FOUND"),
    "logs head and tail": ("GET", f"{S}/{{id}}/logs?head=1&tail=1", None, *BAD),
    "logs head zero": ("GET", f"{S}/{{id}}/logs?head=0", None, *BAD),
    "logs head negative": ("GET", f"{S}/{{id}}/logs?head=-1", None, *BAD),
    "logs tail as word": ("GET", f"{S}/{{id}}/logs?tail=all", None, *BAD),
    "logs tail twice": ("GET", f"{S}/{{id}}/logs?tail=1&tail=2", None, *BAD),
    "logs level by name": ("GET", f"{S}/{{id}}/logs?level=info", None, *BAD),
    "logs level seven": ("GET", f"{S}/{{id}}/logs?level=3&level=7", None, *BAD),
    "logs process by name": ("GET", f"{S}/{{id}}/logs?processId=web", None, *BAD),
    "logs bad token": ("GET", f"{S}/{{id}}/logs?nextToken=x", None, *BAD),
    "logs token of a list": ("GET", f"{S}/{{id}}/logs?nextToken=MS4wMDAwMDAwMDAwMDAwMDAwMDAwMDA", None, *BAD),
    "logs not UTF-8": ("GET", f"{S}/{{id}}/logs?body=%ff", None, *BAD),
    "logs by post": ("POST", f"{S}/{{id}}/logs", {}, 405, "METHOD_NOT_ALLOWED"),
    # --- routes and methods ---
    "secret without a value": ("PUT", "/platform/v1/secrets", {"name": "A"}, *BAD),
    "secret with a bad name": ("PUT", "/platform/v1/secrets", {"name": "1A", "value": ""}, *BAD),
    "secret with a null byte": ("PUT", "/platform/v1/secrets", '{"name":"A","value":"\\u0000"}', *BAD),
    "secret too long": ("PUT", "/platform/v1/secrets", {"name": "A", "value": "x" * 65_537}, *LIMIT),
    "no such secret": ("DELETE", "/platform/v1/secrets/A", None, 404, "SECRET_NOT_FOUND"),
    "no such route": ("GET", "/nope", None, 404, "NOT_FOUND"),
    # Spec 08 §4: only a 404 here makes 0.5.163 say cleanly that there is no registry.
    "no file-system registry": ("POST", "/artifact-storage/v1/token", None, 404, "NOT_FOUND"),
    "no such route below": ("GET", f"{S}/{{id}}/nope", None, 404, "NOT_FOUND"),
    "put on the collection": ("PUT", S, {}, 405, "METHOD_NOT_ALLOWED"),
    "post on one": ("POST", f"{S}/{{id}}", {}, 405, "METHOD_NOT_ALLOWED"),
    "another organization": ("GET", "/platform/v1/organizations/o/projects/p", None, 404, "NOT_FOUND"),
    "another project's namespace": ("GET", f"/v1/namespaces/not-mine{S}", None, 403, "FORBIDDEN"),
}

NOT_BUILT = [
    ("POST", f"{S}/{{id}}/file_systems"),
    ("DELETE", f"{S}/{{id}}/file_systems"),
    ("GET", "/platform/v1/sandbox-templates"),
    ("POST", "/platform/v1/sandbox-template-builds"),
    ("DELETE", "/sandbox-images/abc"),
    ("GET", "/images/v4/images"),
    ("GET", "/platform/v1/organizations/{o}/projects/{p}/file-systems"),
]

# Toward the daemon of a running sandbox, through the ingress.
P = "/api/v1/processes"
F = "/api/v1/files"
DAEMON = {
    "run no JSON": ("POST", f"{P}/run", "{", *BAD),
    "run without command": ("POST", f"{P}/run", {}, *BAD),
    "run command as number": ("POST", f"{P}/run", {"command": 1}, *BAD),
    "run args as text": ("POST", f"{P}/run", {"command": "ls", "args": "-l"}, *BAD),
    "run env of numbers": ("POST", f"{P}/run", {"command": "ls", "env": {"A": 1}}, *BAD),
    "run negative timeout": ("POST", f"{P}/run", {"command": "ls", "timeout": -1}, *BAD),
    "run null byte": ("POST", f"{P}/run", '{"command":"l\\u0000s"}', *BAD),
    "run empty command": ("POST", f"{P}/run", {"command": ""}, *BAD),
    "run unknown program": ("POST", f"{P}/run", {"command": "frobnicate"}, 400, "PROCESS_START_FAILED"),
    "run unknown user": ("POST", f"{P}/run", {"command": "ls", "user": "x"}, 400, "PROCESS_START_FAILED"),
    "run bad directory": ("POST", f"{P}/run", {"command": "ls", "working_dir": "/x"}, 400, "PROCESS_START_FAILED"),
    "run too large": ("POST", f"{P}/run", b'{"command":"' + b"a" * (5 << 20) + b'"}', 413, "PAYLOAD_TOO_LARGE"),
    "unknown pid": ("GET", f"{P}/999999", None, 404, "PROCESS_NOT_FOUND"),
    "pid beyond 32 bits": ("GET", f"{P}/99999999999999999999", None, 404, "PROCESS_NOT_FOUND"),
    "unknown name": ("GET", f"{P}/nobody", None, 404, "PROCESS_NOT_FOUND"),
    "signal unknown pid": ("POST", f"{P}/999999/signal", {"signal": 15}, 404, "PROCESS_NOT_FOUND"),
    "kill unknown": ("DELETE", f"{P}/999999", None, 404, "PROCESS_NOT_FOUND"),
    "restart of a plain one": ("POST", f"{P}/{{pid}}/restart", b"", 400, "PROCESS_NOT_MANAGED"),
    "restart of an unknown one": ("POST", f"{P}/nobody/restart", b"", 404, "PROCESS_NOT_FOUND"),
    "a name with a slash": ("POST", P, {"command": "ls", "name": "a/b"}, *BAD),
    "a name of digits": ("POST", P, {"command": "ls", "name": "7"}, *BAD),
    "a name of two dots": ("POST", P, {"command": "ls", "name": ".."}, *BAD),
    "a name as number": ("POST", P, {"command": "ls", "name": 7}, *BAD),
    "an unknown policy": ("POST", P, {"command": "ls", "restart": {"policy": "often"}}, *BAD),
    "negative restarts": ("POST", P, {"command": "ls", "restart": {"max_restarts": -1}}, *BAD),
    "no pause": ("POST", P, {"command": "ls", "restart": {"initial_backoff_ms": 0}}, *BAD),
    "a check without port": ("POST", P, {"command": "ls", "health_check": {"type": "tcp"}}, *BAD),
    "a check of port 0": ("POST", P, {"command": "ls", "health_check": {"type": "tcp", "port": 0}}, *BAD),
    "a check of another type": ("POST", P, {"command": "ls", "health_check": {"type": "grpc", "port": 1}}, *BAD),
    "a managed run": ("POST", f"{P}/run", {"command": "ls", "name": "a"}, *BAD),
    "ssh": ("GET", "/api/v1/ssh/status", None, *LATER),
    # --- what only the node may ask ---
    "init from outside": ("POST", "/internal/v1/init", {}, 404, "NOT_FOUND"),
    "shutdown from outside": ("POST", "/internal/v1/shutdown", b"", 404, "NOT_FOUND"),
    "memory pressure from outside": ("POST", "/internal/v1/memory-pressure", {}, 404, "NOT_FOUND"),
    "stats from outside": ("GET", "/internal/v1/stats", None, 404, "NOT_FOUND"),
    "logs from outside": ("POST", "/internal/v1/logs", {}, 404, "NOT_FOUND"),
    "internal behind slashes": ("POST", "//internal//v1/shutdown", b"", 404, "NOT_FOUND"),
    "internal in other words": ("POST", "/%69nternal/v1/shutdown", b"", 404, "NOT_FOUND"),
    "signal 999": ("POST", f"{P}/{{pid}}/signal", {"signal": 999}, *BAD),
    "signal as text": ("POST", f"{P}/{{pid}}/signal", {"signal": "KILL"}, *BAD),
    "stdin of a closed one": ("POST", f"{P}/{{pid}}/stdin", b"x", 400, "STDIN_NOT_WRITABLE"),
    "file without path": ("GET", F, None, *BAD),
    "file empty path": ("GET", f"{F}?path=", None, *BAD),
    "file missing": ("GET", f"{F}?path=/no/such", None, 404, "NOT_FOUND"),
    "file is a directory": ("GET", f"{F}?path=/etc", None, 400, "IS_DIRECTORY"),
    "file dots": ("GET", f"{F}?path=/tmp/../etc/passwd", None, 403, "PATH_TRAVERSAL"),
    "file dots encoded": ("GET", f"{F}?path=%2ftmp%2f%2e%2e%2fetc%2fpasswd", None, 403, "PATH_TRAVERSAL"),
    "file dots relative": ("GET", f"{F}?path=../../etc/passwd", None, 403, "PATH_TRAVERSAL"),
    "file null byte": ("GET", f"{F}?path=/tmp/a%00b", None, *BAD),
    "file not UTF-8": ("GET", f"{F}?path=/tmp/%ff", None, 404, "NOT_FOUND"),
    "put dots": ("PUT", f"{F}?path=/tmp/../x", b"x", 403, "PATH_TRAVERSAL"),
    "put on a directory": ("PUT", f"{F}?path=/tmp", b"x", 400, "IS_DIRECTORY"),
    "put not ours": ("PUT", f"{F}?path=/etc/passwd", b"x", 500, "INTERNAL_ERROR"),
    "put very long name": ("PUT", f"{F}?path=/tmp/{'n' * 300}", b"x", *BAD),
    "delete dots": ("DELETE", f"{F}?path=/tmp/..", None, 403, "PATH_TRAVERSAL"),
    "delete a directory": ("DELETE", f"{F}?path=/tmp", None, 400, "IS_DIRECTORY"),
    "delete missing": ("DELETE", f"{F}?path=/no/such", None, 404, "NOT_FOUND"),
    "list a file": ("GET", f"{F}/list?path=/etc/passwd", None, 400, "NOT_A_DIRECTORY"),
    "list missing": ("GET", f"{F}/list?path=/no/such", None, 404, "NOT_FOUND"),
    "list dots": ("GET", f"{F}/list?path=/..", None, 403, "PATH_TRAVERSAL"),
    "no such route": ("GET", "/api/v1/nope", None, 404, "NOT_FOUND"),
    "wrong method": ("PUT", f"{P}", {}, 405, "METHOD_NOT_ALLOWED"),
}
