"""An SSH server on this host that runs what it is asked for: ssh_server.py HOST_KEY USER_KEY.pub; prints its port."""

import asyncio
import contextlib
import os
import signal
import sys

import asyncssh


async def pump(source: asyncio.StreamReader, target: asyncssh.SSHWriter[bytes]) -> None:
    """Hand on what comes, up to its end."""
    while data := await source.read(1 << 16):
        target.write(data)


async def serve(process: asyncssh.SSHServerProcess) -> None:
    """Run a command; it ends with its connection."""
    child = await asyncio.create_subprocess_exec(
        "bash", "-c", process.command, start_new_session=True,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        # Not redirected by asyncssh: its end of a fast command may overtake the output, which closes the connection.
        await asyncio.gather(pump(child.stdout, process.stdout), pump(child.stderr, process.stderr))
        process.exit(await child.wait())
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)


async def main(host_key: str, user_key: str) -> None:
    acceptor = await asyncssh.listen(
        "127.0.0.1",
        0,
        server_host_keys=[host_key],
        process_factory=serve,
        authorized_client_keys=user_key,
        encoding=None,
    )
    print(acceptor.get_port(), flush=True)
    await acceptor.wait_closed()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
