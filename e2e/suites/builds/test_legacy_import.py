"""An import through the legacy family, from a real registry."""

import contextlib

from harness.image import Image, busybox
from harness.registry import Registry
from suites.builds.test_legacy import FULL, SHAPE, build

SERVER = {"config": {"images": {"pull": True, "internal": ["127.0.0.1"]}}}


@FULL
def test_import(server):
    with contextlib.closing(Registry()) as registry:
        pushed = registry.push(Image(busybox(), config={"Env": ["PATH=/bin", "FROM=the registry"]}), "team/app:1")
        built = build(server, "new", "import", pushed, "imported-legacy")
    assert "image" in built, built
    box = server.create(image="imported-legacy", resources=SHAPE)
    assert server.run(box, "echo $FROM").out == "the registry"
