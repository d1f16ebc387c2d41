"""Images that the official SDK builds, through the new image service: steps, cache, failures, cancels."""

import contextlib
import hashlib
import io
import json
import signal
import tarfile
import urllib.error
import urllib.request

import pytest
from harness import env
from harness.image import Image, busybox
from harness.registry import Registry
from harness.wait import until
from tensorlake import image as sdk_image
from tensorlake.image import builds as api
from tensorlake.image.sandbox_builder import import_sandbox_image
from tensorlake.sandbox import Sandbox

SECONDS = 15
SERVER = {"config": {"images": {"pull": True, "internal": ["127.0.0.1"]}}}
# The SDK waits 3 s between two looks at a build, which most tests here need not.
FULL = pytest.mark.skipif(not env.FULL, reason="takes some seconds each: at full scale")
BASE = "tensorlake/ubuntu-minimal"
SMALL = {"cpus": 0.5, "memory_mb": 512, "disk_mb": 1024, "docker_config_json": "{}"}


@pytest.fixture(autouse=True)
def where(server, monkeypatch):
    """What a user exports."""
    monkeypatch.setenv("TENSORLAKE_API_URL", server.api)
    monkeypatch.setenv("TENSORLAKE_API_KEY", server.key)


def context(tmp_path, dockerfile: str, **files: str) -> str:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    path = tmp_path / "Dockerfile"
    path.write_text(dockerfile)
    return str(path)


def build(path, name, **options):
    """Builds, and looks often."""
    handle = api.start_build(path, registered_name=name, **{**SMALL, **options})
    until(lambda: handle.refresh().is_terminal, 120, "the build to end")
    return handle.info


def made(path, name, **options):
    info = build(path, name, **options)
    assert info.status == "succeeded", info
    return info


def failure(path, name, **options) -> str:
    info = build(path, name, **options)
    assert info.status == "failed", info
    return info.error


def idle(server) -> bool:
    """Whether no sandbox is left of any build."""
    return not [box for box in server.call("GET", "/sandboxes").json()["sandboxes"] if box["status"] != "terminated"]


@FULL
def test_one_line(server, sdk):
    built = sdk_image.Image(name="one-line", base_image=BASE).run("echo built > /made").build(**SMALL)
    assert built["name"] == "one-line", built
    box = sdk.create(image="one-line")
    assert box.run("sh", args=["-c", "cat /made; id -un"]).stdout.split() == ["built", "tl-user"]


DOCKERFILE = f"""\
ARG BASE={BASE}
FROM $BASE AS tools
ARG WORD=nothing
RUN mkdir /out && echo "$WORD" > /out/word && ln -s word /out/link && install -m 4755 /bin/true /out/run
FROM ${{BASE}}
ENV GREETING="hello world" PATH=/opt/tools:$PATH
WORKDIR /srv/app
COPY --from=tools --chown=tl-user /out /opt/tools/
COPY data*.txt ./
COPY --chmod=0600 data1.txt renamed
COPY <<EOF /etc/inline.conf
word = $GREETING
EOF
RUN <<EOF
cat > script <<'X'
echo "$GREETING"
X
EOF
USER tl-user
ENTRYPOINT ["sleep", "3600"]
"""


def test_stages_arguments_and_copies_and_all_of_it_again(server, sdk, tmp_path):
    path = context(tmp_path, DOCKERFILE, **{"data1.txt": "one\n", "data2.txt": "two\n", ".dockerignore": "data3.txt\n", "data3.txt": "3"})
    first = made(path, "team/app", build_args={"WORD": "argument"})
    box = sdk.create(image="team/app")
    script = "pwd; id -un; cat /opt/tools/link data1.txt data2.txt renamed; ls data3.txt; cat /etc/inline.conf; sh script"
    ran = box.run("sh", args=["-c", script + "; stat -c '%U %a' /opt/tools/word /opt/tools/run data1.txt"], user="root")
    assert ran.stdout.splitlines() == [
        *("/srv/app", "root", "argument", "one", "two", "one", "word = hello world", "hello world"),
        *("tl-user 644", "tl-user 4755", "root 644"),
    ], ran
    assert box.run("sh", args=["-c", "id -un; echo $PATH"]).stdout.split()[0] == "tl-user"
    before = count(server)
    again = made(path, "team/app", build_args={"WORD": "argument"})
    assert again.result["id"] == first.result["id"]
    assert again.updated_at_ms - again.created_at_ms < 2000, again
    assert count(server) == before, "a build of kept steps begins no sandbox"
    changed = made(path, "team/app", build_args={"WORD": "other"})
    other = sdk.create(image="team/app")
    assert other.run("cat", args=["/opt/tools/word"]).stdout.strip() == "other", changed
    # The SDK looks the base up and pins it by its id.
    made(context(tmp_path, "FROM team/app\nUSER root\nRUN cp data1.txt again\n"), "team/child")
    child = sdk.create(image="team/child")
    assert child.run("sh", args=["-c", "cat again; echo $GREETING"]).stdout.splitlines() == ["one", "hello world"]


