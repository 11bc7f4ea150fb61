#!/usr/bin/env python3
"""Provokes every problem code that the served document names, over HTTPS, against the real binary.

    tests/problems.py path/to/tertulia

The codes come from the served document: what each operation may answer is read from it, and every
answer is held against it. A code that is neither provoked nor in EXEMPT is an error, and so is one
that is both. Port: PROBLEMS_PORT, or 17450.
"""

import base64
import http.client
import json
import os
import re
import select
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import traceback

# What a healthy single node cannot be made to answer within this run.
EXEMPT = {
    "internal": "only a mistake in the program answers it",
    "not-enough-replicas": "a single node is its own majority",
    "not-a-member": "a single node is always a member of its cluster",
    "starting": "the listener accepts nobody before the node is ready",
    "body-timeout": "takes a minute of silence",
}
# Codes of requests that belong to no operation: the contract names them, the document cannot.
OUTSIDE = {"not-found": 404, "method-not-allowed": 405}
# What a head is refused with, before anybody knows which operation it wants.
HEADS = {"too-large": 431, "malformed": 400}

PORT = int(os.environ.get("PROBLEMS_PORT", "17450"))
TIMEOUT = 15
RUN_SECONDS_MAX = 240
METHODS = ["GET", "PUT", "POST", "PATCH", "DELETE", "OPTIONS"]
PHRASE = "a phrase as long as {} likes"
OPAQUE = re.compile(r"[A-Za-z0-9_-]+")

differences = []
began = time.monotonic()


def differs(text):
    if text not in differences:
        differences.append(text)


def over_time():
    if time.monotonic() - began > RUN_SECONDS_MAX:
        raise SystemExit(f"problems: not done within {RUN_SECONDS_MAX} s")


class Node:
    """A node in a folder of its own."""

    def __init__(self, binary, folder, settings):
        self.folder = folder
        os.makedirs(folder, exist_ok=True)
        names = {"DATA_DIR": os.path.join(folder, "data"), "HTTP__LISTEN": f"127.0.0.1:{PORT}"}
        names.update(settings)
        clean = {k: v for k, v in os.environ.items() if not k.startswith("TERTULIA_")}
        environment = {**clean, **{f"TERTULIA_{k}": str(v) for k, v in names.items()}}
        with open(os.path.join(folder, "out"), "ab") as out:
            self.process = subprocess.Popen(
                [binary, "serve"], env=environment, stdout=out, stderr=subprocess.STDOUT
            )
        self.ca = os.path.join(folder, "data", "ca.pem")
        try:
            self.wait()
        except BaseException:
            self.kill()
            raise
        self.context = ssl.create_default_context(cafile=self.ca)

    def wait(self):
        for _ in range(800):
            if self.process.poll() is not None:
                raise SystemExit(f"problems: the node ended while starting\n{self.tail()}")
            try:
                socket.create_connection(("127.0.0.1", PORT), 1).close()
                return
            except OSError:
                time.sleep(0.02)
        raise SystemExit(f"problems: the node does not listen after 16 s\n{self.tail()}")

    def tail(self):
        with open(os.path.join(self.folder, "out"), encoding="utf-8", errors="replace") as out:
            return "".join(out.readlines()[-15:])

    def tls(self):
        plain = socket.create_connection(("127.0.0.1", PORT), TIMEOUT)
        return self.context.wrap_socket(plain, server_hostname="localhost")

    def connect(self):
        return http.client.HTTPSConnection(
            "localhost", PORT, timeout=TIMEOUT, context=self.context
        )

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(TIMEOUT)


class Answer:
    """An answer, or the lack of one (status 0)."""

    def __init__(self, what, status=0, headers=None, body=b""):
        self.what, self.status, self.body = what, status, body
        self.headers = {k.lower(): v for k, v in (headers or [])}
        self.json = None
        if "json" in self.headers.get("content-type", ""):
            try:
                self.json = json.loads(body) if body else None
            except ValueError:
                differs(f"{what}: the body is not JSON: {body[:200]!r}")

    @property
    def code(self):
        return self.json.get("code") if isinstance(self.json, dict) else None

    def __str__(self):
        if self.status == 0:
            return f"{self.what} -> no answer: {self.body.decode()}"
        return f"{self.what} -> {self.status} {self.body[:400].decode(errors='replace')}"


class Operation:
    """A row of the document."""

    def __init__(self, document, method, path, row):
        self.id, self.method, self.path = row["operationId"], method.upper(), path
        self.secured = bool(row.get("security"))
        self.parameters = [resolve(document, p) for p in row.get("parameters", [])]
        content = row.get("requestBody", {}).get("content", {}).get("application/json")
        self.schema = resolve(document, content["schema"]) if content else None
        self.example = content.get("example") if content else None
        self.answers = {s: resolve(document, a) for s, a in row["responses"].items()}
        self.pattern = re.compile(re.sub(r"\{\w+\}", "[^/]+", re.escape(path).replace("\\{", "{")
                                         .replace("\\}", "}")) + r"\Z")

    def codes(self, status):
        content = self.answers.get(str(status), {}).get("content", {})
        return set(content.get("application/problem+json", {}).get("examples", {}))

    def may(self, code):
        return any(code in self.codes(status) for status in self.answers)

    def has(self, where, name=None):
        return any(p["in"] == where and name in (None, p["name"]) for p in self.parameters)


def resolve(document, value):
    for _ in range(8):
        if "$ref" not in value:
            break
        found = document
        for part in value["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        value = found
    return value


def unfit(document, schema, value, where="$"):
    """What of a value does not fit a schema; the empty list when it fits."""
    schema = resolve(document, schema)
    for part in schema.get("allOf", []):
        found = unfit(document, part, value, where)
        if found:
            return found
    if value is None:
        return [f"{where} is null"]
    if "enum" in schema and value not in schema["enum"]:
        return [f"{where} is none of {schema['enum']}"]
    kinds = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int}
    kind = kinds.get(schema.get("type"))
    if kind and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
        return [f"{where} is no {schema['type']}"]
    if kind is int and not -(2**53) < value < 2**53:
        return [f"{where} is too large a number"]
    if schema.get("format") == "date-time":
        if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", value):
            return [f"{where} is no time"]
    found = []
    if kind is dict:
        known, rest = schema.get("properties", {}), schema.get("additionalProperties")
        found += [f"{where}.{n} is missing" for n in schema.get("required", []) if n not in value]
        for name, item in value.items():
            if name in known or rest:
                found += unfit(document, known.get(name, rest), item, f"{where}.{name}")
            else:
                found.append(f"{where}.{name} is not in the document")
    if kind is list:
        for index, item in enumerate(value):
            found += unfit(document, schema["items"], item, f"{where}[{index}]")
    return found


def basic(name, phrase):
    return {"authorization": "Basic " + base64.b64encode(f"{name}:{phrase}".encode()).decode()}


def bearer(token):
    return {"authorization": f"Bearer {token}"}


