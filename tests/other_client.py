"""A client that is not ours: it signs by WIRE §1 with the standard library, over raw sockets."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
from dataclasses import dataclass, field
from email.utils import formatdate
from urllib.parse import urlsplit

VMS = "/v2/virtual-machines"
POZNAN = "24e12e20-0851-5354-e2c3-04b16c4c9c45"
NEW = {
    "cpus": 1,
    "ram": 512,
    "compute_zone_id": POZNAN,
    "name": "web-01",
    "boot_type": "image",
    "os": "2268",
}


@dataclass
class Sent:
    """A request of another client.

    Attributes:
        zone: The name of the time zone of its date, and the hours that it is before GMT.
        content_type: As sent.
        signs_port: Whether the port is part of the signed host.
    """

    method: str
    path: str
    body: bytes = b""
    zone: tuple[str, float] = ("GMT", 0)
    content_type: str = "application/json"
    signs_port: bool = True
    headers: dict[str, str] = field(default_factory=dict)

    def encode(self, emulator, *, old=0, secret=None):
        """Return its bytes, signed `old` seconds ago."""
        host = urlsplit(emulator.url).netloc
        name, hours = self.zone
        date = formatdate(time.time() - old + hours * 3600, usegmt=True).replace("GMT", name)
        signed = host if self.signs_port else host.partition(":")[0]
        text = "\n".join([self.method, signed, date, self.path, ""]).encode() + self.body
        digest = hmac.new((secret or emulator.api_secret).encode(), text, hashlib.sha256).digest()
        headers = {
            "Host": host,
            "Content-Type": self.content_type,
            "X-Date": date,
            "Authorization": f"{emulator.api_key}:{base64.b64encode(digest).decode()}",
            "Connection": "close",
            **({"Content-Length": str(len(self.body))} if self.body else {}),
            **self.headers,
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"{self.method} {self.path} HTTP/1.1\r\n{lines}\r\n".encode() + self.body


def to_json(content):
    return json.dumps(content).encode()


async def exchange(emulator, data):
    """Send bytes; return the status and the content of the response."""
    reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(emulator.url).port)
    writer.write(data)
    async with asyncio.timeout(60):
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    return int(head.split(b" ")[1]), json.loads(body)
