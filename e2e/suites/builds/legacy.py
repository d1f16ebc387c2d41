"""A build of the legacy family by one Python SDK, in its own interpreter: legacy.py build|import SOURCE NAME.

Prints what became of it as one line of JSON.
"""

import inspect
import json
import sys

from tensorlake.image import sandbox_builder

verb, source, name = sys.argv[1:]
call = sandbox_builder.build_sandbox_image if verb == "build" else sandbox_builder.import_sandbox_image
options = {"cpus": 0.5, "memory_mb": 512, "disk_mb": 1024, "builder_disk_mb": 1024}
# 0.5.113 knows no other family, and finds the docker configuration itself.
new = {"cas": False, "docker_config_json": "{}"}
options |= {name: value for name, value in new.items() if name in inspect.signature(call).parameters}
events = []
try:
    image = call(source, registered_name=name, emit=events.append, **options)
    said = {"image": image}
except sandbox_builder.SandboxImageBuildError as failed:
    said = {"error": str(failed)}
lines = [event.get("message", "") for event in events if event["type"] == "build_log"]
print(json.dumps({**said, "lines": lines}))
