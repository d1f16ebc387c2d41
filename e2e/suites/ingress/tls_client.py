"""What a program with the Python SDK does, over https. Prints one JSON object that the test reads."""

import json
import os
import threading

from tensorlake.sandbox import Sandbox, SandboxError

# Python's `ssl` may say that a connection has ended when one thread reads it while another writes, as
# the SDK's terminals do (https://github.com/python/cpython/issues/143756): now and then, on a
# busy machine, whoever serves it. It is no answer of the server's.
ATTEMPTS = 5
CUT_BY_CLIENT = ("socket is already closed", "Connection to remote host was lost", "EOF occurred", "PTY is not connected")


def terminal(box):
    """The exit code of a shell on a terminal, and whether it showed what it was to."""
    shown, done = bytearray(), threading.Event()

    def on_data(data):
        shown.extend(data)
        if b"a42" in shown:
            done.set()

    pty = box.create_pty("sh", ["-c", "read line; echo a$((40+2)); read line; exit 7"], on_data=on_data)
    pty.send_input("\n")
    while not done.wait(0.2):
        if not pty.connected:
            pty.wait(timeout=5)
    pty.send_input("\n")
    return [pty.wait(timeout=60), done.is_set()]


where = {"api_url": os.environ["TENSORLAKE_API_URL"], "api_key": os.environ["TENSORLAKE_API_KEY"]}
seen = {}
box = Sandbox.create(timeout_secs=300, **where)
try:
    ran = box.run("sh", args=["-c", "echo hello; exit 3"])
    seen["run"] = [ran.exit_code, ran.stdout.strip()]
    content = bytes(range(256)) * 4096
    box.write_file("/tmp/a file", content)
    back = box.read_file("/tmp/a file")
    seen["file"] = bytes(getattr(back, "value", back)) == content
    for attempt in range(ATTEMPTS):
        try:
            seen["pty"] = terminal(box)
            break
        except SandboxError as broken:
            if attempt == ATTEMPTS - 1 or not any(words in str(broken) for words in CUT_BY_CLIENT):
                raise
finally:
    box.terminate()
print(json.dumps(seen))