def count(server) -> int:
    return len(server.call("GET", "/sandboxes?limit=1000").json()["sandboxes"])


def test_a_command_that_fails(server, tmp_path):
    path = context(tmp_path, f"FROM {BASE}\nRUN echo before; echo 'no such thing' >&2; exit 7\n")
    error = failure(path, "failing")
    assert "exit code 7" in error and "no such thing" in error, error
    for text, words in (
        ("FROM tensorlake/nothing\n", "tensorlake/nothing"),
        (f"FROM {BASE}\nCOPY gone /\n", "`gone` is not in the context"),
        (f"FROM {BASE}\nRUN --mount=type=cache,target=/x true\n", "line 2"),
    ):
        assert words in failure(context(tmp_path, text), "failing")


@FULL
def test_the_sdk_waits_and_follows_the_log(server, tmp_path):
    path = context(tmp_path, f"FROM {BASE}\nRUN for n in 1 2 3 4 5 6 7; do echo line $n; sleep 1; done; exit 7\n")
    events = []
    with pytest.raises(api.ImageBuildFailedError, match="exit code 7"):
        api.start_build(path, registered_name="followed", **SMALL).wait(follow_logs=True, emit=events.append)
    lines = [event["message"] for event in events if event["type"] == "build_log"]
    assert "line 7" in lines, events


def test_a_log_is_followed_and_a_build_is_cancelled(server, tmp_path):
    path = context(tmp_path, f"FROM {BASE}\nRUN echo first line; sleep 600\n")
    handle = api.start_build(path, registered_name="slow", **SMALL)
    until(lambda: handle.refresh().builder_sandbox_id, 30, "the sandbox that tells the log")
    box = Sandbox.connect(handle.info.builder_sandbox_id, api_url=server.api, api_key=server.key)
    [teller] = [p for p in box.list_processes() if p.command.endswith("/tl-image-builder")]
    until(lambda: "first line" in box.get_output(teller.pid).lines, 20, "a line of the command")
    with pytest.raises(api.ImageBuildInProgressError) as conflict:
        api.start_build(path, registered_name="slow", **SMALL)
    assert conflict.value.active_build_id == handle.build_id, conflict.value
    assert handle.cancel().outcome == "cancelled"
    assert handle.cancel().outcome == "already_cancelled"
    assert handle.refresh().status == "cancelled"
    until(lambda: idle(server), 20, "its sandboxes to end")


def test_uploads_are_checked(server):
    ask = {"kind": "dockerfile", "name": "by-hand"}
    headers = {"Idempotency-Key": "0" * 32}
    made = server.call("POST", "/images/v4/builds", ask, headers=headers)
    assert made.status == 200, made
    record = made.json()
    again = server.call("POST", "/images/v4/builds", ask, headers=headers).json()
    assert again["build_id"] == record["build_id"] and again["context_upload"] == record["context_upload"], again
    url, identity = record["context_upload"]["url"], record["build_id"]
    seal = f"/images/v4/builds/{identity}/context/seal"
    assert server.call("POST", seal, {"digest": "0" * 64}).status == 400, "nothing was uploaded"
    for wrong in (url[:-1] + ("0" if url[-1] != "0" else "1"), url.split("?")[0]):
        with pytest.raises(urllib.error.HTTPError) as refused:
            put(wrong, b"x")
        assert refused.value.code == 403, wrong
    assert put(url, b"x" * 10240) == 204
    assert server.call("POST", seal, {"digest": "0" * 64}).status == 400, "another digest"
    outcome = server.call("POST", "/images/v4/builds/cancel", {"client_request_id": "0" * 32}).json()
    assert outcome["outcome"] == "cancelled" and outcome["build"]["build_id"] == identity, outcome
    outcome = server.call("POST", "/images/v4/builds/cancel", {"client_request_id": "1" * 32}).json()
    assert outcome == {"outcome": "not_admitted"}, outcome
    with pytest.raises(urllib.error.HTTPError) as refused:
        put(url, b"x")
    assert refused.value.code == 403
    late = server.call("POST", seal, {"digest": hashlib.sha256(b"x" * 10240).hexdigest()})
    assert (late.status, late.code) == (409, "BUILD_NOT_AWAITING"), late
    assert server.call("GET", f"/images/v4/builds/{identity}").json()["status"] == "cancelled"


