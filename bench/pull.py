"""Pulls an image from a registry on the loopback, beside `skopeo copy` to a directory and `tar` of its
layers, in turn on the same machine; compares the trees that come of it."""

import argparse
import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

MEDIA = "application/vnd.oci.image."
PACK = {"gzip": ["gzip", "-6"], "zstd": ["zstd", "-3", "-q", "-c"], "none": ["cat"]}
SUFFIX = {"gzip": "+gzip", "zstd": "+zstd", "none": ""}


def main() -> int:
    asked = arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.ExitStack() as stack:
        scratch = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(dir=asked.scratch)))
        place = stack.enter_context(registry(asked.docker_registry, scratch))
        size = push(asked, scratch, place)
        print(f"{asked.layers} layers by {asked.by}, {size >> 20} MiB compressed; seconds, {asked.rounds} rounds")
        taken: dict[str, list[float]] = {"ours": [], "skopeo + tar": []}
        trees: dict[str, str] = {}
        for _ in range(asked.rounds):
            for name, one in (("ours", ours), ("skopeo + tar", theirs)):
                subprocess.run(["sync", "-f", scratch], check=True)
                work = scratch / "work"
                work.mkdir()
                began = time.perf_counter()
                root = one(asked, place, work)
                subprocess.run(["sync", "-f", work], check=True)
                taken[name].append(time.perf_counter() - began)
                trees[name] = listing(root)
                shutil.rmtree(work)
        for name, values in taken.items():
            print(f"{name:14} p50 {statistics.median(values):6.2f}  min {min(values):6.2f}  max {max(values):6.2f}")
        ratio = statistics.median(taken["ours"]) / statistics.median(taken["skopeo + tar"])
        same = trees["ours"] == trees["skopeo + tar"]
        print(f"{'pass' if ratio <= 1.2 else 'FAIL'}  {ratio:.2f} × of skopeo and tar, at most 1.2")
        print(f"{'pass' if same else 'FAIL'}  the same tree")
        if asked.json:
            asked.json.write_text(json.dumps({"layers": asked.layers, "by": asked.by, "bytes": size, "seconds": taken}))
        return 0 if same and ratio <= 1.2 else 1


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tree", type=pathlib.Path, help="a root file system to make the image of")
    parser.add_argument("--pull", required=True, help="`pull`, an example of crates/oci, built for release")
    parser.add_argument("--docker-registry", default="docker-registry")
    parser.add_argument("--skopeo", default="skopeo")
    parser.add_argument("--scratch", help="where there is room for all of it four times")
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--by", choices=PACK, default="gzip")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=pathlib.Path)
    return parser.parse_args()


@contextlib.contextmanager
def registry(program: str, scratch: pathlib.Path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = scratch / "registry.yml"
    config.write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {scratch}/registry}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\nlog: {{level: error, accesslog: {{disabled: true}}}}\n"
    )
    process = subprocess.Popen([program, "serve", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until_answers(port, process)
        yield f"127.0.0.1:{port}/bench:1"
    finally:
        process.terminate()
        process.wait()


def until_answers(port: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 30
    while True:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/", timeout=5).close()
            return
        if time.monotonic() > deadline or process.poll() is not None:
            raise SystemExit("the registry does not answer")
        time.sleep(0.05)


def push(asked: argparse.Namespace, scratch: pathlib.Path, place: str) -> int:
    """Makes an image of a tree, its files dealt out to layers, and pushes it; returns its size."""
    layout = scratch / "layout"
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    found = subprocess.run(["find", ".", "-print0"], cwd=asked.tree, check=True, capture_output=True)
    names = sorted(name for name in found.stdout.split(b"\0") if name)
    step = -(-len(names) // asked.layers)
    layers, diff_ids = [], []
    for first in range(0, len(names), step):
        plain = scratch / "layer.tar"
        tar = ["tar", "-cf", plain, "-C", asked.tree, "--numeric-owner", "--xattrs", "--no-recursion", "--null", "-T-"]
        subprocess.run(tar, input=b"\0".join(names[first : first + step]), check=True)
        with plain.open("rb") as read, (scratch / "layer").open("wb") as write:
            subprocess.run(PACK[asked.by], stdin=read, stdout=write, check=True)
        diff_ids.append("sha256:" + digest(plain))
        layers.append(blob(scratch / "layer", blobs, f"layer.v1.tar{SUFFIX[asked.by]}"))
        plain.unlink()
    machine = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
    config = {"architecture": machine, "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    manifest = {"schemaVersion": 2, "mediaType": MEDIA + "manifest.v1+json"}
    manifest |= {"config": text(config, scratch, blobs, "config.v1+json"), "layers": layers}
    index = {"schemaVersion": 2, "manifests": [text(manifest, scratch, blobs, "manifest.v1+json")]}
    (layout / "index.json").write_text(json.dumps(index))
    (layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    skopeo(asked, "--dest-tls-verify=false", f"oci:{layout}", f"docker://{place}")
    shutil.rmtree(layout)
    return sum(layer["size"] for layer in layers)


def blob(path: pathlib.Path, blobs: pathlib.Path, media: str) -> dict:
    name, size = digest(path), path.stat().st_size
    path.rename(blobs / name)
    return {"mediaType": MEDIA + media, "digest": "sha256:" + name, "size": size}


def text(value: dict, scratch: pathlib.Path, blobs: pathlib.Path, media: str) -> dict:
    (scratch / "text").write_text(json.dumps(value))
    return blob(scratch / "text", blobs, media)


def digest(path: pathlib.Path) -> str:
    with path.open("rb") as read:
        return hashlib.file_digest(read, "sha256").hexdigest()


def skopeo(asked: argparse.Namespace, *words: str) -> None:
    subprocess.run([asked.skopeo, "--insecure-policy", "copy", "-q", *words], check=True)


def ours(asked: argparse.Namespace, place: str, work: pathlib.Path) -> pathlib.Path:
    subprocess.run([asked.pull, place, work], check=True, stdout=subprocess.DEVNULL)
    return work / "rootfs"


def theirs(asked: argparse.Namespace, place: str, work: pathlib.Path) -> pathlib.Path:
    skopeo(asked, "--src-tls-verify=false", f"docker://{place}", f"dir:{work}/image")
    root = work / "rootfs"
    root.mkdir()
    for layer in json.loads((work / "image" / "manifest.json").read_text())["layers"]:
        name = layer["digest"].removeprefix("sha256:")
        unpack = ["tar", "-xpf", work / "image" / name, "--numeric-owner", "--xattrs", "-C", root]
        unpack += [] if asked.by == "none" else [f"--{asked.by}"]
        subprocess.run(unpack, check=True)
    return root


def listing(root: pathlib.Path) -> str:
    """Returns what a tree is: every name with type, mode, owner, size, link and (but of directories) time."""
    form = ["-type", "d", "-printf", r"%P %y %m %U %G\n", "-o", "-printf", r"%P %y %m %U %G %s %l %n %T@\n"]
    found = subprocess.run(["find", root, *form], check=True, capture_output=True)
    return hashlib.sha256(b"\n".join(sorted(found.stdout.split(b"\n")))).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