class Client:
    """Sends requests and holds every answer against the document."""

    def __init__(self):
        self.document, self.operations = None, []
        self.provoked, self.requests, self.problems, self.successes = set(), 0, 0, 0
        self.node = self.connection = None

    def use(self, node):
        self.node, self.connection = node, None
        answer = self.send("GET", "/openapi.json")
        if answer.status != 200 or not isinstance(answer.json, dict):
            raise SystemExit(f"problems: no document: {answer}\n{node.tail()}")
        self.document = answer.json
        self.operations = [
            Operation(self.document, method, path, row)
            for path, rows in self.document["paths"].items()
            for method, row in rows.items()
            if isinstance(row, dict) and "operationId" in row
        ]

    def operation(self, name):
        return next(o for o in self.operations if o.id == name)

    def row(self, method, path):
        path = path.partition("?")[0]
        rows = [o for o in self.operations if o.pattern.match(path)]
        exact = [o for o in rows if "{" not in o.path]
        method = "GET" if method == "HEAD" else method
        return next((o for o in exact or rows if o.method == method), None)

    def send(self, method, path, body=None, headers=None, chunked=False):
        """One request over the kept connection; a connection that broke is opened anew."""
        over_time()
        self.requests += 1
        what = f"{method} {path[:120]}" + (f" {body[:120]!r}" if body else "")
        try:
            if self.connection is None:
                self.connection = self.node.connect()
            data = iter([body]) if chunked else body
            self.connection.request(
                method, path, body=data, headers=headers or {}, encode_chunked=chunked
            )
            answer = self.connection.getresponse()
            found = Answer(what, answer.status, answer.getheaders(), answer.read())
        except (OSError, http.client.HTTPException) as error:
            if self.connection is not None:
                self.connection.close()
            self.connection = None
            return Answer(what, body=f"{type(error).__name__}: {error}".encode())
        return found

    def call(self, method, path, value=None, auth=None, headers=None, raw=None, chunked=False):
        """One request; its answer is checked for all that holds of every answer."""
        sent = {**(auth or {})}
        body = raw
        if value is not None:
            body, sent["content-type"] = json.dumps(value).encode(), "application/json"
        own = f"problems-{self.requests}"
        sent = {k: v for k, v in {"x-request-id": own, **sent, **(headers or {})}.items() if v}
        answer = self.send(method, path, body, sent, chunked)
        if answer.status == 0:
            differs(f"{answer}")
            return answer
        expected = answer.headers.get("x-request-id", "")
        if sent["x-request-id"] == own and expected != own:
            differs(f"{answer.what}: X-Request-Id is {expected!r}, sent was {own!r}")
        row = self.row(method, path)
        if answer.status >= 400:
            self.problems += 1
            self.check_problem(answer, row, method)
        else:
            self.successes += 1
            self.check_success(answer, row, method)
        return answer

    def check_problem(self, answer, row, method):
        def wrong(text):
            differs(f"{answer}\n      {text}")

        headers, status = answer.headers, answer.status
        if headers.get("content-type") != "application/problem+json":
            wrong(f"content type {headers.get('content-type')!r}")
        if headers.get("cache-control") != "no-store":
            wrong(f"Cache-Control {headers.get('cache-control')!r}")
        if status == 401 and headers.get("www-authenticate") != "Bearer":
            wrong(f"WWW-Authenticate {headers.get('www-authenticate')!r}")
        if status == 405 and not headers.get("allow"):
            wrong("405 without Allow")
        after = headers.get("retry-after")
        if status in (429, 503) and not re.fullmatch(r"[1-9]\d*", after or ""):
            wrong(f"Retry-After {after!r}")
        if status not in (429, 503) and after:
            wrong("Retry-After where none is due")
        if method == "HEAD":
            return
        problem = answer.json
        if not isinstance(problem, dict):
            return wrong("no problem in the body")
        schema = {"$ref": "#/components/schemas/Problem"}
        for text in unfit(self.document, schema, problem):
            wrong(text)
        code = problem.get("code", "")
        if not str(problem.get("type", "")).endswith("/" + str(code)):
            wrong("`type` does not end in the code")
        if problem.get("status") != status:
            wrong("`status` is another than the answer's")
        for name in ("title", "detail", "code", "node", "request_id"):
            if not problem.get(name):
                wrong(f"`{name}` is empty")
        if problem.get("request_id") != headers.get("x-request-id"):
            wrong("`request_id` is another than X-Request-Id")
        if problem.get("retryable") is not (status in (408, 429) or status >= 500):
            wrong("`retryable` does not fit the status")
        seconds = problem.get("retry_after_seconds")
        if (after or None) != (None if seconds is None else str(seconds)):
            wrong("`retry_after_seconds` and Retry-After differ")
        if code == "validation":
            errors = problem.get("errors") or []
            if not errors:
                wrong("no `errors`")
            if not all(e.get("message") and e.get("code") for e in errors):
                wrong("an error without message or code")
            # Only what is wrong with the body as a whole has no field to name.
            if not all(e.get("field") or e.get("code") == "type" for e in errors):
                wrong("an error without field")
            if "expected struct" in problem.get("detail", ""):
                wrong("the detail tells of the program's types")
        if row is None:
            self.provoked.add(("-", code))
            if status not in (OUTSIDE.get(code), HEADS.get(code), 413):
                wrong("the request belongs to no operation")
            return
        self.provoked.add((row.id, code))
        if str(status) not in row.answers:
            wrong(f"the document lists no {status} for {row.id}")
        elif code not in row.codes(status):
            wrong(f"the document lists no `{code}` for {row.id}: {sorted(row.codes(status))}")
        for name in row.answers.get(str(status), {}).get("headers", {}):
            if name.lower() not in headers:
                wrong(f"the document's header {name} is missing")

    def check_success(self, answer, row, method):
        def wrong(text):
            differs(f"{answer}\n      {text}")

        if not answer.headers.get("x-request-id"):
            wrong("no X-Request-Id")
        if row is None:
            return
        if answer.headers.get("cache-control") != "no-store":
            wrong(f"Cache-Control {answer.headers.get('cache-control')!r}")
        documented = row.answers.get(str(answer.status))
        if documented is None:
            return wrong(f"the document lists no {answer.status} for {row.id}")
        for name in documented.get("headers", {}):
            if name.lower() not in answer.headers:
                wrong(f"the document's header {name} is missing")
        content = documented.get("content", {}).get("application/json")
        if method == "HEAD":
            return
        if content is None:
            if answer.json is not None or (answer.status == 204 and answer.body):
                wrong("a body where the document has none")
            return
        for text in unfit(self.document, content["schema"], answer.json):
            wrong(text)
        if isinstance(answer.json, dict) and "etag" in answer.json:
            if answer.headers.get("etag") != f'"{answer.json["etag"]}"':
                wrong(f"ETag {answer.headers.get('etag')!r} is not the field etag")
        elif "etag" in answer.headers:
            wrong("ETag without a field etag")

    def ok(self, status, method, path, value=None, auth=None, **more):
        answer = self.call(method, path, value, auth, **more)
        if answer.status and answer.status != status:
            differs(f"{answer}\n      wanted {status}")
        return answer

    def problem(self, code, method, path, value=None, auth=None, field=None, **more):
        answer = self.call(method, path, value, auth, **more)
        if answer.status == 0:
            return answer
        if answer.code != code:
            differs(f"{answer}\n      wanted the problem `{code}`")
        elif field is not None:
            fields = [e.get("field") for e in answer.json.get("errors") or []]
            if field not in fields:
                differs(f"{answer}\n      wanted an error at {field!r}, got {fields}")
        return answer


def path_of(operation, names=None, **more):
    """A path of an operation, from the parameters' examples or other values."""
    path = operation.path
    given = {"queue": "orders", "username": "bob", "session_id": "AAAA", "api_key_id": "AAAA",
             "receipt": "AAAA", "message_id": "AAAA",
             "topic": "news", "subscription": "sports", **(names or {}), **more}
    for name, value in given.items():
        path = path.replace("{" + name + "}", value)
    return path


def register(client, name, auth=None):
    value = {"username": name, "password": PHRASE.format(name)}
    client.ok(201, "POST", "/v1/users", value, auth)


def log_in(client, name):
    value = {"username": name, "password": PHRASE.format(name)}
    answer = client.ok(201, "POST", "/v1/sessions", value)
    if answer.status != 201:
        raise SystemExit(f"problems: no session: {answer}")
    return bearer(answer.json["token"])


# ---- what every operation of a kind refuses ------------------------------------------------------


def credentials(client, alice):
    gone = client.ok(201, "POST", "/v1/api-keys", {"name": "gone"}, alice).json
    client.ok(204, "DELETE", f"/v1/api-keys/{gone['api_key_id']}", auth=alice)
    wrong = [bearer("tts_nobody"), {"authorization": "Digest x"}, bearer(gone["secret"]),
             {"authorization": "Basic !!"}]
    secured = [o for o in client.operations if o.secured and not o.may("registration-closed")]
    for index, operation in enumerate(secured):
        path = path_of(operation)
        client.problem("unauthenticated", operation.method, path)
        auth = wrong[index % len(wrong)]
        client.problem("unauthenticated", operation.method, path, operation.example, auth)
    client.problem("unauthenticated", "POST", "/v1/users", {}, bearer("tts_nobody"))
    client.problem("unauthenticated", "GET", "/v1/users/me", auth=basic("nobody", "wrong phrase"))


