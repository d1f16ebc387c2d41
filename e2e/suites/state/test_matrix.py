"""Every cell of the table of what a restore may say (spec 02 §4), for both kinds of snapshot.

Each refusal is a request of its own. What is accepted is said in as few restores as possible in the small run, and one
by one in the full one.
"""

import pytest
from harness import env
from suites.state import box

SERVER = box.SERVER
IMAGE = "tensorlake/ubuntu-minimal"
FORBIDDEN = (400, "SNAPSHOT_OVERRIDE_FORBIDDEN")
OK = (200, None)
ENTRYPOINT = ["sh", "-c", "echo run >> /var/tmp/runs; exec sleep 100000"]

# What is said beside the snapshot: how a filesystem and how a memory snapshot take it.
CELLS = {
    "nothing": ({}, OK, OK),
    "nulls": ({"resources": None, "image": None, "entrypoint": None, "secret_names": None}, OK, OK),
    "cpus": ({"resources": {"cpus": 1}}, OK, FORBIDDEN),
    "cpus as they were": ({"resources": {"cpus": 0.5}}, OK, FORBIDDEN),
    "memory": ({"resources": {"memory_mb": 768}}, OK, FORBIDDEN),
    "no gpus": ({"resources": {"gpus": []}}, OK, FORBIDDEN),
    "a gpu": ({"resources": {"gpus": [{"count": 1, "model": "H100"}]}}, (400, "NO_SUCH_GPU"), FORBIDDEN),
    "resources empty": ({"resources": {}}, OK, FORBIDDEN),
    # npm 0.5.89 and Python 0.5.113 send this with every create, restores too, whether their users
    # said it or not; a memory snapshot could be restored by neither otherwise.
    "what old clients always send": ({"resources": {"cpus": 1.0, "memory_mb": 1024}}, OK, OK),
    "disk larger": ({"resources": {"disk_mb": 3072}}, OK, FORBIDDEN),
    "disk as it was": ({"resources": {"disk_mb": 2048}}, OK, FORBIDDEN),
    "disk smaller": ({"resources": {"disk_mb": 1024}}, (400, "DISK_SHRINK_FORBIDDEN"), FORBIDDEN),
    "image as it was": ({"image": IMAGE}, OK, FORBIDDEN),
    "another image": ({"image": "tensorlake/ubuntu-vnc"}, FORBIDDEN, FORBIDDEN),
    "entrypoint": ({"entrypoint": ["sleep", "5000"]}, OK, FORBIDDEN),
    "entrypoint as it was": ({"entrypoint": ENTRYPOINT}, OK, FORBIDDEN),
    "entrypoint empty": ({"entrypoint": []}, OK, FORBIDDEN),
    "secrets empty": ({"secret_names": []}, OK, FORBIDDEN),
    "a secret": ({"secret_names": ["A"]}, (400, ("NOT_SUPPORTED", "SECRET_NOT_FOUND")), FORBIDDEN),
    "a template": ({"template_id": "t"}, ((400, 404), ("NOT_SUPPORTED", "TEMPLATE_NOT_FOUND")), ((400, 404), ("NOT_SUPPORTED", "TEMPLATE_NOT_FOUND"))),
    "timeout": ({"timeout_secs": 77}, OK, OK),
    "name": ({"name": "restored-box"}, OK, OK),
    "auto_resume": ({"name": "restored-box", "auto_resume": False}, OK, OK),
    "auto_resume unnamed": ({"auto_resume": False}, (400, "SANDBOX_EPHEMERAL"), (400, "SANDBOX_EPHEMERAL")),
    "ports": ({"exposed_ports": [8080], "allow_unauthenticated_access": True}, OK, OK),
    "network": ({"network": {"allow_internet_access": False}}, OK, OK),
    "file systems empty": ({"file_systems": []}, OK, OK),
    "wait": ({"wait": False}, (202, None), (202, None)),
    "max_pending": ({"max_pending_secs": 60}, OK, OK),
}


@pytest.fixture(scope="module")
def source(server):
    """A sandbox with a policy and ports of its own, its snapshots, and what was true of it."""
    sandbox = server.create(
        image=IMAGE,
        resources={"cpus": 0.5, "memory_mb": 512, "disk_mb": 2048},
        entrypoint=ENTRYPOINT,
        network={"allow_internet_access": False},
        exposed_ports=[9000],
        timeout_secs=3600,
    )
    server.run(sandbox, "until test -s /var/tmp/runs; do sleep 0.05; done; echo kept > /var/tmp/kept")
    made = {kind: box.snapshot(server, sandbox, kind)["id"] for kind in ("filesystem", "memory")}
    box.gone(server, [sandbox])
    yield made
    box.forget(server, made.values())


