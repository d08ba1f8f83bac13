#!/usr/bin/python3.13
"""An external extension: prints every event that it is given, and ends with its sandbox."""

import http.client
import json
import os


def call(method, path, headers, body=None):
    connection = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
    connection.request(method, f"/2020-01-01/extension/{path}", body, headers)
    response = connection.getresponse()
    return response.headers, json.loads(response.read())


name = os.path.basename(__file__)
wanted = json.dumps({"events": ["INVOKE", "SHUTDOWN"]})
headers, about = call("POST", "register", {"Lambda-Extension-Name": name}, wanted)
identity = {"Lambda-Extension-Identifier": headers["Lambda-Extension-Identifier"]}
event = {}
while event.get("eventType") != "SHUTDOWN":
    _, event = call("GET", "event/next", identity)
    print(name, "of", about["functionName"], "is told", event["eventType"], event.get("requestId", ""), flush=True)
