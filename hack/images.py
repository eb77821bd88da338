#!/usr/bin/env python3
"""Builds the images of the tests and the demo: images.py PAUSE BUSYBOX FOLDER, or images.py --own SEED BUSYBOX FILE.

Each is an OCI archive with one layer, made from a static `pause` and a static busybox, so that
nothing has to be pulled from anywhere. With --own it is one with 4 MB that only images of this seed have.
"""

import hashlib
import io
import json
import random
import sys
import tarfile

PREFIX = "localhost/podkeeper"
TOOLS = (
    "sh cat chmod chown date dd df echo env false grep head hostname httpd id kill ln ls mkdir mount "
    "mv nc nslookup ps readlink rm rmdir seq sleep stat sync tail test touch true tty umount wget"
).split()
PAGE = "<p>This page comes from a static Pod.</p>\n"
USERS = """root:x:0:0:root:/root:/bin/sh
app:x:1000:1000::/:/bin/sh
nobody:x:65534:65534::/:/bin/sh
"""
# The user app is in one group more, by the image alone.
GROUPS = """root:x:0:
app:x:1000:
more:x:4242:app
nogroup:x:65534:
"""


def layer(files):
    """A tar of (name, mode, content) entries; content None is a folder, `-> x` a symlink."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, mode, content in files:
            entry = tarfile.TarInfo(name)
            entry.mode = mode
            if content is None:
                entry.type = tarfile.DIRTYPE
                tar.addfile(entry)
            elif isinstance(content, str) and content.startswith("-> "):
                entry.type = tarfile.SYMTYPE
                entry.linkname = content[3:]
                tar.addfile(entry)
            else:
                data = content.encode() if isinstance(content, str) else content
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def descriptor(media_type, data):
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    return {"mediaType": media_type, "digest": digest, "size": len(data)}


def image(path, name, files, config):
    tree = layer(files)
    digest = "sha256:" + hashlib.sha256(tree).hexdigest()
    settings = {
        "architecture": "amd64",
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [digest]},
    }
    kind = "application/vnd.oci.image."
    settings = json.dumps(settings).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": kind + "manifest.v1+json",
        "config": descriptor(kind + "config.v1+json", settings),
        "layers": [descriptor(kind + "layer.v1.tar", tree)],
    }
    manifest = json.dumps(manifest).encode()
    entry = descriptor(kind + "manifest.v1+json", manifest)
    entry["annotations"] = {
        "io.containerd.image.name": name,
        "org.opencontainers.image.ref.name": name.rsplit(":", 1)[1],
    }
    index = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
    files = [("oci-layout", 0o644, '{"imageLayoutVersion": "1.0.0"}'), ("index.json", 0o644, index)]
    for blob in (tree, settings, manifest):
        files.append(("blobs/sha256/" + hashlib.sha256(blob).hexdigest(), 0o644, blob))
    with open(path, "wb") as out:
        out.write(layer(files))


def own_image(seed, busybox, path):
    with open(busybox, "rb") as file:
        busybox = file.read()
    files = [("bin", 0o755, None), ("bin/busybox", 0o755, busybox)]
    files += [(f"bin/{tool}", 0o777, "-> busybox") for tool in TOOLS]
    files += [("own", 0o644, random.Random(seed).randbytes(4_000_000))]
    image(path, f"{PREFIX}/own:{seed}", files, {"Env": ["PATH=/bin"]})


def main():
    if sys.argv[1] == "--own":
        return own_image(*sys.argv[2:])
    pause, busybox, folder = sys.argv[1:]
    with open(pause, "rb") as file:
        pause = file.read()
    with open(busybox, "rb") as file:
        busybox = file.read()
    image(f"{folder}/pause.tar", f"{PREFIX}/pause:1", [("pause", 0o755, pause)], {"Entrypoint": ["/pause"]})
    root = [(name, 0o755, None) for name in ("bin", "etc", "proc", "root", "www")]
    root += [("tmp", 0o1777, None), ("bin/busybox", 0o755, busybox)]
    root += [(f"bin/{tool}", 0o777, "-> busybox") for tool in TOOLS]
    root += [
        ("etc/passwd", 0o644, USERS),
        ("etc/group", 0o644, GROUPS),
        ("www/index.html", 0o644, PAGE),
    ]
    env = {"Env": ["PATH=/bin"]}
    for tag in ("1", "2"):
        files = root + [("etc/image-version", 0o644, tag + "\n")]
        image(f"{folder}/busybox-{tag}.tar", f"{PREFIX}/busybox:{tag}", files, {**env, "Cmd": ["sh"]})
    for tag in ("1000", "app"):
        user = {**env, "Cmd": ["sh"], "User": tag}
        image(f"{folder}/user-{tag}.tar", f"{PREFIX}/user:{tag}", root, user)
    serve = {**env, "Entrypoint": ["httpd", "-f", "-p", "8080", "-h", "/www"]}
    image(f"{folder}/web-1.tar", f"{PREFIX}/web:1", root, serve)


main()
