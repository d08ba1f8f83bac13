"""Violates each constraint of AWS's service model in turn, for tests/it: every member of every operation that is named, at any depth.

    constraints.py ENDPOINT FUNCTION LAYER < operations

A line of standard input names an operation that the node serves; the function has an alias `live` and the layer a version 1. A line
of standard output is a violation that was not refused as one, or an operation whose violations changed something: tab-separated
where, and what came back. The last line counts what was tried.
"""

import io
import json
import re
import sys
import zipfile

import botocore.auth
import botocore.awsrequest
import botocore.credentials
import botocore.httpsession
import botocore.loaders
import botocore.model
import botocore.serialize

REGION = "us-east-1"
ACCOUNT = "000000000000"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/lambda-role"
# Longer than this a violation of a length says nothing that a shorter one does not.
LONGEST = 20_000
# What some pattern of the model refuses; none has a slash, which would be another path.
FOREIGN = ["!! no value ??", "a b", "é", "\n"]
# Of a function that is never made.
NEW = "never-made"
VALID = [
    "a", "1", "abc", "arn:aws:lambda:us-east-1:000000000000:function:f", ROLE, "o-abcdefghij", "lambda:InvokeFunction",
    "000000000000", "arn:aws:lambda:us-east-1:000000000000:layer:l:1", "0" * 36, "$LATEST", "/mnt/a",
    "arn:aws:lambda:us-east-1:000000000000:code-signing-config:csc-0123456789abcdef0",
    "arn:aws:elasticfilesystem:us-east-1:000000000000:access-point/fsap-0123456789abcdef0",
    "lambda:GetLayerVersion", "arn:aws:kms:us-east-1:000000000000:key/a",
    "arn:aws:lambda:us-east-1:000000000000:capacity-provider:abc",
]


class Model:
    def __init__(self, function, layer):
        data = botocore.loaders.create_loader().load_service_model("lambda", "service-2")
        self.service = botocore.model.ServiceModel(data, "lambda")
        self.function, self.layer = function, layer
        self.known = {"FunctionName": function, "LayerName": layer, "Role": ROLE, "Handler": "app.handler",
                      "Runtime": "python3.13", "Qualifier": "live", "VersionNumber": 1, "Name": "live",
                      "Resource": f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{function}",
                      "Arn": f"arn:aws:lambda:{REGION}:{ACCOUNT}:layer:{layer}:1", "Principal": "s3.amazonaws.com",
                      "Action": "lambda:InvokeFunction"}

    def begin(self, operation):
        """What values mean that are the same for all requests of an operation."""
        self.known["FunctionName"] = NEW if operation == "CreateFunction" else self.function

    def whole(self, operation):
        """What a request needs that the model does not require."""
        code = {"ZipFile": empty_zip()}
        return {
            "CreateFunction": {"Runtime": "python3.13", "Handler": "app.handler", "Code": code},
            "UpdateFunctionCode": code,
            "PublishLayerVersion": {"Content": code},
        }.get(operation, {})

    def valid(self, shape, name=""):
        """A value that keeps the shape's constraints."""
        if name in self.known:
            return self.known[name]
        kind = shape.type_name
        if kind == "structure":
            return {each: self.valid(shape.members[each], each) for each in shape.required_members}
        if kind == "list":
            return [self.valid(shape.member)] * max(1, shape.metadata.get("min", 1))
        if kind == "map":
            return {self.valid(shape.key): self.valid(shape.value)}
        if kind in ("integer", "long", "double", "float"):
            return max(1, shape.metadata.get("min", 1))
        if kind == "boolean":
            return True
        if kind == "blob":
            return b"{}"
        if shape.enum:
            return shape.enum[0]
        fitting = (each for each in VALID if keeps(shape, each))
        return next(fitting, "a" * max(1, shape.metadata.get("min", 1)))

    def violations(self, shape, name):
        """Of a shape and of what is in it: where, what of it, and the whole value."""
        kind, limits = shape.type_name, shape.metadata
        if kind == "structure":
            for member, inner in shape.members.items():
                for where, what, value in self.violations(inner, member):
                    rest = self.valid(shape)
                    yield f"{member}{where}", what, {**rest, member: value}
            return
        if kind == "list":
            for where, what, value in self.violations(shape.member, ""):
                yield f"[]{where}", what, [value]
            if limits.get("max", LONGEST) < 1000:
                yield "", "too many", [self.valid(shape.member, name)] * (limits["max"] + 1)
            if limits.get("min", 0) > 0:
                yield "", "too few", []
            return
        if kind == "map":
            for where, what, value in self.violations(shape.key, ""):
                yield f"{{key}}{where}", what, {value: self.valid(shape.value)}
            for where, what, value in self.violations(shape.value, ""):
                yield f"{{value}}{where}", what, {self.valid(shape.key): value}
            return
        location = shape.serialization.get("location")
        # Nothing is another path, and a line's end another header.
        impossible = {"uri": ("", "\n"), "header": ("\n", "é")}.get(location, ())
        for what, value in simple(shape):
            if value not in impossible:
                yield "", what, value


