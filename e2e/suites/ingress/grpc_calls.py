"""gRPC through the ingress with its own library on both ends; for the modules with and without TLS."""

import importlib.util
import io
import json
import os
import pathlib
import subprocess
import sys
import tarfile

import pytest
from harness.wait import until

HERE = pathlib.Path(__file__).parent
PORT = 50051
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


def serve(server, sandbox):
    """Starts a gRPC server inside, with the library that came with the newer SDK on this side."""
    inside = server.run(sandbox, "python3 -c 'import sys; print(\"%d.%d\" % sys.version_info[:2])'").out
    if inside != VERSION:
        pytest.skip(f"the library is for Python {VERSION}, and inside is {inside}")
    send = server.sandbox_call(sandbox, "PUT", "/api/v1/files?path=/tmp/grpc.tar", library(), timeout=120)
    assert send.status == 204, send
    assert server.run(sandbox, "mkdir /tmp/grpc && tar -C /tmp/grpc -xf /tmp/grpc.tar", timeout=120).status == 0
    program = (HERE / "grpc_inside.py").read_bytes()
    assert server.sandbox_call(sandbox, "PUT", "/api/v1/files?path=/tmp/grpc_inside.py", program).status == 204
    body = {"command": "python3", "args": ["/tmp/grpc_inside.py", str(PORT)], "env": {"PYTHONPATH": "/tmp/grpc"}}
    assert server.sandbox_call(sandbox, "POST", "/api/v1/processes", body).status == 201
    listens = f"exec 3<>/dev/tcp/127.0.0.1/{PORT}"
    until(lambda: server.run(sandbox, f"bash -c '{listens}'").status == 0, timeout=60, what="the gRPC server inside")


def library() -> bytes:
    """What `import grpc` reads, found without an import: the library does not like forks beside it."""
    package, module = (importlib.util.find_spec(name).origin for name in ("grpc", "typing_extensions"))
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.add(pathlib.Path(package).parent, "grpc", filter=lambda item: None if "__pycache__" in item.name else item)
        tar.add(module, "typing_extensions.py")
    return packed.getvalue()


def check(server, sandbox):
    """Every kind of call, its trailers and its errors."""
    address = server.ingress.split("//")[1]
    authority = f"{PORT}-{sandbox}.localhost:{address.rpartition(':')[2]}"
    arguments = [address, authority, server.key] + ([str(server.data / "ca.pem")] if server.context else [])
    program = [os.environ["TARN_PY_NEW"], str(HERE / "grpc_client.py"), *arguments]
    run = subprocess.run(program, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout.splitlines()[-1]) == {
        "unary": "once",
        "big": True,
        "repeat": ["n0", "n1", "n2", "n3", "n4"],
        "join": ["abc", "3"],
        "echo": ["0", "1", "2", "3", "4", "OK"],
        "refuse": {
            "code": "FAILED_PRECONDITION",
            "details": "no way – today",
            "seen": "yes",
            "trailers": {"x-reason": "closed", "x-raw-bin": [0, 1, 255]},
        },
        "unknown": "UNIMPLEMENTED",
        "keyless": "UNAUTHENTICATED",
    }
