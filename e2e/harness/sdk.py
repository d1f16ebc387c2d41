"""The official Python SDK, pointed at a test's server. Works with 0.5.113 and 0.5.163."""

from importlib.metadata import version

from tensorlake.sandbox import Sandbox, SandboxClient

VERSION = version("tensorlake")
IS_NEW = VERSION == "0.5.163"


class Sdk:
    """Creates sandboxes and remembers them, so that none outlives its test."""

    def __init__(self, server) -> None:
        self.server = server
        self.where = {"api_url": server.api, "api_key": server.key}
        self.client = SandboxClient(**self.where, _internal=True)
        self._made: list[str] = []

    def create(self, **options) -> Sandbox:
        """`Sandbox.create`"""
        made = Sandbox.create(**self.where, **options)
        self._made.append(made.sandbox_id)
        return made

    def connect(self, sandbox: str) -> Sandbox:
        """`Sandbox.connect`"""
        return Sandbox.connect(sandbox, **self.where)

    def list(self) -> list:
        """`Sandbox.list`"""
        if hasattr(Sandbox, "list"):
            return list(Sandbox.list(**self.where))
        return list(self.client.list())

    def close(self) -> None:
        """Terminates what is left; a terminated id may be deleted again (spec 01 §5)."""
        for sandbox in self._made:
            self.server.call("DELETE", f"/sandboxes/{sandbox}")
        self.client.close()


def value(traced):
    """The result inside a traced answer, which has no length or truth of its own."""
    return getattr(traced, "value", traced)
