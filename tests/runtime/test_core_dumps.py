"""A crash leaves no keys behind."""

import subprocess
import sys


def test_a_process_of_ours_leaves_no_core_file() -> None:
    """Both limits are zero once a command has begun, whatever they were before."""
    program = (
        "import resource\n"
        "from runtime.env import run_real\n"
        "async def entry(env): return resource.getrlimit(resource.RLIMIT_CORE)\n"
        "print(run_real(entry))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(0, 0)"
