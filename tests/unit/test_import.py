"""What `import resilient_ws` leaves alone, so that a program pays only for what it uses.

How long it takes: `python -m benchmarks import`.
"""

import json
import subprocess
import sys

import pytest

CODE = """
import json, sys
import resilient_ws
import attrs
loaded = set(sys.modules)
kinds = {
    thing
    for name, module in sys.modules.items() if name.startswith("resilient_ws")
    for thing in vars(module).values() if isinstance(thing, type) and attrs.has(thing)
}
generated = sorted(kind.__qualname__ for kind in kinds if "__eq__" in vars(kind))
print(json.dumps({"loaded": sorted(loaded), "generated": generated, "kinds": len(kinds)}))
"""


@pytest.fixture(scope="module")
def told():
    ran = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    return json.loads(ran.stdout)


@pytest.mark.parametrize(
    "name",
    [
        "aiohttp",  # the first client loads its transport
        "picows",
        "pytest",
        "resilient_ws.delivery.durable.commits",  # only with `Outbox(path=...)`
        "resilient_ws.delivery.durable.sqlite",
        "resilient_ws.delivery.durable.store",
        "resilient_ws.testing",
        "resilient_ws.transports.aiohttp.transport",
        "resilient_ws.transports.picows.transport",
        "sqlite3",
        "tenacity",  # only with `ReconnectPolicy(wait=..., stop=...)`
        "uvloop",
    ],
)
def test_what_a_program_may_never_use_is_not_loaded(told, name):
    assert "resilient_ws.client" in told["loaded"]
    assert [loaded for loaded in told["loaded"] if loaded == name or loaded.startswith(f"{name}.")] == []


def test_no_class_has_methods_of_its_own_compiled_that_record_has(told):
    assert told["kinds"] > 20
    assert told["generated"] == ["Record"]
