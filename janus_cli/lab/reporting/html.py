"""Pieces of a page. Whatever comes from outside goes through `text`; pieces that are HTML already are `Html`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape
from itertools import count
from typing import NewType

Html = NewType("Html", str)

MARK = b'<meta name="generator" content="janus report">'  # what tells a report from a file of someone else's
STYLE = """\
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: #1a1a1a; font: 15px/1.5 system-ui, "DejaVu Sans", Arial, sans-serif; }
header, main, footer { max-width: 1320px; margin: 0 auto; padding: 0 20px; }
header { padding-top: 24px; }
h1 { font-size: 24px; line-height: 1.25; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 19px; margin: 40px 0 8px; padding-top: 10px; border-top: 1px solid #ccc; }
h3 { font-size: 15px; margin: 20px 0 6px; overflow-wrap: anywhere; }
p { margin: 6px 0; max-width: 92ch; }
a { color: #0b57a4; }
nav { margin: 10px 0; }
nav a { margin-right: 14px; white-space: nowrap; }
.note, footer { color: #555; font-size: 13px; }
.missing { border-left: 4px solid #c47f00; background: #fff7e6; padding: 6px 10px; overflow-wrap: anywhere; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 2px 20px; padding: 0; margin: 8px 0; }
.legend li { overflow-wrap: anywhere; }
.legend svg { width: 34px; height: 12px; margin-right: 6px; vertical-align: middle; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(350px, 100%), 1fr)); gap: 14px; }
.plots > figure { max-width: 460px; }
figure { margin: 0; min-width: 0; }
figcaption { font-weight: 600; font-size: 14px; overflow-wrap: anywhere; }
figure svg { display: block; width: 100%; height: auto; stroke-linejoin: round; }
.wide { overflow-x: auto; margin: 8px 0; }
table { border-collapse: collapse; font-size: 14px; }
th, td { text-align: left; vertical-align: top; padding: 3px 14px 3px 0; border-bottom: 1px solid #e3e3e3; }
thead th { border-bottom: 2px solid #999; white-space: nowrap; }
tbody th { font-weight: 400; color: #555; position: sticky; left: 0; background: #fff; min-width: 6em; }
table:not(.numbers) td { min-width: 11em; }
.numbers td { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.numbers thead th:not(:first-child) { text-align: right; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 12px; margin: 6px 0; }
dt { color: #555; }
dd { margin: 0; min-width: 0; overflow-wrap: anywhere; }
details { margin: 4px 0; }
summary { cursor: pointer; overflow-wrap: anywhere; }
pre { overflow-x: auto; background: #f6f6f6; padding: 8px 10px; margin: 6px 0; }
pre { font: 12px/1.4 ui-monospace, "DejaVu Sans Mono", Consolas, monospace; }
footer { padding-top: 24px; padding-bottom: 32px; }
"""


def text(value: object) -> Html:
    """As text in HTML, also within an attribute; control characters as `·`."""
    plain = "".join(
        character if (character >= " " and character != "\x7f") or character in "\n\t" else "·"
        for character in str(value)
    )
    return Html(escape(plain))


def joined(parts: Iterable[Html], between: str = "\n") -> Html:
    return Html(between.join(parts))


def element(name: str, inside: Html, style: str = "") -> Html:
    """style: a class of STYLE."""
    return Html(f'<{name} class="{style}">{inside}</{name}>' if style else f"<{name}>{inside}</{name}>")


def paragraph(words: str, style: str = "") -> Html:
    return element("p", text(words), style)


def missing(label: str, why: str) -> Html:
    """That something cannot be shown for a run, and why."""
    return element("p", Html(f"<strong>{text(label)}</strong>: {text(why)}"), "missing")


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: bool = False) -> Html:
    """The first cell of each row names it. numbers: the others are aligned right."""
    heads = joined((element("th", text(cell)) for cell in head), "")
    body = joined(
        Html(f"<tr><th>{text(row[0])}</th>{''.join(element('td', text(cell)) for cell in row[1:])}</tr>")
        for row in rows
    )
    drawn = f"<thead><tr>{heads}</tr></thead>\n<tbody>\n{body}\n</tbody>"
    return element("div", element("table", Html(drawn), "numbers" if numbers else ""), "wide")


def figure(caption: str, svg: Html) -> Html:
    """svg: drawn by `plots`; `document` sees to it that figures share no ids."""
    named = Html(svg.replace("<svg ", f'<svg role="img" aria-label="{text(caption)}" ', 1))
    return element("figure", Html(f"<figcaption>{text(caption)}</figcaption>{named}"))


def plots(figures: Iterable[Html]) -> Html:
    found = list(figures)
    return element("div", joined(found), "plots") if found else Html("")


def section(key: str, title: str, *parts: Html) -> Html:
    return Html(f'<section id="{key}">\n<h2>{text(title)}</h2>\n{joined(part for part in parts if part)}\n</section>')


def _own_ids(parts: Html) -> Html:
    """The ids of each figure, made its own."""
    numbers = count(1)

    def numbered(found: re.Match[str]) -> str:
        return re.sub(r'(\bid="|href="#|url\(#)', rf"\1figure{next(numbers)}-", found[0])

    return Html(re.sub(r"<figure>.*?</figure>", numbered, parts, flags=re.DOTALL))


def document(title: str, head: Html, sections: Sequence[tuple[str, str, Html]], foot: Html) -> bytes:
    """A whole page that may load nothing. sections: key, title and what `section` made."""
    links = joined((Html(f'<a href="#{key}">{text(name)}</a>') for key, name, _ in sections), " ")
    page = f"""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
{MARK.decode()}
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{text(title)}</title>
<style>
{STYLE}</style>
</head>
<body>
<header>
<h1>{text(title)}</h1>
{head}
<nav>{links}</nav>
</header>
<main>
{_own_ids(joined(part for _, _, part in sections))}
</main>
<footer>{foot}</footer>
</body>
</html>
"""
    return page.encode("utf-8", "replace")  # a path may hold bytes that are no text
