"""What is done to all pages of the documentation: names of the package become links, and no page may fetch anything."""

import re
from pathlib import Path
from typing import Any

import numpy.typing as npt
from docutils import nodes
from sphinx import addnodes
from sphinx.errors import SphinxError
from sphinx.util.typing import stringify_annotation

# NumPy's names for types, which annotations have lost when they are read: how they look then.
ARRAY_LIKE = stringify_annotation(npt.ArrayLike, "smart")
ARRAY = re.compile(r"~numpy\.ndarray\[tuple\[~typing\.Any, \.\.\.\], ~numpy\.dtype\[([~\w.]+)\]\]")
NAME = re.compile(r"(?:stf|stforecast)\.([A-Za-z_][\w.]*)(?:\(.*\))?")
# Whatever a browser gets by itself when it shows a page: not the links that a reader follows.
FETCHED = re.compile(
    r"""<(?:script|img|iframe|source|video|audio|embed)\b[^>]*\bsrc\s*=\s*["']?((?:https?:)?//[^"'\s>]+)"""
    r"""|<link\b(?=[^>]*\brel\s*=\s*["']?(?:stylesheet|preload|icon|preconnect|modulepreload))"""
    r"""[^>]*\bhref\s*=\s*["']?((?:https?:)?//[^"'\s>]+)""",
    flags=re.IGNORECASE,
)
IMPORTED = re.compile(r"""(?:@import\s+(?:url\()?|url\()\s*["']?((?:https?:)?//[^"')\s]+)""", flags=re.IGNORECASE)


def name_arrays(_app: Any, _what: str, _name: str, _object: Any, _options: Any, *signature: str | None) -> Any:
    """Let signatures say ArrayLike and NDArray where the source does."""
    return tuple(
        part and ARRAY.sub(r"~numpy.typing.NDArray[\1]", part.replace(ARRAY_LIKE, "~numpy.typing.ArrayLike"))
        for part in signature
    )


def link_names(_app: Any, doctree: nodes.document) -> None:
    """Let code that names something of the package, `stf.fit` or `stforecast.plot.save(...)`, link to its reference."""
    for literal in list(doctree.findall(nodes.literal)):
        named = NAME.fullmatch(literal.astext())
        if named is None or isinstance(literal.parent, (nodes.reference, addnodes.pending_xref, nodes.title)):
            continue
        link = addnodes.pending_xref("", refdomain="py", reftype="obj", reftarget=f"stforecast.{named[1]}")
        literal.replace_self(link)
        link += literal


def mend_fields(_app: Any, doctree: nodes.document) -> None:
    """Let the list of a class's attributes be called so, which Sphinx calls variables, and let its dashes be dashes."""
    for name in doctree.findall(nodes.field_name):
        if name.astext() == "Variables":
            name.children = [nodes.Text("Attributes")]
    for text in list(doctree.findall(nodes.Text)):
        if text == " -- ":
            text.parent.replace(text, nodes.Text(" – "))


def remote_assets(folder: Path) -> list[str]:
    """What the pages of a folder would fetch from elsewhere, each with the file that does."""
    found = []
    for path in sorted(folder.rglob("*")):
        pattern = {".html": FETCHED, ".css": IMPORTED}.get(path.suffix)
        if pattern is not None:
            fetched = ("".join(groups) for groups in (match.groups("") for match in pattern.finditer(path.read_text())))
            found += [f"{path.relative_to(folder)}: {url}" for url in fetched]
    return found


def refuse_remote_assets(app: Any, error: Exception | None) -> None:
    """End a build with an error if a page needs the network."""
    if error is None and app.builder.format == "html":
        found = remote_assets(Path(app.outdir))
        if found:
            raise SphinxError("pages fetch from elsewhere:\n" + "\n".join(found))


def setup(app: Any) -> dict[str, bool]:
    """Watch every page."""
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("autodoc-process-signature", name_arrays)
    app.connect("doctree-read", link_names)
    app.connect("doctree-read", mend_fields)
    app.connect("build-finished", refuse_remote_assets)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
