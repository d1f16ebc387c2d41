"""A terminated sandbox moves to the archive after a while, and is found there alone."""

import pytest
from harness.wait import until
from tensorlake.sandbox import SandboxNotFoundError

SERVER = {"config": {"retention": {"archive_after_secs": 1}}}


def test_from_the_list_to_the_archive(sdk):
    made = sdk.create()
    made.terminate()
    archived = lambda: [s for s in sdk.client.list_archived().sandboxes if s.sandbox_id == made.sandbox_id]  # noqa: E731
    found = until(archived, timeout=15, what="its place in the archive")[0]
    assert found.archived_at >= found.terminated_at
    with pytest.raises(SandboxNotFoundError):
        sdk.client.get(made.sandbox_id)
    assert sdk.client.get_archived(made.sandbox_id).outcome == "Success(UserTerminated)"
    assert made.sandbox_id not in [s.sandbox_id for s in sdk.list()]