def bodies(client, auth):
    """Not JSON, not the right type, and what the schemas' bounds refuse."""
    for operation in (o for o in client.operations if o.schema):
        method, path = operation.method, path_of(operation, receipt="AAAA")
        kind = {"content-type": "application/json"}

        def raw(code, body, headers=kind, field=None):
            client.problem(code, method, path, auth=auth, raw=body, headers=headers, field=field)

        raw("malformed", b"not json")
        raw("malformed", b'{"a":')
        raw("malformed", b'{} {}')
        raw("malformed", b'{"a":"\xff"}')
        raw("malformed", b"\xef\xbb\xbf{}")
        raw("unsupported-media-type", b"{}", {"content-type": "text/plain"})
        raw("unsupported-media-type", b"{}", {"content-type": "application/json;charset=latin1"})
        raw("unsupported-media-type", b"{}", {})
        for text in (b"[]", b"null", b"5", b'"text"'):
            raw("validation", text)
        if operation.id in ("register_user", "create_api_key", "send_messages"):
            # An object's fields by place are no object.
            value = ["byplace", "long phrase"] if operation.id == "register_user" else None
            raw("validation", json.dumps(value or list(operation.example.values())).encode())
        if operation.schema.get("required"):
            raw("malformed", b"", kind)
        mutations(client, operation, path, auth)


def mutations(client, operation, path, auth):
    """Each property of the schema with each kind of wrong value."""
    example = operation.example or {}

    def refused(value, field):
        client.problem("validation", operation.method, path, value, auth, field=field)

    refused({**example, "nonsense": 1}, "nonsense")
    for name in operation.schema.get("required", []):
        refused({k: v for k, v in example.items() if k != name}, name)
    double = json.dumps(example)[:-1] + (", " if example else "")
    name = next(iter(operation.schema["properties"]))
    text = json.dumps(example.get(name, 1))
    known = "" if name in example else f'"{name}": {text}, '
    client.problem("validation", operation.method, path, auth=auth, field=name,
                   raw=f'{double}{known}"{name}": {text}}}'.encode(),
                   headers={"content-type": "application/json"})
    for name, schema in operation.schema["properties"].items():
        schema = resolve(client.document, (schema.get("allOf") or [schema])[0])
        refused({**example, name: None}, name)
        refused({**example, name: {"other": 1} if schema["type"] != "object" else 5}, name)
        for value in beyond(schema):
            refused({**example, name: value}, name)


def beyond(schema):
    """Values just outside the bounds of a schema."""
    found = []
    if "minimum" in schema:
        found.append(schema["minimum"] - 1)
    if "maximum" in schema:
        found += [schema["maximum"] + 1, 2**63, 1.5]
        found += [2**31] if schema["maximum"] < 2**31 else []
    if schema.get("minLength"):
        found.append("a" * (schema["minLength"] - 1))
    if "maxLength" in schema:
        found.append("a" * (schema["maxLength"] + 1))
    if "enum" in schema:
        found += ["nonsense", "", 5]
    if schema["type"] == "boolean":
        found += ["true", 1]
    if schema.get("format") == "date-time":
        found += ["2026-01-01", "soon"]
    if "items" in schema and schema.get("minItems"):
        found.append([])
    return found


# Parameters of a path of which a malformed one is as good as an unknown one.
OWN_CODE = {"receipt": "receipt-invalid", "message_id": "message-not-found"}


def parameters(client, auth):
    """Names, queries and headers that no operation takes."""
    for operation in client.operations:
        if not operation.path.startswith("/v1/"):
            continue
        method, path, value = operation.method, path_of(operation), operation.example

        def refused(query, field, headers=None, at=path):
            client.problem("validation", method, at + query, value, auth, field=field,
                           headers=headers)

        refused("?nonsense=1", "query.nonsense")
        for parameter in operation.parameters:
            name, schema = parameter["name"], resolve(client.document, parameter["schema"])
            if parameter["in"] == "path":
                for wrong in ("-bad", "a%20b", "a%2Fb", "a" * (schema["maxLength"] + 1), "%C3%B1"):
                    if name in ("queue", "username"):
                        refused("", f"path.{name}", at=path_of(operation, {name: wrong}))
                    elif name in OWN_CODE:
                        wrong = path_of(operation, {name: wrong.replace("-", ".")})
                        client.problem(OWN_CODE[name], method, wrong, value, auth)
                    else:
                        wrong = wrong.replace("-", ".")
                        refused("", f"path.{name}", at=path_of(operation, {name: wrong}))
                # Not even text: a wrong parameter all the same.
                client.problem(OWN_CODE.get(name, "validation"), method,
                               path_of(operation, {name: "%FF"}), value, auth)
            elif parameter["in"] == "query":
                outside = [v for v in beyond(schema) if schema["type"] != "boolean" or v != "true"]
                for wrong in [str(v) for v in outside] + ["%00", "%FF"]:
                    refused(f"?{name}={wrong}", f"query.{name}")
                fine = {"limit": "5", "cursor": "AAAA"}.get(name) or schema.get("enum", ["a"])[0]
                refused(f"?{name}={fine}&{name}={fine}", f"query.{name}")
                if name == "cursor":
                    refused("?cursor=AAAA", "query.cursor")
            else:
                many = "a" * (schema["maxLength"] + 1)
                wrongs = {"If-Match": ('"two", "tags"', "a b", '"'),
                          "Idempotency-Key": ("a b", "\u00e9", many)}
                for wrong in wrongs[name]:
                    refused("", f"header.{name}", {name: wrong})


def rights(client, alice, bob, carol):
    """Bob has rights on alice's queue, but owns nothing of it; carol has none."""
    for operation in client.operations:
        method, value = operation.method, operation.example
        if "{queue}" in operation.path and "queue-not-found" in operation.codes(404):
            path = path_of(operation, queue="missing")
            client.problem("queue-not-found", method, path, value, alice)
        lacking = operation.may("forbidden") and not operation.may("not-owner")
        if "{topic}" in operation.path and "topic-not-found" in operation.codes(404):
            path = path_of(operation, topic="missing")
            client.problem("topic-not-found", method, path, value, alice)
        if "{subscription}" in operation.path and operation.may("subscription-not-found"):
            path = path_of(operation, subscription="missing")
            client.problem("subscription-not-found", method, path, value, alice)
        if lacking and (operation.may("queue-not-found") or operation.may("topic-not-found")):
            client.problem("forbidden", method, path_of(operation), value, carol)
        if operation.may("not-owner"):
            client.problem("not-owner", method, path_of(operation), value, bob)
            client.problem("not-owner", method, path_of(operation), value, carol)
        if operation.id in ("get_user", "update_user", "delete_user", "list_users"):
            for name in ("alice", "nobody"):
                path = path_of(operation, username=name)
                client.problem("forbidden", method, path, value, bob)
        if "{username}" in operation.path:
            path = path_of(operation, username="nobody")
            client.problem("user-not-found", method, path, value, alice)
        if operation.has("header", "If-Match"):
            path = path_of(operation)
            stale = {"if-match": '"stale"'}
            value = {} if value else None
            client.problem("precondition-failed", method, path, value, alice, headers=stale)
    scopes(client, alice)
    client.problem("name-taken", "PUT", "/v1/queues/orders", {}, carol)
    client.problem("validation", "PATCH", "/v1/users/bob", {"roles": [None]}, alice)
    client.problem("validation", "PATCH", "/v1/users/bob", {"roles": ["owner"]}, alice)
    client.problem("forbidden", "PATCH", "/v1/users/bob", {"roles": ["admin"]}, bob)
    client.problem("forbidden", "PATCH", "/v1/users/alice", {"roles": []}, alice)
    client.problem("forbidden", "PATCH", "/v1/users/alice", {"disabled": True}, alice)


def scopes(client, alice):
    """Alice administers and owns the queue, but her key lets her browse it and nothing else."""
    made = client.ok(201, "POST", "/v1/api-keys", {"name": "k", "scopes": ["browse"]}, alice).json
    key = bearer(made["secret"])
    if (made["scopes"], made["limited"]) != (["browse"], True):
        differs(f"a key with the scope browse says {made}")
    browsing = ("get_queue", "browse_messages", "get_message")
    for operation in client.operations:
        if operation.secured and operation.may("forbidden") and operation.id not in browsing:
            value = operation.example
            client.problem("forbidden", operation.method, path_of(operation), value, key)
    rights = client.ok(200, "GET", "/v1/queues/orders", auth=key).json["my_rights"]
    if rights != ["browse"]:
        differs(f"a key with the scope browse has the rights {rights}")
    for wrong in ([], ["send", "send"], ["own"]):
        value = {"name": "k", "scopes": wrong}
        client.problem("validation", "POST", "/v1/api-keys", value, alice)
    client.ok(204, "DELETE", f"/v1/api-keys/{made['api_key_id']}", auth=alice)


