"""A child that takes what it is told to take; started by tests of what stops it."""

import os
import resource
import sys

from node import photo_worker


def main() -> None:
    photo_worker.limit_this_process()
    match sys.stdin.read():
        case "nothing":
            sys.stdout.write("x" * 64)
        case "memory":
            bytearray(photo_worker.MEMORY_BYTES_MAX)
        case "processor":
            # The limit itself is half a minute; the kernel ends it the same way at one second.
            resource.setrlimit(resource.RLIMIT_CPU, (1, 1))
            while True:
                pass
        case "file":
            os.ftruncate(1, photo_worker.ANSWER_BYTES_MAX + 1)
        case "process":
            # A superuser's processes are not counted; anybody else's are refused.
            if os.getuid() == 0:
                sys.exit(1)
            os.fork()
        case "answer":
            sys.stdout.write("x" * 100)


main()
