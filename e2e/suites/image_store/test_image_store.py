"""Registered images: one store behind both families, seen by every SDK; made, booted, deleted, kept over a death."""

import json
import os
import pathlib
import subprocess
import uuid

import pytest
from harness import env
from harness.wait import until

SECONDS = 15
SHAPE = {"cpus": 0.25, "memory_mb": 256}
HERE = pathlib.Path(__file__).parent
TEMPLATES = "/platform/v1/sandbox-templates"
IMAGES = "/images/v4/images"


def name() -> str:
    return f"app-{uuid.uuid4().hex[:8]}"


@pytest.fixture(scope="module")
def snapshot(server) -> str:
    """A snapshot of files that no stock image has."""
    source = server.create(resources={**SHAPE, "disk_mb": 2048})
    written = server.run(source, "echo kept > /etc/made-here && sync", user="root")
    assert written.status == 0, written
    reply = server.call("POST", f"/sandboxes/{source}/snapshot", {"snapshot_type": "filesystem"})
    made = reply.json()["snapshot_id"]
    ready = ("local_ready", "completed")
    until(lambda: server.call("GET", f"/snapshots/{made}").json()["status"] in ready, 120, "the snapshot")
    server.delete(source)
    return made


def register(server, snapshot: str, called: str, **fields) -> dict:
    """As `tl sbx image register` does."""
    facts = {"snapshotUri": "x", "snapshotSizeBytes": 1, "rootfsDiskBytes": 2, "dockerfile": "FROM x\n"}
    reply = server.call("POST", TEMPLATES, {"name": called, "snapshotId": snapshot, **facts, **fields})
    assert reply.status == 200, reply
    return reply.json()


def boots(server, **fields) -> None:
    made = server.create(resources=SHAPE, **fields)
    assert server.run(made, "cat /etc/made-here").out == "kept"
    server.delete(made)


def sdk(server, interpreter: str, *calls: tuple[str, ...]) -> list:
    variables = {
        "TENSORLAKE_API_URL": server.api,
        "TENSORLAKE_API_KEY": server.key,
        "PATH": "/usr/bin:/bin",
        "HOME": os.environ["HOME"],
    }
    command = [os.environ[interpreter], str(HERE / "family.py"), json.dumps(calls)]
    run = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=90)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def test_an_image_is_booted_by_each_of_its_names(server, snapshot):
    called = name()
    image = register(server, snapshot, called)
    assert image["rootfsDiskBytes"] == 2048 << 20 and image["dockerfile"] == "FROM x\n"
    twin = server.call("GET", f"{IMAGES}/name/{called}").json()
    assert twin["snapshot_id"] == image["snapshotId"] == snapshot
    for fields in (
        {"image": called.upper()},
        {"image": image["id"]},
        {"template_id": twin["id"]},
        {"template_id": image["id"], "image": called},
    ):
        boots(server, **fields)
    reply = server.call("POST", "/sandboxes", {"image": called, "resources": {**SHAPE, "disk_mb": 1024}})
    assert (reply.status, reply.code) == (400, "DISK_SHRINK_FORBIDDEN"), reply
    reply = server.call("POST", "/sandboxes", {"template_id": image["id"], "image": "tensorlake/ubuntu-minimal"})
    assert (reply.status, reply.code) == (400, "TEMPLATE_MISMATCH"), reply
    reply = server.call("POST", "/sandboxes", {"template_id": "sandbox_template_0000000000000000"})
    assert (reply.status, reply.code) == (404, "TEMPLATE_NOT_FOUND"), reply
    assert server.call("GET", f"/images/v4/names/{called}").json() == {"image_id": twin["id"]}


