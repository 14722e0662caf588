"""The content hash of a directory: `python content_hash.py DIRECTORY`. Needs nothing but Python; leaves out `.git`."""

import hashlib
import os
import sys


def entry(root: bytes, path: bytes) -> bytes:
    place = os.path.join(root, path)
    if os.path.islink(place):
        kind, data = b"symlink", os.readlink(place)
    else:
        kind = b"executable" if os.stat(place).st_mode & 0o100 else b"file"
        with open(place, "rb") as file:
            data = file.read()
    return b"%s %s %s\0" % (kind, hashlib.sha256(data).hexdigest().encode(), path)


def paths(root: bytes) -> list[bytes]:
    found = []
    for folder, folders, files in os.walk(root):
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        folders[:] = [name for name in folders if name not in links and name != b".git"]
        found += [os.path.relpath(os.path.join(folder, name), root) for name in files + links]
    return sorted(found)


top = os.fsencode(sys.argv[1])
text = b"".join(entry(top, path) for path in paths(top))
print("sha256-" + hashlib.sha256(b"swoosh/content/v1\n" + text).hexdigest())