def routes(client, auth):
    for path in ("/", "/v1", "/v1/", "/v1/queues/", "/v1/queues/orders/", "/V1/users", "/v2/users",
                 "/v1/queues/orders/nothing", "/docs/nothing", "/openapi.xml", "/v1//users",
                 "/v1/queues//messages", "/%FF", "/v1/topics%2Fnews"):
        for method in ("GET", "POST"):
            client.problem("not-found", method, path, auth=auth)
    paths = {}
    for operation in client.operations:
        paths.setdefault(operation.path, []).append(operation)
    paths.update({p: [] for p in ("/openapi.json", "/openapi.yaml", "/docs/")})
    for path, rows in paths.items():
        allowed = {row.method for row in rows} or {"GET"}
        allowed |= {"HEAD"} if "GET" in allowed else set()
        at = path_of(rows[0]) if rows else path
        for method in METHODS + ["BREW"]:
            if method in allowed:
                continue
            answer = client.problem("method-not-allowed", method, at, auth=auth)
            listed = set(re.split(r",\s*", answer.headers.get("allow", "")))
            if answer.status == 405 and listed != allowed:
                differs(f"{answer}\n      Allow {sorted(listed)}, wanted {sorted(allowed)}")
    for path in ("/livez", "/v1/queues/orders", "/v1/queues"):
        answer = client.ok(200, "HEAD", path, auth=auth)
        if answer.body:
            differs(f"{answer}: HEAD with a body")
    client.ok(404, "HEAD", "/nowhere")


# ---- what single operations refuse ---------------------------------------------------------------


def people(client, alice, bob):
    taken = {"username": "alice", "password": PHRASE.format("alice")}
    client.problem("name-taken", "POST", "/v1/users", taken)
    for name, phrase, field in (("me", "long enough", "username"), ("-a", "long enough", "username"),
                                ("a" * 129, "long enough", "username"), ("ñ", "long enough", "username"),
                                ("dora", "short", "password"), ("dora", "a" * 129, "password"),
                                ("doradora", "doradora", "password")):
        value = {"username": name, "password": phrase}
        client.problem("validation", "POST", "/v1/users", value, field=field)
    wrong = {"username": "bob", "password": "wrong phrase"}
    client.problem("bad-credentials", "POST", "/v1/sessions", wrong)
    client.problem("bad-credentials", "POST", "/v1/sessions", {**wrong, "username": "no name!"})
    patch = {"password": "another long phrase"}
    client.problem("validation", "PATCH", "/v1/users/bob", patch, bob, field="current_password")
    patch["current_password"] = "wrong phrase"
    client.problem("validation", "PATCH", "/v1/users/bob", patch, bob, field="current_password")
    client.problem("validation", "PATCH", "/v1/users/bob", {"password": "bob" * 43}, alice,
                   field="password")
    for query, field in (("owned=transfer", "new_owner"), ("new_owner=alice", "new_owner"),
                         ("owned=transfer&new_owner=bob", "new_owner")):
        client.problem("validation", "DELETE", f"/v1/users/bob?{query}", auth=bob,
                       field=f"query.{field}")
    client.problem("user-not-found", "DELETE", "/v1/users/bob?owned=transfer&new_owner=nobody",
                   auth=bob)
    client.ok(201, "PUT", "/v1/queues/bobs", {}, bob)
    client.problem("still-owns", "DELETE", "/v1/users/bob", auth=bob)
    client.problem("still-owns", "DELETE", "/v1/users/bob", auth=alice)
    client.problem("forbidden", "DELETE", "/v1/users/alice", auth=alice)
    client.problem("session-not-found", "DELETE", "/v1/sessions/AAAA", auth=alice)
    client.problem("api-key-not-found", "DELETE", "/v1/api-keys/AAAA", auth=alice)
    key = client.ok(201, "POST", "/v1/api-keys", {"name": "one"}, bob).json
    client.problem("session-not-found", "DELETE", "/v1/sessions/current",
                   auth=bearer(key["secret"]))
    mine = client.ok(200, "GET", "/v1/sessions", auth=alice).json["items"][0]["session_id"]
    client.problem("session-not-found", "DELETE", f"/v1/sessions/{mine}", auth=bob)
    client.problem("api-key-not-found", "DELETE", f"/v1/api-keys/{'A' * 22}", auth=bob)
    for operation, path in (("list_users", "/v1/users"), ("list_queues", "/v1/queues")):
        first = client.ok(200, "GET", f"{path}?limit=1", auth=alice).json
        cursor = first.get("next_cursor", "")
        if not OPAQUE.fullmatch(cursor):
            differs(f"{operation}: the cursor {cursor!r} is not opaque")
        client.ok(200, "GET", f"{path}?limit=1&cursor={cursor}", auth=alice)
        flipped = cursor[:-2] + ("A" if cursor[-2:-1] != "A" else "B") + cursor[-1:]
        client.problem("validation", "GET", f"{path}?cursor={flipped}", auth=alice,
                       field="query.cursor")
        # A cursor of one list is foreign to all others.
        for other in ("/v1/users", "/v1/queues", "/v1/sessions", "/v1/api-keys",
                      "/v1/queues/orders/grants", f"{path}?prefix=o"):
            if other != path:
                at = f"{other}{'&' if '?' in other else '?'}cursor={cursor}"
                client.problem("validation", "GET", at, auth=alice, field="query.cursor")


def queues(client, alice, bob):
    answer = client.problem("config-differs", "PUT", "/v1/queues/orders",
                            {"lease_seconds": 31, "replicas": 1}, alice, field="lease_seconds")
    if len((answer.json or {}).get("errors") or []) != 2:
        differs(f"{answer}\n      wanted each setting that differs")
    client.problem("validation", "PATCH", "/v1/queues/orders", {"replicas": 1}, alice,
                   field="replicas")
    client.problem("validation", "PATCH", "/v1/queues/orders", {"ordering": "group"}, alice,
                   field="ordering")
    for wrong in ({"delay_seconds": 61, "retention_seconds": 60}, {"backoff_min_seconds": 601}):
        for method, queue in (("PUT", "unmade"), ("PATCH", "orders")):
            client.problem("validation", method, f"/v1/queues/{queue}", wrong, alice,
                           field=next(iter(wrong)))
    bounded = {"max_in_flight": 1, "max_bytes": 1}
    client.ok(201, "PUT", "/v1/queues/bounded", bounded, alice)
    sent = {"messages": [{"body": "a"}]}
    client.problem("quota", "POST", "/v1/queues/bounded/messages", sent, alice)
    client.ok(200, "PATCH", "/v1/queues/bounded", {"max_bytes": 0}, alice)
    client.ok(201, "POST", "/v1/queues/bounded/messages", sent, alice)
    client.ok(200, "POST", "/v1/queues/bounded/leases", {}, alice)
    client.problem("in-flight-limit", "POST", "/v1/queues/bounded/leases", {}, alice)
    client.ok(204, "DELETE", "/v1/queues/bounded", auth=alice)
    grants = "/v1/queues/orders/grants"
    for wrong in ([], ["nonsense"], ["send", "send"], ["publish"], ["send", "subscribe"], "send", [5], [None]):
        answer = client.problem("validation", "PUT", f"{grants}/bob", {"rights": wrong}, alice)
        fields = [e["field"] for e in (answer.json or {}).get("errors") or []]
        if not all(field.startswith("rights") for field in fields):
            differs(f"{answer}\n      wanted an error at rights")
    client.ok(200, "PUT", f"{grants}/%2A", {"rights": ["send"]}, alice)
    client.ok(204, "DELETE", f"{grants}/*", auth=alice)
    client.ok(204, "DELETE", f"{grants}/*", auth=alice)

    client.ok(201, "PUT", "/v1/queues/drained", {}, alice)
    client.ok(201, "POST", "/v1/queues/drained/messages", {"messages": [{"body": "a"}]}, alice)
    client.problem("not-empty", "DELETE", "/v1/queues/drained?messages=refuse", auth=alice)
    lease = client.ok(200, "POST", "/v1/queues/drained/leases", {}, alice).json["messages"][0]
    client.problem("not-empty", "DELETE", "/v1/queues/drained?messages=refuse", auth=alice)
    client.ok(202, "DELETE", "/v1/queues/drained?messages=drain", auth=alice)
    client.ok(202, "DELETE", "/v1/queues/drained?messages=drain", auth=alice)
    sent = {"messages": [{"body": "b"}]}
    client.problem("draining", "POST", "/v1/queues/drained/messages", sent, alice)
    # Declared at every start: whatever it answers must be in the document.
    for value in ({}, {"lease_seconds": 77}):
        answer = client.call("PUT", "/v1/queues/drained", value, alice)
        if answer.status not in (0, 200, 409):
            differs(f"{answer}\n      wanted 200 or 409")
    client.problem("name-taken", "PUT", "/v1/queues/drained", {}, bob)
    client.problem("not-empty", "DELETE", "/v1/queues/drained?messages=refuse", auth=alice)
    answer = client.ok(200, "GET", "/v1/queues/drained", auth=alice)
    if (answer.json or {}).get("state") != "draining":
        differs(f"{answer}\n      a deletion that was refused ended the draining")
    client.call("PATCH", "/v1/queues/drained", {"lease_seconds": 40}, alice)
    client.call("PUT", "/v1/queues/drained/grants/bob", {"rights": ["receive"]}, alice)
    client.ok(200, "POST", "/v1/queues/drained/leases", {}, alice)
    client.ok(204, "DELETE", f"/v1/queues/drained/leases/{lease['receipt']}", auth=alice)
    for _ in range(50):
        gone = client.call("GET", "/v1/queues/drained", auth=alice)
        if gone.status == 404:
            return
        time.sleep(0.05)
    differs(f"{gone}\n      wanted 404: the last message of a draining queue is settled")


