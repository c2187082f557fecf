"""Drives Ferry with QEMU's own QMP client: boot, stop, cont, migrate, cancel, and the events on the way.

Called by tests/tests/qmp.rs with the ferry binary and a directory to work in. Ends with status 0 when every step went as an
existing client of QEMU would expect it.
"""

import asyncio
import contextlib
import pathlib
import re
import subprocess
import sys

from qemu.qmp import ConnectError, EventListener, ExecuteError, QMPClient

TIMEOUT = 30
EVENTS = ["STOP", "RESUME", "MIGRATION", "MIGRATION_PASS", "SHUTDOWN", "RESET"]


class Machine:
    """A ferry process with a connected client and a listener for its events."""

    def __init__(self, binary, directory, name, *options):
        self.name = name
        self.socket = directory / f"{name}.qmp"
        self.stderr = directory / f"{name}.stderr"
        command = [binary, "run", "--name", "guest", "--memory", "64M", "--qmp", f"unix:{self.socket}"]
        command += ["--serial", f"file:{directory / name}.serial", "--cmdline", "ferry.report=100", *options]
        with self.stderr.open("wb") as stderr:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=stderr)
        self.client = None
        self.listener = EventListener(EVENTS)

    async def connect(self):
        deadline = asyncio.get_running_loop().time() + TIMEOUT
        while True:
            self.client = QMPClient(self.name)
            try:
                await self.client.connect(str(self.socket))
                break
            except ConnectError:
                if self.process.poll() is not None or asyncio.get_running_loop().time() > deadline:
                    raise RuntimeError(f"{self.name} does not answer: {self.stderr.read_text()}") from None
                await asyncio.sleep(0.01)
        self.client.register_listener(self.listener)
        await self.execute("migrate-set-capabilities", {"capabilities": [{"capability": "events", "state": True}]})

    async def execute(self, command, arguments=None):
        return await asyncio.wait_for(self.client.execute(command, arguments), TIMEOUT)

    async def refused(self, command, arguments=None):
        try:
            answer = await self.execute(command, arguments)
        except ExecuteError as error:
            return str(error)
        raise AssertionError(f"{command} was to be refused, and returned {answer}")

    async def event(self, name, status=None):
        """The next event of this name (and status); those before it are returned with it."""
        seen = []
        while True:
            event = await asyncio.wait_for(self.listener.get(), TIMEOUT)
            seen.append(event)
            if event["event"] == name and (status is None or event["data"]["status"] == status):
                return seen

    async def listening(self):
        deadline = asyncio.get_running_loop().time() + TIMEOUT
        while asyncio.get_running_loop().time() < deadline:
            found = re.search(r"listening on (\S+)", self.stderr.read_text())
            if found:
                return found.group(1)
            await asyncio.sleep(0.01)
        raise RuntimeError(f"{self.name} does not say where it listens")

    async def close(self):
        if self.client is not None:
            # A process that has quit has closed the connection.
            with contextlib.suppress(Exception):
                await self.client.disconnect()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def statuses(events):
    return [event["data"]["status"] for event in events if event["event"] == "MIGRATION"]


async def story(source, first, second):
    assert (await source.execute("query-status"))["status"] == "running"
    await source.execute("stop")
    await source.event("STOP")
    assert (await source.execute("query-status"))["running"] is False
    await source.execute("cont")
    await source.event("RESUME")

    refusal = await source.refused("migrate", {"uri": "nowhere"})
    assert "tcp:HOST:PORT" in refusal, refusal

    # A migration that is cancelled leaves the guest running.
    await source.execute("migrate-set-parameters", {"max-bandwidth": 1 << 20})
    await source.execute("migrate", {"uri": await first.listening()})
    await source.event("MIGRATION", "active")
    assert (await source.execute("query-migrate"))["status"] == "active"
    await source.execute("migrate_cancel")
    seen = await source.event("MIGRATION", "cancelled")
    assert statuses(seen)[-2:] == ["cancelling", "cancelled"], seen
    assert (await source.execute("query-status"))["status"] == "running"

    # A migration that is not.
    await source.execute("migrate-set-parameters", {"max-bandwidth": 0})
    await source.execute("migrate", {"uri": await second.listening()})
    seen = await source.event("MIGRATION", "completed")
    assert statuses(seen) == ["setup", "active", "device", "completed"], seen
    assert any(event["event"] == "MIGRATION_PASS" and event["data"]["pass"] == 1 for event in seen), seen
    info = await source.execute("query-migrate")
    assert info["status"] == "completed" and info["ram"]["remaining"] == 0, info
    assert info["downtime"] >= 0 and info["total-time"] >= info["downtime"], info
    assert (await source.execute("query-status"))["status"] == "postmigrate"
    await second.event("RESUME")
    assert (await second.execute("query-status"))["status"] == "running"

    await source.execute("quit")
    assert source.process.wait(TIMEOUT) == 0
    await second.execute("quit")
    assert second.process.wait(TIMEOUT) == 0
    assert first.process.wait(TIMEOUT) == 1, "a destination whose migration was cancelled ends with an error"


async def main(binary, directory):
    load = ["--cpus", "1"]
    wait = [*load, "--incoming", "tcp:127.0.0.1:0"]
    machines = [Machine(binary, directory, name, *options)
                for name, options in (("source", load), ("first", wait), ("second", wait))]
    try:
        for machine in machines:
            await machine.connect()
        await story(*machines)
    finally:
        for machine in machines:
            await machine.close()
    print("all steps done")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], pathlib.Path(sys.argv[2])))
