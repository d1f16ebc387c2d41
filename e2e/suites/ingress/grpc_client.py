"""Calls grpc_inside.py through the ingress: grpc_client.py ADDRESS AUTHORITY KEY [CA]. Prints what came of it as JSON."""

import json
import pathlib
import queue
import sys

import grpc

TIMEOUT = 60


def main(address, authority, key, ca=None):
    options = [("grpc.default_authority", authority)]
    if ca is None:
        channel = grpc.insecure_channel(address, options)
    else:
        options.append(("grpc.ssl_target_name_override", authority.partition(":")[0]))
        trusted = grpc.ssl_channel_credentials(pathlib.Path(ca).read_bytes())
        channel = grpc.secure_channel(address, trusted, options)
    told = {"metadata": [("authorization", f"Bearer {key}"), ("x-asked", "yes")], "timeout": TIMEOUT}
    with channel:
        joined, call = channel.stream_unary("/test.Test/Join").with_call(iter([b"a", b"b", b"c"]), **told)
        big = bytes(range(256)) * 8192
        found = {
            "unary": channel.unary_unary("/test.Test/Unary")(b"once", **told).decode(),
            "big": channel.unary_unary("/test.Test/Unary")(big, **told) == big,
            "repeat": [message.decode() for message in channel.unary_stream("/test.Test/Repeat")(b"n", **told)],
            "join": [joined.decode(), dict(call.trailing_metadata()).get("x-count")],
            "echo": echo(channel, told),
            "refuse": failure(channel, "Refuse", told),
            "unknown": failure(channel, "Unknown", told)["code"],
            "keyless": failure(channel, "Unary", {"timeout": TIMEOUT})["code"],
        }
    print(json.dumps(found))


def echo(channel, told):
    """Sends each message only after the one before has come back."""
    waiting = queue.Queue()
    answers = channel.stream_stream("/test.Test/Echo")(iter(waiting.get, None), **told)
    came = []
    for number in range(5):
        waiting.put(b"%d" % number)
        came.append(next(answers).decode())
    waiting.put(None)
    return came + [message.decode() for message in answers] + [answers.code().name]


def failure(channel, method, told):
    try:
        channel.unary_unary(f"/test.Test/{method}")(b"", **told)
    except grpc.RpcError as bad:
        trailers = {name: list(value) if isinstance(value, bytes) else value for name, value in bad.trailing_metadata() or ()}
        first = dict(bad.initial_metadata() or ()).get("x-seen")
        return {"code": bad.code().name, "details": bad.details(), "seen": first, "trailers": trailers}
    raise AssertionError(f"{method} was answered")


if __name__ == "__main__":
    main(*sys.argv[1:])
