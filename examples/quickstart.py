"""Create a VM, resize it while watching its state, and delete it.

Run it against the emulator::

    async-vmapi emulator --port 8024 --speed 5 > env.sh &
    sleep 2 && . ./env.sh
    python examples/quickstart.py
"""

import asyncio

from async_vmapi import Client, ImageBoot


async def main(client: Client) -> None:
    """Run the example, and print each step."""
    regions = await client.regions.list()
    zone = next(zone for region in regions for zone in region.zones if zone.available)
    template = (await client.templates.list())[0]

    task = await client.vms.create(
        name="quickstart",
        cpus=1,
        ram=1024,  # MB
        zone_id=zone.id,
        boot=ImageBoot(os=template.id),
    )
    print(f"accepted as {task.vm_id}, with {template.label} in {zone.label}")
    vm = await task  # waits until it is online
    print(f"{vm.label} is {vm.state}, {task.evidence}")

    task = await client.vms.resize(vm, cores=2, ram=2048, wait_for=1)  # minutes
    async for event in task.events():
        size = f"{event.vm.cores} cores, {event.vm.ram} MB" if event.vm else "gone"
        print(f"  {event.elapsed:5.1f} s: {event.state}, {size}")
    vm = task.result()
    print(f"{vm.label} has {vm.cores} cores, {task.evidence}")

    await (await client.vms.delete(vm))
    print(f"{vm.label} is gone")


async def run() -> None:
    """Run it with the endpoint and credentials from the environment."""
    async with Client.from_env() as client:
        await main(client)


if __name__ == "__main__":
    asyncio.run(run())