def empty_zip():
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as out:
        out.writestr("app.py", "def handler(event, context): return event")
    return archive.getvalue()


def matches(shape, text):
    """Whether it keeps the shape's pattern, as far as Python knows classes of characters."""
    pattern = shape.metadata.get("pattern", "").replace(r"\p{L}\p{Z}\p{N}", r"\w ")
    return not pattern or re.fullmatch(pattern, text, re.DOTALL) is not None


def keeps(shape, text):
    limits = shape.metadata
    return limits.get("min", 0) <= len(text) <= limits.get("max", LONGEST) and matches(shape, text)


def simple(shape):
    """Violations of a string or a number."""
    limits, kind = shape.metadata, shape.type_name
    if kind in ("integer", "long"):
        if "min" in limits:
            yield "too small", limits["min"] - 1
        if "max" in limits:
            yield "too large", limits["max"] + 1
    if kind != "string":
        return
    if shape.enum:
        yield "unknown", "NoSuchValue"
    yield from (("pattern", each) for each in FOREIGN if not matches(shape, each))
    if limits.get("min", 0) > 0:
        yield "too short", ""
    if limits.get("max", LONGEST) < LONGEST:
        yield "too long", "a" * (limits["max"] + 1)


class Node:
    def __init__(self, endpoint):
        self.endpoint = endpoint
        self.http = botocore.httpsession.URLLib3Session(timeout=300)
        self.key = botocore.credentials.Credentials("test", "test")
        self.serializer = botocore.serialize.create_serializer("rest-json", include_validation=False)

    def ask(self, operation, params):
        request = self.serializer.serialize_to_request(params, operation)
        request["context"] = {}
        botocore.awsrequest.prepare_request_dict(request, self.endpoint, user_agent="constraints")
        made = botocore.awsrequest.create_request_object(request)
        botocore.auth.SigV4Auth(self.key, "lambda", REGION).add_auth(made)
        return self.http.send(made.prepare())


    def state(self, model):
        """What an operation could have changed."""
        function, layer = {"FunctionName": model.function}, {"LayerName": model.layer}
        looks = [(f"{what}", function) for what in (
            "GetFunctionConfiguration", "ListVersionsByFunction", "ListAliases", "GetFunctionConcurrency", "GetPolicy",
            "ListFunctionEventInvokeConfigs", "ListFunctionUrlConfigs", "ListProvisionedConcurrencyConfigs")]
        looks += [("ListLayerVersions", layer), ("GetLayerVersionPolicy", {**layer, "VersionNumber": 1})]
        looks += [("ListTags", {"Resource": model.known["Resource"]}), ("GetFunctionConfiguration", {"FunctionName": NEW})]
        return [self.ask(model.service.operation_model(name), params).content for name, params in looks]


def problem(answer):
    """What is wrong with the refusal of a violation; none when it is one."""
    kind = answer.headers.get("x-amzn-errortype")
    # What this node does not support it refuses by its name, whatever is in it.
    if answer.status_code != 400 or kind not in ("ValidationException", "InvalidParameterValueException"):
        return f"{answer.status_code} {kind} {answer.text[:120]}"
    said = json.loads(answer.content)
    return "" if said.get("message") or said.get("Message") else "no message"


def main():
    endpoint, function, layer = sys.argv[1:]
    model, node, tried = Model(function, layer), Node(endpoint), 0
    before = node.state(model)
    for name in sys.stdin.read().split():
        operation = model.service.operation_model(name)
        if operation.input_shape is None:
            continue
        model.begin(name)
        for where, what, params in model.violations(operation.input_shape, name):
            # But for what is violated a request is whole: if it were taken, it would change something.
            whole = {**model.whole(name), **params}
            found = problem(node.ask(operation, whole))
            tried += 1
            if found:
                print(f"{name} {where}: {what}\t{found}")
        model.begin("")
        after = node.state(model)
        if after != before:
            print(f"{name}\tsomething is changed")
        before = after
    print(f"{tried} violations")


main()
