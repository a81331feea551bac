"""The colours of the page and its drawings, for light and dark screens."""

PALETTE = """
--paper:#ffffff;--panel:#f6f8fa;--ink:#1c2128;--muted:#57606a;--line:#d0d7de;--wire:#6e7781;
--accent:#0b5cad;--added:#1a7f37;--added-fill:#e6f4ea;--removed:#b42318;--removed-fill:#fdecea;
--changed:#8a5a00;--changed-fill:#fff4d6;--renamed:#0b5cad;--renamed-fill:#e3effb;
--replaced:#7b3fa0;--replaced-fill:#f3e8f9;
--series-0:#0b5cad;--series-1:#b3541e;--series-2:#00707a;--series-3:#7b3fa0;--series-4:#5c6b00;
--series-5:#a3285d;
"""
DARK = """
--paper:#14171b;--panel:#1b1f25;--ink:#e3e7ec;--muted:#9aa4b0;--line:#363d47;--wire:#8b949e;
--accent:#6cb0ff;--added:#56d364;--added-fill:#12301c;--removed:#ff8a80;--removed-fill:#3a1817;
--changed:#e3b341;--changed-fill:#33280c;--renamed:#6cb0ff;--renamed-fill:#10263d;
--replaced:#c79bea;--replaced-fill:#2a1a36;
--series-0:#6cb0ff;--series-1:#f0a06a;--series-2:#4fc3c9;--series-3:#c79bea;--series-4:#b9c95a;
--series-5:#f28bb4;
"""
SERIES = 6  # colours for lines
HUES = {  # of what happened to a node
    "added": "added", "removed": "removed", "changed": "changed", "resized": "changed",
    "renamed": "renamed", "moved": "renamed", "replaced": "replaced",
}  # fmt: skip


def scheme(selector: str) -> str:
    """Return the CSS that gives `selector` the colours, by the reader's preference."""
    light, dark = (" ".join(text.split()) for text in (PALETTE, DARK))
    return (
        f"{selector}{{{light}}}"
        f"@media screen and (prefers-color-scheme:dark){{{selector}{{{dark}}}}}"
    )
