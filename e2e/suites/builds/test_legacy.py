"""Builds of the legacy family, which clients drive from a sandbox of their own: every SDK, and what goes wrong."""

import concurrent.futures
import json
import pathlib
import re
import signal
import subprocess

import pytest
from harness import env
from harness.wait import until

SECONDS = 12
FULL = pytest.mark.skipif(not env.FULL, reason="takes some seconds each: at full scale")
BASE = "tensorlake/ubuntu-minimal"
BUILDS = "/platform/v1/sandbox-template-builds"
HERE = pathlib.Path(__file__).parent
SHAPE = {"cpus": 0.25, "memory_mb": 256}
CLIENTS = {"new": "TARN_PY_NEW", "old": "TARN_PY_OLD", "npm": ""}

DOCKERFILE = f"""\
ARG BASE={BASE}
FROM $BASE AS tools
ARG WORD=default
RUN mkdir /out && echo "$WORD" > /out/word
FROM {BASE}
ENV GREETING="hello world"
WORKDIR /srv/app
COPY --from=tools /out /opt/tools/
COPY data*.txt ./
RUN echo "$GREETING" > made && echo a line of the log
"""


def build(server, client: str, verb: str, source, name: str) -> dict:
    variables = {
        "TENSORLAKE_API_URL": server.api,
        "TENSORLAKE_API_KEY": server.key,
        "TARN_NODE_MODULES": env.NODE_MODULES,
        "PATH": "/usr/bin:/bin",
        # Nothing of whoever runs this is shown to registries.
        "HOME": str(HERE),
    }
    if client == "npm":
        command = [env.NODE, str(HERE / "legacy.mjs")]
    else:
        command = [env.os.environ[CLIENTS[client]], str(HERE / "legacy.py")]
    command += [verb, str(source), name]
    run = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def context(tmp_path, dockerfile: str) -> pathlib.Path:
    for name in ("data1.txt", "data2.txt"):
        (tmp_path / name).write_text(name)
    path = tmp_path / "Dockerfile"
    path.write_text(dockerfile)
    return path


def live(server) -> list[str]:
    boxes = server.call("GET", "/sandboxes?limit=1000").json()["sandboxes"]
    return [box["id"] for box in boxes if box["status"] != "terminated"]


def every(server) -> int:
    return len(server.call("GET", "/sandboxes?limit=1000").json()["sandboxes"])


@pytest.mark.parametrize("client", [pytest.param(name, marks=[] if name == "new" else FULL) for name in CLIENTS])
def test_stages_copies_and_arguments_and_all_of_it_again(server, tmp_path, client):
    path = context(tmp_path, DOCKERFILE)
    built = build(server, client, "build", path, f"team/{client}")
    image = built["image"]
    assert image["id"].startswith("sandbox_template_") and image["name"] == f"team/{client}", built
    assert image["rootfsDiskBytes"] == 1 << 30 and image["dockerfile"] == DOCKERFILE, image
    for fields in ({"image": f"team/{client}"}, {"template_id": image["id"]}):
        box = server.create(resources=SHAPE, **fields)
        ran = server.run(box, "pwd; cat /opt/tools/word data1.txt data2.txt made; echo $GREETING")
        assert ran.out.splitlines() == ["/srv/app", "default", "data1.txtdata2.txthello world", "hello world"], ran
        server.delete(box)
    if client == "new":
        assert "a line of the log" in built["lines"], built
    before = every(server)
    again = build(server, client, "build", path, f"team/{client}")
    assert again["image"]["id"] == image["id"], again
    assert [line for line in again["lines"] if line.endswith("CACHED")], again
    assert every(server) == before + 1, "only the client's own sandbox is begun"
    until(lambda: not live(server), 20, "all sandboxes to end")


def test_a_command_that_fails_leaves_the_image(server, tmp_path):
    path = context(tmp_path, f"FROM {BASE}\nRUN echo before; echo 'no such thing' >&2; exit 7\n")
    built = build(server, "new", "build", path, "failing")
    assert "failed with exit code 1" in built["error"] and "build_" in built["error"], built
    assert any("exit code 7" in line for line in built["lines"]) and "no such thing" in built["lines"], built
    assert server.call("GET", "/platform/v1/sandbox-templates/by-name/failing").status == 404


