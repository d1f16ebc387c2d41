"""Counts inside a sandbox, and remembers the longest time it stood still. The state is one line of
fixed width, overwritten in place, so that a reader always sees a whole one."""

import os
import sys
import time

out = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY, 0o644)
last, gap, count = time.monotonic(), 0.0, 0
while True:
    time.sleep(0.02)
    now = time.monotonic()
    gap, last, count = max(gap, now - last), now, count + 1
    os.pwrite(out, b"%012d %012.3f" % (count, gap), 0)