def put(url: str, body: bytes) -> int:
    request = urllib.request.Request(url, data=body, method="PUT")
    with urllib.request.urlopen(request, timeout=20) as reply:
        return reply.status


@FULL
def test_files_keep_their_times_and_a_long_dockerfile_is_built(server, sdk):
    text = f"FROM {BASE}\nCOPY d /d/\nCOPY <<X /inline\nword\nX\n" + "# more than is shown\n" * 20_000
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, content in (("Dockerfile", text), ("d/e/f", "x")):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime = len(content), 1_700_000_000
            tar.addfile(entry, io.BytesIO(content.encode()))
    body = archive.getvalue()
    small = {"builder_resources": {"cpus": 0.5, "memory_mb": 512}, "disk_mb": 1024}
    record = server.call("POST", "/images/v4/builds", {"kind": "dockerfile", "name": "times", **small}).json()
    assert put(record["context_upload"]["url"], body) == 204
    path = f"/images/v4/builds/{record['build_id']}"
    assert server.call("POST", f"{path}/context/seal", {"digest": hashlib.sha256(body).hexdigest()}).status == 200
    look = lambda: server.call("GET", path).json()
    until(lambda: look()["phase"] == "finished", 120, "the build to end")
    assert look()["status"] == "succeeded", look()
    # A zip can hold nothing from before 1980, directories included.
    script = "stat -c %Y /d/e /d/e/f /inline; python3 -c 'import shutil; shutil.make_archive(\"/tmp/x\", \"zip\", \"/d\")'"
    ran = sdk.create(image="times").run("sh", args=["-c", script])
    assert ran.exit_code == 0, ran
    *files, inline = map(int, ran.stdout.split())
    assert files == [1_700_000_000] * 2 and inline == record["created_at_ms"] // 1000, ran


@FULL
def test_an_import_and_a_rebuild_that_fails_leaves_the_image(server, sdk, tmp_path):
    with contextlib.closing(Registry()) as registry:
        pushed = registry.push(Image(busybox(), config={"Env": ["PATH=/bin", "FROM=the registry"]}), "team/app:1")
        imported = import_sandbox_image(pushed, registered_name="imported", **SMALL)
    assert imported["name"] == "imported", imported
    assert sdk.create(image="imported").run("sh", args=["-c", "echo $FROM"]).stdout.strip() == "the registry"
    assert "exit code 1" in failure(context(tmp_path, f"FROM {BASE}\nRUN false\n"), "imported")
    again = sdk.create(image="imported")
    assert again.run("true").exit_code == 0


@FULL
def test_the_server_is_killed_while_it_builds(server, tmp_path):
    path = context(tmp_path, f"FROM {BASE}\nRUN sleep 600\n")
    handle = api.start_build(path, registered_name="killed", **SMALL)
    until(lambda: handle.refresh().phase == "executing" and not idle(server), 30, "the build to run")
    server.process.send_signal(signal.SIGKILL)
    server.process.wait()
    server.start()
    info = handle.refresh()
    assert info.status == "failed" and "restarted" in info.error, info
    until(lambda: idle(server), 20, "its sandboxes to end")
    # Nothing of it stands in the way of another one.
    made(context(tmp_path, f"FROM {BASE}\nRUN true\n"), "killed")


@FULL
@pytest.mark.parametrize(
    ("command", "advice"),
    [
        ("python3 -c 'x = bytearray(2 << 30)'", "ran out of memory"),
        ("dd if=/dev/zero of=/big bs=1M", "ran out of disk space"),
    ],
)
def test_what_runs_out_is_told(server, tmp_path, command, advice):
    path = context(tmp_path, f"FROM {BASE}\nRUN {command}\n")
    assert advice in failure(path, "greedy")


def test_record(server):
    reply = server.call("GET", "/images/v4/builds/build_0000000000000000")
    assert (reply.status, reply.code) == (404, "BUILD_NOT_FOUND"), reply
    assert json.loads(server.call("POST", "/images/v4/builds", {"kind": "x"}).body)["code"] == "INVALID_REQUEST"
