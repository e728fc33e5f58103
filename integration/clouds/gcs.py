"""A server of Google Cloud Storage's XML API, as far as its public reference tells it, for tests.

No emulator that can be installed from a package registry takes this API's uploads: those there are
serve the JSON one. So this one holds a client against the reference, and not against Google's servers.

usage: gcs.py FOLDER PUBLIC_KEY PORT     serves the folders in FOLDER as buckets on a port of 127.0.0.1;
requests have to bear a token that the key's owner signed. Ends with its standard input. An object's generation is its file's time of change, so all is in the folder.
"""
import base64
import hashlib
import http.server
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import xml.etree.ElementTree
from email.utils import formatdate
from xml.sax.saxutils import escape

FOLDER, PUBLIC_KEY, PORT = sys.argv[1:4]
LOCK = threading.Lock()
UPLOADS = {}
TOKENS = {}
# As many as the service itself lists at once.
PAGE = 1000


class Refused(Exception):
    """An error as the service words it."""

    def __init__(self, status, code, message):
        super().__init__(code)
        self.status, self.code, self.message = status, code, message


def token_holds(token):
    """Whether a token was signed by the key's owner and has not expired."""
    if token not in TOKENS:
        try:
            signed, signature = token.rsplit(".", 1)
            decode = lambda text: base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
            claims = json.loads(decode(signed.split(".")[1]))
            with tempfile.NamedTemporaryFile() as file:
                file.write(decode(signature))
                file.flush()
                verify = ["openssl", "dgst", "-sha256", "-verify", PUBLIC_KEY, "-signature", file.name]
                good = subprocess.run(verify, input=signed.encode(), capture_output=True).returncode == 0
            TOKENS[token] = claims["exp"] if good and claims["iat"] <= time.time() + 300 else 0
        except (ValueError, KeyError, IndexError):
            TOKENS[token] = 0
    return TOKENS[token] > time.time()


def objects(bucket):
    """Names of a bucket's objects, in order of their bytes."""
    root = os.path.join(FOLDER, bucket)
    found = []
    for folder, _, files in os.walk(root):
        found += [os.path.relpath(os.path.join(folder, name), root) for name in files]
    return sorted((name for name in found if not name.startswith(".")), key=str.encode)


