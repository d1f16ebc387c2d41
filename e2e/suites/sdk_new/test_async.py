"""The asynchronous SDK on the same server."""

import asyncio

import pytest
from tensorlake.sandbox import AsyncSandbox, RemoteAPIError


def test_main_path(server):
    async def main():
        box = await AsyncSandbox.create(api_url=server.api, api_key=server.key)
        async with box:
            result = await box.run("sh", args=["-c", "echo out; exit 2"])
            assert (result.stdout, result.exit_code) == ("out", 2)
            await box.write_file("/tmp/a b", b"x" * 100_000)
            assert len((await box.read_file("/tmp/a b")).value) == 100_000
            process = await box.start_process("sh", args=["-c", "echo 1; echo 2"])
            assert [e.line async for e in _iterate(await box.follow_stdout(process.pid))] == ["1", "2"]
            assert (await box.info()).sandbox_id == box.sandbox_id
            with pytest.raises(RemoteAPIError):
                await box.read_file("/no/such")
        return box.sandbox_id

    assert server.info(asyncio.run(main()))["status"] == "terminated"


async def _iterate(events):
    if hasattr(events, "__aiter__"):
        async for event in events:
            yield event
    else:
        for event in events:
            yield event


def test_many_runs_at_once_on_one_handle(server):
    async def main():
        async with await AsyncSandbox.create(api_url=server.api, api_key=server.key) as box:
            results = await asyncio.gather(*(box.run("echo", args=[str(n)]) for n in range(20)))
            assert [r.stdout for r in results] == [str(n) for n in range(20)]

    asyncio.run(main())