def topics(client, alice, bob):
    answer = client.problem("config-differs", "PUT", "/v1/topics/news",
                            {"max_bytes": 7, "replicas": 1}, alice, field="max_bytes")
    if len((answer.json or {}).get("errors") or []) != 2:
        differs(f"{answer}\n      wanted each setting that differs")
    client.problem("name-taken", "PUT", "/v1/topics/news", {}, bob)
    client.problem("validation", "PATCH", "/v1/topics/news", {"replicas": 1}, alice,
                   field="replicas")
    for wrong in ([], ["send"], ["publish", "publish"]):
        client.problem("validation", "PUT", "/v1/topics/news/grants/bob", {"rights": wrong}, alice)
    sports, bobs = (f"/v1/topics/news/subscriptions/{name}" for name in ("sports", "bobs"))
    client.problem("name-taken", "PUT", sports, {}, bob)
    client.problem("config-differs", "PUT", sports, {"filter": {}}, alice, field="filter")
    for field, value in (("filter", {"routing_key": "a"}), ("start", "earliest"),
                         ("deliver_to", "orders")):
        client.problem("validation", "PATCH", sports, {field: value}, alice, field=field)
    for value, field in (({"filter": {"routing_key": "a..b"}}, "filter.routing_key"),
                         ({"filter": {"routing_key": ""}}, "filter.routing_key"),
                         ({"filter": {"routing_key": 5}}, "filter.routing_key"),
                         ({"filter": {"attributes": {"a b": ""}}}, "filter.attributes"),
                         ({"filter": {"attributes": {"a": None}}}, "filter.attributes.a"),
                         ({"filter": {"extra": 1}}, "filter.extra"),
                         ({"filter": []}, "filter"), ({"start": "middle"}, "start"),
                         ({"deliver_to": ""}, "deliver_to"), ({"deliver_to": "-a"}, "deliver_to"),
                         ({"dead_letter": "orders"}, "dead_letter"),
                         ({"dead_letter": "nowhere"}, "dead_letter"),
                         ({"backoff_min_seconds": 601}, "backoff_min_seconds")):
        client.problem("validation", "PUT", bobs, value, bob, field=field)
    client.problem("queue-not-found", "PUT", bobs, {"deliver_to": "nowhere"}, bob)
    client.problem("forbidden", "PUT", bobs, {"deliver_to": "second"}, bob)
    client.ok(201, "PUT", bobs, {"deliver_to": "orders"}, bob)
    client.problem("delivers-to-queue", "POST", f"{bobs}/leases", {}, bob)
    client.problem("unroutable", "POST", "/v1/topics/other/messages?require_route=true",
                   {"messages": [{"body": "a"}]}, alice)
    linked = client.ok(200, "GET", "/v1/queues/orders", auth=alice).json
    if linked.get("linked_from") != [{"topic": "news", "subscription": "bobs"}]:
        differs(f"a linked queue says {linked.get('linked_from')}")
    client.ok(204, "DELETE", "/v1/queues/orders/grants/bob", auth=alice)
    if client.ok(200, "GET", bobs, auth=bob).json.get("status") != "suspended":
        differs("who may not send into the queue any more has a subscription that is active")
    given = {"rights": ["send", "receive"]}
    client.ok(200, "PUT", "/v1/queues/orders/grants/bob", given, alice)
    if client.ok(200, "GET", bobs, auth=bob).json.get("status") != "active":
        differs("who may send into the queue again has a subscription that is suspended")
    # What a view says may be put back.
    config = client.ok(200, "GET", bobs, auth=bob).json["config"]
    client.ok(200, "PUT", bobs, config, bob)
    first = client.ok(200, "GET", "/v1/topics/news/subscriptions?limit=1", auth=alice).json
    client.ok(200, "GET", f"/v1/topics/news/subscriptions?cursor={first['next_cursor']}",
              auth=alice)
    client.problem("validation", "GET", f"/v1/topics?cursor={first['next_cursor']}", auth=alice,
                   field="query.cursor")
    client.ok(204, "DELETE", bobs, auth=alice)
    client.ok(204, "DELETE", "/v1/topics/other?messages=refuse", auth=alice)
    client.problem("topic-not-found", "GET", "/v1/topics/other", auth=alice)


def messages(client, alice):
    at = "/v1/queues/orders"
    for message, field in (
        ({}, "messages[0].body"),
        ({"body": "a", "body_base64": "AA=="}, "messages[0].body_base64"),
        ({"body_base64": "AA"}, "messages[0].body_base64"),
        ({"body_base64": "A_-="}, "messages[0].body_base64"),
        ({"body": 5}, "messages[0].body"),
        ({"body": None}, "messages[0].body"),
        ({"body": "a", "nonsense": 1}, "messages[0].nonsense"),
        (["a"], "messages[0]"),
        ("a", "messages[0]"),
        ({"body": "a", "content_type": ""}, "messages[0].content_type"),
        ({"body": "a", "content_type": "a" * 256}, "messages[0].content_type"),
        ({"body": "a", "content_type": "a\nb"}, "messages[0].content_type"),
        ({"body": "a", "attributes": {"a b": "c"}}, "messages[0].attributes"),
        ({"body": "a", "attributes": {"": "c"}}, "messages[0].attributes"),
        ({"body": "a", "attributes": {"a": 1}}, "messages[0].attributes.a"),
        ({"body": "a", "attributes": {"a": "b" * 1025}}, "messages[0].attributes.a"),
        ({"body": "a", "attributes": {f"k{n}": "" for n in range(33)}}, "messages[0].attributes"),
        ({"body": "a", "routing_key": "a..b"}, "messages[0].routing_key"),
        ({"body": "a", "routing_key": "a" * 256}, "messages[0].routing_key"),
        ({"body": "a", "group": ""}, "messages[0].group"),
        ({"body": "a", "dedup_id": "a" * 129}, "messages[0].dedup_id"),
        ({"body": "a", "delay_seconds": -1}, "messages[0].delay_seconds"),
        ({"body": "a", "delay_seconds": 1209601}, "messages[0].delay_seconds"),
        ({"body": "a", "deliver_at": "soon"}, "messages[0].deliver_at"),
        ({"body": "a", "deliver_at": "9999-01-01T00:00:00Z"}, "messages[0].deliver_at"),
        ({"body": "a", "deliver_at": "2026-01-01T00:00:00Z", "delay_seconds": 1},
         "messages[0].deliver_at"),
        ({"body": "a", "ttl_seconds": 0}, "messages[0].ttl_seconds"),
        ({"body": "a", "ttl_seconds": 1209601}, "messages[0].ttl_seconds"),
    ):
        value = {"messages": [message]}
        client.problem("validation", "POST", f"{at}/messages", value, alice, field=field)
        second = {"messages": [{"body": "fine"}, message]}
        client.problem("validation", "POST", f"{at}/messages", second, alice,
                       field=field.replace("[0]", "[1]"))
    many = {"messages": [{"body": "a"}] * 101}
    client.problem("validation", "POST", f"{at}/messages", many, alice, field="messages")
    client.ok(201, "POST", f"{at}/messages?durability=all", {"messages": [
        {"body": "", "attributes": {"k" * 128: "v" * 1024}, "content_type": "a" * 255}]}, alice)
    client.ok(200, "POST", f"{at}/leases", {"auto_ack": True}, alice)

    keyed(client, alice, at)
    small = {"max_message_bytes": 40}
    client.ok(201, "PUT", "/v1/queues/small", small, alice)
    big = {"body": "a" * 41}
    client.problem("too-large", "POST", "/v1/queues/small/messages", {"messages": [big, big]},
                   alice, field="messages[1]")
    answer = client.ok(201, "POST", "/v1/queues/small/messages",
                       {"messages": [big, {"body": "a", "content_type": "b"}]}, alice)
    results = (answer.json or {}).get("results") or [{}, {}]
    if (results[0].get("code"), results[1].get("status")) != ("too-large", "stored"):
        differs(f"{answer}\n      wanted too-large and stored")