def etag(path):
    with open(path, "rb") as file:
        return '"%s"' % hashlib.md5(file.read()).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def answer(self, status, body=b"", kind="application/xml; charset=UTF-8", head=(), length=None):
        lines = [f"HTTP/1.1 {status} {self.responses[status][0]}", f"Content-Type: {kind}"]
        lines += [f"Content-Length: {len(body) if length is None else length}", f"Date: {formatdate(usegmt=True)}"]
        lines += [f"{name}: {value}" for name, value in head]
        self.wfile.write("\r\n".join(lines).encode() + b"\r\n\r\n" + (b"" if self.command == "HEAD" else body))

    def serve(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        where = urllib.parse.urlsplit(self.path)
        bucket, _, name = where.path[1:].partition("/")
        bucket, name = urllib.parse.unquote(bucket), urllib.parse.unquote(name)
        query = dict(urllib.parse.parse_qsl(where.query, keep_blank_values=True))
        try:
            scheme, _, token = self.headers.get("Authorization", "").partition(" ")
            if scheme != "Bearer" or not token_holds(token):
                raise Refused(401, "AuthenticationRequired", "Authentication required.")
            if not os.path.isdir(os.path.join(FOLDER, bucket)):
                raise Refused(404, "NoSuchBucket", "The specified bucket does not exist.")
            if name:
                self.object(os.path.join(FOLDER, bucket, name), query, body)
            else:
                self.list(bucket, query)
        except Refused as refused:
            text = f"<?xml version='1.0' encoding='UTF-8'?><Error><Code>{refused.code}</Code>"
            self.answer(refused.status, f"{text}<Message>{refused.message}</Message></Error>".encode())

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = serve

    def list(self, bucket, query):
        if self.command != "GET" or query.get("list-type") != "2":
            raise Refused(400, "InvalidArgument", "Invalid argument.")
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        after = query.get("continuation-token") or query.get("start-after", "")
        most = min(int(query.get("max-keys", PAGE)), PAGE)
        lines, told, more, last = [], set(), False, ""
        for name in objects(bucket):
            group = name
            if delimiter and delimiter in name[len(prefix):]:
                group = name[:name.index(delimiter, len(prefix)) + len(delimiter)]
            if not name.startswith(prefix) or group.encode() <= after.encode() or group in told:
                continue
            if len(told) == most:
                more = True
                break
            told.add(group)
            last = group
            if group != name:
                lines.append(f"<CommonPrefixes><Prefix>{escape(group)}</Prefix></CommonPrefixes>")
                continue
            path = os.path.join(FOLDER, bucket, name)
            stat = os.stat(path)
            changed = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(stat.st_mtime))
            lines.append(
                f"<Contents><Key>{escape(name)}</Key><Generation>{stat.st_mtime_ns}</Generation><MetaGeneration>1"
                f"</MetaGeneration><LastModified>{changed}</LastModified><ETag>{escape(etag(path))}</ETag>"
                f"<Size>{stat.st_size}</Size></Contents>")
        token = f"<NextContinuationToken>{escape(last)}</NextContinuationToken>" if more else ""
        text = f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}{''.join(lines)}"
        head = "<?xml version='1.0' encoding='UTF-8'?><ListBucketResult xmlns='http://doc.s3.amazonaws.com/2006-03-01'>"
        self.answer(200, f"{head}<Name>{bucket}</Name><Prefix>{escape(prefix)}</Prefix>{text}</ListBucketResult>".encode())

    def object(self, path, query, body):
        if self.command in ("GET", "HEAD"):
            self.read(path)
        elif self.command == "PUT" and "uploadId" in query:
            upload = self.upload(path, query)
            upload["parts"][int(query["partNumber"])] = body
            self.answer(200, head=[("ETag", '"%s"' % hashlib.md5(body).hexdigest())])
        elif self.command == "PUT":
            self.store(path, [body])
            head = [("ETag", etag(path)), ("x-goog-generation", os.stat(path).st_mtime_ns)]
            self.answer(200, head=head)
        elif self.command == "POST" and "uploads" in query:
            word = os.urandom(12).hex()
            UPLOADS[word] = {"path": path, "parts": {}}
            self.answer(200, f"<InitiateMultipartUploadResult><UploadId>{word}</UploadId></InitiateMultipartUploadResult>"
                        .encode())
        elif self.command == "POST" and "uploadId" in query:
            self.complete(path, query, body.decode())
        elif self.command == "DELETE" and "uploadId" in query:
            self.upload(path, query)
            del UPLOADS[query["uploadId"]]
            self.answer(204)
        elif self.command == "DELETE":
            try:
                os.unlink(path)
            except OSError:
                raise Refused(404, "NoSuchKey", "The specified key does not exist.") from None
            self.answer(204)
        else:
            raise Refused(400, "InvalidArgument", "Invalid argument.")

    def upload(self, path, query):
        upload = UPLOADS.get(query["uploadId"])
        if not upload or upload["path"] != path:
            raise Refused(404, "NoSuchUpload", "The requested upload was not found.")
        return upload

    def complete(self, path, query, text):
        upload = self.upload(path, query)
        wanted = xml.etree.ElementTree.fromstring(text).findall("{*}Part")
        parts = [upload["parts"].get(int(part.findtext("{*}PartNumber")), b"") for part in wanted]
        marks = [part.findtext("{*}ETag").strip('"') for part in wanted]
        if not parts or marks != [hashlib.md5(part).hexdigest() for part in parts]:
            raise Refused(400, "InvalidPart", "One or more of the specified parts could not be found.")
        if any(len(part) < 5 << 20 for part in parts[:-1]):
            raise Refused(400, "EntityTooSmall", "Your proposed upload is smaller than the minimum object size.")
        self.store(path, parts)
        del UPLOADS[query["uploadId"]]
        body = f"<CompleteMultipartUploadResult><ETag>{escape(etag(path))}</ETag></CompleteMultipartUploadResult>"
        self.answer(200, body.encode(), head=[("x-goog-generation", os.stat(path).st_mtime_ns)])

    def store(self, path, parts):
        wanted = self.headers.get("x-goog-if-generation-match")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        new = os.path.join(FOLDER, f".{os.urandom(8).hex()}")
        with open(new, "wb") as file:
            file.writelines(parts)
        with LOCK:
            now = os.stat(path).st_mtime_ns if os.path.exists(path) else 0
            if wanted is not None and int(wanted) != now:
                os.unlink(new)
                raise Refused(412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold.")
            os.utime(new, ns=(max(time.time_ns(), now + 1),) * 2)
            os.rename(new, path)

    def read(self, path):
        try:
            with open(path, "rb") as file:
                stat, content = os.fstat(file.fileno()), file.read()
        except OSError:
            raise Refused(404, "NoSuchKey", "The specified key does not exist.") from None
        head = [("ETag", '"%s"' % hashlib.md5(content).hexdigest()), ("x-goog-generation", stat.st_mtime_ns),
                ("Last-Modified", formatdate(stat.st_mtime, usegmt=True)), ("Accept-Ranges", "bytes")]
        ranged = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not ranged:
            return self.answer(200, content, "application/octet-stream", head)
        start, end = int(ranged[1]), min(int(ranged[2] or stat.st_size), stat.st_size - 1)
        if start > end:
            raise Refused(416, "InvalidRange", "The requested range cannot be satisfied.")
        head.append(("Content-Range", f"bytes {start}-{end}/{stat.st_size}"))
        return self.answer(206, content[start:end + 1], "application/octet-stream", head)


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True


if __name__ == "__main__":
    server = Server(("127.0.0.1", int(PORT)), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()