def test_a_build_is_its_clients_and_given_up_with_it(server):
    ask = {"name": "by-hand", "dockerfile": f"FROM {BASE}\n", "public": False, "rootfsNodeKind": "base"}
    first, build = (server.call("POST", BUILDS, ask).json() for _ in range(2))
    status = lambda made: server.call("GET", f"/images/v4/builds/{made['buildId']}").json()["status"]
    assert status(first) == "cancelled", "its client had begun nothing"
    assert server.call("POST", "/sandboxes", {"image": first["builder"]["image"]}).code == "IMAGE_NOT_FOUND"
    box = server.create(image=build["builder"]["image"], resources=SHAPE)
    reply = server.call("POST", BUILDS, ask)
    assert (reply.status, reply.code) == (409, "image_build_in_progress"), reply
    assert reply.json()["active_build_id"] == build["buildId"]
    complete = f"{BUILDS}/{build['buildId']}/complete"
    reply = server.call("POST", complete, {"snapshotId": build["snapshotId"]})
    assert (reply.status, reply.code) == (409, "BUILD_NOT_AWAITING"), reply
    # A sandbox can only ask for the build that it was created for.
    spec = {"buildId": first["buildId"], "contextDir": "/", "rootfsDiskBytes": 1 << 30}
    command = f"echo '{json.dumps(spec)}' > /tmp/s; {build['builder']['command']} --spec /tmp/s --metadata-out /tmp/m"
    ran = server.run(box, command, user="root")
    assert ran.status == 1 and "the spec is that of another build" in ran.out, ran
    assert status(build) == "failed"
    server.delete(box)
    build = server.call("POST", BUILDS, ask).json()
    server.delete(server.create(image=build["builder"]["image"], resources=SHAPE))
    until(lambda: status(build) == "cancelled", 20, "the build to be given up")
    reply = server.call("POST", f"{BUILDS}/build_0000000000000000/complete", {"snapshotId": "x"})
    assert (reply.status, reply.code) == (404, "BUILD_NOT_FOUND"), reply


@FULL
@pytest.mark.parametrize(
    ("command", "advice"),
    [
        ("python3 -c 'x = bytearray(2 << 30)'", "ran out of memory"),
        ("dd if=/dev/zero of=/big bs=1M", "ran out of disk space"),
    ],
)
@pytest.mark.parametrize("client", CLIENTS)
def test_the_client_advises(server, tmp_path, client, command, advice):
    built = build(server, client, "build", context(tmp_path, f"FROM {BASE}\nRUN {command}\n"), "greedy")
    assert advice in built["error"], built


@FULL
def test_an_image_on_another_and_an_import_that_is_refused(server, tmp_path):
    parent = build(server, "new", "build", context(tmp_path, f"FROM {BASE}\nRUN echo parent > /parent\n"), "parent")
    assert "image" in parent, parent
    for client in CLIENTS:
        path = context(tmp_path, "FROM parent\nRUN cp /parent /child\n")
        built = build(server, client, "build", path, f"child-{client}")
        box = server.create(image=f"child-{client}", resources=SHAPE)
        assert server.run(box, "cat /child").out == "parent", built
        server.delete(box)
    refused = build(server, "new", "import", "registry.invalid/app:1", "imported")
    assert any("images.pull" in line for line in refused["lines"]), refused


@FULL
def test_the_server_is_killed_while_it_builds(server, tmp_path):
    path = context(tmp_path, f"FROM {BASE}\nRUN sleep 600\n")
    with concurrent.futures.ThreadPoolExecutor() as pool:
        building = pool.submit(build, server, "new", "build", path, "killed")
        # The client's own, and that of the stage.
        until(lambda: len(live(server)) == 2, 30, "the build to run")
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
        server.start()
        built = building.result(timeout=120)
    assert "failed with exit code 1" in built["error"], built
    [identity] = set(re.findall("build_[0-9a-z]{16}", built["error"]))
    record = server.call("GET", f"/images/v4/builds/{identity}").json()
    assert record["status"] == "failed" and "restarted" in record["error"], record
    until(lambda: not live(server), 20, "its sandboxes to end")
    again = build(server, "new", "build", context(tmp_path, f"FROM {BASE}\nRUN true\n"), "killed")
    assert "image" in again, again