def keyed(client, alice, at):
    """The same key twice: the same message is a duplicate, another one is refused."""
    key, one = {"idempotency-key": "a!~"}, {"messages": [{"body": "one"}]}
    first = client.ok(201, "POST", f"{at}/messages", one, alice, headers=key).json["results"][0]
    again = client.ok(201, "POST", f"{at}/messages", one, alice, headers=key).json["results"][0]
    if (again["status"], again["id"]) != ("duplicate", first["id"]):
        differs(f"the same send under the same key: {first}, then {again}")
    client.problem("idempotency-mismatch", "POST", f"{at}/messages",
                   {"messages": [{"body": "two"}]}, alice, headers=key, field="messages[0]")
    twice = {"messages": [{"body": "a", "dedup_id": "d"}, {"body": "b", "dedup_id": "d"}]}
    client.problem("validation", "POST", f"{at}/messages", twice, alice,
                   field="messages[1].dedup_id")
    client.problem("validation", "POST", f"{at}/leases", {"auto_ack": True}, alice, headers=key,
                   field="header.Idempotency-Key")
    client.ok(200, "POST", f"{at}/leases", {"auto_ack": True}, alice)
    config = client.document["components"]["schemas"]["QueueConfig"]["properties"]
    if "max_bytes" in config:
        client.ok(201, "PUT", "/v1/queues/full", {"max_bytes": 1}, alice)
        client.problem("quota", "POST", "/v1/queues/full/messages", one, alice)


def receipts(client, alice):
    def lease(queue):
        client.ok(201, "POST", f"/v1/queues/{queue}/messages", {"messages": [{"body": "a"}]}, alice)
        found = client.ok(200, "POST", f"/v1/queues/{queue}/leases", None, alice).json["messages"]
        return found[0]["receipt"] if found else "AAAA"

    settling = [client.operation(n) for n in ("ack_message", "extend_lease", "release_message")]

    def all_refuse(code, queue, receipt):
        for operation in settling:
            path = path_of(operation, queue=queue, receipt=receipt)
            client.problem(code, operation.method, path, operation.example, alice)

    client.ok(201, "PUT", "/v1/queues/once", {}, alice)
    client.ok(201, "PUT", "/v1/queues/other", None, alice)
    receipt, foreign = lease("once"), lease("other")
    # The second-last sign: the last one may hold bits that mean nothing.
    flipped = receipt[:-2] + ("A" if receipt[-2] != "A" else "B") + receipt[-1]
    for wrong in ("A", "A" * 512, flipped, receipt[:-4], receipt + "AAAA", foreign):
        all_refuse("receipt-invalid", "once", wrong)
    client.ok(200, "PATCH", f"/v1/queues/once/leases/{receipt}", {"lease_seconds": 60}, alice)
    client.ok(204, "POST", f"/v1/queues/once/leases/{receipt}/releases", None, alice)
    for operation in settling[:2]:
        path = path_of(operation, queue="once", receipt=receipt)
        client.problem("lease-lost", operation.method, path, operation.example, alice)
    client.problem("validation", "POST", f"/v1/queues/once/leases/{receipt}/releases",
                   {"delay_seconds": 1209601}, alice, field="delay_seconds")
    # Released, then leased by another: all three have lost it.
    client.ok(200, "POST", "/v1/queues/once/leases", {}, alice)
    for operation in settling:
        path = path_of(operation, queue="once", receipt=receipt)
        client.problem("lease-lost", operation.method, path,
                       {"outcome": "failed"} if operation is settling[2] else operation.example,
                       alice)
    # Gone with its queue; lost when the name begins anew.
    receipt = lease("other")
    client.ok(204, "DELETE", "/v1/queues/other", auth=alice)
    all_refuse("queue-not-found", "other", receipt)
    client.ok(201, "PUT", "/v1/queues/other", None, alice)
    all_refuse("lease-lost", "other", receipt)

    at = "/v1/queues/once/settlements"
    for value, field in (
        ({}, "ack"), ({"ack": []}, "ack"), ({"ack": ["a"] * 1001}, "ack"), ({"ack": ["a", "a"]}, "ack[1]"),
        ({"ack": [""]}, "ack[0]"), ({"ack": ["a" * 513]}, "ack[0]"), ({"ack": [5]}, "ack[0]"),
        ({"ack": ["a"], "release": [{"receipt": "a"}]}, "release[0]"),
        ({"extend": [{"receipt": "a"}]}, "extend[0].lease_seconds"),
        ({"extend": [{"receipt": "a", "lease_seconds": 0}]}, "extend[0].lease_seconds"),
        ({"release": [{"receipt": "a", "outcome": "poisoned"}]}, "release[0].outcome"),
        ({"release": [{"receipt": "a", "nonsense": 1}]}, "release[0].nonsense"),
        ({"release": [{"receipt": "a", "outcome": None}]}, "release[0].outcome"),
        ({"release": [{"receipt": "a", "outcome": 5}]}, "release[0].outcome"),
        ({"release": [["a"]]}, "release[0]"),
        ({"release": [{"receipt": "a", "delay_seconds": -1}]}, "release[0].delay_seconds"),
        ({"ack": ["b"], "release": [{"receipt": "a", "delay_seconds": 1209601}]},
         "release[0].delay_seconds"),
        ({"extend": [["a", 5]]}, "extend[0]"),
    ):
        client.problem("validation", "POST", at, value, alice, field=field)
    client.ok(200, "POST", at, {"ack": ["AAAA", receipt]}, alice)


def answers(client, alice):
    """Answers that succeed, for what holds of every answer."""
    for operation in (o for o in client.operations if o.method == "GET"):
        # Ids are looked up where messages are; a stream has no end, so tests/push.rs reads those.
        if "{message_id}" not in operation.path and not operation.id.startswith("stream_"):
            client.ok(200, "GET", path_of(operation), auth=alice)
    by_hand(client, alice)
    for given in ("visible-~!", "a" * 64):
        client.ok(200, "GET", "/livez", headers={"x-request-id": given})
        got = client.send("GET", "/livez", headers={"x-request-id": given})
        if got.headers.get("x-request-id") != given:
            differs(f"{got}: X-Request-Id is not echoed: {given!r}")
    for given in ("a" * 65, "a b", "\t"):
        got = client.send("GET", "/nowhere", headers={"x-request-id": given})
        own = got.headers.get("x-request-id")
        if own == given or not OPAQUE.fullmatch(own or ""):
            differs(f"{got}: X-Request-Id {own!r} for the unfit {given!r}")
    for name in ("/v1/users/bob", "/v1/queues/orders"):
        etag = client.ok(200, "GET", name, auth=alice).headers.get("etag", "")
        for tag in (etag, etag.strip('"'), "*"):
            client.ok(200, "PATCH", name, {}, alice, headers={"if-match": tag})
        client.ok(200, "PATCH", name, None, alice)


