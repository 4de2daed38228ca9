"""An S3 server in this process, for tests of directories at URLs."""

from __future__ import annotations

import logging
import os
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from storage import write_json
from storage.remote import Mirror, Policy
from storage.sources import register

BUCKET = "runs"


@contextmanager
def s3_server() -> Iterator[str]:
    """The URL of an empty bucket, which this process reaches by its environment, as any program does."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_REGION": "us-east-1",
    }
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        request = urllib.request.Request(f"{settings['AWS_ENDPOINT_URL']}/{BUCKET}", method="PUT")
        with urllib.request.urlopen(request):
            pass
        yield f"s3://{BUCKET}"
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
        server.stop()


def opened(url: str, home: Path, policy: Policy) -> Mirror:
    """A machine's copy of a directory at a URL, opened anew."""
    mirror = Mirror(url, home, policy)
    register(mirror.directory, mirror)
    return mirror


def put(mirror: Mirror, name: str, value: object) -> Path:
    """Write a document into a copy, as any part of fut does."""
    path = mirror.directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, value)
    return path
