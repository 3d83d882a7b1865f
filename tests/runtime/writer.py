"""A process that writes numbers into a database and says which are acknowledged, to be killed or starved.

``python -m tests.runtime.writer DIRECTORY [FILE_BYTES_MAX]`` prints each number once its call returned.
"""

import resource
import sys

from keys.secret import SecretBytes
from runtime import exits
from runtime.env import Env, run_real
from runtime.sqlite import Migration, Transaction, open_database

KEY = bytes(range(32))
TABLES = Migration(
    component="writer",
    number=1,
    name="numbers",
    sql="CREATE TABLE numbers (number INTEGER PRIMARY KEY, filler BLOB NOT NULL) STRICT;",
)
FILLER_BYTES = 700
WRITERS = 4


async def write_for_ever(env: Env, directory: str) -> int:
    """Several writers at once, so that commits are shared; returns only when the database fails."""
    db = await open_database(env, f"{directory}/writer.db", SecretBytes(KEY), [TABLES])
    start = await db.read(lambda s: int(s.value("SELECT coalesce(max(number), 0) FROM numbers")))

    async def write(offset: int) -> None:
        number = start + offset
        while True:

            def insert(tx: Transaction, number: int = number) -> None:
                tx.execute("INSERT INTO numbers VALUES (?, ?)", (number, bytes(FILLER_BYTES)))

            await db.transact(insert)
            env.process.stdout_line(str(number))
            number += WRITERS

    try:
        async with env.task_group() as tasks:
            for offset in range(1, WRITERS + 1):
                tasks.create_task(write(offset))
    except ExceptionGroup as group:
        env.process.stderr_line(str(db.failure))
        return exits.exit_code_for(group)
    finally:
        await db.close()
    return exits.DONE


async def acknowledged(env: Env, directory: str) -> set[int]:
    """Every number in the database."""
    db = await open_database(env, f"{directory}/writer.db", SecretBytes(KEY), [TABLES], create=False)
    try:
        return await db.read(lambda s: {row[0] for row in s.execute("SELECT number FROM numbers")})
    finally:
        await db.close()


if __name__ == "__main__":
    if len(sys.argv) > 2:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
    sys.exit(run_real(lambda env: write_for_ever(env, sys.argv[1])))