def by_hand(client, alice):
    """Messages looked at, deleted, purged and driven back; none of them stays."""
    at = "/v1/queues/second"
    sent = {"messages": [{"body": "a"}, {"body_base64": "AA==", "delay_seconds": 600}]}
    ids = [r["id"] for r in client.ok(201, "POST", f"{at}/messages", sent, alice).json["results"]]
    for query, count in (("", 2), ("?state=delayed&include=body", 1), ("?state=dead", 0)):
        found = client.ok(200, "GET", f"{at}/messages{query}", auth=alice)
        if len(found.json["items"]) != count:
            differs(f"{found}\n      wanted {count} messages")
    page = client.ok(200, "GET", f"{at}/messages?limit=1", auth=alice).json
    client.ok(200, "GET", f"{at}/messages?limit=1&cursor={page['next_cursor']}", auth=alice)
    client.problem("validation", "GET", f"{at}/messages?state=dead&cursor={page['next_cursor']}",
                   auth=alice, field="query.cursor")
    client.ok(200, "GET", f"{at}/messages/{ids[0]}", auth=alice)
    client.ok(204, "DELETE", f"{at}/messages/{ids[1]}", auth=alice)
    client.ok(204, "DELETE", f"{at}/messages/{ids[1]}", auth=alice)
    client.problem("message-not-found", "GET", f"{at}/messages/{ids[1]}", auth=alice)
    client.problem("message-not-found", "GET", f"/v1/queues/orders/messages/{ids[0]}", auth=alice)
    client.ok(200, "GET", "/v1/queues?include=stats", auth=alice)
    client.ok(200, "POST", f"{at}/redrives", None, alice)
    purged = client.ok(200, "DELETE", f"{at}/messages", auth=alice)
    if purged.json["purged_count"] != 1:
        differs(f"{purged}\n      wanted 1")


def rates(client, alice, bob):
    """Last on a node: afterwards this address may not log in for a minute."""
    for n in range(120):
        answer = client.call("POST", "/v1/api-keys", {"name": f"key {n}"}, bob)
        if answer.status != 201:
            break
    if answer.code != "quota":
        differs(f"{answer}\n      wanted the problem `quota`")
    taken = {"username": "alice", "password": PHRASE.format("alice")}
    for n in range(130):
        answer = client.call("POST", "/v1/users", taken)
        if answer.code != "name-taken":
            break
    if answer.code != "rate-limited":
        differs(f"{answer}\n      wanted the problem `rate-limited`")
    wrong = {"username": "carol", "password": "wrong phrase"}
    for n in range(12):
        answer = client.call("POST", "/v1/sessions", wrong)
        if answer.code != "bad-credentials":
            break
    if answer.code != "rate-limited":
        differs(f"{answer}\n      wanted the problem `rate-limited`")
    # The name has had its tries: from here on each costs nothing, but counts for the address.
    for n in range(300):
        if client.send("POST", "/v1/sessions", json.dumps(wrong).encode(),
                       {"content-type": "application/json"}).status != 429:
            differs("a login above the limit of its name is not answered with 429")
            break
    for operation in (o for o in client.operations if o.secured):
        client.problem("rate-limited", operation.method, path_of(operation), operation.example,
                       basic("alice", PHRASE.format("alice")))
    client.problem("rate-limited", "POST", "/v1/sessions", taken)
    patch = {"password": "another long phrase", "current_password": PHRASE.format("alice")}
    client.problem("rate-limited", "PATCH", "/v1/users/alice", patch, alice)
    client.ok(200, "GET", "/v1/users/me", auth=alice)


def first(client, node):
    client.use(node)
    client.problem("unauthenticated", "GET", "/v1/users/me")
    for name in ("alice", "bob", "carol"):
        register(client, name)
    alice, bob, carol = (log_in(client, name) for name in ("alice", "bob", "carol"))
    client.ok(201, "PUT", "/v1/queues/orders", {}, alice)
    client.ok(201, "PUT", "/v1/queues/second", {}, alice)
    client.ok(200, "PUT", "/v1/queues/orders/grants/bob", {"rights": ["send", "receive"]}, alice)
    for topic in ("news", "other"):
        client.ok(201, "PUT", f"/v1/topics/{topic}", {}, alice)
    rights_given = {"rights": ["publish", "subscribe"]}
    client.ok(200, "PUT", "/v1/topics/news/grants/bob", rights_given, alice)
    filtered = client.operation("put_subscription").example
    client.ok(201, "PUT", "/v1/topics/news/subscriptions/sports", filtered, alice)
    answers(client, alice)
    credentials(client, alice)
    bodies(client, alice)
    parameters(client, alice)
    rights(client, alice, bob, carol)
    routes(client, alice)
    early(client, node, alice)
    heads(client, node)
    people(client, alice, bob)
    queues(client, alice, bob)
    topics(client, alice, bob)
    messages(client, alice)
    receipts(client, alice)
    rates(client, alice, bob)


# ---- a node that is closed and small; the same on a full disk -------------------------------------

BODY_BYTES = 2048


def second(client, node):
    client.use(node)
    admin = log_in(client, "root")
    register(client, "eva", admin)
    eva = log_in(client, "eva")
    dora = {"username": "dora", "password": PHRASE.format("dora")}
    client.problem("registration-closed", "POST", "/v1/users", dora)
    client.problem("registration-closed", "POST", "/v1/users", dora, eva)
    client.ok(201, "PUT", "/v1/queues/orders", {}, admin)
    client.ok(201, "PUT", "/v1/topics/news", {}, admin)
    sent = {"messages": [{"body": "a"}, {"body": "b"}]}
    client.ok(201, "POST", "/v1/queues/orders/messages", sent, admin)
    lease = client.ok(200, "POST", "/v1/queues/orders/leases", {"lease_seconds": 600}, admin)
    big = b'{"a":"' + b"a" * BODY_BYTES + b'"}'
    kind = {"content-type": "application/json"}
    for operation in client.operations:
        if operation.schema or operation.may("too-large"):
            for chunked in (False, True):
                client.problem("too-large", operation.method, path_of(operation), auth=admin,
                               raw=big, headers=kind, chunked=chunked)
    # Far more than the node takes at once: the answer comes all the same.
    client.problem("too-large", "PUT", "/v1/queues/orders", auth=admin, raw=b" " * (4 << 20),
                   headers=kind)
    exact = b"{" + b" " * (BODY_BYTES - 2) + b"}"
    client.ok(200, "PUT", "/v1/queues/orders", auth=admin, raw=exact, headers=kind)
    asked(client, node, admin)
    return admin, lease.json["messages"][0]["receipt"]


def third(client, node, admin, receipt):
    """The disk is full up to its reserve: nothing grows, settling and deleting go on."""
    client.use(node)
    dora = {"username": "dora", "password": PHRASE.format("dora")}
    root = {"username": "root", "password": PHRASE.format("root")}
    sent = {"messages": [{"body": "a"}, {"body": "b"}]}
    client.problem("overloaded", "POST", "/v1/queues/orders/messages", sent, admin,
                   field="messages[1]")
    client.problem("overloaded", "PUT", "/v1/queues/more", {}, admin)
    client.problem("overloaded", "PUT", "/v1/topics/more", {}, admin)
    client.problem("overloaded", "PUT", "/v1/topics/news/subscriptions/more", {}, admin)
    client.problem("overloaded", "POST", "/v1/users", dora, admin)
    client.problem("overloaded", "POST", "/v1/sessions", root)
    client.problem("overloaded", "POST", "/v1/api-keys", {"name": "one"}, admin)
    client.ok(200, "GET", "/v1/queues/orders", auth=admin)
    client.ok(204, "DELETE", f"/v1/queues/orders/leases/{receipt}", auth=admin)
    found = client.ok(200, "POST", "/v1/queues/orders/leases", {"auto_ack": True}, admin)
    if [m.get("body") for m in (found.json or {}).get("messages", [])] != ["b"]:
        differs(f"{found}\n      wanted the second message")
    ending(client, node, admin)


def raw_answer(stream, what):
    answer = http.client.HTTPResponse(stream)
    try:
        answer.begin()
        return Answer(what, answer.status, answer.getheaders(), answer.read())
    except (OSError, http.client.HTTPException) as error:
        return Answer(what, body=f"{type(error).__name__}: {error}".encode())


def asked(client, node, auth):
    """Who asks before sending a body that is too large is told at once."""
    head = (f"PUT /v1/queues/orders HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n"
            f"Content-Type: application/json\r\nContent-Length: {BODY_BYTES + 1}\r\n"
            f"Authorization: {auth['authorization']}\r\n\r\n")
    with node.tls() as stream:
        stream.settimeout(TIMEOUT)
        stream.sendall(head.encode())
        client.requests += 1
        answer = raw_answer(stream, "PUT /v1/queues/orders with Expect: 100-continue")
    check_raw(client, answer, "PUT", "/v1/queues/orders", "too-large")


