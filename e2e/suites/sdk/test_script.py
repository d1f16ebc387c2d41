"""The script of the README, as a new user runs it: two variables, one file, nothing else."""

import subprocess
import sys

from harness import env

SCRIPT = """
from tensorlake.sandbox import Sandbox
with Sandbox.create() as s:
    print(s.run("sh", args=["-c", "id; hostname; cat /etc/os-release; python3 -V"]).stdout)
    s.write_file("/tmp/a b.txt", b"x" * 1_000_000)
    print(len(s.read_file("/tmp/a b.txt").value), [e.name for e in s.list_directory("/tmp").entries])
    print(s.sandbox_id)
"""


def test_the_script_works_first_time(server):
    variables = {"TENSORLAKE_API_URL": server.api, "TENSORLAKE_API_KEY": server.key, "PATH": "/usr/bin:/bin"}
    run = subprocess.run([sys.executable, "-c", SCRIPT], env=variables, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    assert "uid=1000(tl-user)" in run.stdout
    assert "\ntl-sbx\n" in run.stdout
    assert "Python 3." in run.stdout
    assert "1000000 " in run.stdout and "'a b.txt'" in run.stdout
    assert server.info(run.stdout.split()[-1])["status"] == "terminated"


def test_the_stock_image_is_what_it_says(box):
    script = "; ".join(
        [
            "set -e",
            "test $(id -un) = tl-user && test $HOME = /home/tl-user && test $(pwd) = /home/tl-user",
            "test $(sudo -n id -u) = 0",
            "for p in bash python3 pip3 curl git less ps; do command -v $p >/dev/null || echo no $p",
            "done",
            "stat -c %U /workspace | grep -qx tl-user",
            "stat -c %a /tmp | grep -qx 1777",
            "test -d /dev/shm && test $LANG = C.UTF-8 && date +%Z | grep -qx UTC",
            "grep -q tl-sbx /etc/hosts && grep -q '^nameserver 169.254.77.1$' /etc/resolv.conf",
            "python3 -c 'import sqlite3, venv, ssl'",
            "test ! -e /etc/apt/apt.conf.d/*proxy* && test -z \"$http_proxy$https_proxy$PIP_INDEX_URL\"",
        ]
    )
    result = box.run("sh", args=["-c", script])
    assert (result.exit_code, result.stdout) == (0, ""), result.stderr


def test_every_name_of_the_stock_image_boots_it(sdk):
    for image in ("tensorlake/ubuntu-minimal", "tensorlake/debian-minimal"):
        assert sdk.create(image=image).run("id", args=["-un"]).stdout == "tl-user"


def test_the_assets_under_test_are_the_given_ones(box, server):
    assert env.ASSETS and server.command("--version").stdout.startswith("tarn ")
    assert box.daemon_info().version
