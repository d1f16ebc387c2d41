"""Any OCI image as `image`: pulled from a real registry, pinned, shared, resumed, kept and removed."""

import json
import os
import pathlib
import subprocess
import time
import uuid

import pytest
from harness import env
from harness.image import Image, busybox, index
from harness.registry import PASSWORD, USER, Front, Registry
from harness.wait import until

SECONDS = 40
SERVER = {"config": {"images": {"pull": True, "internal": ["127.0.0.1"], "recheck_secs": 0}}}
SHAPE = {"cpus": 0.25, "memory_mb": 256, "disk_mb": 1024}
RUNS = {
    "Env": ["PATH=/bin", "GREETING=hello from the image"],
    "User": "1234:5678",
    "WorkingDir": "/srv/here",
    "Entrypoint": ["/bin/sh", "-c", "echo started > /tmp/mark; sleep 3600"],
}


@pytest.fixture(scope="module")
def registry():
    made = Registry()
    yield made
    made.close()


@pytest.fixture
def front(registry):
    made = Front(registry)
    yield made
    made.close()


def app(*layers: dict, **options) -> Image:
    """An image nobody has pulled yet, with a shell."""
    base = {**busybox(), "unique": uuid.uuid4().hex}
    return Image(base, *layers, **options)


def command(server, *arguments: str, stdin: str | None = None) -> str:
    done = subprocess.run(
        [env.TARN, "image", *arguments, "--data-dir", str(server.data)],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done
    return done.stdout


def listed(server) -> dict[str, dict]:
    return {image["digest"]: image for image in json.loads(command(server, "ls", "--json"))["images"]}


def trees(server) -> list[str]:
    return sorted(path.name for path in (server.data / "images").iterdir() if not path.name.startswith("."))


def create(server, image: str, **fields):
    return server.call("POST", "/sandboxes", {"image": image, "resources": SHAPE, **fields}, timeout=180)


def made(server, image: str, **fields) -> str:
    reply = create(server, image, **fields)
    assert reply.status == 200 and reply.json()["status"] == "running", reply
    return reply.json()["sandbox_id"]


def ended(server, image: str) -> str:
    """Creates a sandbox that cannot start; returns why."""
    reply = create(server, image)
    assert reply.status == 200 and reply.json()["status"] == "terminated", reply
    assert reply.json()["termination_reason"] == "ImageNotFound", reply
    return reply.json()["error_details"]["message"]


def test_by_tag_and_digest_with_all_that_the_image_says(server, registry, sdk):
    files = {"tmp": (None, 0, 0o1777), "etc": None, "etc/owned": ("mine\n", 1234, 0o600)}
    image = app(files, {".wh.unique": "", "etc/passwd": "root:x:0:0::/:/bin/sh\n"}, config=RUNS)
    tag = registry.push(image, "team/app:V1.0")
    box = sdk.create(image=tag)
    script = 'echo "$GREETING|$(id -u):$(id -g)|$PWD|$(cat /etc/owned)|$(test -e /unique || echo gone)"'
    ran = box.run("sh", args=["-c", script])
    assert ran.stdout.strip() == "hello from the image|1234:5678|/srv/here|mine|gone", ran
    until(lambda: server.run(box.sandbox_id, "cat /tmp/mark", user="root").out == "started", 60, "its ENTRYPOINT")
    assert server.info(box.sandbox_id)["image"] == tag, "the caller's own words"
    other = made(server, f"{registry.address}/team/app@{image.digest}")
    assert server.run(other, "cat /etc/owned").out == "mine"
    found = listed(server)[image.digest]
    assert found["sandboxes"] == 2 and found["names"] == [], found
    server.delete(other)


def test_a_list_of_images_and_zstd(server, registry):
    ours, theirs = app(by="zstd"), app(architecture="s390x")
    for image, tag in ((ours, "multi:ours"), (theirs, "multi:theirs")):
        registry.push(image, tag)
    name = registry.push_index(index(theirs, ours), "multi:all")
    sandbox = made(server, name)
    # Without accounts and directories: root, at the root.
    out = server.run(sandbox, "echo $(id -u) $HOME $PWD; cat /unique").out.splitlines()
    assert out[0] == "0 /root /", out
    assert ours.digest in listed(server)
    server.delete(sandbox)
    reply = create(server, f"{registry.address}/multi:theirs")
    assert reply.status == 200 and "s390x" in reply.json()["error_details"]["message"], reply


def test_an_image_of_next_to_nothing_runs(server, registry):
    sandbox = made(server, registry.push(Image({"data": uuid.uuid4().hex}), "scratch:1"))
    read = server.sandbox_call(sandbox, "GET", "/api/v1/files?path=/data")
    assert read.status == 200 and len(read.body) == 32, read
    ran = server.sandbox_call(sandbox, "POST", "/api/v1/processes/run", {"command": "sh"})
    assert ran.status == 400 and b"sh" in ran.body, ran
    server.delete(sandbox)
    reply = create(server, registry.push(app(config={"User": "nobody-here"}), "scratch:user"))
    assert reply.json()["termination_reason"] == "ConfigurationError", reply
    assert "nobody-here" in reply.json()["error_details"]["message"], reply


def test_what_cannot_be_had_says_why(server, registry, front):
    for image, words in (
        (f"{registry.address}/none/such:1", "there is no image"),
        (f"localhost:{registry.port}/team/app:V1.0", "at no public address"),
        ("tensorlake/no-such-image", "Stock images are"),
    ):
        reply = create(server, image)
        assert (reply.status, reply.code) == (404, "IMAGE_NOT_FOUND") and words in reply.json()["error"], reply
    image = app()
    registry.push(image, "wrong:1")
    front.corrupt = True
    assert "tampered" in ended(server, f"{front.address}/wrong:1")
    assert image.digest not in listed(server) and not list((server.data / "images/.work").glob("*/rootfs"))
    front.corrupt = False
    server.delete(made(server, f"{front.address}/wrong:1"))


def test_a_private_image_and_its_password(server):
    registry = Registry(private=True)
    try:
        name = registry.push(app(), "secret/app:1")
        reply = create(server, name)
        assert (reply.status, reply.code) == (404, "IMAGE_NOT_FOUND"), reply
        assert command(server, "login", registry.address, "-u", USER, stdin=PASSWORD + "\n").strip() == registry.address
        assert registry.address in command(server, "logins") and PASSWORD not in command(server, "logins", "--json")
        sandbox = made(server, name)
        files = ["find", str(server.data), "-xdev", "-type", "f", "-size", "-64M", "-exec", "grep", "-laF", PASSWORD, "{}", "+"]
        assert subprocess.run(files, capture_output=True, timeout=60).stdout == b""
        assert PASSWORD not in server.log_text()
        command(server, "logout", registry.address)
        assert create(server, name).status == 404, "its image is here, and not for those who may not have it"
        server.delete(sandbox)
    finally:
        registry.close()


def test_a_pull_serves_all_and_goes_on_after_a_crash(server, registry, front):
    image = app()
    name = registry.push(image, "slow:1").replace(registry.address, front.address)
    layer = image.layers[0]["digest"]
    front.cut_at = 60_000
    waiting = []
    for _ in range(3):
        reply = create(server, name, wait=False)
        assert reply.status in (200, 202), reply
        waiting.append(reply.json()["sandbox_id"])
    assert front.held.wait(60), "the pull began"
    pulling = until(lambda: (listed(server).get(image.digest) or {}).get("pulling"), 30, "the pull in the list")
    assert pulling["layers"] == 1 and pulling["layers_done"] == 0, pulling
    assert "pulling" in command(server, "ls")
    blobs = server.data / "images/.work"
    until(lambda: any(path.stat().st_size for path in blobs.glob("*/blobs/*")), 30, "what was fetched")
    # One that waits can be ended at once.
    server.delete(waiting.pop())
    assert front.blobs(layer) == [""]
    server.kill()
    front.gate.set()
    server.start()
    for sandbox in waiting:
        until(lambda sandbox=sandbox: server.info(sandbox)["status"] == "running", 120, "a sandbox that waited")
    assert any(wanted.startswith("bytes=") for wanted in front.blobs(layer)[1:]), front.blobs(layer)
    assert server.run(waiting[0], "cat /unique").status == 0
    for sandbox in waiting:
        server.delete(sandbox)


def test_names_imports_and_removal(server, registry, tmp_path: pathlib.Path):
    image = app()
    source = registry.push(image, "kept:1")
    assert command(server, "pull", source, "--name", "tensorlake/mine-app", "--global").strip() == image.digest
    sandbox = made(server, "tensorlake/mine-app")
    pinned = server.run(sandbox, "cat /unique").out
    other = app()
    assert command(server, "import", str(other.layout(tmp_path / "layout", "x:1")), "tensorlake/mine-app").strip() == other.digest
    second = made(server, "tensorlake/mine-app")
    assert server.run(second, "cat /unique").out not in ("", pinned), "the project's own name comes first"
    command(server, "rm", "tensorlake/mine-app")
    third = made(server, "tensorlake/mine-app")
    assert server.run(third, "cat /unique").out == pinned
    # What is used stays, whatever its names; what is not goes.
    command(server, "rm", "tensorlake/mine-app", "--global")
    assert create(server, "tensorlake/mine-app").status == 404
    assert {image.digest, other.digest} <= listed(server).keys()
    server.restart(kill=True)
    assert server.run(sandbox, "cat /unique").out == pinned
    for one in (sandbox, second, third):
        server.delete(one)
    for gone in (image, other):
        place = gone.digest.replace(":", "-")
        assert place in trees(server)

        def removed(gone=gone, place=place) -> bool:
            found = listed(server).get(gone.digest)
            if found and not found["sandboxes"]:
                command(server, "rm", gone.digest)
            return place not in trees(server)

        until(removed, 60, "the removal of what nothing needs", longest_pause=1)


if env.FULL:

    def timed(server, image: str | None) -> float:
        fields = {"image": image} if image else {}
        begun = time.monotonic()
        sandbox = server.create(resources=SHAPE, **fields)
        took = time.monotonic() - begun
        server.delete(sandbox)
        return took

    def test_a_second_create_is_as_fast_as_one_of_a_stock_image(server, registry):
        server.configure("images", recheck_secs=300)
        server.restart()
        name = registry.push(app(), "fast:1")
        timed(server, name), timed(server, None)
        pulled, stock = ([], [])
        for _ in range(20):
            pulled.append(timed(server, name))
            stock.append(timed(server, None))
        medians = sorted(pulled)[10], sorted(stock)[10]
        print(f"create: pulled {medians[0] * 1000:.0f} ms, stock {medians[1] * 1000:.0f} ms")
        assert medians[0] < medians[1] * 1.2 + 0.02

    def test_sixty_layers_and_a_gigabyte(server, registry):
        layers = [{f"layer{n}": str(n)} for n in range(59)]
        layers += [{"layer0": "overwritten", ".wh.layer1": ""}]
        sandbox = made(server, registry.push(app(*layers), "deep:1"))
        assert server.run(sandbox, "cat layer0 layer58; test -e layer1 || echo gone").out == "overwritten58gone"
        server.delete(sandbox)
        big = app(*({f"big{n}": os.urandom(128 << 20)} for n in range(8)), by="tar")
        name = registry.push(big, "big:1")
        begun = time.monotonic()
        sandbox = made(server, name)
        print(f"1 GiB: running after {time.monotonic() - begun:.1f} s")
        assert server.run(sandbox, "stat -c %s big7").out == str(128 << 20)
        server.delete(sandbox)