def early(client, node, auth):
    """A request refused before its body came: the connection goes on, or the answer says that not."""
    body = b'{"max_messages": 1}'
    head = (f"POST /v1/queues/orders/leases?nonsense=1 HTTP/1.1\r\nHost: localhost\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            f"Authorization: {auth['authorization']}\r\n\r\n")
    with node.tls() as stream:
        stream.settimeout(TIMEOUT)
        client.requests += 2
        stream.sendall(head.encode())
        # Until the answer comes; should the node wait for the body, it gets it in the end.
        select.select([stream], [], [], 2)
        try:
            stream.sendall(body)
        except OSError:
            pass
        what = "POST /v1/queues/orders/leases?nonsense=1, its body after its answer"
        answer = raw_answer(stream, what)
        check_raw(client, answer, "POST", "/v1/queues/orders/leases", "validation")
        if answer.headers.get("connection", "").lower() == "close":
            return
        try:
            stream.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        except OSError:
            pass
        after = raw_answer(stream, "GET /livez after it on the same connection")
        if after.status != 200:
            differs(f"{answer}\n      the connection is closed and the answer does not say so: {after}")


def heads(client, node):
    """Heads that no operation gets to see: too large, or no HTTP. The answer says that it ends."""
    get = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n"
    fields = b"".join(b"x-%d: a\r\n" % n for n in range(200))
    for code, head in (
        ("too-large", get + b"x-long: " + b"a" * (70 << 10) + b"\r\n\r\n"),
        ("too-large", get + b"x-long: " + b"a" * (4 << 20) + b"\r\n\r\n"),
        ("too-large", get + fields + b"\r\n"),
        ("too-large", b"GET /" + b"a" * (70 << 10) + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        ("malformed", b"what is this\r\n\r\n"),
        ("malformed", b"\x16\x03\x01\x02\x00\x01\r\n\r\n"),
        ("malformed", b"GET /livez HTTP/3.0\r\nHost: localhost\r\n\r\n"),
        ("malformed", b"GET /a b HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        ("malformed", b"GET /\x01 HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        ("malformed", get + b"no field\r\n\r\n"),
        ("malformed", get + b"a b: c\r\n\r\n"),
        ("malformed", get + b"content-length: x\r\n\r\n"),
        ("malformed", get + b"content-length: 1\r\ncontent-length: 2\r\n\r\n"),
        ("malformed", get + b"transfer-encoding: none\r\n\r\n"),
    ):
        with node.tls() as stream:
            stream.settimeout(TIMEOUT)
            client.requests += 1
            stream.sendall(head)
            answer = raw_answer(stream, f"the head {head[:60]!r} of {len(head)} bytes")
        if answer.status == 0:
            differs(f"{answer}")
            continue
        client.problems += 1
        client.check_problem(answer, None, "GET")
        if (answer.code, answer.status) != (code, HEADS[code]):
            differs(f"{answer}\n      wanted {HEADS[code]} `{code}`")
        if answer.headers.get("connection") != "close":
            differs(f"{answer}\n      the connection ends and the answer does not say so")
        if not OPAQUE.fullmatch(answer.headers.get("x-request-id", "")):
            differs(f"{answer}: X-Request-Id {answer.headers.get('x-request-id')!r}")


def check_raw(client, answer, method, path, code):
    if answer.status == 0:
        return differs(f"{answer}")
    client.problems += 1
    client.check_problem(answer, client.row(method, path), method)
    if answer.code != code:
        differs(f"{answer}\n      wanted the problem `{code}`")


def ending(client, node, auth):
    """SIGTERM: waits end early, and a request that had begun learns that the node is not ready."""
    client.ok(200, "GET", "/readyz")
    wait = json.dumps({"wait_seconds": 20}).encode()
    poll = (f"POST /v1/queues/orders/leases HTTP/1.1\r\nHost: localhost\r\nAuthorization: "
            f"{auth['authorization']}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(wait)}\r\n\r\n").encode() + wait
    half = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n"
    with node.tls() as waiting, node.tls() as open_one:
        for stream in (waiting, open_one):
            stream.settimeout(TIMEOUT)
        waiting.sendall(poll)
        open_one.sendall(half)
        client.requests += 2
        for _ in range(500):
            if "\ntertulia_receivers_waiting 1\n" in client.send("GET", "/metrics").body.decode():
                break
            time.sleep(0.01)
        else:
            differs("a long poll is not among the receivers that wait")
        told = time.monotonic()
        node.process.send_signal(signal.SIGTERM)
        answer = raw_answer(waiting, "a long poll while the node stops")
        if answer.status != 200 or (answer.json or {}).get("messages") != []:
            differs(f"{answer}\n      wanted 200 without messages")
        if time.monotonic() - told > 5:
            differs("a long poll is not answered early while the node stops")
        open_one.sendall(b"X-Request-Id: late\r\n\r\n")
        answer = raw_answer(open_one, "GET /readyz while the node stops")
        check_raw(client, answer, "GET", "/readyz", "not-ready")
    try:
        code = node.process.wait(TIMEOUT)
    except subprocess.TimeoutExpired:
        return differs("the node does not end after SIGTERM")
    if code != 0:
        differs(f"the node ended with {code}\n{node.tail()}")


def main():
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    binary = os.path.realpath(sys.argv[1])
    work = tempfile.mkdtemp()
    client, nodes = Client(), []
    try:
        nodes.append(Node(binary, os.path.join(work, "first"), {"AUTH__REGISTRATION": "open"}))
        first(client, nodes[0])
        nodes[0].kill()
        secret = os.path.join(work, "password")
        with open(secret, "w", encoding="utf-8") as file:
            file.write(PHRASE.format("root") + "\n")
        free = shutil.disk_usage(work).free
        closed = {"AUTH__REGISTRATION": "closed", "AUTH__ADMIN_USERNAME": "root",
                  "AUTH__ADMIN_PASSWORD_FILE": secret, "HTTP__MAX_BODY_BYTES": BODY_BYTES}
        nodes.append(Node(binary, os.path.join(work, "second"), closed))
        admin, receipt = second(client, nodes[1])
        nodes[1].kill()
        full = {**closed, "STORE__RESERVE_BYTES": free + (1 << 40)}
        nodes.append(Node(binary, os.path.join(work, "second"), full))
        third(client, nodes[2], admin, receipt)
        for node in nodes[:2]:
            with open(os.path.join(node.folder, "out"), encoding="utf-8", errors="replace") as out:
                for line in [l for l in out if "panicked" in l][:3]:
                    differs(f"a panic in the log: {line.strip()}")
    except (KeyError, IndexError, TypeError, AttributeError):
        # What an answer lacked, the differences before it tell of.
        differs(f"the run broke off\n{traceback.format_exc()}")
    finally:
        for node in nodes:
            node.kill()
        shutil.rmtree(work, ignore_errors=True)

    named = {c for o in client.operations for s in o.answers for c in o.codes(s)} | set(OUTSIDE)
    codes = {code for _, code in client.provoked}
    for code in sorted(named - codes - set(EXEMPT)):
        differs(f"`{code}` is in the document and was not provoked")
    for code in sorted(codes & set(EXEMPT)):
        differs(f"`{code}` is exempt ({EXEMPT[code]}) and was provoked")
    for code in sorted(set(EXEMPT) - named):
        differs(f"`{code}` is exempt and not in the document")
    for code in sorted(codes - named):
        differs(f"`{code}` was answered and is not in the document")
    pairs = {(o.id, c) for o in client.operations for s in o.answers for c in o.codes(s)}
    met = pairs & client.provoked
    for index, text in enumerate(differences, 1):
        text = text.replace(work, "WORK")
        print(f"{index:4}. {text}")
    print(f"problems: {len(codes & named)} of {len(named)} codes ({len(EXEMPT)} exempt), "
          f"{len(met)} of {len(pairs)} pairs, {client.requests} requests, {client.problems} "
          f"problems, {client.successes} successes, {time.monotonic() - began:.1f} s, "
          f"{len(differences)} differences")
    if "PROBLEMS_MISSING" in os.environ:
        for pair in sorted(pairs - met):
            print("   not provoked:", *pair)
    sys.exit(1 if differences else 0)


if __name__ == "__main__":
    main()
