"""Calls of one SDK's image functions, in its own interpreter: family.py '[["find", "name"], ["list"], …]'.

Prints the answers as one line of JSON.
"""

import json
import sys

from tensorlake.image import sandbox_builder

CALLS = {
    "find": sandbox_builder.find_sandbox_image_by_name,
    "delete": sandbox_builder.delete_sandbox_image,
    "list": sandbox_builder.list_sandbox_images,
}
print(json.dumps([CALLS[verb](*arguments) for verb, *arguments in json.loads(sys.argv[1])]))
