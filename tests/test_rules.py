"""Rules about the code itself: one door to the world, and a checker that sees who goes round it."""

import pytest

from tests.support.syntax_rules import SHELL_EXEMPT, find_breaches, sources


def test_the_code_keeps_to_the_door() -> None:
    """No shell touches the world outside runtime.env, and no pure file touches it at all."""
    assert [str(breach) for path, source in sources() for breach in find_breaches(path, source)] == []


@pytest.mark.parametrize(
    "source",
    [
        "import time\n",
        "import time as t\n",
        "from time import monotonic\n",
        "import os\nos.urandom(8)\n",
        "from os import urandom\n",
        "import os.path\nos.path.exists('x')\n",
        "import random\n",
        "import secrets\n",
        "import asyncio\nasync def f() -> None:\n    await asyncio.sleep(1)\n",
        "from asyncio import sleep\n",
        "import asyncio as a\na.create_task(x)\n",
        "import asyncio\nasyncio.get_running_loop().run_in_executor(None, f)\n",
        "import asyncio\nasyncio.to_thread(f)\n",
        "from concurrent.futures import ThreadPoolExecutor\n",
        "import threading\n",
        "open('x')\n",
        "from pathlib import Path\nPath('x').read_text()\n",
        "from pathlib import Path\np = Path('x')\np.write_bytes(b'')\n",
        "import datetime\ndatetime.datetime.now()\n",
        "from datetime import datetime\ndatetime.now(tz)\n",
        "from datetime import datetime as d\nnow = d.utcnow\n",
        "import socket\n",
        "import aiohttp\naiohttp.ClientSession()\n",
        "from aiohttp import web\nweb.run_app(app)\n",
        "import uuid\n",
        "import subprocess\n",
        "def f():\n    import time\n",
    ],
)
@pytest.mark.parametrize("path", ["broker/x.py", "node/web/x.py", "runtime/sqlite.py", "audit/store.py"])
def test_a_planted_way_round_the_door_is_found(path: str, source: str) -> None:
    """Each forbidden name is found, under any alias, at any depth, in every shell."""
    assert find_breaches(path, source)


@pytest.mark.parametrize(
    "source",
    [
        "import asyncio\nasync def f() -> None:\n    await asyncio.gather()\n    asyncio.Event()\n",
        "import os\n\ndef f(p: os.PathLike[str]) -> str:\n    return os.path.join(os.fspath(p), 'x')\n",
        "import datetime\ndatetime.datetime.fromtimestamp(0, datetime.UTC)\n",
        "async def f(env) -> None:\n    await env.sleep(1)\n    env.files.mkdir('x')\n    env.random(8)\n",
        "from aiohttp import web\nweb.Application()\n",
        "time = 3\nopened = time\nsocket = opened\nsocket.close()\n",
        "import asyncio\n\ndef f(tasks: asyncio.TaskGroup) -> asyncio.Timeout:\n    return tasks\n",
    ],
)
def test_what_goes_through_the_door_is_left_alone(source: str) -> None:
    """The checker does not cry wolf at deterministic asyncio, path arithmetic or the environment itself."""
    assert find_breaches("node/x.py", source) == []


@pytest.mark.parametrize("path", ["keys/card.py", "protocol/wire.py", "audit/tree.py", "protocol/a/b.py"])
@pytest.mark.parametrize(
    "source",
    [
        "import asyncio\n",
        "import os\n",
        "from pathlib import Path\n",
        "import logging\n",
        "print('x')\n",
        "from time import time_ns\n",
        "import datetime\ndatetime.date.today()\n",
        "import aiohttp\n",
    ],
)
def test_a_planted_impurity_is_found(path: str, source: str) -> None:
    """A pure file that reaches for time, files, tasks or logs is found."""
    assert find_breaches(path, source)


def test_exempt_files_exist_and_need_their_exemption() -> None:
    """An exemption that nothing needs any more must go."""
    texts = dict(sources())
    for path in SHELL_EXEMPT:
        assert find_breaches("runtime/other.py", texts[path])


def test_files_outside_the_rules_are_not_judged() -> None:
    """demo/ supervises real processes and tests use the real world."""
    assert find_breaches("demo/x.py", "import subprocess, time\n") == []