def answer_of(kind, what):
    return CELLS[what][1 if kind == "filesystem" else 2]


def restores():
    """What is said with each restore: names of cells. Accepted ones go together where they speak of other fields."""
    groups = []
    for kind in ("filesystem", "memory"):
        together = []
        for what, (fields, *_) in CELLS.items():
            accepted = answer_of(kind, what) == OK and fields and not env.FULL
            free = (group for group in together if all(not fields.keys() & CELLS[other][0].keys() for other in group))
            if accepted and (group := next(free, None)):
                group.append(what)
            else:
                groups.append((kind, [what]))
                together += [groups[-1][1]] if accepted else []
    return groups


def check(server, kind, source, said):
    fields = {key: value for what in said for key, value in CELLS[what][0].items()}
    statuses, codes = answer_of(kind, said[0])
    before = server.running()
    reply = server.call("POST", "/sandboxes", {"snapshot_id": source[kind], **fields}, timeout=120)
    statuses = statuses if isinstance(statuses, tuple) else (statuses,)
    codes = codes if isinstance(codes, tuple) else (codes,)
    assert reply.status in statuses and reply.code in codes, reply
    if reply.status >= 400:
        assert server.running() == before, "a refused restore makes nothing"
        if FORBIDDEN[1] in codes:
            field = next(iter(fields))
            assert field in reply.json()["error"] and "snapshot" in reply.json()["error"], reply
        return
    sandbox = reply.json()["sandbox_id"]
    try:
        info = box.reach(server, sandbox, "running")
        check_info(info, kind, fields)
        check_inside(server, sandbox, kind, fields)
    finally:
        box.gone(server, [sandbox])


def check_info(info, kind, fields):
    resources = (fields.get("resources") or {}) if kind == "filesystem" else {}
    shown = info["resources"]
    assert shown["cpus"] == resources.get("cpus", 0.5)
    assert shown["memory_mb"] == resources.get("memory_mb", 512)
    assert shown["disk_mb"] == resources.get("disk_mb", 2048)
    assert info["image"] == IMAGE
    asked = fields.get("entrypoint")
    assert info["entrypoint"] == (ENTRYPOINT if asked is None else asked)
    assert info["timeout_secs"] == fields.get("timeout_secs", 600)
    assert info["name"] == fields.get("name")
    assert info["auto_resume"] is fields.get("auto_resume", True)
    assert info["exposed_ports"] == fields.get("exposed_ports")
    assert info["allow_unauthenticated_access"] is fields.get("allow_unauthenticated_access", False)
    # Everything allowed, not the source's policy.
    assert info["network_policy"] is None or info["network_policy"]["allow_internet_access"] is ("network" not in fields)


def check_inside(server, sandbox, kind, fields):
    """The files are there; the entrypoint was run again exactly where a boot runs it."""
    own = fields.get("entrypoint") in (None, ENTRYPOINT)
    again = kind == "filesystem" and own
    # What must come is waited for; what must not had the time that a boot takes.
    pause = "for i in $(seq 200); do test $(grep -c run /var/tmp/runs) = 2 && break; sleep 0.02; done" if again else "sleep 0.1"
    seen = server.run(sandbox, f"cat /var/tmp/kept; {pause}; grep -c run /var/tmp/runs; pgrep -fc '[s]leep 100000'")
    kept, runs, alive = seen.lines["stdout"]
    assert kept == "kept"
    assert int(runs) == (2 if again else 1), seen
    assert (int(alive) >= 1) is own, seen


@pytest.mark.parametrize(("kind", "said"), restores(), ids=[f"{kind}: {', '.join(said)}" for kind, said in restores()])
def test_cell(server, source, kind, said):
    check(server, kind, source, said)


def test_what_cannot_be_restored(server, source):
    for snapshot_id in ("snap_0000000000000000", "nonsense", "x" * 21):
        reply = server.call("POST", "/sandboxes", {"snapshot_id": snapshot_id})
        assert (reply.status, reply.code) == (404, "SNAPSHOT_NOT_FOUND"), reply
    foreign = server.command("key", "create", "--project", "foreign").stdout.strip()
    reply = server.call("POST", "/sandboxes", {"snapshot_id": source["memory"]}, key=foreign)
    assert (reply.status, reply.code) == (404, "SNAPSHOT_NOT_FOUND"), reply
