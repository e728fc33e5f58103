"""Makes a container, deletes an object or tells the objects' names, in an emulator of Azure's blobs.

usage: container.py make|list|delete ENDPOINT ACCOUNT KEY CONTAINER [NAME]
"""
import base64
import hashlib
import hmac
import sys
import urllib.parse
import urllib.request
import xml.etree.ElementTree
from email.utils import formatdate

what, endpoint, account, key, container = sys.argv[1:6]


def request(method, path, query):
    """One request, signed as shared keys are."""
    date = formatdate(usegmt=True)
    headers = f"x-ms-date:{date}\nx-ms-version:2021-12-02\n"
    # The emulator's path begins with the account, which the signature has once more.
    resource = f"/{account}/{account}/{path}" + "".join(f"\n{name}:{value}" for name, value in sorted(query.items()))
    signed = "\n" * 12 + headers + resource
    text = f"{method}{signed}".encode()
    mark = base64.b64encode(hmac.new(base64.b64decode(key), text, hashlib.sha256).digest()).decode()
    url = f"{endpoint}/{path}?{urllib.parse.urlencode(query)}"
    asked = urllib.request.Request(url, method=method, headers={
        "x-ms-date": date, "x-ms-version": "2021-12-02", "Authorization": f"SharedKey {account}:{mark}"})
    with urllib.request.urlopen(asked, timeout=30) as answer:
        return answer.read()


if what == "make":
    request("PUT", container, {"restype": "container"})
elif what == "delete":
    request("DELETE", f"{container}/{sys.argv[6]}", {})
else:
    listed = xml.etree.ElementTree.fromstring(request("GET", container, {"restype": "container", "comp": "list"}))
    for blob in listed.iter("Blob"):
        print(blob.findtext("Name"), blob.findtext("Properties/Content-Length"))
