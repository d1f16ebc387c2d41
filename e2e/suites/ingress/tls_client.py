"""What a program with the Python SDK does, over https. Prints one JSON object that the test reads."""

import json
import os
import threading

from tensorlake.sandbox import Sandbox

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
    shown, done = b"", threading.Event()

    def on_data(data):
        global shown
        shown += data
        if b"a42" in shown:
            done.set()

    pty = box.create_pty("sh", ["-c", "read line; echo a$((40+2)); read line; exit 7"], on_data=on_data)
    pty.send_input("\n")
    done.wait(60)
    pty.send_input("\n")
    seen["pty"] = [pty.wait(timeout=60), b"a42" in shown]
finally:
    box.terminate()
print(json.dumps(seen))
