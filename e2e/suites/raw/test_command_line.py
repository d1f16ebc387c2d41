"""The command line as a part of pipelines."""

import os
import subprocess

import pytest
from harness import env


@pytest.mark.parametrize("words", ["openapi", "sandbox list", "doctor"])
def test_an_output_that_nobody_reads_is_no_error(server, words):
    read, write = os.pipe()
    os.close(read)
    variables = dict(os.environ, TARN_DATA_DIR=str(server.data), TARN_ASSETS_DIR=env.ASSETS)
    done = subprocess.run(
        [env.TARN, *words.split()], env=variables, stdout=write, stderr=subprocess.PIPE, text=True, timeout=60
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, ""), done
