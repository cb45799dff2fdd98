#!/usr/bin/env python3
"""Finds dead links in the Markdown files of this checkout and, after `cargo doc`, in the HTML documentation.

The script does not use the network. A link to this repository at its public address must lead to a file of this
checkout.
"""
import html
import os
import re
import subprocess
import sys
from urllib.parse import unquote

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TARGET = os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target"))
REPOSITORY = re.compile(r"https://github\.com/c10d-rs/c10d/(?:blob|tree)/main/([^\"\s]*)")
FENCE = re.compile(r"^(```|~~~).*?^\1[ \t]*$", re.M | re.S)
MARKDOWN_LINK = re.compile(r"\]\(([^)\s]+)\)|^\[[^\]]+\]:\s+(\S+)", re.M)


def anchors_of_markdown(text):
    """Returns the anchors that GitHub makes of headings."""
    found = set()
    for heading in re.findall(r"^#+\s+(.*)$", FENCE.sub("", text), re.M):
        word = re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading.strip().lower()))
        found.add(word.replace(" ", "-"))
    return found


def anchors_of_html(text):
    return {html.unescape(name) for name in re.findall(r'\bid="([^"]*)"', text)}


class Places:
    """The files and their anchors. Each file is read once."""

    def __init__(self):
        self.anchors = {}

    def has(self, path, anchor):
        if not os.path.exists(path):
            return False
        if not anchor or os.path.isdir(path) or not path.endswith((".md", ".html")):
            return True
        if path not in self.anchors:
            with open(path, encoding="utf-8") as file:
                text = file.read()
            self.anchors[path] = anchors_of_markdown(text) if path.endswith(".md") else anchors_of_html(text)
        # The anchor in the HTML page may be percent-encoded or not.
        return anchor in self.anchors[path] or unquote(anchor) in self.anchors[path]


def dead(places, page, link):
    """Returns whether this link of this page is dead."""
    path, _, anchor = link.partition("#")
    ours = REPOSITORY.fullmatch(path)
    if ours:
        return not places.has(os.path.join(ROOT, unquote(ours.group(1))), anchor)
    if re.match(r"[a-z][a-z0-9+.-]*:", path):
        return False
    path = os.path.normpath(os.path.join(os.path.dirname(page), unquote(path))) if path else page
    return not places.has(path, anchor)


def pages():
    """Yields (page, link) for every link."""
    names = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in names.splitlines():
        # rustdoc resolves the links of these files, so these links are checked in rustdoc's HTML.
        if "src" in name.split("/"):
            continue
        page = os.path.join(ROOT, name)
        with open(page, encoding="utf-8") as file:
            text = FENCE.sub("", file.read())
        for inline, reference in MARKDOWN_LINK.findall(re.sub(r"`[^`\n]*`", "", text)):
            yield page, inline or reference
    docs = os.path.join(TARGET, "doc")
    if not os.path.isdir(docs):
        print("skipped: there is no HTML documentation; run `cargo doc` to make it")
        return
    for folder, _, files in os.walk(docs):
        first = os.path.relpath(folder, docs).split(os.sep)[0]
        if not first.startswith("c10d"):
            continue
        for name in sorted(files):
            if not name.endswith(".html"):
                continue
            page = os.path.join(folder, name)
            with open(page, encoding="utf-8") as file:
                text = file.read()
            for quoted in re.findall(r"<a\b[^>]*?\bhref=\"([^\"]*)\"", text):
                yield page, html.unescape(quoted)


def main():
    places, found, count = Places(), [], 0
    for page, link in pages():
        count += 1
        # Of a link to lines of a source file, only the file is checked.
        if re.search(r"\.rs\.html#\d+(-\d+)?$", link):
            link = link.partition("#")[0]
        # Every type implements a trait of `tracing` whose documentation has this link, and rustdoc copies the link.
        if link == "dispatcher#setting-the-default-subscriber":
            continue
        if dead(places, page, link):
            found.append((os.path.relpath(page, ROOT), link))
    for page, link in sorted(set(found)):
        print(f"{page}: {link} is dead")
    print(f"{count} links, {len(set(found))} of them dead")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
