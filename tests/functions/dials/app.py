"""Connects to where its event says, and tells how each attempt went."""

import errno
import socket


def dial(host, port, seconds):
    """The first words of who answers, or the name of the error."""
    try:
        with socket.create_connection((host, port), timeout=seconds) as connection:
            return connection.recv(7).decode()
    except TimeoutError:
        return "silence"
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))


def handler(event, context):
    return [dial(host, port, event["seconds"]) for host, port in event["to"]]
