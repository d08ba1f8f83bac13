"""boto3 on behalf of tests/it: one JSON request a line on standard input, one JSON answer a line on standard output.

A request is {"id", "client", "operation", "args"}, {"id", "client", "waiter", "args"}, {"id", "client", "paginator",
"args"} or {"id", "client", "url", "args"}; requests run concurrently and
are answered as they end. In arguments {"__bytes__": base64} stands for bytes and {"__zip__": [entry, ...]} for the
bytes of a zip archive; an answer's bytes come back as {"__bytes__": base64}, its events with the time at which each came.
"""

import argparse
import base64
import concurrent.futures
import datetime
import http.client
import io
import json
import stat
import sys
import threading
import time
import urllib.parse
import warnings
import zipfile

import boto3
import botocore
import botocore.auth
import botocore.awsrequest
import botocore.client
import botocore.credentials
import botocore.eventstream
import botocore.exceptions

# More calls at once than any test makes, so that a burst of calls really is one.
WORKERS = 320

clients = {}
clients_lock = threading.Lock()
output_lock = threading.Lock()


def client(settings):
    """The boto3 client with these settings; clients are shared because making one takes half a second."""
    key = json.dumps(settings, sort_keys=True)
    with clients_lock:
        if key not in clients:
            config = botocore.client.Config(
                connect_timeout=settings["timeout_s"],
                read_timeout=settings["timeout_s"],
                retries={"total_max_attempts": 1},
                max_pool_connections=WORKERS,
                signature_version=botocore.UNSIGNED if settings["unsigned"] else None,
                # Wrong arguments shall reach the node: its answers are what is tested.
                parameter_validation=False,
            )
            clients[key] = boto3.session.Session().client(
                settings["service"],
                endpoint_url=settings["endpoint"],
                region_name=settings["region"],
                aws_access_key_id=settings["access_key_id"],
                aws_secret_access_key=settings["secret_access_key"],
                verify=settings["ca"],
                config=config,
            )
        return clients[key]


def make_zip(entries):
    """A zip archive with exactly these entries, whatever their names: zipfile refuses nothing when it writes."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # duplicate names are the point of one test
        for entry in entries:
            info = zipfile.ZipInfo(entry["name"], date_time=(2024, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = entry.get("mode", stat.S_IFREG | 0o644) << 16
            if "file" in entry:
                with open(entry["file"], "rb") as source:
                    data = source.read()
            elif "zeros" in entry:
                data = bytes(entry["zeros"])
            else:
                data = entry["text"].encode()
            out.writestr(info, data)
    return archive.getvalue()


def decode(value):
    """JSON to boto3's arguments."""
    if isinstance(value, dict):
        if "__bytes__" in value:
            return base64.b64decode(value["__bytes__"])
        if "__zip__" in value:
            return make_zip(value["__zip__"])
        return {name: decode(each) for name, each in value.items()}
    if isinstance(value, list):
        return [decode(each) for each in value]
    return value


def encode(value):
    """boto3's answer to JSON."""
    if isinstance(value, dict):
        return {name: encode(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [encode(each) for each in value]
    if isinstance(value, datetime.datetime):
        return value.isoformat()
    if isinstance(value, (bytes, bytearray)):
        return {"__bytes__": base64.b64encode(value).decode()}
    if isinstance(value, botocore.eventstream.EventStream):
        return [{**encode(event), "at_s": time.monotonic()} for event in value]
    if hasattr(value, "read"):
        return encode(value.read())
    return value


def fetch(url, settings, method, body=b"", headers=()):
    """What a function's URL answers at the node that the settings name, whatever the URL's host resolves to here."""
    request = botocore.awsrequest.AWSRequest(method=method, url=url, data=body, headers=dict(headers))
    if not settings["unsigned"]:
        key = botocore.credentials.Credentials(settings["access_key_id"], settings["secret_access_key"])
        botocore.auth.SigV4Auth(key, "lambda", settings["region"]).add_auth(request)
    parts, node = urllib.parse.urlsplit(url), urllib.parse.urlsplit(settings["endpoint"])
    connection = http.client.HTTPConnection(node.hostname, node.port, timeout=settings["timeout_s"])
    try:
        target = urllib.parse.urlunsplit(("", "", parts.path, parts.query, ""))
        connection.request(method, target, body, {**dict(request.headers.items()), "Host": parts.netloc})
        answered = connection.getresponse()
        names = {name.lower(): value for name, value in answered.getheaders()}
        return {"status": answered.status, "headers": names, "body": encode(answered.read())}
    finally:
        connection.close()


def answer(request):
    try:
        if "url" in request:
            return {"ok": fetch(request["url"], request["client"], **decode(request["args"]))}
        made = client(request["client"])
        args = decode(request["args"])
        if "paginator" in request:
            return {"ok": encode(made.get_paginator(request["paginator"]).paginate(**args).build_full_result())}
        if "waiter" in request:
            made.get_waiter(request["waiter"]).wait(WaiterConfig={"Delay": 1, "MaxAttempts": 300}, **args)
            return {"ok": None}
        return {"ok": encode(getattr(made, request["operation"])(**args))}
    except botocore.exceptions.ClientError as error:
        return {"error": {
            "code": error.response["Error"].get("Code", ""),
            "message": error.response["Error"].get("Message", ""),
            "status": error.response["ResponseMetadata"]["HTTPStatusCode"],
            "response": encode(error.response),
        }}
    except Exception as error:  # whatever it is, the test that asked shall see it
        return {"error": {"code": type(error).__name__, "message": str(error), "status": 0, "response": None}}


def serve(line):
    request = json.loads(line)
    text = json.dumps({"id": request["id"], **answer(request)})
    with output_lock:
        print(text, flush=True)


def skew_clock(seconds):
    """Signs as if it were `seconds` later."""
    real = botocore.auth.get_current_datetime
    botocore.auth.get_current_datetime = lambda *a, **k: real(*a, **k) + datetime.timedelta(seconds=seconds)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--skew-clock-s", type=int, default=0)
    options = parser.parse_args()
    if options.skew_clock_s:
        skew_clock(options.skew_clock_s)
    with concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
        for line in sys.stdin:
            pool.submit(serve, line)


main()
