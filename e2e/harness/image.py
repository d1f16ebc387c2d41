"""OCI images made by the test itself, byte by byte: layers, configuration, manifest, index."""

import gzip
import hashlib
import io
import json
import pathlib
import platform
import struct
import tarfile

from . import env

LAYER = "application/vnd.oci.image.layer.v1.tar"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
# What a shell and these tests need of it.
APPLETS = ("sh", "cat", "id", "env", "ls", "sleep", "stat", "test", "true")


def digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def tar(files: dict) -> bytes:
    """A layer. A value is a file's content, None for a directory, or a link's target after `->`."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, value in files.items():
            value, owner, mode = value if isinstance(value, tuple) else (value, 0, 0o755)
            entry = tarfile.TarInfo(name)
            entry.uid = entry.gid = owner
            entry.mode = mode
            if value is None:
                entry.type = tarfile.DIRTYPE
                archive.addfile(entry)
            elif isinstance(value, str) and value.startswith("->"):
                entry.type, entry.linkname = tarfile.SYMTYPE, value[2:]
                archive.addfile(entry)
            else:
                content = value.encode() if isinstance(value, str) else value
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def busybox() -> dict:
    """The files of a root that can run a shell, and nothing else: no accounts, no /tmp, no bash."""
    program = pathlib.Path(env.REGISTRY, "bin/busybox")
    assert program.exists(), f"no {program} (TARN_TEST_REGISTRY): ./x setup --test"
    files: dict = {"bin": None, "bin/busybox": program.read_bytes()}
    files.update({f"bin/{name}": "->busybox" for name in APPLETS})
    return files


def zstd(content: bytes) -> bytes:
    """A zstd frame of blocks that are not compressed (RFC 8878 §3.1.1): every decoder reads it."""
    frame = bytearray(struct.pack("<IBB", 0xFD2FB528, 0, 0x70))
    size = 128 << 10
    pieces = [content[at : at + size] for at in range(0, len(content), size)] or [b""]
    for number, piece in enumerate(pieces):
        last = number == len(pieces) - 1
        frame += struct.pack("<I", len(piece) << 3 | last)[:3] + piece
    return bytes(frame)


class Image:
    """An image of layers, each a dict for `tar`; `blobs` is all of it by digest."""

    def __init__(self, *layers: dict, config: dict | None = None, by: str = "gzip", architecture: str = ARCHITECTURE) -> None:
        self.blobs: dict[str, bytes] = {}
        self.layers, diff_ids = [], []
        for files in layers:
            plain = tar(files)
            packed = {"gzip": lambda b: gzip.compress(b, 1, mtime=0), "zstd": zstd, "tar": bytes}[by](plain)
            kind = LAYER + {"gzip": "+gzip", "zstd": "+zstd", "tar": ""}[by]
            diff_ids.append(digest(plain))
            self.layers.append(self._add(packed, kind))
        text = {"architecture": architecture, "os": "linux", "config": config or {}}
        text["rootfs"] = {"type": "layers", "diff_ids": diff_ids}
        body = {"schemaVersion": 2, "mediaType": MANIFEST}
        body["config"] = self._add(json.dumps(text).encode(), CONFIG)
        body["layers"] = self.layers
        self.manifest = json.dumps(body).encode()
        self.digest = digest(self.manifest)
        self.architecture = architecture

    def _add(self, content: bytes, kind: str) -> dict:
        self.blobs[digest(content)] = content
        return {"mediaType": kind, "digest": digest(content), "size": len(content)}

    def descriptor(self) -> dict:
        platform_ = {"architecture": self.architecture, "os": "linux"}
        return {"mediaType": MANIFEST, "digest": self.digest, "size": len(self.manifest), "platform": platform_}

    def layout(self, directory: pathlib.Path, name: str) -> pathlib.Path:
        """Writes it as an OCI layout."""
        blobs = directory / "blobs/sha256"
        blobs.mkdir(parents=True)
        for key, content in {**self.blobs, self.digest: self.manifest}.items():
            (blobs / key.removeprefix("sha256:")).write_bytes(content)
        (directory / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
        entry = {**self.descriptor(), "annotations": {"org.opencontainers.image.ref.name": name}}
        (directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
        return directory


def index(*images: Image) -> bytes:
    """A list of images, of which a machine takes the one for it."""
    entries = [image.descriptor() for image in images]
    return json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).encode()