def test_both_python_sdks_find_list_and_delete(server, snapshot):
    first, second = name(), name()
    ids = [register(server, snapshot, called)["id"] for called in (first, second)]
    calls = [("find", first), ("find", ids[0]), ("find", name()), ("list",), ("delete", second)]
    found, by_id, none, listed, _ = sdk(server, "TARN_PY_OLD", *calls)
    assert found["id"].startswith("sandbox_template_") and found["snapshot_id"] == snapshot, found
    assert by_id is None or by_id["name"] == first
    assert none is None and {first, second} <= {image["name"] for image in listed}, (none, listed)
    twin = ids[0].replace("sandbox_template_", "image_")
    calls = [("find", first), ("find", ids[0]), ("find", twin), ("find", second), ("list",), ("delete", first)]
    *same, gone, listed, _ = sdk(server, "TARN_PY_NEW", *calls)
    assert [image["name"] for image in same] == [first] * 3 and same[0]["id"] == twin, same
    assert gone is None and first in {image["name"] for image in listed}, (gone, listed)
    for path in (f"{TEMPLATES}/by-name/{first}", f"{TEMPLATES}/{ids[0]}", f"{IMAGES}/{twin}"):
        reply = server.call("GET", path)
        assert (reply.status, reply.code) == (404, "IMAGE_NOT_FOUND"), reply


def test_the_npm_package_finds_lists_boots_and_deletes(server, snapshot):
    called = name()
    register(server, snapshot, called)
    who = server.call("POST", "/platform/v1/keys/introspect").json()
    variables = {
        "TENSORLAKE_API_URL": server.api,
        "TENSORLAKE_API_KEY": server.key,
        "TARN_NODE_MODULES": env.NODE_MODULES,
        "PATH": "/usr/bin:/bin",
    }
    command = [env.NODE, str(HERE / "images.mjs"), called, who["organizationId"], who["projectId"]]
    run = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=90)
    assert run.returncode == 0, run.stderr
    seen = json.loads(run.stdout.splitlines()[-1])
    assert seen["found"]["name"] == called and called in seen["listed"], seen
    assert (seen["ran"], seen["after"]) == ("kept", None), seen


def test_lists_page_to_their_end(server, snapshot):
    made = [register(server, snapshot, name())["name"] for _ in range(3)]
    path, seen = f"{TEMPLATES}?pageSize=2", []
    while path:
        page = server.call("GET", path).json()
        assert len(page["items"]) <= 2
        seen += [image["name"] for image in page["items"]]
        path = page["pagination"].get("next")
    assert [called for called in seen if called in made] == made[::-1], "newest first"
    assert len(seen) == len(set(seen))
    assert server.call("GET", f"{IMAGES}?page_size=100").json() == {"items": [], "pagination": {}}


def test_the_operator_lists_and_removes(server, snapshot):
    called = name()
    image = register(server, snapshot, called, public=True)
    table = server.command("image", "ls").stdout
    assert image["id"].removeprefix("sandbox_template_") in table and f"{called} (default, all)" in table, table
    refused = server.command("image", "rm", image["id"], "--project", "default")
    assert refused.returncode == 1 and "leave --project" in refused.stderr, "an id is nobody's"
    assert server.command("image", "rm", called, "--global").returncode == 0
    assert called not in [one["name"] for one in json.loads(server.command("image", "ls", "--json").stdout)["registered"]]
    assert server.call("GET", f"{TEMPLATES}/{image['id']}").code == "IMAGE_NOT_FOUND"


def test_an_image_outlives_its_snapshot_and_a_death_and_leaves_nothing(server):
    source = server.create(resources=SHAPE)
    server.run(source, "echo kept > /etc/made-here && sync", user="root")
    taken = server.call("POST", f"/sandboxes/{source}/snapshot").json()["snapshot_id"]
    until(lambda: server.call("GET", f"/snapshots/{taken}").json()["status"] == "completed", 120, "the snapshot")
    server.delete(source)
    called = name()
    register(server, taken, called)
    reply = server.call("DELETE", f"/snapshots/{taken}")
    assert reply.status == 200, reply
    assert server.call("GET", f"/snapshots/{taken}").status == 404
    server.restart(kill=True)
    boots(server, image=called)
    runs = server.create(resources=SHAPE, image=called)
    assert server.call("DELETE", f"{TEMPLATES}/{called}").status == 200
    assert (server.call("POST", "/sandboxes", {"image": called}).code) == "IMAGE_NOT_FOUND"
    assert server.run(runs, "cat /etc/made-here").out == "kept"
    held = lambda: [path for path in server.data.rglob(taken)]  # noqa: E731
    until(lambda: not held(), 60, "its files are gone")
    server.delete(runs)
